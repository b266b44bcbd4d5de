"""A run fitted to other GPUs, another global batch or a part of its samples: options in, options out.

The rules are those of arXiv 2205.05069: k times the batch makes the rate k times as large, the iterations a k-th, and a
linear ramp of 5000 iterations starts the run. A rate by the square root of k, or none, is this project's addition.
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
from multigrid_vsr.options.conversion import Conversion, insert
from multigrid_vsr.options.fill import filled
from multigrid_vsr.options.iteration_counts import ALL_COUNTS, lengths, scaled
from multigrid_vsr.options.multigrid_block import (
    check_blocks,
    full_shape,
    lookup,
    schedule_from_options,
    total_iter_of,
    uses_multigrid,
)
from multigrid_vsr.options.recipes import MOST_WARMUP, WARMUP_PART
from multigrid_vsr.options.scheduler import cosine_options
from multigrid_vsr.options.stock_run import COMMENTS, stock_run_of, with_stock_run
from multigrid_vsr.options.table import SCHEDULER_TYPE
from multigrid_vsr.options.train_block import checked_schedule

RATES = ('linear', 'sqrt', 'none')
MOST_LINEAR = 4  # the paper's largest batch, in those of its baseline


@dataclass(frozen=True)
class Wishes:
    """What a run is fitted to.

    Attributes:
        gpus: Number of GPUs; ``None`` for those of the file.
        file_gpus: GPUs that the file was written for; ``None`` for its ``num_gpu``.
        batch: Samples of an iteration on all GPUs at the full shape; ``None`` for that of the file.
        samples: Samples of the new run, as a part of the old one's.
        rate: ``linear``, ``sqrt`` or ``none``: how the rate follows the batch.
        fill: Samples that fill a GPU: at the full shape, or for each stage and frame count, as ``multigrid-vsr batch``
            prints them.
    """

    gpus: int | None = None
    file_gpus: int | None = None
    batch: int | None = None
    samples: float = 1
    rate: str = 'linear'
    fill: int | Sequence[Any] | None = None


def fit(opt: Mapping[str, Any], wishes: Wishes) -> Conversion:
    """Decides what changes in a run, stock or of this project, and checks the outcome.

    Args:
        opt: The options, as read from YAML.
        wishes: What to fit it to.

    Raises:
        OptionError: If the wishes do not go together with the run, or an option breaks its rule.
    """
    check_blocks(opt, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    old = schedule_from_options(opt)
    file_gpus = wishes.file_gpus or _gpus_of(opt)
    gpus = wishes.gpus or file_gpus
    per_gpu = full_shape(opt).batch_size_per_gpu
    old_batch = per_gpu * file_gpus
    batch = wishes.batch or old_batch
    if batch % gpus:
        below = batch - batch % gpus
        near = f'{below} or {below + gpus}' if below else f'{gpus}'
        raise OptionError('--batch', f'be a multiple of the {gpus} GPUs', batch, f'The nearest is {near}.')
    growth, samples = Fraction(batch, old_batch), Fraction(str(wishes.samples))

    new = _with_stock(opt, old, file_gpus)
    comments = dict(COMMENTS)
    reasons = [_said(new, 'num_gpu', gpus)] if opt.get('num_gpu') != gpus else []
    if batch // gpus != per_gpu:
        reasons.append(_said(new, 'datasets.train.batch_size_per_gpu', batch // gpus, f'{batch} on {gpus} GPUs'))
    if new.get('multigrid'):
        new['multigrid'] = _block(new['multigrid'], samples / growth, Fraction(batch // gpus, per_gpu), reasons)
    largest = float(growth)
    if wishes.fill is not None:
        new, most = filled(new, wishes.fill, round(old.total_iter * samples / growth), wishes.rate, comments, reasons)
        largest *= most
    total_iter = total_iter_of(new) or round(old.total_iter * samples / growth) or 1
    new = scaled(new, Fraction(total_iter, old.total_iter), ALL_COUNTS, reasons)
    _fit_rate(new, growth, wishes.rate, reasons)
    new = _with_ramp(new, _ramp(opt, old), total_iter, growth > 1 and wishes.rate != 'none', comments, reasons)
    if wishes.rate == 'linear' and largest > MOST_LINEAR:
        reasons.append(
            f'Warning: a batch of {largest:g} times the old one and a rate of as many; the paper went to '
            f'{MOST_LINEAR}. Consider --rate sqrt ({math.sqrt(largest):.3g} times).'
        )
    if {**new, 'stock_run': None} == {**opt, 'stock_run': None}:
        raise OptionError('fit', 'change something', 'what the run has already', 'Give --gpus, --batch or --samples.')
    if 'name' in new:
        part = (f'_b{batch}' if growth != 1 else '') + (f'_s{wishes.samples:g}' if samples != 1 else '')
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
    ramp = min(max(old, MOST_WARMUP) if rate_grows else old, total_iter // WARMUP_PART) or -1
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
