"""Training clips in the layout of REDS, cut to the shape that the sampler asks for."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from multigrid_vsr.core.shapes import BatchShape, SampleRequest
from multigrid_vsr.data.cut import Augmentation, Cut, draw_cut, draw_sequence, draw_window
from multigrid_vsr.data.pixels import to_float_rgb
from multigrid_vsr.data.shared_slots import Empty
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.clips import frame_names, training_clips
from multigrid_vsr.frames.frame_readers import FrameReader, open_frames

_empty: Empty = partial(torch.empty, dtype=torch.uint8)


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
            (optional), ``meta_info_file`` and ``skip_short_clips`` (optional: see :func:`training_clips`);
            and ``target`` (optional): with ``center`` a sample is a window around its key, and ``gt`` has the frame in
            the middle alone, without t, as in BasicSR's ``REDSDataset``.

    Raises:
        OptionError: If the list of clips cannot be read.
        FrameError: On reading, if a frame is missing, damaged or of another size than the clip or 1/scale of it.
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
        self.centers = opt.get('target') == 'center'
        self._readers: tuple[FrameReader, FrameReader] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int | Sequence[SampleRequest]) -> dict[str, Any]:
        if isinstance(index, int):
            lq, gt, (key,) = self._cut_batch([(index, random)], self.opt['num_frame'], self.opt['gt_size'], _empty)
            return {'lq': to_float_rgb(lq[0]), 'gt': to_float_rgb(gt[0]), 'key': key}
        return self.load(index, _empty)

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch, as with a list as index, into what ``empty`` gives for a shape: uint8 tensors."""
        samples = [(request.index, random.Random(request.seed)) for request in requests]
        lq, gt, keys = self._cut_batch(samples, requests[0].num_frame, requests[0].gt_size, empty)
        return {'lq': lq, 'gt': gt, 'key': keys}

    def num_bytes(self, shape: BatchShape) -> int:
        """What a batch takes at most."""
        return 3 * (shape.pixels + shape.pixels // self.scale**2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_readers': None}  # open files stay in the process that opened them

    def _cut_batch(
        self, samples: Sequence[tuple[int, random.Random | ModuleType]], num_frame: int, gt_size: int, empty: Empty
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Cuts samples, each an index and its source of random draws, straight into the tensors of a batch."""
        if self._readers is None:
            lq_clips = [clip.shrunk(self.scale) for clip in self.clips]
            self._readers = self._open('dataroot_lq', lq_clips), self._open('dataroot_gt', self.clips)
        lq_reader, gt_reader = self._readers
        lq_size = gt_size // self.scale
        lq = empty(len(samples), num_frame, lq_size, lq_size, 3)
        gt = empty(len(samples), 1 if self.centers else num_frame, gt_size, gt_size, 3)
        keys = []
        for lq_out, gt_out, (index, rng) in zip(lq.numpy(), gt.numpy(), samples):
            clip, frames, targets, key = self._draw_frames(index, num_frame, rng)
            height, width = clip.height // self.scale, clip.width // self.scale
            cut = draw_cut(rng, height, width, lq_size, self.augmentation)
            self._fill(lq_out, lq_reader, clip.name, frames, cut, 1)
            self._fill(gt_out, gt_reader, clip.name, targets, cut, self.scale)
            keys.append(key)
        return lq, gt.squeeze(1) if self.centers else gt, keys

    def _open(self, root: str, clips: Sequence[Clip]) -> FrameReader:
        return open_frames(self.opt[root], self.opt['io_backend'], frame_names(self.opt), clips)

    def _draw_frames(
        self, index: int, num_frame: int, rng: random.Random | ModuleType
    ) -> tuple[Clip, list[int], list[int], str]:
        """The clip of a sample, its frames in the order of training, those that are targets, and its key."""
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside [0, {len(self)})')
        place = bisect_right(self._ends, index)
        clip = self.clips[place]
        frame = index - (self._ends[place] - clip.num_frame)
        key = f'{clip.name}/{frame:08d}'
        if self.centers:
            frames, center = draw_window(rng, clip, frame, num_frame, self.augmentation)
            return clip, frames, [center], key
        frames = draw_sequence(rng, clip, frame, num_frame, self.augmentation)
        return clip, frames, frames, key

    @staticmethod
    def _fill(out: np.ndarray, reader: FrameReader, clip: str, frames: list[int], cut: Cut, scale: int) -> None:
        """Cuts frames of ``scale`` times the size of LQ ones into ``out``, uint8 (t, n, n, 3)."""
        crops = np.empty_like(out) if cut.rot90 else out
        reader.crop(clip, frames, cut.top * scale, cut.left * scale, crops[:, ::-1] if cut.vflip else crops)
        cut.turn(crops, out)
