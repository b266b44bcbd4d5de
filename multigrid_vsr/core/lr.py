"""The learning rate of every iteration, in closed form.

With the iteration i counted from 0, the *period* that holds i, [s, e) with number k (counted from 0), and the warm-up
length W = ``warmup_iter``::

    lr(i) = w(i) * r(k) * b(i) * (eta_min + (lr_0 - eta_min) * (1 + cos(pi * (i - s) / (e - s))) / 2)

- periods: the whole run (``restart: none``), the spatial stages (``stage``) or the segments (``shape``);
- r(k) = ``restart_weights[k]``;
- b(i) = 1, sqrt(B_i / B) or B_i / B for ``batch_scaling`` ``none``, ``sqrt`` or ``linear``, with B_i the batch of the
  iteration and B that of ``datasets.train``;
- w(i) = min(1, (i - j + 1) / W), with j the start of the last ramp: iteration 0, or a boundary where
  r(k) * b(i) * cosine is above its value at the iteration before (Goyal et al., arXiv 1706.02677, section 2.2).

The cosine is that of Loshchilov and Hutter, arXiv 1608.03983, equation 5.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from multigrid_vsr.core.schedule import Schedule

RESTARTS = ('none', 'stage', 'shape')
BATCH_SCALINGS = {'none': 0.0, 'sqrt': 0.5, 'linear': 1.0}


@dataclass(frozen=True)
class CosineOptions:
    """``train.scheduler`` of type ``MultigridCosineLR``; see the formula above.

    Attributes:
        eta_min: Rate that each period ends with.
        restart: ``none``, ``stage`` or ``shape``.
        restart_weights: Weight of each period; all 1 where it is empty.
        warmup_iter: Iterations of a ramp; 0 for none.
        batch_scaling: ``none``, ``sqrt`` or ``linear``.
    """

    eta_min: float = 1e-7
    restart: str = 'stage'
    restart_weights: tuple[float, ...] = ()
    warmup_iter: int = 0
    batch_scaling: str = 'none'


class CosineSchedule:
    """The learning rate of a run as a pure function of the iteration.

    Args:
        schedule: Shapes of the run.
        options: What the option file asks for.
    """

    def __init__(self, schedule: Schedule, options: CosineOptions) -> None:
        self._schedule = schedule
        self._options = options
        self._starts = period_starts(schedule, options.restart)
        self._ends = [*self._starts[1:], schedule.total_iter]
        self._weights = options.restart_weights or (1.0,) * len(self._starts)
        boundaries = sorted({segment.start for segment in schedule.segments[1:]})
        self._ramps = [0, *(i for i in boundaries if self._base(i, 1.0) > self._base(i - 1, 1.0))]

    def at(self, iteration: int, base_lr: float) -> float:
        """The rate of an iteration, counted from 0, for a parameter group whose rate begins at ``base_lr``."""
        since = iteration - self._ramps[bisect_right(self._ramps, iteration) - 1]
        warmup = self._options.warmup_iter
        factor = min(1.0, (since + 1) / warmup) if warmup > 0 else 1.0
        return factor * self._base(iteration, base_lr)

    def _base(self, iteration: int, base_lr: float) -> float:
        period = bisect_right(self._starts, iteration) - 1
        start, end = self._starts[period], self._ends[period]
        scaling = batch_factor(self._schedule, iteration, self._options.batch_scaling)
        eta_min = min(self._options.eta_min, base_lr)
        cosine = (1 + math.cos(math.pi * (iteration - start) / (end - start))) / 2
        return self._weights[period] * scaling * (eta_min + (base_lr - eta_min) * cosine)


def batch_factor(schedule: Schedule, iteration: int, batch_scaling: str) -> float:
    """b(i) of the formula above: the factor of the batch of an iteration, counted from 0."""
    batch = schedule.segment_at(iteration).shape.batch_size_per_gpu
    return (batch / schedule.full_shape.batch_size_per_gpu) ** BATCH_SCALINGS[batch_scaling]


def period_starts(schedule: Schedule, restart: str) -> list[int]:
    """The first iteration of each period, counted from 0."""
    if restart == 'none':
        return [0]
    segments = schedule.segments
    return [0] + [new.start for old, new in pairwise(segments) if restart == 'shape' or new.stage != old.stage]
