"""The training sets, whose crop and frames come with each request, and a test set of any name."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from multigrid_vsr.data.batches import Empty, to_float_rgb
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import open_eval_clips, read_frames
from multigrid_vsr.frames.sources import CropSource
from multigrid_vsr.frames.training import kinds_of_frames, samples_of_each, training_sets


@dataclass(frozen=True)
class Crop:
    """The crop of a sample.

    Attributes:
        top, left: Corner of the crop in the LQ frame, in pixels.
        hflip, vflip, rot90: Flips along width and height, and the exchange of the two, done in this order.
    """

    top: int
    left: int
    hflip: bool
    vflip: bool
    rot90: bool

    def turn(self, crops: np.ndarray, out: np.ndarray) -> None:
        """Flips crops along their width and turns them, all frames at once; their rows are in order already.

        Args:
            crops: uint8 (t, n, n, 3); flipped in place.
            out: The same, for the result; ``crops`` itself unless ``rot90``.
        """
        if self.hflip:
            stacked = crops.reshape(-1, *crops.shape[2:])
            cv2.flip(stacked, 1, dst=stacked)
        if self.rot90:
            for crop, turned in zip(crops, out):
                cv2.transpose(crop, dst=turned)


@dataclass(frozen=True)
class Augmentation:
    """The options of BasicSR's REDS datasets that say how samples vary."""

    interval_list: Sequence[int] = (1,)
    random_reverse: bool = False
    use_hflip: bool = True
    use_rot: bool = True


def draw_sequence(
    rng: random.Random | ModuleType, clip: Clip, frame: int, num_frame: int, augmentation: Augmentation
) -> list[int]:
    """Draws the frames of a sequence that starts at ``frame``, or elsewhere where the clip ends too soon.

    The draws and their order are those of BasicSR's ``REDSRecurrentDataset``, with the clip's own length for its 100.

    Args:
        rng: ``random``, or a generator of its kind.
        clip: The clip.
        frame: First frame asked for.
        num_frame: Frames t of the sequence.
        augmentation: Intervals and reversal.
    """
    interval = rng.choice(augmentation.interval_list)
    last_start = max(clip.num_frame - num_frame * interval, 0)
    if frame > last_start:
        frame = rng.randint(0, last_start)
    frames = list(range(frame, frame + num_frame * interval, interval))
    if augmentation.random_reverse and rng.random() < 0.5:
        frames.reverse()
    return frames


def draw_window(
    rng: random.Random | ModuleType, clip: Clip, frame: int, num_frame: int, augmentation: Augmentation
) -> tuple[list[int], int]:
    """Draws the frames around ``frame``, or around another where the clip ends too soon.

    The draws and their order are those of BasicSR's ``REDSDataset``, with the clip's own length for its 100.

    Args:
        rng: ``random``, or a generator of its kind.
        clip: The clip, long enough for the largest interval.
        frame: Frame in the middle asked for.
        num_frame: Frames t of the window, odd.
        augmentation: Intervals and reversal.

    Returns:
        The frames, and the one in the middle.
    """
    interval = rng.choice(augmentation.interval_list)
    reach = num_frame // 2 * interval
    while frame - reach < 0 or frame + reach > clip.num_frame - 1:
        frame = rng.randint(0, clip.num_frame - 1)
    frames = list(range(frame - reach, frame + reach + 1, interval))
    if augmentation.random_reverse and rng.random() < 0.5:
        frames.reverse()
    return frames, frame


def draw_crop(
    rng: random.Random | ModuleType, lq_height: int, lq_width: int, lq_size: int, augmentation: Augmentation
) -> Crop:
    """Draws the crop and the flips: BasicSR's ``paired_random_crop`` and ``augment``, in their order.

    Args:
        rng: ``random``, or a generator of its kind.
        lq_height, lq_width: Size of the LQ frame, in pixels.
        lq_size: Side of the LQ crop, in pixels.
        augmentation: Which flips are allowed.
    """
    top = rng.randint(0, lq_height - lq_size)
    left = rng.randint(0, lq_width - lq_size)
    hflip = augmentation.use_hflip and rng.random() < 0.5
    vflip = augmentation.use_rot and rng.random() < 0.5
    rot90 = augmentation.use_rot and rng.random() < 0.5
    return Crop(top, left, hflip, vflip, rot90)


_empty: Empty = partial(torch.empty, dtype=torch.uint8)


class MultigridDataset(Dataset, ABC):
    """Does all but the loading: a subclass has a length and cuts a sample, see :meth:`cut`.

    What it gives depends on the index:

    - a list of :class:`SampleRequest` of one shape gives a training batch, ``lq`` uint8 (b, t, h, w, c) and ``gt``
      uint8 (b, t, scale*h, scale*w, c), both BGR as stored, with ``key`` a list; the model converts it on the device;
    - an int gives a sample of the full shape as BasicSR's datasets do: ``lq`` float32 (t, c, h, w) and ``gt`` float32
      (t, c, scale*h, scale*w), RGB in [0, 1], drawn from Python's ``random``.

    With ``target: center`` ``gt`` has the frame in the middle alone, without t. With ``degraded`` there is no ``lq``
    and ``gt`` has every frame: the model makes the one of the other.

    Args:
        opt (dict): Config for the training dataset: ``scale``, ``num_frame``, ``gt_size``, ``target`` (optional),
            ``degraded`` (optional, set where ``train.degradation`` is).
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.scale: int = opt['scale']
        self.centers = opt.get('target') == 'center'
        self.is_degraded: bool = opt.get('degraded', False)

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def cut(self, index: int, rng: random.Random | ModuleType, lq: np.ndarray | None, gt: np.ndarray) -> str:
        """Cuts one sample into the arrays that it is given, whose shape is the one to cut.

        Args:
            index: Which sample, below the length.
            rng: What to draw from: a generator that follows from the request, so that the sample does too.
            lq: uint8 (t, h, w, 3), BGR; ``None`` where the model makes it.
            gt: uint8 (t, scale*h, scale*w, 3), BGR; with ``target: center`` beside ``lq``, (1, scale*h, scale*w, 3).

        Returns:
            The key of the sample.
        """

    def __getitem__(self, index: int | Sequence[SampleRequest]) -> dict[str, Any]:
        if not isinstance(index, int):
            return self.load(index, _empty)
        batch = self._cut_batch([(index, random)], self.opt['num_frame'], self.opt['gt_size'], _empty)
        return {key: value[0] if key == 'key' else to_float_rgb(value[0]) for key, value in batch.items()}

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch, as with a list as index, into what ``empty`` gives for a shape: uint8 tensors."""
        samples = [(request.index, random.Random(request.seed)) for request in requests]
        return self._cut_batch(samples, requests[0].num_frame, requests[0].gt_size, empty)

    def num_bytes(self, shape: BatchShape) -> int:
        """What a batch takes at most."""
        return 3 * (shape.pixels + (0 if self.is_degraded else shape.pixels // self.scale**2))

    def _cut_batch(
        self, samples: Sequence[tuple[int, random.Random | ModuleType]], num_frame: int, gt_size: int, empty: Empty
    ) -> dict[str, Any]:
        """Cuts samples, each an index and its source of random draws, straight into the tensors of a batch."""
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
    """REDS dataset whose crop and frame count come with each request.

    A key is a frame of a clip, as in BasicSR's ``REDSRecurrentDataset``. Int and list indices give what
    :class:`MultigridDataset` says.

    Args:
        opt (dict): Config for the training dataset, with the keys of ``REDSRecurrentDataset``: ``dataroot_gt``,
            ``dataroot_lq``, ``io_backend``, ``num_frame``, ``gt_size``, ``scale``, ``interval_list``,
            ``random_reverse``, ``use_hflip``, ``use_rot``, ``val_partition`` (optional here), ``test_mode``
            (optional), ``meta_info_file`` and ``skip_short_clips`` (optional: see :class:`TrainingSet`),
            and where ``dataroot_gt`` is a list, ``weight`` (optional): how often samples of each root are drawn;
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
        self._sets = training_sets(opt)
        self.clips = [clip for of_root in self._sets for clip in of_root.clips]
        self._ends = list(accumulate(samples_of_each(self._sets, opt)))
        self._clip_ends = [list(accumulate(clip.num_frame for clip in of_root.clips)) for of_root in self._sets]
        self.augmentation = Augmentation(
            opt.get('interval_list', [1]), opt.get('random_reverse', False), opt['use_hflip'], opt['use_rot']
        )
        self._sources: list[dict[str, CropSource]] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_sources': None}  # open files stay in the process that opened them

    def cut(self, index: int, rng: random.Random | ModuleType, lq: np.ndarray | None, gt: np.ndarray) -> str:
        """Cuts a sample out of its clip: frames, crop and flips are BasicSR's draws, in their order."""
        if self._sources is None:
            kinds = kinds_of_frames(self.opt)
            self._sources = [{kind: of_root.open(kind) for kind in kinds} for of_root in self._sets]
        root, sample = self._find(index)
        clip, frames, targets, key = self._draw_frames(root, sample, len(gt if lq is None else lq), rng)
        height, width = clip.height // self.scale, clip.width // self.scale
        crop = draw_crop(rng, height, width, gt.shape[1] // self.scale, self.augmentation)
        sources = self._sources[root]
        if lq is not None:
            self._fill(lq, sources['lq'], clip.name, frames, crop, 1)
        self._fill(gt, sources['gt'], clip.name, frames if lq is None else targets, crop, self.scale)
        return key

    def _find(self, index: int) -> tuple[int, int]:
        """The root of a sample, and its number there: with ``weight`` the samples of a root may come several times."""
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside [0, {len(self)})')
        root = bisect_right(self._ends, index)
        first = self._ends[root - 1] if root else 0
        return root, (index - first) % len(self._sets[root])

    def _draw_frames(
        self, root: int, sample: int, num_frame: int, rng: random.Random | ModuleType
    ) -> tuple[Clip, list[int], list[int], str]:
        """The clip of a sample, its frames in the order of training, those that are targets, and its key."""
        place = bisect_right(self._clip_ends[root], sample)
        clip = self._sets[root].clips[place]
        frame = sample - (self._clip_ends[root][place] - clip.num_frame)
        key = f'{clip.name}/{frame:08d}'
        if self.centers:
            frames, center = draw_window(rng, clip, frame, num_frame, self.augmentation)
            return clip, frames, [center], key
        frames = draw_sequence(rng, clip, frame, num_frame, self.augmentation)
        return clip, frames, frames, key

    @staticmethod
    def _fill(out: np.ndarray, source: CropSource, clip: str, frames: list[int], crop: Crop, scale: int) -> None:
        """Cuts frames of ``scale`` times the size of LQ ones into ``out``, uint8 (t, n, n, 3)."""
        crops = np.empty_like(out) if crop.rot90 else out
        source.crop(clip, frames, crop.top * scale, crop.left * scale, crops[:, ::-1] if crop.vflip else crops)
        crop.turn(crops, out)


@DATASET_REGISTRY.register()
class MultigridVimeo90KDataset(MultigridREDSDataset):
    """Vimeo90K septuplets, whose crop and frame count come with each request.

    A key is a septuplet, ``00001/0001`` with frames ``im1`` to ``im7``, as in BasicSR's ``Vimeo90KRecurrentDataset``;
    fewer frames begin at a random one. With ``flip_sequence`` a sample of t frames is t / 2 of the clip, then the same
    backwards, so 14 is the full one. Int and list indices give what :class:`MultigridDataset` says.

    Args:
        opt (dict): Config for the training dataset, as for :class:`MultigridREDSDataset`, and ``flip_sequence``.
    """

    layout = 'MultigridVimeo90KDataset'

    def _draw_frames(
        self, root: int, sample: int, num_frame: int, rng: random.Random | ModuleType
    ) -> tuple[Clip, list[int], list[int], str]:
        clip = self._sets[root].clips[sample]
        length = num_frame // 2 if self.opt.get('flip_sequence') else num_frame
        reverse = self.augmentation.random_reverse and rng.random() < 0.5
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
        self.clips = open_eval_clips(f'datasets.{opt["phase"]}', opt)
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
