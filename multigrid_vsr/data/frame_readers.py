"""Crops out of stored frames, by back end. A reader is opened in the process that reads and never pickled."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import lmdb
import numpy as np

from multigrid_vsr.core.errors import FrameError

IO_BACKENDS = ('disk', 'lmdb')


class FrameReader(Protocol):
    """What a back end offers."""

    def crop(self, clip: str, frame: int, top: int, left: int, size: int) -> np.ndarray:
        """The square of side ``size`` whose corner is at (``top``, ``left``).

        Args:
            clip: Name of the clip.
            frame: Number of the frame, from 0.
            top, left, size: Place and side of the square, in pixels.

        Returns:
            uint8 (size, size, 3), BGR; a view that may be read-only and is valid until the reader is closed.

        Raises:
            FrameError: If the frame is missing, damaged or smaller than the square.
        """


def open_frames(root: str | Path, io_backend: Mapping[str, Any]) -> FrameReader:
    """Opens the frames below ``root`` with the back end ``io_backend['type']``."""
    readers: dict[str, Callable[[Path], FrameReader]] = {'disk': DiskReader, 'lmdb': LmdbReader}
    return readers[io_backend['type']](Path(root))


class DiskReader:
    """Frames as files ``root/clip/00000000.png``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def crop(self, clip: str, frame: int, top: int, left: int, size: int) -> np.ndarray:
        path = self.root / clip / f'{frame:08d}.png'
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise FrameError(f'clip {clip}, frame {frame}: cannot read {path} ({error.strerror})') from None
        return _decode_crop(encoded, clip, frame, path, top, left, size)


class LmdbReader:
    """Frames as encoded images in BasicSR's LMDB, with keys ``clip/00000000``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = _open_env(str(root), os.getpid())

    def crop(self, clip: str, frame: int, top: int, left: int, size: int) -> np.ndarray:
        with self.env.begin(buffers=True) as transaction:
            encoded = transaction.get(f'{clip}/{frame:08d}'.encode())
            if encoded is None:
                raise FrameError(f'clip {clip}, frame {frame}: no key {clip}/{frame:08d} in {self.root}')
            return _decode_crop(encoded, clip, frame, self.root, top, left, size)


@functools.cache
def _open_env(root: str, pid: int) -> lmdb.Environment:
    """One environment a process and path: LMDB forbids a second one, and one from before a fork."""
    try:
        return lmdb.open(root, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise FrameError(f'cannot open the LMDB {root} ({error})') from None


def _decode_crop(
    encoded: bytes | memoryview, clip: str, frame: int, source: Path, top: int, left: int, size: int
) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise FrameError(f'clip {clip}, frame {frame}: {source} holds no image that can be decoded')
    height, width = image.shape[:2]
    if top + size > height or left + size > width:
        raise FrameError(
            f'clip {clip}, frame {frame}: {source} is {height}x{width}, too small for a crop of '
            f'{size} at ({top}, {left})'
        )
    return image[top : top + size, left : left + size]
