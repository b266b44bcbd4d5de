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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule

SCHEDULER_TYPE = 'MultigridCosineLR'

_RESTARTS = ('none', 'stage', 'shape')
_BATCH_SCALINGS = {'none': 0.0, 'sqrt': 0.5, 'linear': 1.0}
WARMUP_PART, MOST_WARMUP = 24, 5000  # without `warmup_iter`: docs/method.md has the ablation that the first is from
_KEYS = ('type', 'eta_min', 'restart', 'restart_weights', 'warmup_iter', 'batch_scaling')


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
        self._starts = _period_starts(schedule, options.restart)
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
    return (batch / schedule.full_shape.batch_size_per_gpu) ** _BATCH_SCALINGS[batch_scaling]


def _period_starts(schedule: Schedule, restart: str) -> list[int]:
    if restart == 'none':
        return [0]
    segments = schedule.segments
    return [0] + [new.start for old, new in pairwise(segments) if restart == 'shape' or new.stage != old.stage]


def cosine_options(scheduler_opt: Mapping[str, Any], schedule: Schedule) -> CosineOptions:
    """Checks ``train.scheduler`` of type ``MultigridCosineLR``.

    Raises:
        OptionError: If an option breaks its rule.
    """
    name = 'train.scheduler'
    for key in scheduler_opt:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            fix = f'Did you mean `{near[0]}`?' if near else 'Remove it.'
            raise OptionError(f'{name}.{key}', f'be one of {", ".join(_KEYS)}', key, fix)
    values = {key: value for key, value in scheduler_opt.items() if key != 'type' and value is not None}
    _check_word('restart', values, _RESTARTS)
    _check_word('batch_scaling', values, tuple(_BATCH_SCALINGS))
    if 'eta_min' in values and not _is_number(values['eta_min'], 0):
        raise OptionError(
            f'{name}.eta_min', 'be a number of at least 0', values['eta_min'], 'Write it as !!float 1e-7.'
        )
    warmup = values.setdefault('warmup_iter', min(schedule.total_iter // WARMUP_PART, MOST_WARMUP))
    if warmup == -1:  # BasicSR's word for none
        values['warmup_iter'] = 0
    elif isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise OptionError(f'{name}.warmup_iter', 'be a whole number, or -1 for none', warmup, 'Correct the value.')
    if 'restart_weights' in values:
        weights = values['restart_weights']
        count = len(_period_starts(schedule, values.get('restart', CosineOptions.restart)))
        if not isinstance(weights, Sequence) or len(weights) != count or not all(_is_number(w, 0) for w in weights):
            raise OptionError(
                f'{name}.restart_weights', f'be {count} numbers, one for each period', weights, 'Add or remove entries.'
            )
        values['restart_weights'] = tuple(float(weight) for weight in weights)
    return CosineOptions(**values)


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < float('inf')


def check_scheduler(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Checks ``train.scheduler``: all of it where it is this project's, else what a scheduler of BasicSR has beside.

    Raises:
        OptionError: If an option breaks its rule.
    """
    scheduler_opt = opt['train'].get('scheduler') or {}
    if scheduler_opt.get('type') == SCHEDULER_TYPE:
        cosine_options(scheduler_opt, schedule)
    else:
        _check_word('batch_scaling', scheduler_opt, tuple(_BATCH_SCALINGS))
        periods = scheduler_opt.get('periods')
        if isinstance(periods, Sequence) and sum(periods) < schedule.total_iter:
            raise OptionError(
                'train.scheduler.periods',
                f'add up to train.total_iter ({schedule.total_iter})',
                f'{periods} (sum {sum(periods)})',
                'BasicSR would fail after them.',
            )


def _check_word(key: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    if key in values and values[key] not in allowed:
        raise OptionError(f'train.scheduler.{key}', f'be {", ".join(allowed)}', values[key], 'Choose one of them.')
