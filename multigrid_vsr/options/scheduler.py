"""``train.scheduler``, checked: all of it where it is this project's, else what a scheduler of BasicSR has beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.lr import (
    CosineOptions,
    CosineSchedule,
    Rate,
    basicsr_cosine,
    basicsr_steps,
    batch_factor,
    period_starts,
    warmed_up,
)
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.checked import checked, options_of
from multigrid_vsr.options.kinds import is_number
from multigrid_vsr.options.table import MOST_WARMUP, SCHEDULER_TYPE, WARMUP_PART


def cosine_options(scheduler_opt: Mapping[str, Any], schedule: Schedule) -> CosineOptions:
    """Checks ``train.scheduler`` of type ``MultigridCosineLR``.

    Raises:
        OptionError: If an option breaks its rule.
    """
    values = checked('train.scheduler', scheduler_opt)
    values.pop('type', None)
    warmup = values.setdefault('warmup_iter', min(schedule.total_iter // WARMUP_PART, MOST_WARMUP))
    values['warmup_iter'] = max(warmup, 0)  # -1 is BasicSR's word for none
    if len(schedule.segments) == 1:  # the block has been deleted: the weight of the full shape stays
        values['restart_weights'] = tuple(values.get('restart_weights', ()))[-1:]
    elif 'restart_weights' in values:
        periods = len(period_starts(schedule, values.get('restart', CosineOptions.restart)))
        _check_weights(scheduler_opt['restart_weights'], periods, schedule.segments[-1].stage + 1)
        values['restart_weights'] = tuple(values['restart_weights'])
    return CosineOptions(**values)


def _check_weights(weights: Sequence[float], periods: int, stages: int) -> None:
    if len(weights) not in (periods, stages):
        rule = f'be {periods} numbers, one for each period'
        if stages != periods:
            rule += f', or {stages}, one for each spatial stage'
        raise OptionError('train.scheduler.restart_weights', rule, weights, 'Add or remove entries.')


def check_scheduler(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Checks ``train.scheduler``: all of it where it is this project's, else what a scheduler of BasicSR has beside.

    Raises:
        OptionError: If an option breaks its rule.
    """
    scheduler_opt = opt['train'].get('scheduler') or {}
    if scheduler_opt.get('type') == SCHEDULER_TYPE:
        cosine_options(scheduler_opt, schedule)
    else:
        scaling = options_of('train.scheduler')['batch_scaling']
        if 'batch_scaling' in scheduler_opt:
            scaling.kind.check(scaling.name, scheduler_opt['batch_scaling'])
        periods = scheduler_opt.get('periods')
        if isinstance(periods, Sequence) and sum(periods) < schedule.total_iter:
            raise OptionError(
                'train.scheduler.periods',
                f'add up to train.total_iter ({schedule.total_iter})',
                f'{periods} (sum {sum(periods)})',
                'BasicSR would fail after them.',
            )


def rate_of(train_opt: Mapping[str, Any], schedule: Schedule) -> Rate | None:
    """The learning rate of ``optim_g`` at every iteration, counted from 0, as a pure function.

    Args:
        train_opt: The ``train`` block, checked.
        schedule: Shapes of the run.

    Returns:
        It, or ``None`` for a scheduler that is neither this project's nor one of BasicSR's two, or without a rate.
    """
    options = train_opt.get('scheduler') or {}
    lr: Any = (train_opt.get('optim_g') or {}).get('lr')
    if not is_number(lr):
        return None
    base_lr = float(lr)
    scaling, warmup_iter = 'none', train_opt.get('warmup_iter') or -1
    if options.get('type') == SCHEDULER_TYPE:
        cosine = CosineSchedule(schedule, cosine_options(options, schedule))
        rate: Rate = lambda i: cosine.at(i, base_lr)  # noqa: E731
    else:
        scaling = options.get('batch_scaling', 'none')
        if options.get('type') == 'CosineAnnealingRestartLR' and 'periods' in options:
            weights = options.get('restart_weights', [1])
            rate = basicsr_cosine(base_lr, options['periods'], weights, options.get('eta_min', 0))
        elif options.get('type') in ('MultiStepLR', 'MultiStepRestartLR') and 'milestones' in options:
            restarts, weights = options.get('restarts', [0]), options.get('restart_weights', [1])
            gamma = options.get('gamma', 0.1)
            rate = basicsr_steps(base_lr, options['milestones'], gamma, restarts, weights, warmup_iter)
        else:
            return None
    warm = warmed_up(rate, base_lr, warmup_iter)
    return lambda i: warm(i) * batch_factor(schedule, i, scaling)
