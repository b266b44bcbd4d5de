"""The training sets, which take crop size and frame count from each request, and a test set of any name."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from multigrid_vsr.core.schedule import BatchShape, SampleRequest
from multigrid_vsr.data.batches import Empty, fresh, to_float_rgb
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import open_eval_clips, read_frames
from multigrid_vsr.frames.sources import CropSource
from multigrid_vsr.frames.training import kinds_of_frames, samples_of_each, training_sets

Rng = random.Random | ModuleType  # Python's `random`, or a generator of its kind


@dataclass(frozen=True)
class Crop:
    """The crop of a sample: its corner in the LQ frame, in pixels, and its flips, in this order."""

    top: int
    left: int
    hflip: bool  # flips the width
    vflip: bool  # flips the height
    rot90: bool  # swaps height and width

    def cut(self, source: CropSource, clip: str, frames: list[int], scale: int, out: np.ndarray) -> None:
        """Crops frames of ``scale`` times the LQ size into ``out``, uint8 (t, n, n, 3)."""
        crops = np.empty_like(out) if self.rot90 else out
        rows = crops[:, ::-1] if self.vflip else crops
        source.crop(clip, frames, self.top * scale, self.left * scale, rows)
        if self.hflip:
            stacked = crops.reshape(-1, *crops.shape[2:])
            cv2.flip(stacked, 1, dst=stacked)
        if self.rot90:
            for crop, turned in zip(crops, out):
                cv2.transpose(crop, dst=turned)


def draw_crop(rng: Rng, lq_height: int, lq_width: int, lq_size: int, use_hflip: bool, use_rot: bool) -> Crop:
    """Draws the crop and the flips in the order of BasicSR's ``paired_random_crop`` and ``augment``."""
    top = rng.randint(0, lq_height - lq_size)
    left = rng.randint(0, lq_width - lq_size)
    hflip = use_hflip and rng.random() < 0.5
    vflip = use_rot and rng.random() < 0.5
    rot90 = use_rot and rng.random() < 0.5
    return Crop(top, left, hflip, vflip, rot90)


class MultigridDataset(Dataset, ABC):
    """A training set that takes crop size and frame count from each request. A subclass has a length and :meth:`cut`.

    A list of :class:`SampleRequest` of one shape as index gives a batch: ``lq`` uint8 (b, t, h, w, c) and ``gt`` uint8
    (b, t, scale*h, scale*w, c), BGR, which the model converts on the device; and ``key``, a list. An int gives a sample
    of the full shape as BasicSR's datasets do, drawn from Python's ``random``: ``lq`` float32 (t, c, h, w) and ``gt``
    float32 (t, c, scale*h, scale*w), RGB in [0, 1].

    With ``target: center`` ``gt`` is only the middle frame, without t. With ``degraded`` there is no ``lq``, because
    the model makes it, and ``gt`` has every frame.

    Args:
        opt (dict): Config for the training dataset: ``scale``, ``num_frame``, ``gt_size``, ``target`` (optional),
            ``degraded`` (optional, set where ``train.degradation`` is).
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.scale: int = opt['scale']
        self.is_degraded: bool = opt.get('degraded', False)
        self.centers = opt.get('target') == 'center'

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def cut(self, index: int, rng: Rng, lq: np.ndarray | None, gt: np.ndarray) -> str:
        """Fills the given arrays with one sample of their shape.

        Args:
            index: Number of the sample.
            rng: The generator to draw from, seeded by the request.
            lq: uint8 (t, h, w, 3), BGR; ``None`` if the model makes it.
            gt: uint8 (t, scale*h, scale*w, 3), BGR; with ``target: center`` and ``lq`` (1, scale*h, scale*w, 3).

        Returns:
            The key of the sample.
        """

    def __getitem__(self, index: int | Sequence[SampleRequest]) -> dict[str, Any]:
        if not isinstance(index, int):
            return self.load(index, fresh)
        batch = self._cut_batch([(index, random)], self.opt['num_frame'], self.opt['gt_size'], fresh)
        return {key: value[0] if key == 'key' else to_float_rgb(value[0]) for key, value in batch.items()}

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch into uint8 tensors, which ``empty`` gives for a shape."""
        samples = [(request.index, random.Random(request.seed)) for request in requests]
        return self._cut_batch(samples, requests[0].num_frame, requests[0].gt_size, empty)

    def num_bytes(self, shape: BatchShape) -> int:
        """The bytes of a batch, at most."""
        return 3 * (shape.pixels + (0 if self.is_degraded else shape.pixels // self.scale**2))

    def _cut_batch(
        self, samples: Sequence[tuple[int, Rng]], num_frame: int, gt_size: int, empty: Empty
    ) -> dict[str, Any]:
        lq_size, has_one_target = gt_size // self.scale, self.centers and not self.is_degraded
        lq = None if self.is_degraded else empty(len(samples), num_frame, lq_size, lq_size, 3)
        gt = empty(len(samples), 1 if has_one_target else num_frame, gt_size, gt_size, 3)
        keys = [
            self.cut(index, rng, None if lq is None else lq[place].numpy(), gt[place].numpy())
            for place, (index, rng) in enumerate(samples)
        ]
        batch = {'gt': gt.squeeze(1) if has_one_target else gt, 'key': keys}
        return batch if lq is None else {'lq': lq, **batch}


@DATASET_REGISTRY.register()
class MultigridREDSDataset(MultigridDataset):
    """REDS dataset. A key is a frame of a clip, as in BasicSR's ``REDSRecurrentDataset``.

    Args:
        opt (dict): Config for the training dataset, with the keys of ``REDSRecurrentDataset``: ``dataroot_gt``,
            ``dataroot_lq``, ``io_backend``, ``num_frame``, ``gt_size``, ``scale``, ``interval_list``,
            ``random_reverse``, ``use_hflip``, ``use_rot``, ``val_partition`` (optional here), ``test_mode``
            (optional), ``meta_info_file`` and ``skip_short_clips`` (optional: see :class:`TrainingSet`),
            and where ``dataroot_gt`` is a list, ``weight`` (optional): how often samples of each root are drawn;
            and ``target`` (optional): with ``center`` a sample is a window around its key, as in ``REDSDataset``.

    Raises:
        OptionError: If the list of clips cannot be read.
        FrameError: On reading, if a frame is missing or damaged, or its size is not that of its clip.
    """

    layout = 'MultigridREDSDataset'

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__({**opt, 'type': self.layout})  # a subclass reads files as its base does
        self._sets = training_sets(self.opt)
        self.clips = [clip for of_root in self._sets for clip in of_root.clips]
        self._ends = list(accumulate(samples_of_each(self._sets, self.opt)))
        self._clip_ends = [list(accumulate(clip.num_frame for clip in of_root.clips)) for of_root in self._sets]
        self._intervals = opt.get('interval_list', [1])
        self._sources: list[dict[str, CropSource]] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_sources': None}  # each process opens its own files

    def cut(self, index: int, rng: Rng, lq: np.ndarray | None, gt: np.ndarray) -> str:
        """Cuts a sample out of its clip. Frames, crop and flips are drawn in BasicSR's order."""
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside [0, {len(self)})')
        if self._sources is None:
            kinds = kinds_of_frames(self.opt)
            self._sources = [{kind: of_root.open(kind) for kind in kinds} for of_root in self._sets]
        root = bisect_right(self._ends, index)
        first = self._ends[root - 1] if root else 0
        sample = (index - first) % len(self._sets[root])  # `weight` may repeat a root
        clip, frames, targets, key = self._draw_frames(root, sample, len(gt if lq is None else lq), rng)
        height, width, size = clip.height // self.scale, clip.width // self.scale, gt.shape[1] // self.scale
        crop = draw_crop(rng, height, width, size, self.opt['use_hflip'], self.opt['use_rot'])
        if lq is not None:
            crop.cut(self._sources[root]['lq'], clip.name, frames, 1, lq)
        crop.cut(self._sources[root]['gt'], clip.name, frames if lq is None else targets, self.scale, gt)
        return key

    def _draw_frames(self, root: int, sample: int, num_frame: int, rng: Rng) -> tuple[Clip, list[int], list[int], str]:
        """The clip of a sample, its frames in order, its target frames, and its key.

        The draws are those of BasicSR's ``REDSRecurrentDataset``, or of ``REDSDataset`` with ``target: center``, but
        with the length of the clip in place of 100.
        """
        place = bisect_right(self._clip_ends[root], sample)
        clip = self._sets[root].clips[place]
        first = frame = sample - (self._clip_ends[root][place] - clip.num_frame)
        interval = rng.choice(self._intervals)
        if self.centers:
            reach = num_frame // 2 * interval
            while frame - reach < 0 or frame + reach > clip.num_frame - 1:
                frame = rng.randint(0, clip.num_frame - 1)
            start = frame - reach
        else:
            last_start = max(clip.num_frame - num_frame * interval, 0)
            if frame > last_start:
                frame = rng.randint(0, last_start)
            start = frame
        frames = list(range(start, start + num_frame * interval, interval))
        if self.opt.get('random_reverse', False) and rng.random() < 0.5:
            frames.reverse()
        return clip, frames, [frame] if self.centers else frames, f'{clip.name}/{first:08d}'


@DATASET_REGISTRY.register()
class MultigridVimeo90KDataset(MultigridREDSDataset):
    """Vimeo90K septuplets. A key is a septuplet, ``00001/0001`` with frames ``im1`` to ``im7``.

    A sample of fewer frames starts at a random one. With ``flip_sequence`` a sample of t frames is t / 2 frames of the
    clip and then the same frames backwards, so a full sample has 14.

    Args:
        opt (dict): Config for the training dataset, as for :class:`MultigridREDSDataset`, and ``flip_sequence``.
    """

    layout = 'MultigridVimeo90KDataset'

    def _draw_frames(self, root: int, sample: int, num_frame: int, rng: Rng) -> tuple[Clip, list[int], list[int], str]:
        clip = self._sets[root].clips[sample]
        length = num_frame // 2 if self.opt.get('flip_sequence') else num_frame
        reverse = self.opt.get('random_reverse', False) and rng.random() < 0.5
        if self.centers:
            start = (clip.num_frame - length) // 2
        else:
            start = rng.randint(0, clip.num_frame - length) if length < clip.num_frame else 0
        frames = list(range(start, start + length))
        if reverse:
            frames.reverse()
        if self.opt.get('flip_sequence'):
            frames += frames[::-1]
        return clip, frames, [clip.num_frame // 2] if self.centers else frames, clip.name


@DATASET_REGISTRY.register()
class MultigridVideoTestDataset(Dataset):
    """Whole clips for recurrent and sliding-window archs, paired by name. The set may have any name.

    An item is what BasicSR's ``VideoRecurrentTestDataset`` gives: ``lq`` (t, c, h, w) and ``gt``
    (t, c, scale*h, scale*w), float32 RGB in [0, 1], and ``folder``.

    Args:
        opt (dict): Config of the test set: ``name``; ``scale``; ``dataroot_gt`` and ``dataroot_lq``, each a folder of
            clips (images under any names, or videos), an LMDB of BasicSR, or a frame store; without ``dataroot_lq`` LQ
            frames are BasicSR's bicubic of the ground truth; ``io_backend`` (optional); ``meta_info_file`` (optional):
            the clips to use, names or BasicSR's lines; ``padding`` (optional, ``reflection_circle``): how the windows
            of a sliding-window arch continue past the ends of a clip.

    Raises:
        OptionError: If the clips do not pair.
        FrameError: On reading, if a frame is missing or damaged, or its size is not that of its clip.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.clips = open_eval_clips(f'datasets.{opt["phase"]}', opt)
        for note in self.clips.notes:
            get_root_logger().info(note)
        # BasicSR's models count the frames of each clip in this list.
        self.data_info = {'folder': [clip.name for clip in self.clips.clips for _ in range(clip.num_frame)]}

    def __len__(self) -> int:
        return len(self.clips.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        lq, gt = (to_float_rgb(torch.from_numpy(np.stack(list(self.frames(index, kind))))) for kind in ('lq', 'gt'))
        return {'lq': lq, 'gt': gt, 'folder': self.clips.clips[index].name}

    def frames(self, index: int, kind: str) -> Iterator[np.ndarray]:
        """Reads a clip frame by frame, uint8 (h, w, 3), BGR; ``kind`` is ``lq`` or ``gt``."""
        return read_frames(self.clips, index, kind)
