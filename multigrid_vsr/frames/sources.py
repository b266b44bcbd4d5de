"""Where clips come from: folders of images, BasicSR's LMDBs, frame stores and videos, all as a :class:`ClipSource`."""

from __future__ import annotations

import errno
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Protocol

import lmdb
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip, is_system, read_lmdb_names
from multigrid_vsr.frames.images import (
    Size,
    check_images,
    decode_image,
    first_rows,
    image_size,
    is_image,
    png_size,
)
from multigrid_vsr.frames.store import FINISHED, FrameStore
from multigrid_vsr.frames.video import RawFrame, VideoSource, is_video

Payload = bytes | np.ndarray | RawFrame | None  # an encoded image, a decoded frame, or nothing where it cannot be read


class ClipSource(Protocol):
    """Clips, and their frames in order. A source is opened in the process that reads.

    Attributes:
        root: The folder or file that was given.
        names: The names of all clips.
        notes: What the user should know about it, a line each.
    """

    root: Path
    names: list[str]
    notes: list[str]

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        """Finds out length and size of clips.

        Raises:
            OptionError: If one cannot be used.
        """

    def entries(self, name: str) -> list[str]:
        """The names of a clip's frames below ``root``, files or keys; or the one file that holds them all."""

    def files(self, name: str) -> list[str]:
        """The files below ``root`` that a clip is read from."""

    def frames(self, name: str) -> Iterator[Payload]:
        """The frames of a clip, as cheaply as they can be had: who takes them decodes them."""

    def where(self, name: str, frame: int) -> str:
        """The file that holds a frame, for messages."""


class CropSource(ClipSource, Protocol):
    """A source that training reads: all but videos."""

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        """Copies a square out of frames.

        Args:
            clip: Name of the clip.
            frames: Numbers of the t frames, from 0.
            top, left: Corner of the square, in pixels.
            out: uint8 (t, size, size, 3), BGR; filled. The pixels of a row lie side by side, the rows anywhere.

        Raises:
            FrameError: If a frame is missing, damaged or of another size than its clip.
        """


def open_source(
    option: str, root: Path, workers: int = 1, is_strict: bool = False, names: Iterable[str] | None = None
) -> ClipSource:
    """Opens a folder of images or of such folders, a BasicSR LMDB, a frame store, a video or a folder of videos.

    Args:
        option: Which option names it.
        root: What was given.
        workers: Threads that count the frames of videos.
        is_strict: Whether videos of which frames are lost are refused.
        names: The clips of images that are needed, where they are known: the others are not looked for.

    Raises:
        OptionError: If it is none of these.
    """
    if (root / 'data.mdb').is_file():
        return Lmdb(option, root, read_lmdb_names(option, root) if names is None else names)
    if (root / FINISHED).is_file():
        return FrameStore(root)
    if root.is_file():
        if kind_of(root) != 'video':
            raise OptionError(option, 'be a video, or a folder of images', root, 'Give the folder that it is in.')
        return VideoSource(option, root, {root.stem: ''}, [], workers, is_strict)
    if not root.is_dir():
        raise OptionError(option, 'be a folder of clips, an LMDB or a video', root, 'Correct the path.')
    if names is not None:
        return Images(option, root, names)
    tree = read_tree(option, root)
    if tree.videos:
        return VideoSource(option, root, tree.videos, tree.notes, workers, is_strict)
    if not tree.images:
        raise OptionError(option, 'hold at least one clip', f'none in {root}', 'Correct the path.')
    return Images(option, root, tree.images, [f'{option}: {note}' for note in tree.notes], tree.images)


def open_for_crops(option: str, root: Path, clips: Iterable[Clip]) -> CropSource:
    """Opens frames for training; each has to have the size that its clip says."""
    expected = {clip.name: clip for clip in clips}
    source = open_source(option, root, names=expected)
    if isinstance(source, _EncodedImages):
        source.clips = expected
        return source
    assert isinstance(source, FrameStore)
    return source


class _EncodedImages(ABC):
    """Clips of encoded images in the natural order of their names.

    Args:
        option: Which option names them.
        root: The folder or LMDB.
        names: The clips.
        notes: What the user should know, a line each.
        files: The files of each clip, where they are known; others are looked for when they are first needed.
    """

    def __init__(
        self,
        option: str,
        root: Path,
        names: Iterable[str],
        notes: Iterable[str] = (),
        files: dict[str, list[str]] | None = None,
    ) -> None:
        self.root = root
        self.names = list(names)
        self.notes = list(notes)
        self.clips: dict[str, Clip] = {}
        self._option = option
        self._files = dict(files or {})

    @abstractmethod
    def _list(self, name: str) -> list[str]:
        """The files or keys of a clip below the root, in order."""

    @abstractmethod
    def _read(self, file: str) -> bytes | None:
        """An encoded frame.

        Raises:
            OSError: If it cannot be read.
        """

    @abstractmethod
    def _say(self, file: str) -> str:
        """A frame, for messages."""

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        missing = [name for name in names if name not in self.clips]
        for clip in in_threads(self._measure, missing, f'Look at {self._option}'):
            self.clips[clip.name] = clip
        return {name: self.clips[name] for name in names}

    def _measure(self, name: str) -> Clip:
        files = self.entries(name)
        if not files:
            fix = 'Correct the path or the list.'
            raise OptionError(self._option, 'hold frames of each clip', f'none of {name} in {self.root}', fix)
        check_numbers(self._option, self.root, files)
        size = self._check(files)
        if size is None:
            found = f'{self._say(files[0])}, which is none'
            raise OptionError(self._option, 'hold images', found, 'Replace or remove it.')
        return Clip(name, len(files), *size)

    def _check(self, files: Sequence[str]) -> Size | None:
        """The size of the first frame of a clip."""
        return image_size(self._read(files[0]) or b'')

    def entries(self, name: str) -> list[str]:
        if name not in self._files:
            self._files[name] = self._list(name)
        return self._files[name]

    def frames(self, name: str) -> Iterator[Payload]:
        for file in self.entries(name):
            try:
                yield self._read(file)
            except OSError:
                yield None

    def where(self, name: str, frame: int) -> str:
        return self._say(self.entries(name)[frame])

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        files, size = self.entries(clip), (self.clips[clip].height, self.clips[clip].width)
        for frame, image in zip(frames, out):
            if frame >= len(files):
                raise FrameError(f'clip {clip}, frame {frame}: not in {self.root}, where the clip has {len(files)}')
            try:
                encoded = self._read(files[frame])
            except OSError as error:
                where = self.where(clip, frame)
                raise FrameError(f'clip {clip}, frame {frame}: cannot read {where} ({error.strerror})') from None
            problem = _decode_crop(encoded or b'', size, top, left, image)
            if problem:
                raise FrameError(f'clip {clip}, frame {frame}: {self.where(clip, frame)} {problem}')


def _decode_crop(encoded: bytes, size: Size, top: int, left: int, out: np.ndarray) -> str | None:
    """Decodes a frame as far down as the crop reaches, and copies only the crop; or says what is wrong with it.

    Args:
        encoded: The frame, an encoded image.
        size: The height and width that it has to have.
        top, left, out: As for :class:`CropSource`.
    """
    rows = top + out.shape[0]
    shortened = first_rows(encoded, rows)
    image = decode_image(shortened)
    if image is None:
        return 'holds no image that can be decoded'
    height, width = image.shape[:2] if shortened is encoded else png_size(encoded)
    if (height, width) != size:
        return f'is {height}x{width}, not {size[0]}x{size[1]} as its clip'
    out[:] = image[top:rows, left : left + out.shape[1]]
    return None


class Images(_EncodedImages):
    """Images in a folder for each clip, under any names."""

    files = _EncodedImages.entries

    def _list(self, name: str) -> list[str]:
        folder = name
        if len(self.names) == 1 and not (self.root / name).is_dir():
            folder = ''  # the root itself holds the images
        try:
            entries = sorted(os.listdir(self.root / folder), key=natural)
        except OSError:
            return []
        files = [f'{folder}/{entry}' if folder else entry for entry in entries if not is_system(entry)]
        files = [file for file in files if kind_of(self.root / file) == 'image']
        refuse_equal_names(self._option, self.root, files)
        return files

    def _read(self, file: str) -> bytes:
        with open(f'{self.root}/{file}', 'rb') as opened:
            return opened.read()

    def _check(self, files: Sequence[str]) -> Size | None:
        size = image_size(self.root / files[0])
        if size is not None:
            check_images(self._option, [self.root / file for file in files])
        return size

    def _say(self, file: str) -> str:
        return f'{self.root}/{file}'


_ENVS: dict[tuple[int, str], tuple[lmdb.Environment, int]] = {}  # by process and path
_ENVS_LOCK = threading.Lock()  # clips are measured in threads
_UNWRITTEN = 16  # pages at the end of an LMDB may be free, and not in the file


def open_env(root: str) -> tuple[lmdb.Environment, int]:
    """Opens an LMDB for reading, once in a process, as LMDB wants it; those from before a fork are closed first.

    Returns:
        The LMDB, and the bytes that its file has at least.

    Raises:
        FrameError: If it cannot be opened.
    """
    process = os.getpid()
    with _ENVS_LOCK:
        if (process, root) not in _ENVS:
            for key in [key for key in _ENVS if key[0] != process]:
                _ENVS.pop(key)[0].close()
            try:
                env = lmdb.open(root, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise FrameError(f'cannot open the LMDB {root} ({error})') from None
            _ENVS[process, root] = env, env.stat()['psize'] * (env.info()['last_pgno'] + 1 - _UNWRITTEN)
        return _ENVS[process, root]


class Lmdb(_EncodedImages):
    """A BasicSR LMDB, with a key ``clip/name`` for each frame."""

    def files(self, name: str) -> list[str]:
        return ['data.mdb']

    def _list(self, name: str) -> list[str]:
        prefix = f'{name}/'.encode()
        with self._begin() as transaction:
            cursor = transaction.cursor()
            cursor.set_range(prefix)
            keys = takewhile(lambda key: key.startswith(prefix), map(bytes, cursor.iternext(values=False)))
            return sorted((key.decode() for key in keys if b'/' not in key[len(prefix) :]), key=natural)

    def _read(self, file: str) -> bytes | None:
        with self._begin() as transaction:
            encoded = transaction.get(file.encode())
        return None if encoded is None else bytes(encoded)

    def _begin(self) -> lmdb.Transaction:
        """Where the file is cut, reading the map would end the process by SIGBUS: its size is compared first.

        Raises:
            OSError: If it is cut.
        """
        env, least = open_env(str(self.root))
        if (self.root / 'data.mdb').stat().st_size < least:
            raise OSError(errno.EIO, 'data.mdb was cut')
        return env.begin()

    def _say(self, file: str) -> str:
        return f'{file} in {self.root}'


_THREADS = 16  # most of the time goes into waiting where the frames lie on another machine
_AT_A_TIME = 256  # clips


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> Iterator[Any]:
    """Maps in order, showing the progress on the first rank where it takes longer than a second."""
    parts = [items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME)]
    is_quiet = os.environ.get('RANK', '0') != '0'
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(desc=title, total=len(items), delay=1, leave=False, disable=is_quiet) as bar,
    ):
        try:
            for results in pool.map(lambda part: [function(item) for item in part], parts):
                bar.update(len(results))
                yield from results
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# By suffix, so that the frames of a data set need not be opened; others are tried.
_IMAGES = frozenset(
    '.avif .bmp .dib .exr .hdr .jp2 .jpe .jpeg .jpg .pbm .pfm .pgm .png .pnm .ppm .ras .sr .tif .tiff .webp'.split()
)
_VIDEOS = frozenset(
    '.3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m'.split()
)


@dataclass
class SourceTree:
    """What is below a folder; paths are below it too, with ``/``.

    Attributes:
        images: For each clip the files of its frames, in natural order.
        videos: For each clip its file.
        left_out: Hidden and system files and folders.
        others: What is neither image nor video.
        loops: Links to a folder that they lie in.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What is not taken, with a count each."""
        rows = (
            (self.left_out, 'hidden or of the system'),
            (self.others, 'neither image nor video'),
            (self.loops, 'links to a folder above'),
        )
        return [f'{len(paths)} left out, {what}: {_first(paths)}.' for paths, what in rows if paths]


def natural(name: str) -> list[int | str]:
    """The key of the natural order, in which 10 comes after 9."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r'(\d+)', name))]


def read_tree(option: str, root: Path) -> SourceTree:
    """Finds the clips below ``root``: each folder of images is one, and each video.

    Raises:
        OptionError: If a folder mixes images, videos and folders, is empty, or two videos have one name.
    """
    tree = SourceTree()
    _walk(option, root, '', tree, [])
    if tree.images and tree.videos:
        image, video = (root / name for name in (next(iter(tree.images.values()))[0], next(iter(tree.videos.values()))))
        raise OptionError(option, 'hold images or videos', f'both, {image} and {video}', 'Prepare one kind at a time.')
    return tree


def _walk(option: str, root: Path, folder: str, tree: SourceTree, above: list[str]) -> None:
    above = [*above, os.path.realpath(root / folder)]
    kinds: dict[str, list[str]] = {'folder': [], 'image': [], 'video': [], 'other': []}
    with os.scandir(root / folder) as entries:
        found = sorted(entries, key=lambda entry: natural(entry.name))
    for entry in found:
        path = f'{folder}/{entry.name}' if folder else entry.name
        if is_system(entry.name):
            tree.left_out.append(path)
        elif entry.is_symlink() and any(f'{path}/'.startswith(f'{os.path.realpath(entry.path)}/') for path in above):
            tree.loops.append(path)
        else:
            kinds['folder' if os.path.isdir(entry.path) else kind_of(Path(entry.path))].append(path)
    tree.others += kinds['other']
    if not found and folder:
        raise OptionError(option, 'hold folders of frames', f'{root / folder} empty', 'Fill it, or remove it.')
    images = kinds['image']
    if images and (kinds['folder'] or kinds['video']):
        beside = (kinds['folder'] + kinds['video'])[0]
        raise OptionError(
            option,
            'hold folders of images alone or of folders alone',
            f'{root / images[0]} beside {root / beside}',
            'Move it elsewhere.',
        )
    if images:
        refuse_equal_names(option, root, images)
        tree.images[folder or root.absolute().name] = images
    refuse_equal_names(option, root, kinds['video'])
    tree.videos.update((os.path.splitext(path)[0], path) for path in kinds['video'])
    for path in kinds['folder']:
        _walk(option, root, path, tree, above)


def kind_of(path: Path) -> str:
    """``image``, ``video`` or ``other``: by the suffix, or else by what the file holds."""
    suffix = path.suffix.lower()
    if suffix in _IMAGES or suffix in _VIDEOS:
        return 'image' if suffix in _IMAGES else 'video'
    try:
        return 'image' if is_image(path) else 'video' if is_video(path) else 'other'
    except OSError:  # a link to nowhere
        return 'other'


def refuse_equal_names(option: str, root: Path, paths: Sequence[str]) -> None:
    stems: dict[str, str] = {}
    for path in paths:
        other = stems.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise OptionError(
                option,
                'hold each name once, whatever the suffix',
                f'{root / other} and {root / path}',
                'Rename one of them, or move it elsewhere.',
            )


def check_numbers(option: str, root: Path, files: Sequence[str]) -> None:
    """Finds a frame that is missing: where names are numbered in equal steps but for some gaps.

    Raises:
        OptionError: If one is, naming it.
    """
    stems = [os.path.splitext(path)[0].rpartition('/')[2] for path in files]
    parts = [re.split(r'(\d+)', stem) for stem in stems]
    if len(parts) < 3 or len({len(part) for part in parts}) > 1:
        return
    for place in range(len(parts[0]) - 2, 0, -2):  # the last number that counts the frames
        numbers = [int(part[place]) for part in parts]
        if len(set(numbers)) < len(numbers):
            continue
        steps = [after - before for before, after in pairwise(numbers)]
        step = min(steps)
        if step < 1 or any(s % step for s in steps) or 2 * steps.count(step) <= len(steps):
            return
        gap = next((index for index, s in enumerate(steps) if s != step), None)
        if gap is not None:
            part = list(parts[gap])
            part[place] = f'{numbers[gap] + step:0{len(part[place])}d}'
            folder, suffix = os.path.split(files[gap])[0], os.path.splitext(files[gap])[1]
            raise OptionError(
                option,
                'hold folders of frames numbered without a gap',
                f'{root / folder} without {"".join(part)}{suffix}',
                'Add the frame, or renumber the others if none is missing.',
            )
        return


def _first(paths: Sequence[str]) -> str:
    text = ', '.join(paths[:3]) + (', ...' if len(paths) > 3 else '')
    return text.encode(errors='backslashreplace').decode()  # names that are no UTF-8 cannot be logged
