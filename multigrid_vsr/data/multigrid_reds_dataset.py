"""Training clips in the layout of REDS, cut to the shape that the sampler asks for."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from multigrid_vsr.core.shapes import SampleRequest
from multigrid_vsr.data.clips import Clip, training_clips
from multigrid_vsr.data.cut import Augmentation, draw_cut, draw_sequence
from multigrid_vsr.data.frame_readers import FrameReader, open_frames
from multigrid_vsr.data.pixels import to_float_rgb


@DATASET_REGISTRY.register()
class MultigridREDSDataset(Dataset):
    """REDS dataset whose crop and frame count come with each request.

    A key is a frame of a clip, as in BasicSR's ``REDSRecurrentDataset``. What the dataset returns depends on the
    index:

    - a list of :class:`SampleRequest` of one shape gives a training batch, ``lq`` uint8 (b, t, h, w, c) and ``gt``
      uint8 (b, t, scale*h, scale*w, c), both BGR as stored, with ``key`` a list; the model converts it on the device;
    - an int gives a sample of the full shape as ``REDSRecurrentDataset`` does: ``lq`` float32 (t, c, h, w) and
      ``gt`` float32 (t, c, scale*h, scale*w), RGB in [0, 1], drawn from Python's ``random``.

    Args:
        opt (dict): Config for the training dataset, with the keys of ``REDSRecurrentDataset``: ``dataroot_gt``,
            ``dataroot_lq``, ``io_backend``, ``num_frame``, ``gt_size``, ``scale``, ``interval_list``,
            ``random_reverse``, ``use_hflip``, ``use_rot``, ``val_partition`` (optional here), ``test_mode``
            (optional), ``meta_info_file`` (optional: see :func:`training_clips`).

    Raises:
        OptionError: If the list of clips cannot be read.
        FrameError: On reading, if a frame is missing or damaged.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.scale: int = opt['scale']
        self.clips = training_clips(opt)
        self._ends = list(accumulate(clip.num_frame for clip in self.clips))
        self.augmentation = Augmentation(
            opt.get('interval_list', [1]), opt.get('random_reverse', False), opt['use_hflip'], opt['use_rot']
        )
        self._readers: tuple[FrameReader, FrameReader] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int | Sequence[SampleRequest]) -> dict[str, Any]:
        if not isinstance(index, int):
            return self._cut_batch(index)
        lq, gt, key = self._cut(index, self.opt['num_frame'], self.opt['gt_size'], random)
        return {'lq': to_float_rgb(torch.from_numpy(lq)), 'gt': to_float_rgb(torch.from_numpy(gt)), 'key': key}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_readers': None}  # open files stay in the process that opened them

    def _cut_batch(self, requests: Sequence[SampleRequest]) -> dict[str, Any]:
        samples = [self._cut(r.index, r.num_frame, r.gt_size, random.Random(r.seed)) for r in requests]
        lqs, gts, keys = zip(*samples)
        return {'lq': torch.from_numpy(np.stack(lqs)), 'gt': torch.from_numpy(np.stack(gts)), 'key': list(keys)}

    def _cut(
        self, index: int, num_frame: int, gt_size: int, rng: random.Random | ModuleType
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Cuts one sample: LQ (t, h, w, c) and GT (t, scale*h, scale*w, c), uint8 BGR, and its key."""
        clip, frame = self._locate(index)
        scale = self.scale
        lq_size = gt_size // scale
        frames = draw_sequence(rng, clip, frame, num_frame, self.augmentation)
        cut = draw_cut(rng, frames, clip.height // scale, clip.width // scale, lq_size, self.augmentation)
        if self._readers is None:
            self._readers = (
                open_frames(self.opt['dataroot_lq'], self.opt['io_backend']),
                open_frames(self.opt['dataroot_gt'], self.opt['io_backend']),
            )
        lq_reader, gt_reader = self._readers
        lq = np.empty((num_frame, lq_size, lq_size, 3), np.uint8)
        gt = np.empty((num_frame, gt_size, gt_size, 3), np.uint8)
        for place, number in enumerate(cut.frames):
            lq[place] = cut.orient(lq_reader.crop(clip.name, number, cut.top, cut.left, lq_size))
            gt[place] = cut.orient(gt_reader.crop(clip.name, number, cut.top * scale, cut.left * scale, gt_size))
        return lq, gt, f'{clip.name}/{frame:08d}'

    def _locate(self, index: int) -> tuple[Clip, int]:
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside [0, {len(self)})')
        place = bisect_right(self._ends, index)
        clip = self.clips[place]
        return clip, index - (self._ends[place] - clip.num_frame)
