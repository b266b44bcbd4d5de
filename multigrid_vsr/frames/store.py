"""Uncompressed frames in one file, laid out so that a crop reads only its own bytes.

A frame is cut into vertical strips of ``STRIP`` pixels. The rows of a strip follow each other, so a crop is one
contiguous block for each strip that it touches. The frames of a clip follow each other.

A store is a folder of three files:

- ``frames.bin``: for each clip, uint8 (num_frame, ceil(w / STRIP), h, STRIP, 3), BGR, the last strip padded with zeros;
- ``checksums.bin``: for each frame, uint64, 2^32 + its CRC-32, or 0 where the frame is not written yet;
- ``store.json``: what the store holds and its source files. It gets its name last, so an unfinished store never opens.
"""

from __future__ import annotations

import json
import os
import random
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
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
FINISHED, UNFINISHED = 'store.json', 'plan.json'  # names of the description: of a finished store, and before
_WRITTEN = 1 << 32


@dataclass(frozen=True)
class StoreInfo:
    """The clips of a store with their size in it, and the scale: ground truth side / LQ side."""

    clips: tuple[Clip, ...]
    scale: int

    @cached_property
    def by_name(self) -> dict[str, Clip]:
        return {clip.name: clip for clip in self.clips}

    @cached_property
    def first_bytes(self) -> dict[str, int]:
        return dict(zip(self.by_name, accumulate((c.num_frame * frame_size(c) for c in self.clips), initial=0)))

    @cached_property
    def first_frames(self) -> dict[str, int]:
        return dict(zip(self.by_name, accumulate((clip.num_frame for clip in self.clips), initial=0)))

    @property
    def size(self) -> int:
        return sum(clip.num_frame * frame_size(clip) for clip in self.clips)

    @property
    def num_frame(self) -> int:
        return sum(clip.num_frame for clip in self.clips)

    def place(self, clip: str, frame: int) -> tuple[int, int, int]:
        """The first byte of a frame, its size in bytes, and its number among all frames."""
        size = frame_size(self.by_name[clip])
        return self.first_bytes[clip] + frame * size, size, self.first_frames[clip] + frame

    def to_json(self, made_of: Mapping[str, Any] | None = None) -> str:
        """The text of ``store.json``: a line with what the store holds, and a line with the files it is made of.

        Workers read only the first line, because the second one has 30 MB for the 452,000 frames of Vimeo90K.
        """
        text = json.dumps({'version': VERSION, 'strip': STRIP, **asdict(self)})
        return text if made_of is None else f'{text[:-1]},\n"sources": {json.dumps(made_of)}}}\n'


def read_info(path: Path) -> StoreInfo:
    """What a store holds, from its ``store.json`` or ``plan.json``.

    Raises:
        OSError: If the file cannot be read.
        InputError: If the file is damaged, or another version wrote it.
    """
    with open(path, encoding='utf-8') as file:
        text = file.readline()
    try:
        values = json.loads(f'{text[:-2]}}}' if text.endswith(',\n') else text)
        version = values['version'], values['strip']
        if version == (VERSION, STRIP):
            return StoreInfo(tuple(Clip(**clip) for clip in values['clips']), values['scale'])
    except (ValueError, TypeError, KeyError):
        version = ('something damaged', STRIP)
    raise InputError(f'{path.parent}: must be a frame store of version {VERSION}, got {version[0]}. Prepare it anew.')


def read_made_of(path: Path) -> dict[str, Any]:
    """The sources of a store: ``root``, ``is_shrunk``, ``files``; empty for an old store that did not record them.

    Raises:
        OSError, ValueError: If the file cannot be read.
    """
    return json.loads(path.read_text(encoding='utf-8')).get('sources') or {}


def frame_size(clip: Clip) -> int:
    """Bytes of a frame of a clip."""
    return -(-clip.width // STRIP) * clip.height * STRIP * 3


def pack(frame: np.ndarray) -> bytes:
    """The strips of a frame, uint8 (h, w, 3), one after another."""
    height, width = frame.shape[:2]
    if width % STRIP:
        frame = np.pad(frame, ((0, 0), (0, -width % STRIP), (0, 0)))
    return frame.reshape(height, -1).view(f'V{STRIP * 3}').T.tobytes()


def checksum(packed: bytes | bytearray | memoryview) -> int:
    """The entry of ``checksums.bin`` for a frame."""
    return _WRITTEN | isal_zlib.crc32(packed)


CHECKED_BYTES = 2_000_000_000  # before a run: all of REDS, in a second or two
_DRAWN = 16
_THREADS = 8  # which mostly wait for the disk


class FrameStore:
    """A store opened for reading; a :class:`CropSource`.

    Raises:
        InputError: If the store is unfinished or truncated, or another version wrote it.
    """

    backend = 'packed'

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.notes: list[str] = []
        try:
            self.info = read_info(self.root / FINISHED)
            self._file = os.open(self.root / 'frames.bin', os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            self._checksums = np.fromfile(self.root / 'checksums.bin', '<u8')
        except (OSError, ValueError) as error:
            raise InputError(
                f'{root}: must be a finished frame store, got one that is not ({error}). Run `multigrid-vsr prepare` '
                'again: it goes on.'
            ) from None
        if hasattr(os, 'posix_fadvise'):  # not on macOS
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)  # reading ahead would fetch what no crop needs
        self.names = list(self.info.by_name)
        for name, found, expected in (
            ('frames.bin', os.fstat(self._file).st_size, self.info.size),
            ('checksums.bin', self._checksums.nbytes, 8 * self.info.num_frame),
        ):
            if found != expected:
                raise InputError(f'{root}: must have {expected} bytes in {name}, got {found}. Prepare it anew.')

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return FrameStore, (self.root,)  # each process opens its own

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        return {name: self.info.by_name[name] for name in names}

    def files(self, name: str) -> list[str]:
        return ['frames.bin']

    def where(self, name: str, frame: int) -> str:
        return f'clip {name} in {self.root}'

    def frames(self, name: str) -> Iterator[np.ndarray]:
        clip = self.info.by_name[name]
        for number in range(clip.num_frame):
            packed = self.read(name, number)
            if packed is None:
                raise FrameError(f'{self._changed(name, number)}. Copy it anew.')
            strips = np.frombuffer(packed, np.uint8).reshape(-1, clip.height, STRIP, 3)
            yield strips.transpose(1, 0, 2, 3).reshape(clip.height, -1, 3)[:, : clip.width].copy()

    def _changed(self, clip: str, frame: int) -> str:
        return f'clip {clip}, frame {frame}: {self.root} does not have the bytes that it was written with'

    def crop(self, clip: str, frames: Sequence[int], top: int, left: int, out: np.ndarray) -> None:
        stored = self.info.by_name.get(clip)
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

        They are read, because with a mapped file a cut file or a failing disk would kill the process by SIGBUS.
        """
        row, num_strips = 3 * STRIP, -(-clip.width // STRIP)
        size = height * row
        first = self.info.first_bytes[clip.name] + top * row
        starts = [first + (frame * num_strips + strip) * clip.height * row for frame in frames for strip in strips]
        if hasattr(os, 'posix_fadvise'):
            for start in starts:  # the disk gets all requests at once
                os.posix_fadvise(self._file, start, size, os.POSIX_FADV_WILLNEED)
        rows = np.empty(len(starts) * size, np.uint8)
        for number, start in enumerate(starts):
            piece = rows.data[number * size : (number + 1) * size]
            self._read_into(piece, start, clip.name, frames[number // len(strips)])
        return rows.reshape(len(frames), len(strips), height, row)

    def _read_into(self, piece: memoryview[int], start: int, clip: str, frame: int) -> None:
        try:
            count = os.preadv(self._file, [piece], start)
        except OSError as error:
            raise FrameError(f'clip {clip}, frame {frame}: cannot read {self.root} ({error.strerror})') from None
        if count != len(piece):
            raise FrameError(f'clip {clip}, frame {frame}: cannot read {self.root} (frames.bin was cut)')

    def read(self, clip: str, frame: int) -> bytearray | None:
        """The strips of a whole frame; ``None`` if their checksum is wrong.

        Raises:
            FrameError: If they cannot be read.
        """
        start, size, number = self.info.place(clip, frame)
        packed = bytearray(size)
        self._read_into(memoryview(packed), start, clip, frame)
        return packed if checksum(packed) == self._checksums[number] else None

    def check(self, names: Sequence[str], seed: int) -> None:
        """Compares the first and last frame of each clip, and a few drawn by a seed, with their checksums.

        If that is more than ``CHECKED_BYTES``, the seed draws which of them are compared.

        Raises:
            InputError: If a frame is not as it was written.
        """
        draw = random.Random(seed)
        clips = [self.info.by_name[name] for name in names]
        ends = [(clip, frame) for clip in clips for frame in {0, clip.num_frame - 1}]
        drawn = [(clip, draw.randrange(clip.num_frame)) for clip in draw.choices(clips, k=_DRAWN)]
        if sum(frame_size(clip) for clip, _ in ends) > CHECKED_BYTES:
            draw.shuffle(ends)
        places = list(dict.fromkeys([*drawn, *ends]))
        sizes = accumulate(frame_size(clip) for clip, _ in places)
        checked = [(clip.name, frame) for (clip, frame), size in zip(places, sizes) if size <= CHECKED_BYTES]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda place: self.read(*place), checked)
            wrong = [place for place, packed in zip(checked, found) if packed is None]
        if wrong:
            raise InputError(
                f'{self._changed(*wrong[0])}: {len(wrong)} of {len(checked)} checked frames are wrong. Copy it anew; '
                f'`multigrid-vsr prepare -o {self.root.parent} --verify` names every such frame.'
            )


class FrameStoreWriter:
    """A store being built, by any number of processes. Written frames stay if the build is interrupted."""

    def __init__(self, root: Path, info: StoreInfo) -> None:
        self.root = root
        self.info = info

    def reserve(self, made_of: Mapping[str, Any] | None = None) -> None:
        """Makes the folder, writes the description, and reserves disk space, which macOS cannot do.

        Raises:
            InputError: If the folder cannot be written or the disk is full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with whole_file(self.root / UNFINISHED) as file:
                file.write(self.info.to_json(made_of).encode())
            for name, size in (('frames.bin', self.info.size), ('checksums.bin', self.info.num_frame * 8)):
                with open(self.root / name, 'ab') as file:
                    if hasattr(os, 'posix_fallocate'):
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:
                        file.truncate(size)
        except OSError as error:
            fix = 'Make room, or choose another.' if error.errno in FULL else 'Choose another.'
            raise InputError(
                f'-o: must be a folder with room for {self.info.size / 1e9:.2f} GB, got {self.root} '
                f'({error.strerror}). {fix}'
            ) from None

    def read(self, clip: str, frame: int) -> bytes | None:
        """The strips of a frame; ``None`` if it is not written, or damaged by a crash of the machine."""
        start, size, number = self.info.place(clip, frame)
        expected = int.from_bytes(self._pread('checksums.bin', 8, number * 8), 'little')
        if expected == 0:
            return None
        packed = self._pread('frames.bin', size, start)
        return packed if checksum(packed) == expected else None

    def put(self, clip: str, frame: int, packed: bytes) -> None:
        """Writes a frame, then its checksum."""
        start, _, number = self.info.place(clip, frame)
        self._pwrite('frames.bin', packed, start)
        self._pwrite('checksums.bin', checksum(packed).to_bytes(8, 'little'), number * 8)

    def _pread(self, name: str, size: int, place: int) -> bytes:
        with open(self.root / name, 'rb') as file:
            file.seek(place)
            return file.read(size)

    def _pwrite(self, name: str, data: bytes, place: int) -> None:
        with open(self.root / name, 'r+b') as file:
            file.seek(place)
            file.write(data)

    def finish(self) -> None:
        """Flushes everything to the disk, and then gives the description its final name."""
        for name in ('frames.bin', 'checksums.bin', UNFINISHED):
            with open(self.root / name, 'r+b') as file:
                os.fsync(file.fileno())
        (self.root / UNFINISHED).replace(self.root / FINISHED)
