"""Frames in one file, uncompressed, laid out so that a crop reads only its own bytes.

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

import json
import os
import random
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.core.whole_file import FULL, whole_file
from multigrid_vsr.frames.clip import Clip

STRIP = 32
VERSION = 1
FINISHED, UNFINISHED = 'store.json', 'plan.json'  # the description's name, before and after a store is whole
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
        """Reads :meth:`to_json`, or the first line of :func:`describe`.

        Raises:
            InputError: If it is damaged, or another version wrote it.
        """
        if text.endswith(',\n'):
            text = text[:-2] + '}'
        try:
            values = json.loads(text)
            version = values['version'], values['strip']
            if version == (VERSION, STRIP):
                return cls(tuple(Clip(**clip) for clip in values['clips']), values['scale'])
        except (ValueError, TypeError, KeyError):
            version = ('something damaged', STRIP)
        raise InputError(f'{path}: must be a frame store of version {VERSION}, got {version[0]}. Prepare it anew.')


def describe(info: StoreInfo, made_of: Mapping[str, Any] | None) -> str:
    """The text of ``store.json``: JSON whose first line is what the store holds, and whose second its sources.

    A worker reads the first line only: the files of Vimeo90K's 452,000 frames take 30 MB.
    """
    text = info.to_json()
    return text if made_of is None else f'{text[:-1]},\n"sources": {json.dumps(made_of)}}}\n'


def read_info(path: Path) -> StoreInfo:
    """What a store holds, of its ``store.json`` or ``plan.json``.

    Raises:
        OSError: If it cannot be read.
        InputError: If it is damaged, or another version wrote it.
    """
    with open(path, encoding='utf-8') as file:
        return StoreInfo.from_json(file.readline(), path.parent)


def read_made_of(path: Path) -> dict[str, Any]:
    """What a store is made of: ``root``, ``is_shrunk``, ``files``; nothing for a store from before that was recorded.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    return json.loads(path.read_text(encoding='utf-8')).get('sources') or {}


def frame_size(clip: Clip) -> int:
    """Bytes that a frame of a clip takes."""
    return -(-clip.width // STRIP) * clip.height * STRIP * 3


def pack(frame: np.ndarray) -> bytes:
    """Lays a frame, uint8 (h, w, 3), out in strips."""
    height, width = frame.shape[:2]
    if width % STRIP:
        frame = np.pad(frame, ((0, 0), (0, -width % STRIP), (0, 0)))
    return frame.reshape(height, -1).view(f'V{STRIP * 3}').T.tobytes()


def checksum(packed: bytes | bytearray | memoryview) -> int:
    """What ``checksums.bin`` holds for a frame."""
    return _WRITTEN | isal_zlib.crc32(packed)


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
        self.notes: list[str] = []
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
        self.names = list(self._clips)
        firsts = accumulate((clip.num_frame for clip in self.info.clips), initial=0)
        self._firsts = dict(zip(self._clips, firsts))
        for name, found, expected in (
            ('frames.bin', os.fstat(self._file).st_size, self._offsets['']),
            ('checksums.bin', self._checksums.nbytes, 8 * sum(clip.num_frame for clip in self.info.clips)),
        ):
            if found != expected:
                raise InputError(f'{root}: must have {expected} bytes in {name}, got {found}. Prepare it anew.')

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        """Copies a square out of frames. Arguments and errors are those of :class:`CropSource`."""
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

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        """The clips of these names."""
        return {name: self._clips[name] for name in names}

    def files(self, name: str) -> list[str]:
        """The file of a clip below the root."""
        return ['frames.bin']

    entries = files

    def where(self, name: str, frame: int) -> str:
        """What holds a frame, for messages."""
        return f'clip {name} in {self.root}'

    def frames(self, name: str) -> Iterator[np.ndarray]:
        """The frames of a clip in order, uint8 (h, w, 3), BGR.

        Raises:
            FrameError: If one does not have the bytes that it was written with.
        """
        clip = self._clips[name]
        for number in range(clip.num_frame):
            packed = self.read(name, number)
            if packed is None:
                raise FrameError(
                    f'clip {name}, frame {number}: {self.root} does not have the bytes that it was written with. Copy '
                    'it anew.'
                )
            strips = np.frombuffer(packed, np.uint8).reshape(-1, clip.height, STRIP, 3)
            yield strips.transpose(1, 0, 2, 3).reshape(clip.height, -1, 3)[:, : clip.width].copy()

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

    def reserve(self, made_of: Mapping[str, Any] | None = None) -> None:
        """Makes the folder, writes what the store will hold, and takes the room on the disk, so that it cannot run out.

        Where the system cannot take room (macOS, Windows), the files have their size, and a full disk shows later.

        Args:
            made_of: Its sources.

        Raises:
            InputError: If the folder cannot be written or the disk has no room.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with whole_file(self.root / UNFINISHED) as file:
                file.write(describe(self.info, made_of).encode())
            num_frame = sum(clip.num_frame for clip in self.info.clips)
            for name, size in (('frames.bin', self.size), ('checksums.bin', num_frame * 8)):
                with open(self.root / name, 'ab') as file:
                    if hasattr(os, 'posix_fallocate'):
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:
                        file.truncate(size)
        except OSError as error:
            fix = 'Make room, or choose another.' if error.errno in FULL else 'Choose another.'
            raise InputError(
                f'-o: must be a folder with room for {self.size / 1e9:.2f} GB, got {self.root} ({error.strerror}). '
                f'{fix}'
            ) from None

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return self._offsets['']

    def read(self, clip: str, frame: int) -> bytes | None:
        """The strips of a frame; ``None`` where it is not written, or not as it should be.

        After a crash of the machine a frame's pages may be missing though its checksum is there.
        """
        size = frame_size(self._clips[clip])
        expected = int.from_bytes(self._pread('checksums.bin', 8, self._place(clip, frame) * 8), 'little')
        if expected == 0:
            return None
        packed = self._pread('frames.bin', size, self._offsets[clip] + frame * size)
        return packed if checksum(packed) == expected else None

    def put(self, clip: str, frame: int, packed: bytes) -> None:
        """Writes a frame, then its checksum."""
        self._pwrite('frames.bin', packed, self._offsets[clip] + frame * len(packed))
        self._pwrite('checksums.bin', checksum(packed).to_bytes(8, 'little'), self._place(clip, frame) * 8)

    def sync(self) -> None:
        """Has all of it on the disk."""
        for name in ('frames.bin', 'checksums.bin', UNFINISHED):
            with open(self.root / name, 'r+b') as file:
                os.fsync(file.fileno())

    def finish(self) -> None:
        """Makes the store whole: all is on the disk before ``store.json`` has its name."""
        self.sync()
        (self.root / UNFINISHED).replace(self.root / FINISHED)

    def _pread(self, name: str, size: int, place: int) -> bytes:
        with open(self.root / name, 'rb') as file:
            file.seek(place)
            return file.read(size)

    def _pwrite(self, name: str, data: bytes, place: int) -> None:
        with open(self.root / name, 'r+b') as file:
            file.seek(place)
            file.write(data)

    def _place(self, clip: str, frame: int) -> int:
        return self._firsts[clip] + frame
