"""``train.scheduler``, checked: all of it where it is this project's, else what a scheduler of BasicSR has beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.lr import BATCH_SCALINGS, RESTARTS, CosineOptions, period_starts
from multigrid_vsr.core.schedule import Schedule

SCHEDULER_TYPE = 'MultigridCosineLR'
WARMUP_PART, MOST_WARMUP = 24, 5000  # without `warmup_iter`: docs/method.md has the ablation that the first is from

_KEYS = ('type', 'eta_min', 'restart', 'restart_weights', 'warmup_iter', 'batch_scaling')


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
    _check_word('restart', values, RESTARTS)
    _check_word('batch_scaling', values, tuple(BATCH_SCALINGS))
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
        count = len(period_starts(schedule, values.get('restart', CosineOptions.restart)))
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
        _check_word('batch_scaling', scheduler_opt, tuple(BATCH_SCALINGS))
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
