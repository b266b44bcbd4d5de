"""The end of a run in the middle: goes on from a checkpoint at the full shape, the rate falling to its end.

A rate that has stayed near its start can be annealed from any iteration: Haegele et al., arXiv 2405.18392.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.conversion import Conversion, insert
from multigrid_vsr.options.table import SCHEDULER_TYPE
from multigrid_vsr.options.train_block import checked_schedule

_RULE_COMMENTS = {
    'restart': 'a period for each entry above',
    'anneal': 'the last alone',
    'restart_weights': 'the last begins at the rate that the run had',
    'warmup_iter': 'no ramp',
}


def cooldown(opt: Mapping[str, Any], state: str, start: int, iterations: int, rate: float) -> Conversion:
    """Makes a run that goes on from a state of another, which it leaves alone.

    Args:
        opt: The options of the run under way, of this project.
        state: Path of the training state.
        start: Its iteration.
        iterations: How long the new run goes on, at the full shape.
        rate: The rate at the state, without the factor of its batch, as a part of what each group began with.

    Raises:
        OptionError: If an option breaks its rule.
    """
    old = checked_schedule(opt)
    if start > old.total_iter:
        raise OptionError('--from', f'be within the run ({old.total_iter} iterations)', start, 'Give its own file.')
    new = copy.deepcopy(dict(opt))
    reasons = []

    def set_(block: str, key: str, value: Any, why: str) -> None:
        target = new[block] if block else new
        target[key] = value
        reasons.append(f'{block}{"." if block else ""}{key}: {value}, {why}')

    set_('', 'name', f'{opt.get("name", "run")}_cooldown_{start}_{iterations}', 'so that the run keeps its folder')
    new = _with_stages(new, old, start, iterations)
    reasons.append(f'multigrid.stages: the first {start} iterations as they were, then {iterations} of the full shape')
    set_('path', 'resume_state', state, 'which stays as it is')
    new['path'] = _placed(new['path'], 'resume_state', 'resume_changed_schedule', True)
    reasons.append('path.resume_changed_schedule: True, as the rest is another')
    set_('train', 'total_iter', start + iterations, f'{start} are done')
    if (new['train'].get('warmup_iter') or -1) > 0:
        set_('train', 'warmup_iter', -1, "as the rate of the state has BasicSR's ramp in it")
    periods = len(new['multigrid']['stages'])
    rule = {
        'restart': 'shape',
        'anneal': 'last',
        'restart_weights': [1] * (periods - 1) + [float(f'{rate:.6g}')],
        'warmup_iter': -1,
    }
    kept = {key: value for key, value in opt['train']['scheduler'].items() if key in ('type', 'eta_min')}
    scheduler = {**kept, 'type': SCHEDULER_TYPE}
    for after, (key, value) in zip(['type', *rule], rule.items()):
        scheduler = insert(scheduler, after, key, value)
    new['train']['scheduler'] = scheduler
    reasons.append(f'train.scheduler: from {rate:.4g} of the first rate, which the run has, to eta_min')
    comments = {f'train.scheduler.{key}': comment for key, comment in _RULE_COMMENTS.items()}
    comments |= {
        'multigrid': 'the shapes of the run',
        'multigrid.stages': 'what is done, then the end at the full shape',
        'path.resume_changed_schedule': 'the rest of the run is another',
    }
    return Conversion(new, comments, reasons, checked_schedule(new))


def _with_stages(opt: dict[str, Any], old: Schedule, start: int, iterations: int) -> dict[str, Any]:
    """The schedule up to ``start``, entry by entry, and the full shape after it."""
    stages: list[dict[str, int]] = [
        {
            'iter': min(segment.end, start) - segment.start,
            'gt_size': segment.shape.gt_size,
            'num_frame': segment.shape.num_frame,
            'batch_size_per_gpu': segment.shape.batch_size_per_gpu,
        }
        for segment in old.segments
        if segment.start < start
    ]
    block = opt.get('multigrid') or {}
    kept = {key: value for key, value in block.items() if key == 'max_batch_size_per_gpu'}
    return _placed(opt, 'datasets', 'multigrid', {**kept, 'stages': [*stages, {'iter': iterations}]})


def _placed(block: Mapping[str, Any], after: str, key: str, value: Any) -> dict[str, Any]:
    """The block with an option changed in its place, or put right after another."""
    return {**block, key: value} if key in block else insert(block, after, key, value)
