"""``multigrid-vsr fit`` and ``cooldown``: a run fitted to other GPUs, another batch or fewer samples, or ended early.

A learning rate that has stayed near its start can be annealed from any iteration: Haegele et al., arXiv 2405.18392.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from multigrid_vsr.core.schedule import BatchShape, split
from multigrid_vsr.options.archs import STATED_LIMITS
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.edit import ALL_COUNTS, Edit, lengths
from multigrid_vsr.options.kinds import WHOLE, list_of, one_or_list_of, refuse
from multigrid_vsr.options.multigrid_block import (
    check_blocks,
    full_shape,
    schedule_from_options,
    total_iter_of,
    uses_multigrid,
)
from multigrid_vsr.options.run_options import checked_schedule, cosine_options, stock_run_of
from multigrid_vsr.options.table import MOST_WARMUP, PAPER_WARMUP_PART, SCHEDULER_TYPE

LR_SCALINGS = ('linear', 'sqrt', 'none')
MOST_LINEAR = 4  # the paper's largest batch, in batches of its baseline
MOST_GROWTH = 4  # times the full batch: the benchmarks have measured no more
_LIST = list_of(one_or_list_of(WHOLE))
_COMMENTS = {
    'micro_batch_size_per_gpu': 'samples that go through the network at a time',
    'batch_size_per_gpu': 'what fills a GPU, for each stage and frame count',
    'share': 'a larger batch gets fewer iterations',
    'stage_iter': 'length of each stage in samples, as iterations of the full batch',
}


def fit(
    opt: Mapping[str, Any],
    *,
    gpus: int | None = None,
    file_gpus: int | None = None,
    batch: int | None = None,
    sample_fraction: float = 1,
    lr_scaling: str = 'linear',
    fill: int | Sequence[Any] | None = None,
) -> Edit:
    """Decides what changes in a run, stock or of this project, and checks the new run.

    Args:
        opt: The options, as read from YAML.
        gpus: GPUs of the new run; those of the file by default.
        file_gpus: GPUs that the file was written for; its ``num_gpu`` by default.
        batch: Samples of an iteration on all GPUs at the full shape; that of the file by default.
        sample_fraction: Samples of the new run, as a fraction of the old run's.
        lr_scaling: How the learning rate follows the batch, one of ``LR_SCALINGS``.
        fill: Samples that fill a GPU: at the full shape, or for each stage and frame count, as ``multigrid-vsr batch``
            prints them.
    """
    check_blocks(opt, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    old = schedule_from_options(opt)
    if file_gpus is None:
        fix = 'Say which the file is for: --file-gpus 8.'
        refuse(
            type(opt.get('num_gpu')) is not int,
            'num_gpu',
            'be a number to tell the global batch',
            opt.get('num_gpu'),
            fix,
        )
        file_gpus = max(opt['num_gpu'], 1)  # 0 is the CPU
    gpus, per_gpu = gpus or file_gpus, old.full_shape.batch_size_per_gpu
    old_batch = per_gpu * file_gpus
    batch = batch or old_batch
    below = batch - batch % gpus
    near = f'{below} or {below + gpus}' if below else f'{gpus}'
    refuse(batch % gpus, '--batch', f'be a multiple of the {gpus} GPUs', batch, f'The nearest is {near}.')
    growth, samples = Fraction(batch, old_batch), Fraction(str(sample_fraction))
    stage_total = round(old.total_iter * samples / growth)

    edit = Edit(opt)
    stock = stock_run_of(opt, file_gpus)
    if stock is not None:
        edit.options['stock_run']['batch_size'] = round(stock.batch_size)
    elif all(segment.shape == old.full_shape for segment in old.segments):  # this run is the stock run
        edit.add_stock_run(old.total_iter, old_batch)
    if opt.get('num_gpu') != gpus:
        edit.set('num_gpu', gpus)
    if batch // gpus != per_gpu:
        edit.set('datasets.train.batch_size_per_gpu', batch // gpus, f'{batch} on {gpus} GPUs')
    _scale_shapes(edit, samples / growth, Fraction(batch // gpus, per_gpu))
    largest = float(growth)
    if fill is not None:
        largest *= _fill(edit, fill, stage_total, lr_scaling)
    total_iter = total_iter_of(edit.options) or stage_total or 1
    edit.scale(Fraction(total_iter, old.total_iter), ALL_COUNTS)
    is_ours = opt['train']['scheduler'].get('type') == SCHEDULER_TYPE
    ramp = cosine_options(opt['train']['scheduler'], old).warmup_iter if is_ours else opt['train'].get('warmup_iter')
    _fit_rate(edit, growth, lr_scaling, max(ramp or 0, 0), total_iter)
    if lr_scaling == 'linear' and largest > MOST_LINEAR:
        edit.reasons.append(
            f'Warning: a batch of {largest:g} times the old one and a rate of as many; the paper went to '
            f'{MOST_LINEAR}. Consider --lr-scaling sqrt ({math.sqrt(largest):.3g} times).'
        )
    is_same = {**edit.options, 'stock_run': None} == {**opt, 'stock_run': None}
    fix = 'Give --gpus, --batch or --sample-fraction.'
    refuse(is_same, 'fit', 'change something', 'what the run has already', fix)
    if 'name' in opt:
        part = (f'_b{batch}' if growth != 1 else '') + (f'_s{sample_fraction:g}' if samples != 1 else '')
        part = part or (f'_{gpus}gpus' if gpus != file_gpus else '_fill')
        edit.set('name', f'{opt["name"]}{part}', 'so that both keep their folders')
        edit.reasons.insert(0, edit.reasons.pop())
    kept = 'as many samples' if samples == 1 else f'{float(samples):g} of the samples'
    iterations = f'{total_iter} iterations for {old.total_iter}'
    edit.reasons.insert(0, f'Global batch {batch} for {old_batch}, {iterations}: {kept}.')
    edit.schedule = (checked_schedule if uses_multigrid(edit.options) else schedule_from_options)(edit.options)
    return edit


def _scale_shapes(edit: Edit, factor: Fraction, ratio: Fraction) -> None:
    """Multiplies the lengths of the ``multigrid`` block by ``factor`` and its batches by ``ratio``."""
    block = edit.options.get('multigrid') or {}
    new: dict[str, Any] = {}
    if block.get('stage_iter'):
        new['stage_iter'] = lengths(block['stage_iter'], factor)
    for key in ('batch_size_per_gpu', 'max_batch_size_per_gpu'):
        if block.get(key) not in (None, 'volume'):
            new[key] = _batches(f'multigrid.{key}', block[key], ratio)
    if block.get('stages'):
        iters = lengths([entry['iter'] for entry in block['stages']], factor)
        new['stages'] = [{**entry, 'iter': count} for entry, count in zip(block['stages'], iters)]
        for place, entry in enumerate(new['stages']):
            if 'batch_size_per_gpu' in entry:
                name = f'multigrid.stages[{place}].batch_size_per_gpu'
                entry['batch_size_per_gpu'] = _batches(name, entry['batch_size_per_gpu'], ratio)
    for key, value in new.items():
        if value != block[key]:
            edit.set(f'multigrid.{key}', value)


def _batches(option: str, value: Any, ratio: Fraction) -> Any:
    if isinstance(value, list):
        return [_batches(option, entry, ratio) for entry in value]
    batch, fix = value * ratio, 'Give another --batch, or change that option first.'
    refuse(batch.denominator != 1, '--batch', f'keep {option} whole', f'{value} x {ratio}', fix)
    return int(batch)


def _fit_rate(edit: Edit, growth: Fraction, lr_scaling: str, old_ramp: int, total_iter: int) -> None:
    """Changes the learning rate of each optimizer with the batch, and the ramp at the start.

    A ramp stays as long, or becomes the paper's where the rate grows. A short run has a short one.
    """
    train_opt = edit.options['train']
    factor = {'linear': float(growth), 'sqrt': math.sqrt(growth), 'none': 1.0}[lr_scaling]
    for name, optim_opt in train_opt.items():
        if factor != 1 and name.startswith('optim_') and isinstance(optim_opt, Mapping) and 'lr' in optim_opt:
            edit.set(f'train.{name}.lr', float(f'{float(optim_opt["lr"]) * factor:.4g}'), f'{lr_scaling} in the batch')
    longest = max(old_ramp, MOST_WARMUP) if factor > 1 else old_ramp
    ramp = min(longest, total_iter // PAPER_WARMUP_PART) or -1
    if ramp == (old_ramp or -1):
        return
    is_ours = train_opt['scheduler'].get('type') == SCHEDULER_TYPE
    block, after = ('train.scheduler', 'type') if is_ours else ('train', 'total_iter')
    why = (
        "linear, the paper's for a larger batch" if factor > 1 and 'warmup_iter' in lookup(edit.options, block) else ''
    )
    edit.set(f'{block}.warmup_iter', ramp, why, 'iterations of a linear ramp at the start', after)


def _fill(edit: Edit, fill: int | Sequence[Any], stage_total: int, lr_scaling: str) -> float:
    """Accumulates gradients where the full batch is more than a GPU holds, and fills a GPU at smaller shapes.

    Returns:
        The largest batch against the full one.
    """
    opt = edit.options
    refuse(
        not uses_multigrid(opt),
        '--fill',
        'stand beside a file of this project',
        opt.get('model_type'),
        'Convert it first.',
    )
    block = opt.get('multigrid') or {}
    entries = block.get('stages') or []
    has_batches = any(values.get('batch_size_per_gpu') is not None for values in (block, *entries))
    rule = 'be a number beside a block with batches of its own'
    fix = 'Remove `batch_size_per_gpu` there, convert with --no-fill, or give a number.'
    refuse(has_batches and not isinstance(fill, int), '--fill', rule, 'batch_size_per_gpu', fix)
    batch = full_shape(opt).batch_size_per_gpu
    stages, frames = (len(entries), 1) if entries else (len(block.get(key) or [1]) for key in ('gt_size', 'num_frame'))
    if isinstance(fill, int):
        rows = [[batch] * frames for _ in range(stages)]  # nothing is known of smaller shapes
        rows[-1][-1] = WHOLE.check('--fill', fill)
    else:
        rows = [entry if isinstance(entry, list) else [entry] * frames for entry in _LIST.check('--fill', fill)]
    each = f'each a number or {frames}, one for each num_frame' if frames > 1 else 'each a number'
    fix = 'Take the line that `multigrid-vsr batch` prints for this file.'
    is_other = len(rows) != stages or any(len(row) != frames for row in rows)
    refuse(is_other, '--fill', f'be {stages} entries, one for each stage, {each}', fill, fix)
    batches = [[max(batch, min(held, MOST_GROWTH * batch)) for held in row] for row in rows]
    batches[-1][-1] = batch
    if (held := rows[-1][-1]) < batch:
        edit.add_shapes({'micro_batch_size_per_gpu': held}, _COMMENTS)
        told = f'{batch} samples a GPU go through the network {held} at a time, with the gradient of them all'
        edit.reasons.append(f'multigrid.micro_batch_size_per_gpu: {held}: {told}')
    set_batches(edit, batches, stage_total, lr_scaling)
    return max(map(max, batches)) / batch


def batches_that_fill(edit: Edit, full: BatchShape, gpus: int, num_samples: int | None) -> list[list[int]]:
    """The batch of each shape: ``MOST_GROWTH`` times the full one, or what memory and data allow.

    No batch has more pixels than the full shape, which memory holds.

    Args:
        edit: A run with one batch throughout; gets a line for each shape whose batch stays smaller.
        full: The full shape.
        gpus: GPUs that share a global batch.
        num_samples: Samples of the training set; ``None`` where it is not on this machine.

    Returns:
        Samples of each GPU, for each stage and frame count, or for each entry of ``stages``.
    """
    block, wished = edit.options['multigrid'], MOST_GROWTH * full.batch_size_per_gpu

    def held(gt_size: int, num_frame: int) -> int:
        most, why = full.samples_of(num_frame, gt_size), 'it has the pixels of the full shape'
        if num_samples is not None and num_samples // gpus < most:
            most, why = num_samples // gpus, f'the data has {num_samples} samples'
        batch = max(full.batch_size_per_gpu, min(wished, most))
        if batch < wished and (gt_size, num_frame) != (full.gt_size, full.num_frame):
            edit.reasons.append(f'{num_frame} frames of {gt_size} pixels: a batch of {batch}, not {wished}: {why}')
        return batch

    if block.get('stages'):
        return [[held(entry['gt_size'], entry['num_frame'])] for entry in block['stages']]
    num_frames = block.get('num_frame', [full.num_frame])
    return [[held(side, frames) for frames in num_frames] for side in block.get('gt_size', [full.gt_size])]


def set_batches(edit: Edit, batches: Sequence[Sequence[int]], stage_total: int, lr_scaling: str) -> None:
    """Sets larger batches at equal samples, and a learning rate that follows them.

    Args:
        edit: A run of this project, with one batch throughout.
        batches: As :func:`batches_that_fill` gives them.
        stage_total: The run's samples, as iterations of the full batch.
        lr_scaling: ``batch_scaling`` of the learning rate.
    """
    block = edit.options.get('multigrid') or {}
    batch = full_shape(edit.options).batch_size_per_gpu
    if max(map(max, batches)) == batch:
        return
    if block.get('stages'):
        entries = list(block['stages'])
        for place, (held,) in enumerate(batches):
            if held != batch:
                count = max(1, round(entries[place]['iter'] * batch / held))
                entries[place] = {**entries[place], 'iter': count, 'batch_size_per_gpu': held}
        new: dict[str, Any] = {'stages': entries}
    else:
        stage_iter = block.get('stage_iter') or split(stage_total, [1] * len(block.get('gt_size') or [1]))
        new = {'batch_size_per_gpu': shortened(batches), 'share': 'samples', 'stage_iter': stage_iter}
    edit.reasons.append(f'multigrid.{next(iter(new))}: batches of {shortened(batches)}, at equal samples')
    edit.add_shapes(new, _COMMENTS)
    edit.set('train.scheduler.batch_scaling', lr_scaling, None, 'the rate follows the batch of each shape')


def shortened(batches: Sequence[Sequence[int]]) -> list[int | list[int]]:
    """Batches of each stage and frame count as an option file writes them: one number where a stage has one batch."""
    return [row[0] if len(set(row)) == 1 else list(row) for row in batches]


def cooldown(opt: Mapping[str, Any], state: str, start: int, iterations: int, rate: float) -> Edit:
    """Makes a run that goes on from a state of another run, which stays as it is.

    Args:
        opt: The options of the old run, of this project.
        state: Path of the training state.
        start: Its iteration.
        iterations: How long the new run goes on, at the full shape.
        rate: The rate at the state without its batch's factor, as a part of the first rate.
    """
    old = checked_schedule(opt)
    refuse(
        start > old.total_iter,
        '--from',
        f'be within the run ({old.total_iter} iterations)',
        start,
        'Give its own file.',
    )
    edit = Edit(opt)
    edit.set('name', f'{opt.get("name", "run")}_cooldown_{start}_{iterations}', 'so that the run keeps its folder')
    block = edit.options.get('multigrid') or {}
    kept = {key: value for key, value in block.items() if key in ('micro_batch_size_per_gpu', *STATED_LIMITS)}
    keys = ('gt_size', 'num_frame', 'batch_size_per_gpu')
    stages = [
        {'iter': min(segment.end, start) - segment.start, **{key: getattr(segment.shape, key) for key in keys}}
        for segment in old.segments
        if segment.start < start
    ]
    shapes = {**kept, 'stages': [*stages, {'iter': iterations}]}
    edit.set('multigrid', shapes, None, 'the shapes of the run', after='datasets')
    edit.comments['multigrid.stages'] = 'what is done, then the end at the full shape'
    edit.reasons.append(
        f'multigrid.stages: the first {start} iterations as they were, then {iterations} of the full shape'
    )
    edit.set('path.resume_state', state, 'which stays as it is', 'what it goes on from')
    comment = 'the rest of the run is another'
    edit.set('path.resume_changed_schedule', True, 'as the rest is another', comment, after='resume_state')
    edit.set('train.total_iter', start + iterations, f'{start} are done')
    if (opt['train'].get('warmup_iter') or -1) > 0:
        edit.set('train.warmup_iter', -1, "as the rate of the state has BasicSR's ramp in it")
    rule = {
        'restart': ('shape', 'a period for each entry above'),
        'anneal': ('last', 'only the last'),
        'restart_weights': ([1] * len(stages) + [float(f'{rate:.6g}')], 'the last begins at the rate that the run had'),
        'warmup_iter': (-1, 'no ramp'),
    }
    eta_min = {key: value for key, value in opt['train']['scheduler'].items() if key == 'eta_min'}
    scheduler = {'type': SCHEDULER_TYPE, **{key: value for key, (value, _) in rule.items()}, **eta_min}
    edit.options['train']['scheduler'] = scheduler
    edit.comments |= {f'train.scheduler.{key}': comment for key, (_, comment) in rule.items()}
    edit.reasons.append(f'train.scheduler: from {rate:.4g} of the first rate, which the run has, to eta_min')
    edit.schedule = checked_schedule(edit.options)
    return edit
