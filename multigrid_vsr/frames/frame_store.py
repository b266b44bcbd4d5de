"""Uncompressed frames in one file, laid out so that a crop reads its own bytes alone.

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

import os
import random
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store_info import FINISHED, STRIP, checksum, frame_size, read_info

CHECKED_BYTES = 2_000_000_000  # before a run: all of REDS, in a second or two
_DRAWN = 16
_THREADS = 8  # most of the time goes into waiting for a disk


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
            self._file = os.open(self.root / 'frames.bin', os.O_RDONLY | getattr(os, 'O_BINARY', 0))
            weakref.finalize(self, os.close, self._file)
            self._checksums = np.fromfile(self.root / 'checksums.bin', '<u8')
        except (OSError, ValueError) as error:
            raise InputError(
                f'{root}: must be a finished frame store, got one that is not ({error}). Run `multigrid-vsr prepare` '
                'again: it goes on.'
            ) from None
        if hasattr(os, 'posix_fadvise'):  # not on macOS
            # Reading ahead would fetch what no crop needs.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        self._offsets = self.info.offsets
        self._clips = {clip.name: clip for clip in self.info.clips}
        firsts = accumulate((clip.num_frame for clip in self.info.clips), initial=0)
        self._firsts = dict(zip(self._clips, firsts))
        for name, found, expected in (
            ('frames.bin', os.fstat(self._file).st_size, self._offsets['']),
            ('checksums.bin', self._checksums.nbytes, 8 * sum(clip.num_frame for clip in self.info.clips)),
        ):
            if found != expected:
                raise InputError(f'{root}: must have {expected} bytes in {name}, got {found}. Prepare it anew.')

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
        strips = range(left // STRIP, (right - 1) // STRIP + 1)
        rows = self._rows(stored, frames, strips, top, out.shape[1])
        out = out.reshape(*out.shape[:2], -1)
        for place, strip in enumerate(strips):
            start, stop = max(left, strip * STRIP), min(right, (strip + 1) * STRIP)
            piece = f'V{3 * (stop - start)}'  # a row's bytes as one element: numpy copies them at once
            source = rows[:, place, :, 3 * (start - strip * STRIP) : 3 * (stop - strip * STRIP)]
            out[:, :, 3 * (start - left) : 3 * (stop - left)].view(piece)[:] = source.view(piece)

    def _rows(self, clip: Clip, frames: Sequence[int], strips: range, top: int, height: int) -> np.ndarray:
        """The rows of some strips of frames, (frames, strips, height, STRIP * 3).

        They are read and not mapped: a file that is cut, or a disk that fails, would end the process by SIGBUS.
        """
        row, num_strips, file = 3 * STRIP, -(-clip.width // STRIP), self._file
        size = height * row
        first = self._offsets[clip.name] + top * row
        starts = [first + (frame * num_strips + strip) * clip.height * row for frame in frames for strip in strips]
        if hasattr(os, 'posix_fadvise'):
            for start in starts:  # all at once: else what is not in memory is waited for piece by piece
                os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)
        rows = np.empty(len(starts) * size, np.uint8)
        for number, start in enumerate(starts):
            piece = rows.data[number * size : (number + 1) * size]
            self._read_into(piece, start, clip, frames[number // len(strips)])
        return rows.reshape(len(frames), len(strips), height, row)

    def _read_into(self, piece: memoryview[int], start: int, clip: Clip, frame: int) -> None:
        try:
            if hasattr(os, 'preadv'):
                count = os.preadv(self._file, [piece], start)
            else:  # Windows
                os.lseek(self._file, start, os.SEEK_SET)
                found = os.read(self._file, len(piece))
                count = len(found)
                piece[:count] = found
        except OSError as error:
            raise FrameError(f'clip {clip.name}, frame {frame}: cannot read {self.root} ({error.strerror})') from None
        if count != len(piece):
            raise FrameError(f'clip {clip.name}, frame {frame}: cannot read {self.root} (frames.bin was cut)')

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return FrameStore, (self.root,)  # each process opens its own

    def read(self, clip: str, frame: int) -> bytearray | None:
        """The strips of a whole frame; ``None`` where they do not have the checksum that they were written with.

        Raises:
            FrameError: If it cannot be read.
        """
        stored = self._clips[clip]
        packed = bytearray(frame_size(stored))
        self._read_into(memoryview(packed), self._offsets[clip] + frame * len(packed), stored, frame)
        return packed if checksum(packed) == self._checksums[self._firsts[clip] + frame] else None

    def check(self, names: Sequence[str], seed: int) -> None:
        """Compares some frames with their checksums: the first and last of each clip, and a few drawn by a seed.

        Where these have more than ``CHECKED_BYTES``, those of a part of the clips, drawn by the seed too.

        Raises:
            InputError: If one is not as it was written.
        """
        draw = random.Random(seed)
        clips = [self._clips[name] for name in names]
        ends = [(clip, frame) for clip in clips for frame in {0, clip.num_frame - 1}]
        drawn = [(clip, draw.randrange(clip.num_frame)) for clip in draw.choices(clips, k=_DRAWN)]
        if sum(frame_size(clip) for clip, _ in ends) > CHECKED_BYTES:
            draw.shuffle(ends)
        places = list(dict.fromkeys([*drawn, *ends]))
        sizes = accumulate(frame_size(clip) for clip, _ in places)
        looked_at = [place for place, size in zip(places, sizes) if size <= CHECKED_BYTES]
        with ThreadPoolExecutor(_THREADS) as pool:
            are_wrong = pool.map(lambda place: self.read(place[0].name, place[1]) is None, looked_at)
            wrong = [place for place, is_wrong in zip(looked_at, are_wrong) if is_wrong]
        if wrong:
            clip, frame = wrong[0]
            raise InputError(
                f'clip {clip.name}, frame {frame}: {self.root} does not have the bytes that it was written with, as '
                f'{len(wrong)} of {len(looked_at)} frames that were looked at. Copy it anew; `multigrid-vsr prepare -o '
                f'{self.root.parent} --verify` names every such frame.'
            )
