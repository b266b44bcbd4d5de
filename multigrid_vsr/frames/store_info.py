"""What a frame store holds, what it is made of, and how a frame lies in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from isal import isal_zlib

from multigrid_vsr.core.errors import InputError
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


@dataclass(frozen=True)
class Origin:
    """What the frames of a store are made of.

    Attributes:
        root: The folder or file that was given, as an absolute path.
        is_shrunk: Whether the frames are those of ``root`` shrunk by BasicSR's bicubic ``imresize``.
        files: For each clip its files, one for each frame or one for all of them: the path below ``root``, the size in
            bytes and the time of the last change in ns.
    """

    root: str
    is_shrunk: bool
    files: dict[str, list[tuple[str, int, int]]]

    def of_frame(self, clip: Clip, frame: int) -> tuple[str, int, int]:
        """The file that holds a frame."""
        files = self.files[clip.name]
        return files[frame if len(files) == clip.num_frame else 0]


def stamp(path: Path | str) -> tuple[int, int]:
    """The size of a file in bytes and the time of its last change in ns, by which a change of it is noticed.

    Raises:
        OSError: If it is not there.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def describe(info: StoreInfo, origin: Origin | None) -> str:
    """The text of ``store.json``: JSON whose first line is what the store holds.

    A worker reads that line alone: the files of Vimeo90K's 452,000 frames take 30 MB.
    """
    text = info.to_json()
    return text if origin is None else f'{text[:-1]},\n"sources": {json.dumps(asdict(origin))}}}\n'


def read_info(path: Path) -> StoreInfo:
    """What a store holds, of its ``store.json`` or ``plan.json``.

    Raises:
        OSError: If it cannot be read.
        InputError: If it is damaged, or another version wrote it.
    """
    with open(path, encoding='utf-8') as file:
        return StoreInfo.from_json(file.readline(), path.parent)


def read_origin(path: Path) -> Origin | None:
    """What a store is made of; ``None`` for a store of before that was recorded.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    sources = json.loads(path.read_text(encoding='utf-8')).get('sources')
    if sources is None:
        return None
    return Origin(
        sources['root'],
        sources['is_shrunk'],
        {name: [(path, size, time) for path, size, time in files] for name, files in sources['files'].items()},
    )


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
