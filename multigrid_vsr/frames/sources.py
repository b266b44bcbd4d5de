"""Sources of clips, each a :class:`ClipSource`: folders of images, BasicSR's LMDBs, frame stores and videos."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, repeat, takewhile
from pathlib import Path
from typing import Any, Protocol

import lmdb
import numpy as np
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip, is_system, read_lmdb_names
from multigrid_vsr.frames.images import Size, check_images, decode_image, first_rows, image_size, is_image, png_size
from multigrid_vsr.frames.store import FINISHED, FrameStore
from multigrid_vsr.frames.video import Video, is_video

Payload = bytes | np.ndarray | None  # an encoded image, a decoded frame, or None where reading failed


class ClipSource(Protocol):
    """Clips and their frames. Each process opens its own source.

    Attributes:
        backend: Its name in ``io_backend.type``.
        root: The folder or file that the user gave.
        names: The names of all clips.
        notes: Lines for the user.
    """

    backend: str
    root: Path
    names: list[str]
    notes: list[str]

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        """The length and size of clips.

        Raises:
            OptionError: If a clip cannot be used.
        """

    def files(self, name: str) -> list[str]:
        """The files of a clip below ``root``: one for each frame, or the one that holds them all."""

    def frames(self, name: str) -> Iterator[Payload]:
        """The frames of a clip in order. Images are not decoded, so that another process can do that."""

    def where(self, name: str, frame: int) -> str:
        """The file of a frame, or its key in an LMDB, for messages."""


class CropSource(ClipSource, Protocol):
    """A source for training: any but videos."""

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        """Copies a square out of frames.

        Args:
            clip: Name of the clip.
            frames: Numbers of t frames, from 0.
            top, left: Corner of the square, in pixels.
            out: uint8 (t, size, size, 3), BGR; filled. The pixels of a row are adjacent, the rows need not be.

        Raises:
            FrameError: If a frame is missing, damaged or of another size than its clip.
        """


def open_source(option: str, root: Path, is_strict: bool = False, names: Collection[str] | None = None) -> ClipSource:
    """Opens a folder of images or of such folders, a BasicSR LMDB, a frame store, a video or a folder of videos.

    Args:
        option: The option that gives ``root``, for messages.
        root: A folder or a file.
        is_strict: Whether to refuse a video with frames that do not decode.
        names: The clips to take from images; ``None`` looks for all.

    Raises:
        OptionError: If ``root`` is none of these.
    """
    if (root / 'data.mdb').is_file():
        return Lmdb(option, root, read_lmdb_names(option, root) if names is None else names)
    if (root / FINISHED).is_file():
        return FrameStore(root)
    if root.is_file():
        if kind_of(root) != 'video':
            raise OptionError(option, 'be a video, or a folder of images', root, 'Give the folder that it is in.')
        return VideoSource(option, root, {root.stem: ''}, is_strict)
    if not root.is_dir():
        raise OptionError(option, 'be a folder of clips, an LMDB or a video', root, 'Correct the path.')
    if names is not None:
        return Images(option, root, names)
    tree = _Tree(option, root)
    if tree.videos:
        return VideoSource(option, root, tree.videos, is_strict, tree.notes)
    if not tree.images:
        raise OptionError(option, 'hold at least one clip', f'none in {root}', 'Correct the path.')
    return Images(option, root, tree.images, tree.images, tree.notes)


class Images:
    """Folders of images: each folder is a clip, and its images under any names are the frames, in natural order.

    ``files`` gives known files of clips, below the root. Other folders are listed when their files are needed.
    """

    backend = 'disk'

    def __init__(
        self,
        option: str,
        root: Path,
        names: Iterable[str],
        files: Mapping[str, list[str]] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.root = root
        self.names = list(names)
        self.notes = list(notes)
        self.clips: dict[str, Clip] = {}
        self._option = option
        self._frames = dict(files or {})

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        missing = [name for name in names if name not in self.clips]
        for clip in in_threads(self._measure, missing, f'Look at {self._option}'):
            self.clips[clip.name] = clip
        return {name: self.clips[name] for name in names}

    def _measure(self, name: str) -> Clip:
        frames = self._frames_of(name)
        if not frames:
            value = f'none of {name} in {self.root}'
            raise OptionError(self._option, 'hold frames of each clip', value, 'Correct the path or the list.')
        _refuse_gap(self._option, self.root, frames)
        size = self._size(frames)
        if size is None:
            value = f'{self.where(name, 0)}, which is no image'
            raise OptionError(self._option, 'hold images', value, 'Replace or remove it.')
        return Clip(name, len(frames), *size)

    def _size(self, frames: Sequence[str]) -> Size | None:
        """The size of the first frame."""
        size = image_size(self.root / frames[0])
        if size is not None:
            check_images(self._option, [self.root / frame for frame in frames])
        return size

    def _frames_of(self, name: str) -> list[str]:
        if name not in self._frames:
            self._frames[name] = self._list(name)
        return self._frames[name]

    def _list(self, name: str) -> list[str]:
        is_root = len(self.names) == 1 and not (self.root / name).is_dir()  # the images are in the root
        folder = f'{name}/' if name and not is_root else ''
        try:
            found = sorted(os.listdir(self.root / folder), key=_natural)
        except OSError:
            return []
        files = [folder + entry for entry in found if not is_system(entry)]
        files = [file for file in files if kind_of(self.root / file) == 'image']
        _refuse_equal_names(self._option, self.root, files)
        return files

    def _read(self, frame: str) -> bytes | None:
        """An encoded frame; ``None`` or an OSError if it cannot be read."""
        with open(f'{self.root}/{frame}', 'rb') as file:
            return file.read()

    def files(self, name: str) -> list[str]:
        return self._frames_of(name)

    def frames(self, name: str) -> Iterator[Payload]:
        for frame in self._frames_of(name):
            try:
                yield self._read(frame)
            except OSError:
                yield None

    def where(self, name: str, frame: int) -> str:
        return f'{self.root}/{self._frames_of(name)[frame]}'

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        files, expected, bottom = self._frames_of(clip), self.clips[clip], top + out.shape[1]
        for frame, image in zip(frames, out):
            if frame >= len(files):
                raise FrameError(f'clip {clip}, frame {frame}: not in {self.root}, where the clip has {len(files)}')
            where = self.where(clip, frame)
            try:
                encoded = self._read(files[frame]) or b''
            except OSError as error:
                raise FrameError(f'clip {clip}, frame {frame}: cannot read {where} ({error.strerror})') from None
            shortened = first_rows(encoded, bottom)
            decoded = decode_image(shortened)
            if decoded is None:
                raise FrameError(f'clip {clip}, frame {frame}: {where} holds no image that can be decoded')
            height, width = decoded.shape[:2] if shortened is encoded else png_size(encoded)
            if (height, width) != (expected.height, expected.width):
                raise FrameError(
                    f'clip {clip}, frame {frame}: {where} is {height}x{width}, not {expected.height}x{expected.width} '
                    'as its clip'
                )
            image[:] = decoded[top:bottom, left : left + out.shape[2]]


_ENVS: dict[tuple[int, str], tuple[lmdb.Environment, int]] = {}  # by process and path
_ENVS_LOCK = threading.Lock()  # clips are measured in threads
_UNWRITTEN = 16  # free pages at the end of an LMDB need not be in its file


def _open_env(root: str) -> tuple[lmdb.Environment, int]:
    """Opens an LMDB only once in a process, as LMDB requires. Also returns the least size of its file in bytes."""
    process = os.getpid()
    with _ENVS_LOCK:
        if (process, root) not in _ENVS:
            for key in [key for key in _ENVS if key[0] != process]:  # the parent's, after a fork
                _ENVS.pop(key)[0].close()
            try:
                env = lmdb.open(root, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise FrameError(f'cannot open the LMDB {root} ({error})') from None
            _ENVS[process, root] = env, env.stat()['psize'] * (env.info()['last_pgno'] + 1 - _UNWRITTEN)
        return _ENVS[process, root]


class Lmdb(Images):
    """A BasicSR LMDB, with a key ``clip/name`` for each frame."""

    backend = 'lmdb'

    def files(self, name: str) -> list[str]:
        return ['data.mdb']

    def _list(self, name: str) -> list[str]:
        prefix = f'{name}/'.encode()
        with self._begin() as transaction:
            cursor = transaction.cursor()
            cursor.set_range(prefix)
            keys = takewhile(lambda key: key.startswith(prefix), map(bytes, cursor.iternext(values=False)))
            return sorted((key.decode() for key in keys if b'/' not in key[len(prefix) :]), key=_natural)

    def _read(self, frame: str) -> bytes | None:
        with self._begin() as transaction:
            encoded = transaction.get(frame.encode())
        return None if encoded is None else bytes(encoded)

    def _begin(self) -> lmdb.Transaction:
        """Checks the size of the file first, because reading a mapped file that was cut kills the process by SIGBUS."""
        env, least = _open_env(str(self.root))
        if (self.root / 'data.mdb').stat().st_size < least:
            raise OSError(errno.EIO, 'data.mdb was cut')
        return env.begin()

    def _size(self, frames: Sequence[str]) -> Size | None:
        return image_size(self._read(frames[0]) or b'')


class VideoSource:
    """Video files: each is a clip, named by its file."""

    backend = 'disk'

    def __init__(
        self, option: str, root: Path, files: Mapping[str, str], is_strict: bool = False, notes: Iterable[str] = ()
    ) -> None:
        self.root = root
        self.names = list(files)
        self.notes = list(notes)
        self._option = option
        self._files = files
        self._is_strict = is_strict
        self._opened: dict[str, tuple[Video, str]] = {}

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        """Decodes the videos once to count their frames."""
        counted = in_threads(self._count, list(names), f'Count {self._option}', default_workers())
        return {clip.name: clip for clip in counted}

    def _count(self, name: str) -> Clip:
        try:
            video = Video(self.root / self._files[name])
            count, threads = video.survey()
        except FrameError as error:
            raise OptionError(self._option, 'hold videos that decode', error, 'Mend or remove it.') from None
        problem = count.problem(video.path)
        if problem and self._is_strict:
            raise OptionError(self._option, 'hold whole videos for --strict', problem, 'Mend or remove it.')
        self.notes += [f'{self._option}: {note}.' for note in (video.loss, problem) if note]
        self._opened[name] = video, threads
        return Clip(name, count.decoded, video.height, video.width)

    def files(self, name: str) -> list[str]:
        return [self._files[name]]

    def frames(self, name: str) -> Iterator[Payload]:
        video, threads = self._opened[name]
        yield from (frame for _, frame in video.frames(threads))
        yield from repeat(None)

    def where(self, name: str, frame: int) -> str:
        return str(self.root / self._files[name])


def default_workers() -> int:
    """The number of cores that this process may use, or on macOS of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_threads(function: Callable[[Any], Any], items: Collection[Any], title: str, threads: int = 16) -> list[Any]:
    """Maps items in order, in threads that mostly wait for a disk. The first rank shows a bar after a second."""
    is_quiet = os.environ.get('RANK', '0') != '0'
    shown = {'desc': title, 'delay': 1, 'leave': False, 'disable': is_quiet}
    return thread_map(function, items, max_workers=threads, tqdm_class=tqdm, **shown)


# Files with these suffixes are not opened to see what they are. Others are.
_IMAGES = frozenset(
    '.avif .bmp .dib .exr .hdr .jp2 .jpe .jpeg .jpg .pbm .pfm .pgm .png .pnm .ppm .ras .sr .tif .tiff .webp'.split()
)
_VIDEOS = frozenset(
    '.3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m'.split()
)


def kind_of(path: Path) -> str:
    """``image``, ``video`` or ``other``: by a known suffix, or else by the content."""
    suffix = path.suffix.lower()
    if suffix in _IMAGES or suffix in _VIDEOS:
        return 'image' if suffix in _IMAGES else 'video'
    try:
        return 'image' if is_image(path) else 'video' if is_video(path) else 'other'
    except OSError:  # a link to nowhere
        return 'other'


class _Tree:
    """The clips below a folder: each folder of images, or each video. Paths are relative to the root.

    Raises:
        OptionError: If a folder mixes images, videos and folders, or is empty, or if two videos share a name.
    """

    def __init__(self, option: str, root: Path) -> None:
        self._option, self._root = option, root
        self.images: dict[str, list[str]] = {}
        self.videos: dict[str, str] = {}
        self._hidden: list[str] = []
        self._others: list[str] = []
        self._loops: list[str] = []
        self._walk('', [])
        if self.images and self.videos:
            image, video = next(iter(self.images.values()))[0], next(iter(self.videos.values()))
            value = f'both, {root / image} and {root / video}'
            raise OptionError(option, 'hold images or videos', value, 'Prepare one kind at a time.')
        rows = (
            (self._hidden, 'hidden or of the system'),
            (self._others, 'neither image nor video'),
            (self._loops, 'links to a folder above'),
        )
        self.notes = [
            f'{option}: {len(paths)} left out, {what}: {", ".join(paths[:3])}{", ..." * (len(paths) > 3)}.'
            # names that are not UTF-8 cannot be logged
            .encode(errors='backslashreplace').decode()
            for paths, what in rows
            if paths
        ]

    def _walk(self, folder: str, above: list[str]) -> None:
        above = [*above, os.path.realpath(self._root / folder)]
        kinds: dict[str, list[str]] = {'folder': [], 'image': [], 'video': [], 'other': self._others}
        with os.scandir(self._root / folder) as entries:
            found = sorted(entries, key=lambda entry: _natural(entry.name))
        for entry in found:
            path = f'{folder}/{entry.name}' if folder else entry.name
            if is_system(entry.name):
                self._hidden.append(path)
            elif entry.is_symlink() and any(f'{up}/'.startswith(f'{os.path.realpath(entry.path)}/') for up in above):
                self._loops.append(path)
            else:
                kinds['folder' if os.path.isdir(entry.path) else kind_of(Path(entry.path))].append(path)
        if not found and folder:
            value = f'{self._root / folder} empty'
            raise OptionError(self._option, 'hold folders of frames', value, 'Fill it, or remove it.')
        images, others = kinds['image'], kinds['folder'] + kinds['video']
        if images and others:
            value = f'{self._root / images[0]} beside {self._root / others[0]}'
            raise OptionError(self._option, 'hold only images or only folders', value, 'Move it elsewhere.')
        _refuse_equal_names(self._option, self._root, images or kinds['video'])
        if images:
            self.images[folder or self._root.absolute().name] = images
        self.videos.update((os.path.splitext(path)[0], path) for path in kinds['video'])
        for path in kinds['folder']:
            self._walk(path, above)


def _natural(name: str) -> list[int | str]:
    """A sort key: numbers within names sort by value, 9 before 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r'(\d+)', name))]


def _refuse_equal_names(option: str, root: Path, paths: Sequence[str]) -> None:
    stems: dict[str, str] = {}
    for path in paths:
        other = stems.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            value, fix = f'{root / other} and {root / path}', 'Rename one of them, or move it elsewhere.'
            raise OptionError(option, 'hold each name once, whatever the suffix', value, fix)


def _refuse_gap(option: str, root: Path, files: Sequence[str]) -> None:
    """Refuses a clip with a missing frame, if most of its names are numbered in equal steps."""
    parts = [re.split(r'(\d+)', os.path.splitext(os.path.basename(path))[0]) for path in files]
    if len(parts) < 3 or len({len(part) for part in parts}) > 1:
        return
    for place in range(len(parts[0]) - 2, 0, -2):  # the last number that counts the frames
        numbers = [int(part[place]) for part in parts]
        if len(set(numbers)) < len(numbers):
            continue
        steps = [after - before for before, after in pairwise(numbers)]
        step = min(steps)
        if step < 1 or max(steps) == step or any(s % step for s in steps) or 2 * steps.count(step) <= len(steps):
            return
        gap = next(index for index, s in enumerate(steps) if s != step)
        parts[gap][place] = f'{numbers[gap] + step:0{len(parts[gap][place])}d}'
        folder, suffix = os.path.dirname(files[gap]), os.path.splitext(files[gap])[1]
        value = f'{root / folder} without {"".join(parts[gap])}{suffix}'
        fix = 'Add the frame, or renumber the others if none is missing.'
        raise OptionError(option, 'hold folders of frames numbered without a gap', value, fix)
