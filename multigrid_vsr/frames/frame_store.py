"""Uncompressed frames in one file, read through a memory map and laid out so that a crop touches its own bytes alone.

A frame is cut into vertical strips of ``STRIP`` pixels; a strip's rows lie one below the other. A crop then is a few
contiguous blocks: its rows cost nothing beside themselves, its columns at most a strip at each side. The frames of a
clip follow each other, so one strided copy takes a block out of all frames of a sample.

A store is a folder of three files:

- ``frames.bin``: for each clip, uint8 (num_frame, ceil(w / STRIP), h, STRIP, 3), BGR, the last strip padded with zeros;
- ``checksums.bin``: for each frame, uint64, 2^32 + its CRC-32, or 0 where the frame is not written yet;
- ``store.json``: what the store holds; written last, so a store that was not finished does not open.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from isal import isal_zlib

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.frames.clip import Clip

STRIP = 32
VERSION = 1
_WRITTEN = 1 << 32


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        clips: Clips, with the size of their frames in this store.
        scale: Ground truth side / LQ side.
    """

    clips: tuple[Clip, ...]
    scale: int

    @property
    def offsets(self) -> dict[str, int]:
        """The first byte of each clip, and under ``''`` the size of all."""
        sizes = [clip.num_frame * frame_size(clip) for clip in self.clips]
        return dict(zip([*(clip.name for clip in self.clips), ''], accumulate(sizes, initial=0)))

    def to_json(self) -> str:
        return json.dumps({'version': VERSION, 'strip': STRIP, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> StoreInfo:
        """Reads :meth:`to_json`.

        Raises:
            InputError: If it is damaged, or another version wrote it.
        """
        try:
            values = json.loads(text)
            version = values['version'], values['strip']
            if version == (VERSION, STRIP):
                return cls(tuple(Clip(**clip) for clip in values['clips']), values['scale'])
        except (ValueError, TypeError, KeyError):
            version = ('something damaged', STRIP)
        raise InputError(f'{path}: must be a frame store of version {VERSION}, got {version[0]}. Prepare it anew.')


def frame_size(clip: Clip) -> int:
    """Bytes that a frame of a clip takes."""
    return -(-clip.width // STRIP) * clip.height * STRIP * 3


def pack(frame: np.ndarray) -> bytes:
    """Lays a frame, uint8 (h, w, 3), out in strips."""
    height, width = frame.shape[:2]
    if width % STRIP:
        frame = np.pad(frame, ((0, 0), (0, -width % STRIP), (0, 0)))
    return frame.reshape(height, -1).view(f'V{STRIP * 3}').T.tobytes()


def checksum(packed: bytes | memoryview) -> int:
    """What ``checksums.bin`` holds for a frame."""
    return _WRITTEN | isal_zlib.crc32(packed)


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
            self.info = StoreInfo.from_json((self.root / 'store.json').read_text(), self.root)
            with open(self.root / 'frames.bin', 'rb') as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self._checksums = np.fromfile(self.root / 'checksums.bin', '<u8')
        except (OSError, ValueError) as error:
            raise InputError(
                f'{root}: must be a finished frame store, got one that is not ({error}). Run `multigrid-vsr prepare` '
                'again: it goes on.'
            ) from None
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
        rows = self._strips(stored)[:, :, top : top + out.shape[1]]
        out = out.reshape(*out.shape[:2], -1)
        places = _as_slice(frames)
        for strip in range(left // STRIP, (right - 1) // STRIP + 1):
            start, stop = max(left, strip * STRIP), min(right, (strip + 1) * STRIP)
            piece = f'V{3 * (stop - start)}'  # a row's bytes as one element: numpy copies them at once
            source = rows[:, strip, :, 3 * (start - strip * STRIP) : 3 * (stop - strip * STRIP)]
            out[:, :, 3 * (start - left) : 3 * (stop - left)].view(piece)[:] = source.view(piece)[places]

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


class FrameStoreWriter:
    """A store being built. What was written stays when the process dies; :meth:`finish` makes the store whole.

    Any process may write a frame; each has a place of its own.

    Args:
        root: Folder of the store.
        info: What it will hold.
    """

    def __init__(self, root: Path, info: StoreInfo) -> None:
        self.root = root
        self.info = info
        self._offsets = info.offsets
        self._clips = {clip.name: clip for clip in info.clips}
        self._firsts = dict(zip(self._clips, accumulate((clip.num_frame for clip in info.clips), initial=0)))

    def reserve(self) -> None:
        """Makes the folder and takes the room on the disk, so that it cannot run out later.

        Raises:
            InputError: If the folder cannot be written, holds another store, or the disk has no room.
        """
        plan, expected = self.root / 'plan.json', self.info.to_json()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if plan.exists() and plan.read_text() != expected:
                raise InputError(
                    f'-o: must be the folder of the same clips, got {self.root}, begun for others. Delete it.'
                )
            plan.write_text(expected)
            num_frame = sum(clip.num_frame for clip in self.info.clips)
            for name, size in (('frames.bin', self._offsets['']), ('checksums.bin', num_frame * 8)):
                descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    os.posix_fallocate(descriptor, 0, size)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise InputError(
                f'-o: must be a folder with room for {self.size / 1e9:.2f} GB, got {self.root} ({error.strerror}). '
                'Make room, or choose another.'
            ) from None

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return self._offsets['']

    @property
    def is_finished(self) -> bool:
        """Whether the store is whole.

        Raises:
            InputError: If it is one of other clips.
        """
        path = self.root / 'store.json'
        if path.exists() and path.read_text() != self.info.to_json():
            raise InputError(f'-o: must be the folder of the same clips, got {self.root}, made of others. Delete it.')
        return path.exists()

    def has(self, clip: str, frame: int) -> bool:
        """Whether a frame is written, and as it should be: after a crash of the machine its pages may not be."""
        with open(self.root / 'checksums.bin', 'rb') as file:
            expected = int.from_bytes(os.pread(file.fileno(), 8, self._place(clip, frame) * 8), 'little')
        if expected == 0:
            return False
        size = frame_size(self._clips[clip])
        with open(self.root / 'frames.bin', 'rb') as file:
            return checksum(os.pread(file.fileno(), size, self._offsets[clip] + frame * size)) == expected

    def put(self, clip: str, frame: int, packed: bytes) -> None:
        """Writes a frame, then its checksum."""
        with open(self.root / 'frames.bin', 'r+b') as file:
            os.pwrite(file.fileno(), packed, self._offsets[clip] + frame * len(packed))
        with open(self.root / 'checksums.bin', 'r+b') as file:
            os.pwrite(file.fileno(), checksum(packed).to_bytes(8, 'little'), self._place(clip, frame) * 8)

    def finish(self) -> None:
        """Makes the store whole: all is on the disk before ``store.json`` has its name."""
        unfinished = self.root / 'plan.json'
        for name in ('frames.bin', 'checksums.bin', 'plan.json'):
            with open(self.root / name, 'rb') as file:
                os.fsync(file.fileno())
        unfinished.rename(self.root / 'store.json')

    def _place(self, clip: str, frame: int) -> int:
        return self._firsts[clip] + frame
