"""A training set whose crop and frames come with each request, but for the loading of a sample."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from multigrid_vsr.core.shapes import BatchShape, SampleRequest
from multigrid_vsr.data.pixels import to_float_rgb
from multigrid_vsr.data.shared_slots import Empty

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
