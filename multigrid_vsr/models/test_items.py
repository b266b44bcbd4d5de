"""Items of test sets, of BasicSR's and of this project, as frames that go in and frames to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from basicsr.utils import tensor2img

from multigrid_vsr.data.multigrid_video_test_dataset import MultigridVideoTestDataset
from multigrid_vsr.models.inference import Frame


@dataclass(frozen=True)
class TestItem:
    """What is validated at a time.

    Attributes:
        folder: Name of the clip.
        first: Place of the first result in its clip.
        stem: Of the file of that result; ``None`` for its number.
        is_window: Whether the frames are a window around the one that comes out.
        num_frame: Frames that go in.
        lq: Reads them from the first on, (h, w, 3), uint8 BGR or float32 RGB.
        gt: Reads what the results are compared with, uint8 BGR (h, w, 3).
    """

    folder: str
    first: int
    stem: str | None
    is_window: bool
    num_frame: int
    lq: Callable[[], Iterable[Frame]]
    gt: Callable[[], Iterable[np.ndarray]]

    def middle(self) -> TestItem:
        """The clip as a window around its frame in the middle."""
        return replace(self, is_window=True, gt=lambda: islice(self.gt(), self.num_frame // 2, None))


def read_item(dataset: Any, place: int) -> TestItem:
    """Takes an item out of a test set; one of this project is read frame by frame."""
    if isinstance(dataset, MultigridVideoTestDataset):
        clip = dataset.clips.clips[place]
        lq, gt = (lambda kind=kind: dataset.frames(place, kind) for kind in ('lq', 'gt'))
        return TestItem(clip.name, 0, None, False, clip.num_frame, lq, gt)
    data = dataset[place]
    frames, num_frame = data['lq'].permute(0, 2, 3, 1), len(data['lq'])
    if 'idx' not in data:
        return TestItem(
            data['folder'], 0, None, False, num_frame, lambda: frames, lambda: (tensor2img(gt) for gt in data['gt'])
        )
    path = Path(data['lq_path'])  # one frame of a clip, as sliding-window archs are tested
    is_vimeo = 'vimeo' in data['folder'].lower()  # every clip of Vimeo90K has the same file names
    stem = '_'.join([*path.parts[-3:-1], path.stem]) if is_vimeo else path.stem
    first = int(data['idx'].split('/')[0])
    return TestItem(data['folder'], first, stem, True, num_frame, lambda: frames, lambda: [tensor2img(data['gt'])])
