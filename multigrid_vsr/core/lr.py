"""The learning rate of every iteration, in closed form.

With the iteration i counted from 0, the *period* that holds i, [s, e), the length N of the run, and the warm-up length
W = ``warmup_iter``::

    base(i) = r(i) * b(i) * (eta_min + (lr_0 - eta_min) * w(i)),    w(i) = (1 + cos(pi * x(i))) / 2
    lr(i)   = base(i) - max(0, base(i) - before) * (1 - (i - j + 1) / W)     where i - j < W, else base(i)

- periods: the whole run (``restart: none``), the spatial stages (``stage``) or the segments (``shape``);
- x(i) = (i - s) / (e - s) for ``anneal: each``. For ``anneal: last`` only in the last period, and (i - s) / N in
  those before it: their rate hardly falls. With ``restart: shape`` that is equation 1 of arXiv 2205.05069. Its print
  has no pi; the half wave is that of Loshchilov and Hutter, arXiv 1608.03983, equation 5, which it cites: our reading.
  ``anneal: linear`` keeps the rate, w(i) = 1, and in the last period w(i) = 1 - (i - s) / (e - s) (Haegele et al.,
  arXiv 2405.18392);
- r(i): that of ``restart_weights`` for the period of i, or for its spatial stage;
- b(i) = 1, sqrt(B_i / B) or B_i / B for ``batch_scaling`` ``none``, ``sqrt`` or ``linear``, with B_i the batch of the
  iteration and B that of ``datasets.train``;
- j is where the last ramp starts: iteration 0 with before = 0 (Goyal et al., arXiv 1706.02677, section 2.2), and with
  ``warmup_at: boundaries`` also every boundary where base(j) > base(j - 1), with before = lr(j - 1): a ramp never
  starts below the rate before it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from multigrid_vsr.core.schedule import Schedule

RESTARTS = ('none', 'stage', 'shape')
ANNEALS = ('last', 'each', 'linear')
WARMUP_PLACES = ('start', 'boundaries')
BATCH_SCALINGS = {'none': 0.0, 'sqrt': 0.5, 'linear': 1.0}


@dataclass(frozen=True)
class CosineOptions:
    """``train.scheduler`` of type ``MultigridCosineLR``; see the formula above.

    Attributes:
        eta_min: Rate that an annealed period ends with.
        restart_weights: Weight of each period or of each spatial stage; all 1 where it is empty.
        warmup_iter: Iterations of a ramp; 0 for none.
    """

    eta_min: float = 1e-7
    restart: str = 'stage'
    anneal: str = 'each'
    restart_weights: tuple[float, ...] = ()
    warmup_iter: int = 0
    warmup_at: str = 'start'
    batch_scaling: str = 'none'


class CosineSchedule:
    """The learning rate of a run as a pure function of the iteration."""

    def __init__(self, schedule: Schedule, options: CosineOptions) -> None:
        self._schedule = schedule
        self._options = options
        self._starts = period_starts(schedule, options.restart)
        self._ramps = [0]
        if options.warmup_at == 'boundaries':
            boundaries = (segment.start for segment in schedule.segments[1:])
            self._ramps += [i for i in boundaries if self._base(i, 1.0) > self._base(i - 1, 1.0)]

    def at(self, iteration: int, base_lr: float) -> float:
        """The rate of an iteration, counted from 0, for a parameter group whose rate begins at ``base_lr``."""
        rate = self._base(iteration, base_lr)
        start = self._ramps[bisect_right(self._ramps, iteration) - 1]
        done = iteration - start + 1
        if done >= self._options.warmup_iter:
            return rate
        before = self.at(start - 1, base_lr) if start > 0 else 0.0
        return rate - max(0.0, rate - before) * (1 - done / self._options.warmup_iter)

    def _base(self, iteration: int, base_lr: float) -> float:
        """The rate without ramps."""
        period = bisect_right(self._starts, iteration) - 1
        start, end = [*self._starts, self._schedule.total_iter][period : period + 2]
        is_last = end == self._schedule.total_iter
        is_annealed = is_last or self._options.anneal == 'each'
        share = (iteration - start) / (end - start if is_annealed else self._schedule.total_iter)
        is_line = self._options.anneal == 'linear'
        wave = 1 - share * is_last if is_line else (1 + math.cos(math.pi * share)) / 2
        eta_min = min(self._options.eta_min, base_lr)
        return (
            self._weight(iteration, period)
            * batch_factor(self._schedule, iteration, self._options.batch_scaling)
            * (eta_min + (base_lr - eta_min) * wave)
        )

    def _weight(self, iteration: int, period: int) -> float:
        weights = self._options.restart_weights
        if not weights:
            return 1.0
        return weights[period if len(weights) == len(self._starts) else self._schedule.segment_at(iteration).stage]


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


Rate = Callable[[int], float]  # of an iteration, counted from 0


def basicsr_cosine(base_lr: float, periods: Sequence[int], weights: Sequence[float], eta_min: float) -> Rate:
    """BasicSR's ``CosineAnnealingRestartLR``; a period ends at ``eta_min`` with its last iteration's successor."""
    ends = list(accumulate(periods))

    def at(iteration: int) -> float:
        period = bisect_left(ends, iteration)
        share = (iteration - (ends[period - 1] if period else 0)) / periods[period]
        return eta_min + weights[period] * (base_lr - eta_min) * (1 + math.cos(math.pi * share)) / 2

    return at


def basicsr_steps(
    base_lr: float,
    milestones: Sequence[int],
    gamma: float,
    restarts: Sequence[int],
    weights: Sequence[float],
    warmup_iter: int = -1,
) -> Rate:
    """BasicSR's ``MultiStepRestartLR``: times gamma at each milestone since the last restart.

    It goes on from the rate before, so behind the warm-up from its last rate, which is below the base.
    """

    def at(iteration: int) -> float:
        start, weight = max(((r, w) for r, w in zip(restarts, weights) if r <= iteration), default=(-1, 1.0))
        if 1 < warmup_iter <= iteration + 1 and start < warmup_iter - 1:
            start, weight = warmup_iter - 2, (warmup_iter - 1) / warmup_iter
        return base_lr * weight * gamma ** sum(start < milestone <= iteration for milestone in milestones)

    return at


def warmed_up(rate: Rate, base_lr: float, warmup_iter: int) -> Rate:
    """BasicSR's ``train.warmup_iter``: a line to the rate at the start, in place of the scheduler's."""
    return lambda i: base_lr / warmup_iter * (i + 1) if i + 1 < warmup_iter else rate(i)
