"""Larger batches at small shapes, at equal samples: fewer and fuller iterations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import BatchShape, split
from multigrid_vsr.options.kinds import WHOLE, list_of, one_or_list_of
from multigrid_vsr.options.multigrid_block import full_shape, uses_multigrid

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


MOST_GROWTH = 4  # times the full batch: the bench has measured no more, and a rate that follows it is not sure beyond
_LIST = list_of(one_or_list_of(WHOLE))
_COMMENTS = {
    'micro_batch_size_per_gpu': 'samples that go through the network at a time',
    'batch_size_per_gpu': 'what fills a GPU, for each stage and frame count',
    'share': 'a larger batch gets fewer iterations',
    'stage_iter': 'length of each stage in samples, as iterations of the full batch',
}


def filled(
    opt: Mapping[str, Any],
    fill: int | Sequence[Any],
    stage_total: int,
    rate: str,
    comments: dict[str, str],
    reasons: list[str],
) -> tuple[dict[str, Any], float]:
    """Accumulates gradients where the full batch is more than a GPU holds, and fills it at smaller shapes.

    Args:
        opt: Options of a run of this project.
        fill: Samples that a GPU holds at the full shape, or a list of those of each stage, each a number or a list of
            those of each frame count; of each entry beside ``stages``.
        stage_total: Iterations of the full batch that the run's samples are.
        rate: ``batch_scaling`` of early batches.
        comments: Gets the comment of each new option.
        reasons: Gets a line for each decision.

    Returns:
        The options, and how many times the full batch the largest is.

    Raises:
        OptionError: If the run is not of this project, or has other shapes than ``fill``.
    """
    if not uses_multigrid(opt):
        raise OptionError('--fill', 'stand beside a file of this project', opt.get('model_type'), 'Convert it first.')
    block = dict(opt.get('multigrid') or {})
    entries = block.get('stages') or []
    own = any(values.get('batch_size_per_gpu') is not None for values in (block, *entries))
    if own and not isinstance(fill, int):
        raise OptionError(
            '--fill',
            'be a number beside a block with batches of its own',
            'batch_size_per_gpu',
            'Remove `batch_size_per_gpu` there, convert with --no-fill, or give a number.',
        )
    batch = full_shape(opt).batch_size_per_gpu
    stages, frames = (len(block.get(key) or [1]) for key in ('gt_size', 'num_frame'))
    rows = _rows(fill, batch, *((len(entries), 1) if entries else (stages, frames)))
    batches = [[max(batch, min(held, MOST_GROWTH * batch)) for held in row] for row in rows]
    batches[-1][-1] = batch
    options = dict(opt)
    if (short := rows[-1][-1]) < batch:
        options = _with_block(opt, {'micro_batch_size_per_gpu': short}, comments)
        reasons.append(
            f'multigrid.micro_batch_size_per_gpu: {short}: {batch} samples a GPU go through the network {short} at a '
            'time, with the gradient of them all'
        )
    return with_batches(options, batches, stage_total, rate, comments, reasons), max(map(max, batches)) / batch


def batches_that_fill(
    block: Mapping[str, Any], full: BatchShape, gpus: int, num_samples: int | None, reasons: list[str]
) -> list[list[int]]:
    """The batch of each shape: ``MOST_GROWTH`` times the full one, or what memory and data allow.

    A batch has no more pixels than that of the full shape, which the memory holds.

    Args:
        block: The ``multigrid`` block, with one batch throughout.
        full: The full shape.
        gpus: GPUs that share a global batch.
        num_samples: Samples of the training set; ``None`` where it is not on this machine.
        reasons: Gets a line for each shape whose batch stays below ``MOST_GROWTH`` times the full one.

    Returns:
        Samples of each GPU, for each stage and frame count; for each entry beside ``stages``.
    """

    def held(gt_size: int, num_frame: int) -> int:
        most, why = full.samples_of(num_frame, gt_size), 'it has the pixels of the full shape'
        if num_samples is not None and num_samples // gpus < most:
            most, why = num_samples // gpus, f'the data has {num_samples} samples'
        batch = max(full.batch_size_per_gpu, min(wished, most))
        if batch < wished and (gt_size, num_frame) != (full.gt_size, full.num_frame):
            reasons.append(f'{num_frame} frames of {gt_size} pixels: a batch of {batch}, not {wished}: {why}')
        return batch

    wished = MOST_GROWTH * full.batch_size_per_gpu
    if block.get('stages'):
        return [[held(entry['gt_size'], entry['num_frame'])] for entry in block['stages']]
    num_frames = block.get('num_frame', [full.num_frame])
    return [[held(side, frames) for frames in num_frames] for side in block.get('gt_size', [full.gt_size])]


def with_batches(
    opt: Mapping[str, Any],
    batches: Sequence[Sequence[int]],
    stage_total: int,
    rate: str,
    comments: dict[str, str],
    reasons: list[str],
) -> dict[str, Any]:
    """The options with larger batches at equal samples, and a rate that follows them.

    Args:
        opt: Options of a run of this project, with one batch throughout.
        batches: Samples of each GPU, for each stage and frame count; for each entry beside ``stages``.
        stage_total: Iterations of the full batch that the run's samples are.
        rate: ``batch_scaling`` of the rate.
        comments: Gets the comment of each new option.
        reasons: Gets a line for each decision.
    """
    block = dict(opt.get('multigrid') or {})
    batch = full_shape(opt).batch_size_per_gpu
    if max(map(max, batches)) == batch:
        return dict(opt)
    if block.get('stages'):
        new: dict[str, Any] = {'stages': _entries(block['stages'], [held for (held,) in batches], batch)}
    else:
        stages = len(block.get('gt_size') or [1])
        new = {
            'batch_size_per_gpu': shortened(batches),
            'share': 'samples',
            'stage_iter': block.get('stage_iter') or split(stage_total, [1] * stages),
        }
    reasons.append(f'multigrid.{next(iter(new))}: batches of {shortened(batches)}, at equal samples')
    comments['train.scheduler.batch_scaling'] = 'the rate follows the batch of each shape'
    options = _with_block(opt, new, comments)
    scheduler = {**opt['train']['scheduler'], 'batch_scaling': rate}
    return {**options, 'train': {**opt['train'], 'scheduler': scheduler}}


def _with_block(opt: Mapping[str, Any], new: Mapping[str, Any], comments: dict[str, str]) -> dict[str, Any]:
    """The options with more in the ``multigrid`` block, which is put behind the training set if it is new."""
    comments.setdefault('multigrid', 'the shapes of the run')
    comments |= {f'multigrid.{key}': _COMMENTS[key] for key in new if key in _COMMENTS}
    block = {**(opt.get('multigrid') or {}), **new}
    if opt.get('multigrid'):
        return {**opt, 'multigrid': block}
    keys = [key for key in opt if key != 'multigrid']
    keys.insert(keys.index('datasets') + 1, 'multigrid')
    return {key: block if key == 'multigrid' else opt[key] for key in keys}


def shortened(batches: Sequence[Sequence[int]]) -> list[int | list[int]]:
    """Batches of each stage and frame count as an option file writes them: one number where a stage has one batch."""
    return [row[0] if len(set(row)) == 1 else list(row) for row in batches]


def _entries(entries: Sequence[Mapping[str, Any]], batches: Sequence[int], batch: int) -> list[Mapping[str, Any]]:
    """``stages`` with other batches at equal samples."""
    return [
        entry
        if held == batch
        else {**entry, 'iter': max(1, round(entry['iter'] * batch / held)), 'batch_size_per_gpu': held}
        for entry, held in zip(entries, batches)
    ]


def _rows(fill: int | Sequence[Any], batch: int, stages: int, frames: int) -> list[list[int]]:
    if isinstance(fill, int):
        held = WHOLE.check('--fill', fill)
        rows = [[batch] * frames for _ in range(stages)]  # nothing is known of smaller shapes
        rows[-1][-1] = held
        return rows
    rows = [entry if isinstance(entry, list) else [entry] * frames for entry in _LIST.check('--fill', fill)]
    if len(rows) != stages or any(len(row) != frames for row in rows):
        frames_rule = f', each a number or {frames}, one for each num_frame' if frames > 1 else ', each a number'
        rule = f'be {stages} entries, one for each stage{frames_rule}'
        raise OptionError('--fill', rule, fill, 'Take the line that `multigrid-vsr batch` prints for this file.')
    return rows
