"""A frame store as a source of whole frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from multigrid_vsr.core.errors import FrameError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.frame_store import FrameStore
from multigrid_vsr.frames.store_info import STRIP


class StoreSource:
    """One of the two stores that ``multigrid-vsr prepare`` writes.

    Args:
        root: ``STORE/gt`` or ``STORE/lq``.

    Raises:
        InputError: If it was not finished.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self._store = FrameStore(root)
        self._clips = {clip.name: clip for clip in self._store.info.clips}
        self.names = list(self._clips)

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        return {name: self._clips[name] for name in names}

    def files(self, name: str) -> list[str]:
        return ['frames.bin']

    def frames(self, name: str) -> Iterator[np.ndarray]:
        clip = self._clips[name]
        for number in range(clip.num_frame):
            packed = self._store.read(name, number)
            if packed is None:
                raise FrameError(
                    f'clip {name}, frame {number}: {self.root} does not have the bytes that it was written with. Copy '
                    'it anew.'
                )
            strips = np.frombuffer(packed, np.uint8).reshape(-1, clip.height, STRIP, 3)
            yield strips.transpose(1, 0, 2, 3).reshape(clip.height, -1, 3)[:, : clip.width].copy()

    def where(self, name: str, frame: int) -> str:
        return f'clip {name} in {self.root}'
