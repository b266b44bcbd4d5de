"""A frame store as a source of whole frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.frame_store import FrameStore


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
            frame = np.empty((1, clip.height, clip.width, 3), np.uint8)
            self._store.crop(name, [number], 0, 0, frame)
            yield frame[0]

    def where(self, name: str, frame: int) -> str:
        return f'clip {name} in {self.root}'
