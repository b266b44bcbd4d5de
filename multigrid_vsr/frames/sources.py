"""Where whole frames come from: folders of images, BasicSR's LMDBs, stores and videos."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip, is_system, read_lmdb_list
from multigrid_vsr.frames.images import check_images, image_size, is_image
from multigrid_vsr.frames.readers import open_env
from multigrid_vsr.frames.store import FINISHED, STRIP, FrameStore
from multigrid_vsr.frames.video import RawFrame, VideoSource, is_video

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
        _refuse_equal_names(option, root, images)
        tree.images[folder or root.absolute().name] = images
    _refuse_equal_names(option, root, kinds['video'])
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


def _refuse_equal_names(option: str, root: Path, paths: Sequence[str]) -> None:
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


class StoreSource:
    """One of the two stores that ``multigrid-vsr prepare`` writes.

    Args:
        root: ``STORE/gt`` or ``STORE/lq``.

    Raises:
        InputError: If it was not finished.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self._store = FrameStore(root)
        self._clips = {clip.name: clip for clip in self._store.info.clips}
        self.names = list(self._clips)

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        return {name: self._clips[name] for name in names}

    def files(self, name: str) -> list[str]:
        return ['frames.bin']

    def frames(self, name: str) -> Iterator[np.ndarray]:
        clip = self._clips[name]
        for number in range(clip.num_frame):
            packed = self._store.read(name, number)
            if packed is None:
                raise FrameError(
                    f'clip {name}, frame {number}: {self.root} does not have the bytes that it was written with. Copy '
                    'it anew.'
                )
            strips = np.frombuffer(packed, np.uint8).reshape(-1, clip.height, STRIP, 3)
            yield strips.transpose(1, 0, 2, 3).reshape(clip.height, -1, 3)[:, : clip.width].copy()

    def where(self, name: str, frame: int) -> str:
        return f'clip {name} in {self.root}'


Payload = bytes | np.ndarray | RawFrame | None  # an encoded image, a decoded frame, or nothing where it cannot be read


class FrameSource(Protocol):
    """Clips, and their frames in order.

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

    def files(self, name: str) -> list[str]:
        """The files of a clip below ``root``: one for each frame, or one for all of them."""

    def frames(self, name: str) -> Iterator[Payload]:
        """The frames of a clip, as cheaply as they can be had: who takes them decodes them."""

    def where(self, name: str, frame: int) -> str:
        """The file that holds a frame, for messages."""


def open_source(option: str, root: Path, workers: int = 1, is_strict: bool = False) -> FrameSource:
    """Opens a folder of images or of such folders, a BasicSR LMDB, a frame store, a video or a folder of videos.

    Args:
        option: Which option names it.
        root: What was given.
        workers: Threads that count the frames of videos.
        is_strict: Whether videos of which frames are lost are refused.

    Raises:
        OptionError: If it is none of these.
    """
    if (root / 'data.mdb').is_file():
        return LmdbSource(option, root)
    if (root / FINISHED).is_file():
        return StoreSource(root)
    if root.is_file():
        if kind_of(root) != 'video':
            raise OptionError(option, 'be a video, or a folder of images', root, 'Give the folder that it is in.')
        return VideoSource(option, root, {root.stem: ''}, [], workers, is_strict)
    if not root.is_dir():
        raise OptionError(option, 'be a folder of clips, an LMDB or a video', root, 'Correct the path.')
    tree = read_tree(option, root)
    if tree.videos:
        return VideoSource(option, root, tree.videos, tree.notes, workers, is_strict)
    if not tree.images:
        raise OptionError(option, 'hold at least one clip', f'none in {root}', 'Correct the path.')
    return ImageSource(option, root, tree)


class ImageSource:
    """Images in a folder for each clip, under any names, in natural order."""

    def __init__(self, option: str, root: Path, tree: SourceTree) -> None:
        self.root = root
        self.names = list(tree.images)
        self.notes = [f'{option}: {note}' for note in tree.notes]
        self._option = option
        self._files = tree.images

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        clips = {}
        for name in names:
            files = self._files[name]
            check_numbers(self._option, self.root, files)
            size = image_size(self.root / files[0])
            if size is None:
                raise OptionError(
                    self._option, 'hold images', f'{self.root / files[0]}, which is none', 'Replace or remove it.'
                )
            check_images(self._option, [self.root / path for path in files])
            clips[name] = Clip(name, len(files), *size)
        return clips

    def files(self, name: str) -> list[str]:
        return self._files[name]

    def frames(self, name: str) -> Iterator[Payload]:
        for path in self._files[name]:
            try:
                yield (self.root / path).read_bytes()
            except OSError:
                yield None

    def where(self, name: str, frame: int) -> str:
        return str(self.root / self._files[name][frame])


class LmdbSource:
    """A BasicSR LMDB of encoded images."""

    def __init__(self, option: str, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        clips, self._keys = read_lmdb_list(option, root)
        self._clips = {clip.name: clip for clip in clips}
        self.names = list(self._clips)

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        return {name: self._clips[name] for name in names}

    def files(self, name: str) -> list[str]:
        return ['data.mdb']

    def frames(self, name: str) -> Iterator[Payload]:
        for key in self._keys[name]:
            with open_env(str(self.root)).begin() as transaction:
                encoded = transaction.get(key.encode())
            yield encoded

    def where(self, name: str, frame: int) -> str:
        return f'{self._keys[name][frame]} in {self.root}'
