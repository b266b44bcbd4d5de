"""A frame store being built."""

from __future__ import annotations

import errno
import os
from itertools import accumulate
from pathlib import Path

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.frames.store_info import (
    FINISHED,
    UNFINISHED,
    Origin,
    StoreInfo,
    checksum,
    describe,
    frame_size,
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

    def reserve(self, origin: Origin | None = None) -> None:
        """Makes the folder, writes what the store will hold, and takes the room on the disk, so that it cannot run out.

        Where the system cannot take room (macOS, Windows), the files have their size, and a full disk shows later.

        Args:
            origin: What it is made of.

        Raises:
            InputError: If the folder cannot be written or the disk has no room.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with whole_file(self.root / UNFINISHED) as file:
                file.write(describe(self.info, origin).encode())
            num_frame = sum(clip.num_frame for clip in self.info.clips)
            for name, size in (('frames.bin', self.size), ('checksums.bin', num_frame * 8)):
                with open(self.root / name, 'ab') as file:
                    if hasattr(os, 'posix_fallocate'):
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:
                        file.truncate(size)
        except OSError as error:
            fix = 'Make room, or choose another.' if error.errno == errno.ENOSPC else 'Choose another.'
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
