"""Where the frames of a store come from: folders of images, BasicSR's LMDBs and videos."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.frame_readers import open_env
from multigrid_vsr.frames.image_size import check_images, image_size
from multigrid_vsr.frames.lists import read_lmdb_list
from multigrid_vsr.frames.source_tree import SourceTree, check_numbers, kind_of, read_tree
from multigrid_vsr.frames.store_info import FINISHED, Origin, stamp
from multigrid_vsr.frames.store_source import StoreSource
from multigrid_vsr.frames.video import RawFrame, VideoSource

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


def origin_of(source: FrameSource, names: Mapping[str, str], is_shrunk: bool = False) -> Origin:
    """What a store is made of, as its files are now.

    Args:
        source: Where its frames come from.
        names: For each clip of the store its name in the source.
        is_shrunk: Whether its frames are shrunk.

    Raises:
        InputError: If a file is not there any more.
    """
    root = source.root.absolute()
    files: dict[str, list[tuple[str, int, int]]] = {}
    try:
        for name, name_there in names.items():
            files[name] = [(path, *stamp(root / path)) for path in source.files(name_there)]
    except OSError as error:
        raise InputError(f'{error.filename}: cannot be read ({error.strerror}). Run it again without it.') from None
    return Origin(str(root), is_shrunk, files)


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
