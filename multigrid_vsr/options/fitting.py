"""``multigrid-vsr fit`` and ``cooldown``: a run fitted to other GPUs, another batch, fewer samples, or an early end.

A rate that has stayed near its start can be annealed from any iteration: Haegele et al., arXiv 2405.18392.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.archs import STATED_LIMITS
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.conversion import PAPER_WARMUP_PART, Conversion, insert
from multigrid_vsr.options.filling import ALL_COUNTS, filled, lengths, scaled
from multigrid_vsr.options.multigrid_block import (
    check_blocks,
    full_shape,
    schedule_from_options,
    total_iter_of,
    uses_multigrid,
)
from multigrid_vsr.options.run_options import COMMENTS, checked_schedule, cosine_options, stock_run_of, with_stock_run
from multigrid_vsr.options.table import MOST_WARMUP, SCHEDULER_TYPE

LR_SCALINGS = ('linear', 'sqrt', 'none')
MOST_LINEAR = 4  # the paper's largest batch, in those of its baseline


@dataclass(frozen=True)
class FitRequest:
    """What a run is fitted to.

    Attributes:
        gpus: Number of GPUs; ``None`` for those of the file.
        file_gpus: GPUs that the file was written for; ``None`` for its ``num_gpu``.
        batch: Samples of an iteration on all GPUs at the full shape; ``None`` for that of the file.
        sample_fraction: Samples of the new run, as a fraction of the old one's.
        lr_scaling: ``linear``, ``sqrt`` or ``none``: how the rate follows the batch.
        fill: Samples that fill a GPU: at the full shape, or for each stage and frame count, as ``multigrid-vsr batch``
            prints them.
    """

    gpus: int | None = None
    file_gpus: int | None = None
    batch: int | None = None
    sample_fraction: float = 1
    lr_scaling: str = 'linear'
    fill: int | Sequence[Any] | None = None


def fit(opt: Mapping[str, Any], request: FitRequest) -> Conversion:
    """Decides what changes in a run, stock or of this project, and checks the outcome.

    Args:
        opt: The options, as read from YAML.
        request: What to fit it to.

    Raises:
        OptionError: If the request do not go together with the run, or an option breaks its rule.
    """
    check_blocks(opt, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    old = schedule_from_options(opt)
    file_gpus = request.file_gpus or _gpus_of(opt)
    gpus = request.gpus or file_gpus
    per_gpu = full_shape(opt).batch_size_per_gpu
    old_batch = per_gpu * file_gpus
    batch = request.batch or old_batch
    if batch % gpus:
        below = batch - batch % gpus
        near = f'{below} or {below + gpus}' if below else f'{gpus}'
        raise OptionError('--batch', f'be a multiple of the {gpus} GPUs', batch, f'The nearest is {near}.')
    growth, samples = Fraction(batch, old_batch), Fraction(str(request.sample_fraction))

    new = _with_stock(opt, old, file_gpus)
    comments = dict(COMMENTS)
    reasons = [_said(new, 'num_gpu', gpus)] if opt.get('num_gpu') != gpus else []
    if batch // gpus != per_gpu:
        reasons.append(_said(new, 'datasets.train.batch_size_per_gpu', batch // gpus, f'{batch} on {gpus} GPUs'))
    if new.get('multigrid'):
        new['multigrid'] = _block(new['multigrid'], samples / growth, Fraction(batch // gpus, per_gpu), reasons)
    largest = float(growth)
    if request.fill is not None:
        new, most = filled(
            new, request.fill, round(old.total_iter * samples / growth), request.lr_scaling, comments, reasons
        )
        largest *= most
    total_iter = total_iter_of(new) or round(old.total_iter * samples / growth) or 1
    new = scaled(new, Fraction(total_iter, old.total_iter), ALL_COUNTS, reasons)
    _fit_rate(new, growth, request.lr_scaling, reasons)
    new = _with_ramp(new, _ramp(opt, old), total_iter, growth > 1 and request.lr_scaling != 'none', comments, reasons)
    if request.lr_scaling == 'linear' and largest > MOST_LINEAR:
        reasons.append(
            f'Warning: a batch of {largest:g} times the old one and a rate of as many; the paper went to '
            f'{MOST_LINEAR}. Consider --lr-scaling sqrt ({math.sqrt(largest):.3g} times).'
        )
    if {**new, 'stock_run': None} == {**opt, 'stock_run': None}:
        raise OptionError(
            'fit', 'change something', 'what the run has already', 'Give --gpus, --batch or --sample-fraction.'
        )
    if 'name' in new:
        part = (f'_b{batch}' if growth != 1 else '') + (f'_s{request.sample_fraction:g}' if samples != 1 else '')
        part = part or (f'_{gpus}gpus' if gpus != file_gpus else '_fill')
        reasons.insert(0, _said(new, 'name', f'{new["name"]}{part}', 'so that both keep their folders'))
    reasons.insert(0, _summary(old_batch, batch, old.total_iter, total_iter, samples))
    return Conversion(new, comments, reasons, (checked_schedule if uses_multigrid(new) else schedule_from_options)(new))


def _with_stock(opt: Mapping[str, Any], schedule: Schedule, file_gpus: int) -> dict[str, Any]:
    """A copy of the options that says what the stock run was, where that is known.

    A run that has the full shape throughout is the stock run itself.
    """
    new, stock = copy.deepcopy(dict(opt)), stock_run_of(opt, file_gpus)
    if stock is not None:
        new['stock_run']['batch_size'] = round(stock.batch_size)
    elif all(segment.shape == schedule.full_shape for segment in schedule.segments):
        new = with_stock_run(new, schedule.total_iter, schedule.full_shape.batch_size_per_gpu * file_gpus)
    return new


def _summary(old_batch: int, batch: int, old_iter: int, total_iter: int, samples: Fraction) -> str:
    kept = 'as many samples' if samples == 1 else f'{float(samples):g} of the samples'
    return f'Global batch {batch} for {old_batch}, {total_iter} iterations for {old_iter}: {kept}.'


def _gpus_of(opt: Mapping[str, Any]) -> int:
    num_gpu = opt.get('num_gpu')
    if isinstance(num_gpu, bool) or not isinstance(num_gpu, int):
        raise OptionError(
            'num_gpu', 'be a number to tell the global batch', num_gpu, 'Say which the file is for: --file-gpus 8.'
        )
    return max(num_gpu, 1)  # 0 is the CPU


def _said(opt: dict[str, Any], option: str, value: Any, why: str = '') -> str:
    """Sets an option that is there, and says so."""
    *blocks, key = option.split('.')
    block = lookup(opt, '.'.join(blocks)) if blocks else opt
    old, block[key] = block.get(key), value
    return f'{option}: {value} for {old}' + (f', {why}' if why else '')


def _block(block: Mapping[str, Any], factor: Fraction, ratio: Fraction, reasons: list[str]) -> dict[str, Any]:
    """``multigrid`` with lengths times ``factor`` and batches times ``ratio``."""
    new = dict(block)
    if new.get('stage_iter'):
        new['stage_iter'] = lengths(new['stage_iter'], factor)
    if isinstance(new.get('batch_size_per_gpu'), list):
        new['batch_size_per_gpu'] = _batches('multigrid.batch_size_per_gpu', new['batch_size_per_gpu'], ratio)
    if new.get('batch_size_per_gpu') == 'volume' and new.get('max_batch_size_per_gpu'):
        name = 'multigrid.max_batch_size_per_gpu'
        new['max_batch_size_per_gpu'] = _batches(name, new['max_batch_size_per_gpu'], ratio)
    if new.get('stages'):
        iters = lengths([entry['iter'] for entry in new['stages']], factor)
        new['stages'] = [{**entry, 'iter': count} for entry, count in zip(new['stages'], iters)]
        for place, entry in enumerate(new['stages']):
            if 'batch_size_per_gpu' in entry:
                name = f'multigrid.stages[{place}].batch_size_per_gpu'
                entry['batch_size_per_gpu'] = _batches(name, entry['batch_size_per_gpu'], ratio)
    reasons += [f'multigrid.{key}: {new[key]}' for key in new if new[key] != block[key]]
    return new


def _batches(option: str, value: Any, ratio: Fraction) -> Any:
    if isinstance(value, list):
        return [_batches(option, entry, ratio) for entry in value]
    batch = value * ratio
    if batch.denominator != 1:
        raise OptionError(
            '--batch',
            f'keep {option} whole',
            f'{value} x {ratio}',
            'Give another --batch, or change that option first.',
        )
    return int(batch)


def _fit_rate(opt: dict[str, Any], growth: Fraction, rate: str, reasons: list[str]) -> None:
    """Changes the rate of each optimizer with the batch."""
    factor = {'linear': float(growth), 'sqrt': math.sqrt(growth), 'none': 1.0}[rate]
    for name, optim_opt in opt['train'].items():
        if factor != 1 and name.startswith('optim_') and isinstance(optim_opt, Mapping) and 'lr' in optim_opt:
            value = float(f'{float(optim_opt["lr"]) * factor:.4g}')
            reasons.append(_said(opt, f'train.{name}.lr', value, f'{rate} in the batch'))


def _ramp(opt: Mapping[str, Any], schedule: Any) -> int:
    """The iterations of the old run's ramp; 0 for none."""
    if opt['train']['scheduler'].get('type') == SCHEDULER_TYPE:
        return cosine_options(opt['train']['scheduler'], schedule).warmup_iter
    return max(opt['train'].get('warmup_iter') or 0, 0)


def _with_ramp(
    opt: dict[str, Any], old: int, total_iter: int, rate_grows: bool, comments: dict[str, str], reasons: list[str]
) -> dict[str, Any]:
    """A ramp is as long as it was, or as the paper's where the rate grows; a short run has one as short."""
    ramp = min(max(old, MOST_WARMUP) if rate_grows else old, total_iter // PAPER_WARMUP_PART) or -1
    if ramp == (old or -1):
        return opt
    is_ours = opt['train']['scheduler'].get('type') == SCHEDULER_TYPE
    block, option = ('train.scheduler', 'train.scheduler.warmup_iter') if is_ours else ('train', 'train.warmup_iter')
    if 'warmup_iter' in lookup(opt, block):
        reasons.append(_said(opt, option, ramp, "linear, the paper's for a larger batch" if rate_grows else ''))
        return opt
    comments[option] = 'iterations of a linear ramp at the start'
    reasons.append(f'{option}: {ramp}')
    if is_ours:
        opt['train']['scheduler'] = insert(opt['train']['scheduler'], 'type', 'warmup_iter', ramp)
    else:
        opt['train'] = insert(opt['train'], 'total_iter', 'warmup_iter', ramp)
    return opt


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
    kept = {key: value for key, value in block.items() if key in ('micro_batch_size_per_gpu', *STATED_LIMITS)}
    return _placed(opt, 'datasets', 'multigrid', {**kept, 'stages': [*stages, {'iter': iterations}]})


def _placed(block: Mapping[str, Any], after: str, key: str, value: Any) -> dict[str, Any]:
    """The block with an option changed in its place, or put right after another."""
    return {**block, key: value} if key in block else insert(block, after, key, value)
