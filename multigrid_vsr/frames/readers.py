"""Crops out of stored frames, by back end. A reader is opened in the process that reads and never pickled."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lmdb
import numpy as np

from multigrid_vsr.core.errors import FrameError
from multigrid_vsr.frames.clip import Clip, FrameNames
from multigrid_vsr.frames.images import Size, decode_image, first_rows, image_size, png_size
from multigrid_vsr.frames.store import FrameStore


class FrameReader(Protocol):
    """What a back end offers."""

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


def open_frames(
    root: str | Path, io_backend: Mapping[str, Any], names: FrameNames, clips: Iterable[Clip]
) -> FrameReader:
    """Opens the frames below ``root``.

    Args:
        root: Folder, LMDB or store.
        io_backend: Its ``type`` is one of ``IO_BACKENDS``.
        names: How frames are named.
        clips: The clips, with the size that every frame of theirs has to have.
    """
    folder, sizes = Path(root).expanduser(), {clip.name: (clip.height, clip.width) for clip in clips}
    readers: dict[str, Callable[[], FrameReader]] = {
        'disk': lambda: DiskReader(folder, names, sizes),
        'lmdb': lambda: LmdbReader(folder, names, sizes),
        'packed': lambda: FrameStore(folder),
    }
    return readers[io_backend['type']]()


class DiskReader:
    """Frames as files ``root/clip/00000000.png``."""

    def __init__(self, root: Path, names: FrameNames, sizes: Mapping[str, Size]) -> None:
        self.root = root
        self.names = names
        self.sizes = sizes

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        for frame, image in zip(frames, out):
            path = f'{self.root}/{clip}/{self.names.stem(frame)}.png'
            try:
                with open(path, 'rb') as file:
                    encoded = file.read()
            except OSError as error:
                raise FrameError(f'clip {clip}, frame {frame}: cannot read {path} ({error.strerror})') from None
            _decode_crop(encoded, clip, frame, path, self.sizes[clip], top, left, image)


_ENVS: dict[tuple[int, str], lmdb.Environment] = {}  # by process and path
_ENVS_LOCK = threading.Lock()  # the check before a run looks clips up in threads


def open_env(root: str) -> lmdb.Environment:
    """Opens an LMDB for reading, once in a process, as LMDB wants it; those from before a fork are closed first.

    Raises:
        FrameError: If it cannot be opened.
    """
    process = os.getpid()
    with _ENVS_LOCK:
        if (process, root) not in _ENVS:
            for key in [key for key in _ENVS if key[0] != process]:
                _ENVS.pop(key).close()
            try:
                _ENVS[process, root] = lmdb.open(root, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise FrameError(f'cannot open the LMDB {root} ({error})') from None
        return _ENVS[process, root]


_UNWRITTEN = 16  # pages at the end of an LMDB may be free, and not in the file


class LmdbReader:
    """Frames as encoded images in BasicSR's LMDB, with keys ``clip/00000000``."""

    def __init__(self, root: Path, names: FrameNames, sizes: Mapping[str, Size]) -> None:
        self.root = root
        self.names = names
        self.sizes = sizes
        env = open_env(str(root))
        self._file = root / 'data.mdb' if root.is_dir() else root
        self._least_bytes = env.stat()['psize'] * (env.info()['last_pgno'] + 1 - _UNWRITTEN)

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        for frame, image in zip(frames, out):
            key = f'{clip}/{self.names.stem(frame)}'
            # Where the file is cut, reading the map ends the process by SIGBUS: so it is read at once, as a copy.
            if self._file.stat().st_size < self._least_bytes:
                raise FrameError(f'clip {clip}, frame {frame}: {self._file} is cut')
            with open_env(str(self.root)).begin() as transaction:
                encoded = transaction.get(key.encode())
            if encoded is None:
                raise FrameError(f'clip {clip}, frame {frame}: no key {key} in {self.root}')
            _decode_crop(encoded, clip, frame, f'{key} in {self.root}', self.sizes[clip], top, left, image)


def _decode_crop(
    encoded: bytes, clip: str, frame: int, source: str, size: Size, top: int, left: int, out: np.ndarray
) -> None:
    """Decodes a frame as far down as the crop reaches, and copies the crop alone.

    Args:
        encoded: The frame, an encoded image.
        clip, frame, source: What it is, for messages.
        size: The height and width that it has to have.
        top, left, out: As for :class:`FrameReader`.
    """
    rows = top + out.shape[0]
    shortened = first_rows(encoded, rows)
    image = decode_image(shortened)
    if image is None:
        raise FrameError(f'clip {clip}, frame {frame}: {source} holds no image that can be decoded')
    height, width = image.shape[:2] if shortened is encoded else png_size(encoded)
    if (height, width) != size:
        raise FrameError(
            f'clip {clip}, frame {frame}: {source} is {height}x{width}, not {size[0]}x{size[1]} as its clip'
        )
    out[:] = image[top:rows, left : left + out.shape[1]]


@dataclass(frozen=True)
class Found:
    """A clip as it is there.

    Attributes:
        where: Its folder or key, for messages.
        num_frame: Frames from the first one, without a gap.
        size: Height and width of the first frame, in pixels; ``None`` where it is no image.
        first, missing: The file or key of the first frame, and of the first one that is not there.
    """

    where: str
    num_frame: int
    size: Size | None
    first: str
    missing: str


Finder = Callable[[str, int], Found]  # of a clip's name and the frames that are expected, all of which are looked for


def finder(root: str, backend: str, names: FrameNames) -> Finder:
    """What looks for clips below ``root``, for one of ``IO_BACKENDS``."""
    if backend == 'disk':
        return functools.partial(_on_disk, root, names)
    if backend == 'lmdb':
        return functools.partial(_in_lmdb, root, names)
    store = FrameStore(root)
    stored = {clip.name: clip for clip in store.info.clips}

    def in_store(name: str, _: int) -> Found:
        clip, where = stored.get(name), f'clip {name} in {root}'
        size = (clip.height, clip.width) if clip else None
        return Found(where, clip.num_frame if clip else 0, size, where, where)

    return in_store


def _on_disk(root: str, names: FrameNames, name: str, expected: int) -> Found:
    folder = f'{root}/{name}'
    try:
        files = set(os.listdir(folder))
    except OSError:
        return Found(folder, 0, None, folder, folder)
    start = expected if files.issuperset(_files(names, expected)) else 0
    num_frame = names.count(files, start)
    first, missing = f'{folder}/{names.file(0)}', f'{folder}/{names.file(num_frame)}'
    return Found(folder, num_frame, image_size(first) if num_frame else None, first, missing)


@functools.lru_cache
def _files(names: FrameNames, num_frame: int) -> tuple[str, ...]:
    return tuple(names.file(frame) for frame in range(num_frame))


def _in_lmdb(root: str, names: FrameNames, name: str, _: int) -> Found:
    with open_env(root).begin(buffers=True) as transaction:
        num_frame = 0
        while transaction.get(f'{name}/{names.stem(num_frame)}'.encode()) is not None:
            num_frame += 1
        first, missing = f'{name}/{names.stem(0)}', f'{name}/{names.stem(num_frame)}'
        value = transaction.get(first.encode())
        size = None if value is None else image_size(bytes(value))
    return Found(f'clip {name} in {root}', num_frame, size, f'{first} in {Path(root)}', f'{missing} in {Path(root)}')
