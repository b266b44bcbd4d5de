"""The options of a run that count iterations, and how they follow when the run has more or fewer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

# Those that have to fit `train.total_iter`, or hold for a part of the training.
SCHEDULE_COUNTS = (
    'train.total_iter',
    'train.scheduler.periods',
    'train.scheduler.milestones',
    'train.fix_flow',
    'train.tsa_iter',
    'train.net_d_init_iters',
)
ALL_COUNTS = (*SCHEDULE_COUNTS, 'val.val_freq', 'logger.print_freq', 'logger.save_checkpoint_freq')
_CUMULATED = ('train.scheduler.periods',)  # lengths that have to add up


def scaled(opt: Mapping[str, Any], factor: Fraction, counts: Sequence[str], reasons: list[str]) -> dict[str, Any]:
    """The options with counts of iterations multiplied by ``factor`` and rounded, 1 at least.

    Args:
        opt: Options of a run, left alone.
        factor: New iterations for an old one.
        counts: Dotted names of the options; those that the run does not have, or that are off, stay.
        reasons: Gets a line for each option that changes.
    """
    new = copy.deepcopy(dict(opt))
    for option in counts:
        *blocks, key = option.split('.')
        block: Any = new
        for name in blocks:
            block = block.get(name) if isinstance(block, Mapping) else None
        old = block.get(key) if isinstance(block, Mapping) else None
        if isinstance(old, list):
            block[key] = lengths(old, factor) if option in _CUMULATED else [_count(value, factor) for value in old]
        elif isinstance(old, (int, float)) and old > 0:
            block[key] = _count(old, factor)
        if isinstance(block, Mapping) and block.get(key) != old:
            reasons.append(f'{option}: {block[key]} for {_plain(old)}')
    return new


def lengths(old: Sequence[float], factor: Fraction) -> list[int]:
    """Lengths that follow each other, their boundaries multiplied and rounded."""
    boundaries = [round(int(end) * factor) for end in accumulate(old, initial=0)]
    return [max(1, end - start) for start, end in pairwise(boundaries)]


def _count(value: float, factor: Fraction) -> int:
    return max(1, round(int(value) * factor))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) else value
