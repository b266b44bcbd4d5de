"""Crops out of stored frames, by back end. A reader is opened in the process that reads and never pickled."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import lmdb
import numpy as np

from multigrid_vsr.core.errors import FrameError
from multigrid_vsr.frames.clip import FrameNames
from multigrid_vsr.frames.frame_store import FrameStore
from multigrid_vsr.frames.png_rows import first_rows


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
            FrameError: If a frame is missing, damaged or smaller than the square.
        """


def open_frames(root: str | Path, io_backend: Mapping[str, Any], names: FrameNames) -> FrameReader:
    """Opens the frames below ``root`` with the back end ``io_backend['type']``, one of ``IO_BACKENDS``."""
    readers: dict[str, Callable[[], FrameReader]] = {
        'disk': lambda: DiskReader(Path(root), names),
        'lmdb': lambda: LmdbReader(Path(root), names),
        'packed': lambda: FrameStore(root),
    }
    return readers[io_backend['type']]()


class DiskReader:
    """Frames as files ``root/clip/00000000.png``."""

    def __init__(self, root: Path, names: FrameNames) -> None:
        self.root = root
        self.names = names

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        for frame, image in zip(frames, out):
            path = f'{self.root}/{clip}/{self.names.stem(frame)}.png'
            try:
                with open(path, 'rb') as file:
                    encoded = file.read()
            except OSError as error:
                raise FrameError(f'clip {clip}, frame {frame}: cannot read {path} ({error.strerror})') from None
            _decode_crop(encoded, clip, frame, path, top, left, image)


@functools.cache
def open_env(root: str, pid: int) -> lmdb.Environment:
    """Opens an LMDB for reading: one a process and path, since LMDB forbids a second one, and one from before a fork.

    Raises:
        FrameError: If it cannot be opened.
    """
    try:
        return lmdb.open(root, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise FrameError(f'cannot open the LMDB {root} ({error})') from None


class LmdbReader:
    """Frames as encoded images in BasicSR's LMDB, with keys ``clip/00000000``."""

    def __init__(self, root: Path, names: FrameNames) -> None:
        self.root = root
        self.names = names
        self._transaction = open_env(str(root), os.getpid()).begin(buffers=True)

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        for frame, image in zip(frames, out):
            key = f'{clip}/{self.names.stem(frame)}'
            encoded = self._transaction.get(key.encode())
            if encoded is None:
                raise FrameError(f'clip {clip}, frame {frame}: no key {key} in {self.root}')
            _decode_crop(encoded, clip, frame, str(self.root), top, left, image)


def _decode_crop(
    encoded: bytes | memoryview, clip: str, frame: int, source: str, top: int, left: int, out: np.ndarray
) -> None:
    """Decodes a frame as far down as the crop reaches, and copies the crop alone."""
    size = out.shape[0]
    encoded = first_rows(encoded, top + size)
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise FrameError(f'clip {clip}, frame {frame}: {source} holds no image that can be decoded')
    height, width = image.shape[:2]
    if top + size > height or left + size > width:
        raise FrameError(
            f'clip {clip}, frame {frame}: {source} is {height}x{width}, too small for a crop of {size} at '
            f'({top}, {left})'
        )
    out[:] = image[top : top + size, left : left + size]
