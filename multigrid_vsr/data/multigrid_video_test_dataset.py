"""A test set of one's own: any name, any clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from multigrid_vsr.data.pixels import to_float_rgb
from multigrid_vsr.frames.test_clips import open_test_clips, read_frames


@DATASET_REGISTRY.register()
class MultigridVideoTestDataset(Dataset):
    """Whole clips for recurrent and sliding-window archs, paired by name, under any name of the set.

    An item is what BasicSR's ``VideoRecurrentTestDataset`` gives: ``lq`` (t, c, h, w) and ``gt``
    (t, c, scale*h, scale*w), float32 RGB in [0, 1], and ``folder``. Nothing is kept. :meth:`frames` reads a clip frame
    by frame, so that no more of it is in memory than what goes through the network at a time.

    Args:
        opt (dict): Config of the test set: ``name``; ``scale``; ``dataroot_gt`` and ``dataroot_lq``, each a folder of
            clips (folders of images under any names, or videos), an LMDB of BasicSR, or a frame store; without
            ``dataroot_lq`` LQ frames are BasicSR's bicubic of the ground truth; ``io_backend`` (optional);
            ``meta_info_file`` (optional): the clips to use, names or BasicSR's lines; ``padding`` (optional): how
            windows of a sliding-window arch go on past the ends of a clip, ``reflection_circle`` without it.

    Raises:
        OptionError: If clips do not pair.
        FrameError: On reading, if a frame is missing, damaged or of another size than its clip.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.clips = open_test_clips(f'datasets.{opt["phase"]}', opt)
        for note in self.clips.notes:
            get_root_logger().info(note)
        # BasicSR's models count the frames of each clip by it.
        self.data_info = {'folder': [clip.name for clip in self.clips.clips for _ in range(clip.num_frame)]}

    def __len__(self) -> int:
        return len(self.clips.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        lq, gt = (to_float_rgb(torch.from_numpy(np.stack(list(self.frames(index, kind))))) for kind in ('lq', 'gt'))
        return {'lq': lq, 'gt': gt, 'folder': self.clips.clips[index].name}

    def frames(self, index: int, kind: str) -> Iterator[np.ndarray]:
        """The frames of a clip in order, uint8 (h, w, 3), BGR; ``kind`` is ``lq`` or ``gt``."""
        return read_frames(self.clips, index, kind)
