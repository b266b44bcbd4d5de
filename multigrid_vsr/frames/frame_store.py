"""Uncompressed frames in one file, read through a memory map and laid out so that a crop touches its own bytes alone.

A frame is cut into vertical strips of ``STRIP`` pixels; a strip's rows lie one below the other. A crop then is a few
contiguous blocks: its rows cost nothing beside themselves, its columns at most a strip at each side. The frames of a
clip follow each other, so one strided copy takes a block out of all frames of a sample.

A store is a folder of three files:

- ``frames.bin``: for each clip, uint8 (num_frame, ceil(w / STRIP), h, STRIP, 3), BGR, the last strip padded with zeros;
- ``checksums.bin``: for each frame, uint64, 2^32 + its CRC-32, or 0 where the frame is not written yet;
- ``store.json``: what the store holds and what it is made of; gets its name last, so a store that was not finished does
  not open.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store_info import FINISHED, STRIP, checksum, frame_size, read_info


class FrameStore:
    """A store opened for reading.

    Args:
        root: Folder of the store.

    Raises:
        InputError: If it was not finished, was truncated, or another version wrote it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            self.info = read_info(self.root / FINISHED)
            with open(self.root / 'frames.bin', 'rb') as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._checksums = np.fromfile(self.root / 'checksums.bin', '<u8')
        except (OSError, ValueError) as error:
            raise InputError(
                f'{root}: must be a finished frame store, got one that is not ({error}). Run `multigrid-vsr prepare` '
                'again: it goes on.'
            ) from None
        if hasattr(mmap, 'MADV_RANDOM'):  # not on Windows
            self._map.madvise(mmap.MADV_RANDOM)  # reading ahead would fetch what no crop needs
        self._offsets = self.info.offsets
        self._clips = {clip.name: clip for clip in self.info.clips}
        firsts = accumulate((clip.num_frame for clip in self.info.clips), initial=0)
        self._firsts = dict(zip(self._clips, firsts))
        if len(self._map) != self._offsets['']:
            raise InputError(
                f'{root}: must have {self._offsets[""]} bytes in frames.bin, got {len(self._map)}. Prepare it anew.'
            )

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        """Copies a square out of frames. Arguments and errors are those of :class:`FrameReader`."""
        stored = self._clips.get(clip)
        if stored is None or max(frames) >= stored.num_frame:
            raise FrameError(f'clip {clip}, frame {max(frames)}: not in {self.root}')
        right = left + out.shape[2]
        if top + out.shape[1] > stored.height or right > stored.width:
            raise FrameError(
                f'clip {clip}, frame {frames[0]}: {self.root} has {stored.height}x{stored.width}, too small for a crop '
                f'of {out.shape[1]} at ({top}, {left})'
            )
        self._fetch(stored, frames, slice(left // STRIP, (right - 1) // STRIP + 1), slice(top, top + out.shape[1]))
        rows = self._strips(stored)[:, :, top : top + out.shape[1]]
        out = out.reshape(*out.shape[:2], -1)
        places = _as_slice(frames)
        for strip in range(left // STRIP, (right - 1) // STRIP + 1):
            start, stop = max(left, strip * STRIP), min(right, (strip + 1) * STRIP)
            piece = f'V{3 * (stop - start)}'  # a row's bytes as one element: numpy copies them at once
            source = rows[:, strip, :, 3 * (start - strip * STRIP) : 3 * (stop - strip * STRIP)]
            out[:, :, 3 * (start - left) : 3 * (stop - left)].view(piece)[:] = source.view(piece)[places]

    def _fetch(self, clip: Clip, frames: Sequence[int], strips: slice, rows: slice) -> None:
        """Asks for all pieces of a crop at once: else one that is not in memory waits for each page in turn."""
        if not hasattr(mmap, 'MADV_WILLNEED'):
            return
        row, num_strips = 3 * STRIP, -(-clip.width // STRIP)
        for frame in frames:
            for strip in range(strips.start, strips.stop):
                column = self._offsets[clip.name] + (frame * num_strips + strip) * clip.height * row
                start = (column + rows.start * row) // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, start, column + rows.stop * row - start)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return FrameStore, (self.root,)  # each process has its own map

    def read(self, clip: str, frame: int) -> bytes | None:
        """The strips of a whole frame; ``None`` where they do not have the checksum that they were written with."""
        packed = self._strips(self._clips[clip])[frame].tobytes()
        return packed if checksum(packed) == self._checksums[self._firsts[clip] + frame] else None

    def _strips(self, clip: Clip) -> np.ndarray:
        """The memory map of a clip, (num_frame, strips, h, STRIP * 3)."""
        size = clip.num_frame * frame_size(clip)
        pixels = np.frombuffer(self._map, np.uint8, size, self._offsets[clip.name])
        return pixels.reshape(clip.num_frame, -1, clip.height, STRIP * 3)


def _as_slice(frames: Sequence[int]) -> slice | list[int]:
    """Frames at equal distances as a slice, which numpy copies from without an intermediate array."""
    frames = list(frames)
    step = frames[1] - frames[0] if len(frames) > 1 else 1
    stop = frames[-1] + step
    if step == 0 or frames != list(range(frames[0], stop, step)):
        return frames
    return slice(frames[0], stop if stop >= 0 else None, step)
