"""Batches that fill a GPU, as ``multigrid-vsr batch`` measures them, put into a run of equal samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import exact_iterations, split
from multigrid_vsr.options.kinds import WHOLE, list_of, one_or_list_of
from multigrid_vsr.options.multigrid_block import full_shape, uses_multigrid

MOST_GROWTH = 4  # how many times the full batch an early one is at most: a rate that follows it is not sure beyond
_LIST = list_of(one_or_list_of(WHOLE))
_COMMENTS = {
    'max_batch_size_per_gpu': 'samples that go through the network at a time',
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
            'Remove `batch_size_per_gpu` there, or give a number.',
        )
    batch = full_shape(opt).batch_size_per_gpu
    stages, frames = (len(block.get(key) or [1]) for key in ('gt_size', 'num_frame'))
    rows = _rows(fill, batch, *((len(entries), 1) if entries else (stages, frames)))
    batches = [[max(batch, min(held, MOST_GROWTH * batch)) for held in row] for row in rows]
    batches[-1][-1] = batch
    new: dict[str, Any] = {}
    if (short := rows[-1][-1]) < batch:
        new['max_batch_size_per_gpu'] = short
        reasons.append(
            f'multigrid.max_batch_size_per_gpu: {short}: {batch} samples a GPU go through the network {short} at a '
            'time, with the gradient of them all'
        )
    most = max(max(row) for row in batches)
    scheduler = dict(opt['train']['scheduler'])
    if most > batch:
        if entries:
            new['stages'] = _entries(entries, [held for (held,) in batches], batch)
        else:
            new['batch_size_per_gpu'] = shortened(batches)
            new['share'] = 'samples'
            new['stage_iter'] = block.get('stage_iter') or split(stage_total, [1] * stages)
        scheduler['batch_scaling'] = rate
        comments['train.scheduler.batch_scaling'] = 'the rate follows the batch of each shape'
        changed = 'stages' if entries else 'batch_size_per_gpu'
        reasons.append(f'multigrid.{changed}: batches of {shortened(batches)}, at equal samples')
    comments['multigrid'] = 'the shapes of the run'
    comments |= {f'multigrid.{key}': _COMMENTS[key] for key in new if key in _COMMENTS}
    options = {**opt, 'multigrid': block | new, 'train': {**opt['train'], 'scheduler': scheduler}}
    if not block and new:  # where a block belongs
        keys = [key for key in opt if key != 'multigrid']
        keys.insert(keys.index('datasets') + 1, 'multigrid')
        options = {key: options[key] for key in keys}
    return (options if new else dict(opt)), most / batch


def shortened(batches: Sequence[list[int]]) -> list[int | list[int]]:
    """Batches of each stage and frame count as an option file writes them: one number where a stage has one batch."""
    return [row[0] if len(set(row)) == 1 else row for row in batches]


def _entries(entries: Sequence[Mapping[str, Any]], batches: Sequence[int], batch: int) -> list[dict[str, Any]]:
    """``stages`` with other batches at equal samples."""
    rows = exact_iterations([entry['iter'] for entry in entries], [1], [[held] for held in batches], batch)
    exact = [iters for (iters,) in rows]
    return [
        {**entry, 'iter': count, **({'batch_size_per_gpu': held} if held != batch else {})}
        for entry, count, held in zip(entries, split(round(sum(exact)), exact), batches)
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
