"""Training clips in the layout of REDS, cut to the shape that the sampler asks for."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np
from basicsr.utils.registry import DATASET_REGISTRY

from multigrid_vsr.data.cut import Augmentation, Cut, draw_cut, draw_sequence, draw_window
from multigrid_vsr.data.multigrid_dataset import MultigridDataset
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.clips import frame_names, kinds_of_frames, training_clips
from multigrid_vsr.frames.frame_readers import FrameReader, open_frames


@DATASET_REGISTRY.register()
class MultigridREDSDataset(MultigridDataset):
    """REDS dataset whose crop and frame count come with each request.

    A key is a frame of a clip, as in BasicSR's ``REDSRecurrentDataset``. Int and list indices give what
    :class:`MultigridDataset` says.

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

    layout = 'MultigridREDSDataset'

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__({**opt, 'type': self.layout})  # a subclass has the files of its base
        opt = self.opt
        self.clips = training_clips(opt)
        self._ends = list(accumulate(clip.num_frame for clip in self.clips))
        self.augmentation = Augmentation(
            opt.get('interval_list', [1]), opt.get('random_reverse', False), opt['use_hflip'], opt['use_rot']
        )
        self._readers: dict[str, FrameReader] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_readers': None}  # open files stay in the process that opened them

    def cut(self, index: int, rng: random.Random | ModuleType, lq: np.ndarray | None, gt: np.ndarray) -> str:
        """Cuts a sample out of its clip: frames, crop and flips are BasicSR's draws, in their order."""
        if self._readers is None:
            self._readers = {kind: self._open(kind) for kind in kinds_of_frames(self.opt)}
        clip, frames, targets, key = self._draw_frames(index, len(gt if lq is None else lq), rng)
        height, width = clip.height // self.scale, clip.width // self.scale
        cut = draw_cut(rng, height, width, gt.shape[1] // self.scale, self.augmentation)
        if lq is not None:
            self._fill(lq, self._readers['lq'], clip.name, frames, cut, 1)
        self._fill(gt, self._readers['gt'], clip.name, frames if lq is None else targets, cut, self.scale)
        return key

    def _open(self, kind: str) -> FrameReader:
        clips = self.clips if kind == 'gt' else [clip.shrunk(self.scale) for clip in self.clips]
        return open_frames(self.opt[f'dataroot_{kind}'], self.opt['io_backend'], frame_names(self.opt), clips)

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
