"""The ``multigrid`` block of an option file, checked and turned into a schedule.

Every complaint is one line: ``<dotted.option>: must <rule>, got <value>. <fix>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction
from itertools import pairwise
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import BatchShape, Schedule, exact_iterations, split
from multigrid_vsr.options.archs import (
    DATASET_TYPES,
    MODEL_TYPES,
    STATED_LIMITS,
    STOCK_MODELS,
    TEST_SET_TYPES,
    wrong_model,
)
from multigrid_vsr.options.checked import checked, lookup
from multigrid_vsr.options.kinds import WHOLE


def uses_multigrid(opt: Mapping[str, Any]) -> bool:
    """Whether a training run follows a schedule: it has the block, or this plugin's model and dataset together."""
    for key in opt:
        if key != 'multigrid' and get_close_matches(str(key).lower(), ['multigrid'], cutoff=0.8):
            raise OptionError(str(key), 'be multigrid', key, 'Did you mean `multigrid`?')
    return opt.get('multigrid') is not None or (
        opt.get('model_type') in MODEL_TYPES and lookup(opt, 'datasets.train.type') in DATASET_TYPES
    )


def asked_for(opt: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The option that asks for a type or the block of this plugin, and its value; ``None`` in a plain run."""
    found = {'model_type': opt.get('model_type')}
    datasets = opt.get('datasets')
    for phase, dataset_opt in datasets.items() if isinstance(datasets, Mapping) else ():
        if isinstance(dataset_opt, Mapping):
            found[f'datasets.{phase}.type'] = dataset_opt.get('type')
    asked = [
        (option, value) for option, value in found.items() if value in (*MODEL_TYPES, *DATASET_TYPES, *TEST_SET_TYPES)
    ]
    if not asked and opt.get('multigrid') is not None:
        asked = [('multigrid', 'a block')]
    return asked[0] if asked else None


def schedule_from_options(opt: Mapping[str, Any]) -> Schedule:
    """Checks the options of a training run and lays out its schedule.

    Without a ``multigrid`` block the schedule is one segment of the full shape.
    """
    check_blocks(opt, 'datasets', 'datasets.train', 'train')
    full = full_shape(opt)
    total_iter = _positive(opt, 'train.total_iter')
    scale = _positive(opt, 'scale') if 'scale' in opt else 1
    _check_divisible('datasets.train.gt_size', full.gt_size, scale)
    block = opt.get('multigrid')
    if block is None:
        return Schedule.from_shapes([(total_iter, full)], full)

    _check_types(opt)
    if not isinstance(block, Mapping):
        raise OptionError('multigrid', 'be a block of options', block, 'Write one option a line below it.')
    if block.get('stages') is not None:
        return _from_stages(block, full, total_iter, scale)
    return _from_nested(checked('multigrid', block), full, total_iter, scale)


def check_blocks(opt: Mapping[str, Any], *options: str) -> None:
    """Asks for blocks that a training run has."""
    for option in options:
        if not isinstance(lookup(opt, option), Mapping):
            raise OptionError(option, 'be a block of options', lookup(opt, option), 'A training run needs it.')


def largest_part(opt: Mapping[str, Any]) -> BatchShape | None:
    """What goes through the network at a time, at the full shape; of smaller samples as many as have its pixels.

    A larger batch accumulates gradients. ``None``: no bound.
    """
    value = (opt.get('multigrid') or {}).get('micro_batch_size_per_gpu')
    return None if value is None else replace(full_shape(opt), batch_size_per_gpu=int(value))


def _from_nested(block: Mapping[str, Any], full: BatchShape, total_iter: int, scale: int) -> Schedule:
    """Spatial stages outside, frame counts inside each."""
    gt_sizes = _growing(block, 'gt_size', full.gt_size)
    num_frames = _growing(block, 'num_frame', full.num_frame)
    for place, gt_size in enumerate(gt_sizes):
        _check_divisible(f'multigrid.gt_size[{place}]', gt_size, scale)

    frame_ratio = block.get('frame_ratio', [1] * len(num_frames))
    _check_length('multigrid.frame_ratio', frame_ratio, len(num_frames), 'num_frame')
    if 'stage_iter' in block:
        _check_length('multigrid.stage_iter', block['stage_iter'], len(gt_sizes), 'stage')
    batches = _batch_sizes(block, full, gt_sizes, num_frames)
    lay_out = _shares_of_samples if block.get('share') == 'samples' else _shares_of_iterations
    lengths = lay_out(block.get('stage_iter'), frame_ratio, batches, full, total_iter)
    shapes = [
        (num_iter, BatchShape(batch, num_frame, gt_size))
        for gt_size, row, batch_row in zip(gt_sizes, lengths, batches)
        for num_frame, num_iter, batch in zip(num_frames, row, batch_row)
    ]
    return Schedule.from_shapes(shapes, full)


def _shares_of_iterations(
    stage_iter: list[int] | None, frame_ratio: list[float], batches: list[list[int]], full: BatchShape, total_iter: int
) -> list[list[int]]:
    """The iterations of each (stage, num_frame) with ``share: iter``."""
    stage_iter = stage_iter or split(total_iter, [1] * len(batches))
    total = sum(stage_iter)
    if total != total_iter:
        rule, fix = f'add up to train.total_iter ({total_iter})', f'Change it by {total_iter - total:+d}.'
        raise OptionError('multigrid.stage_iter', rule, f'{stage_iter} (sum {total})', fix)
    return [split(length, frame_ratio) for length in stage_iter]


def _shares_of_samples(
    stage_iter: list[int] | None, frame_ratio: list[float], batches: list[list[int]], full: BatchShape, total_iter: int
) -> list[list[int]]:
    """The same with ``share: samples``: a larger batch gets fewer iterations."""
    exact = exact_iterations(stage_iter or [1] * len(batches), frame_ratio, batches, full.batch_size_per_gpu)
    needed = _rounded(exact)
    if stage_iter is not None and total_iter != needed:
        batch = full.batch_size_per_gpu
        rule = f'be {needed} to have the samples of {sum(stage_iter)} iterations (stage_iter) of {batch}'
        raise OptionError('train.total_iter', rule, total_iter, f'Write {needed}, or change stage_iter.')
    lengths = iter(split(total_iter, [share for row in exact for share in row]))
    return [[next(lengths) for _ in row] for row in exact]


def _rounded(exact: list[list[Fraction]]) -> int:
    return max(1, round(sum(map(sum, exact))))


def total_iter_of(opt: Mapping[str, Any]) -> int | None:
    """What ``train.total_iter`` has to be by the lengths of the ``multigrid`` block; ``None`` where they follow it."""
    block = opt.get('multigrid') or {}
    if block.get('stages'):
        return sum(entry['iter'] for entry in block['stages'])
    if block.get('share') != 'samples' or not block.get('stage_iter'):
        return None
    full, block = full_shape(opt), checked('multigrid', block)
    gt_sizes, num_frames = _growing(block, 'gt_size', full.gt_size), _growing(block, 'num_frame', full.num_frame)
    frame_ratio = block.get('frame_ratio', [1] * len(num_frames))
    batches = _batch_sizes(block, full, gt_sizes, num_frames)
    return _rounded(exact_iterations(block['stage_iter'], frame_ratio, batches, full.batch_size_per_gpu))


def full_shape(opt: Mapping[str, Any]) -> BatchShape:
    """The shape of ``datasets.train``."""
    return BatchShape(
        *(_positive(opt, f'datasets.train.{key}') for key in ('batch_size_per_gpu', 'num_frame', 'gt_size'))
    )


def _batch_sizes(
    block: Mapping[str, Any], full: BatchShape, gt_sizes: list[int], num_frames: list[int]
) -> list[list[int]]:
    """The batch size of each (stage, num_frame)."""
    option = 'multigrid.batch_size_per_gpu'
    value, cap = block.get('batch_size_per_gpu'), block.get('max_batch_size_per_gpu')
    if value == 'volume':
        if cap is not None and cap < full.batch_size_per_gpu:
            rule = f'be at least datasets.train.batch_size_per_gpu ({full.batch_size_per_gpu})'
            fix = 'Raise it, or lower datasets.train.batch_size_per_gpu.'
            raise OptionError('multigrid.max_batch_size_per_gpu', rule, cap, fix)
        grown = [[full.samples_of(t, g) for t in num_frames] for g in gt_sizes]
        return [[min(batch, cap or batch) for batch in row] for row in grown]
    if cap is not None:
        fix = 'For micro-batches set micro_batch_size_per_gpu.'
        raise OptionError('multigrid.max_batch_size_per_gpu', 'stand beside batch_size_per_gpu: volume', cap, fix)
    if value is None:
        return [[full.batch_size_per_gpu] * len(num_frames)] * len(gt_sizes)
    _check_length(option, value, len(gt_sizes), 'stage')
    rows = [entry if isinstance(entry, list) else [entry] * len(num_frames) for entry in value]
    for place, row in enumerate(rows):
        _check_length(f'{option}[{place}]', row, len(num_frames), 'num_frame')
    return rows


def _from_stages(block: Mapping[str, Any], full: BatchShape, total_iter: int, scale: int) -> Schedule:
    """The explicit form: any sequence of shapes that ends with the full one."""
    beside = ('stages', 'micro_batch_size_per_gpu', *STATED_LIMITS)
    others = [key for key in block if key not in beside]
    if others:
        rule, fix = 'stand alone in the block', 'Keep either `stages` or the other keys.'
        raise OptionError('multigrid.stages', rule, f'{others[0]!r} beside it', fix)
    shapes: list[tuple[int, BatchShape]] = []
    for place, entry in enumerate(checked('multigrid', block)['stages']):
        name = f'multigrid.stages[{place}]'
        values = checked('multigrid.stages[]', entry, name)
        if 'iter' not in values:
            raise OptionError(f'{name}.iter', 'be given', None, 'Say how many iterations the entry lasts.')
        shape = BatchShape(
            values.get('batch_size_per_gpu', full.batch_size_per_gpu),
            values.get('num_frame', full.num_frame),
            values.get('gt_size', full.gt_size),
        )
        _check_divisible(f'{name}.gt_size', shape.gt_size, scale)
        for key in ('gt_size', 'num_frame'):
            if getattr(shape, key) > getattr(full, key):
                rule = f'be at most datasets.train.{key} ({getattr(full, key)})'
                fix = f'Raise datasets.train.{key}, the largest of the run.'
                raise OptionError(f'{name}.{key}', rule, getattr(shape, key), fix)
        shapes.append((values['iter'], shape))
    total = sum(num_iter for num_iter, _ in shapes)
    if total != total_iter:
        rule = f'have `iter` add up to train.total_iter ({total_iter})'
        raise OptionError('multigrid.stages', rule, total, f'Change it by {total_iter - total:+d}.')
    last = shapes[-1][1]
    for key in ('gt_size', 'num_frame'):
        if getattr(last, key) != getattr(full, key):
            rule, fix = f'equal datasets.train.{key} ({getattr(full, key)})', 'A run ends with the full shape.'
            raise OptionError(f'multigrid.stages[{len(shapes) - 1}].{key}', rule, getattr(last, key), fix)
    return Schedule.from_shapes(shapes, full)


def _check_types(opt: Mapping[str, Any]) -> None:
    model = opt.get('model_type')
    if not isinstance(model, str) or model in STOCK_MODELS:
        raise wrong_model(model)
    dataset = lookup(opt, 'datasets.train.type')
    if not isinstance(dataset, str):
        rule = f'be {" or ".join(DATASET_TYPES)}, one of BasicSR or your own beside a `multigrid` block'
        raise OptionError('datasets.train.type', rule, dataset, f'Set datasets.train.type: {DATASET_TYPES[0]}.')


def _check_divisible(name: str, gt_size: int, scale: int) -> None:
    if gt_size % scale:
        nearest = max(scale, gt_size - gt_size % scale)
        raise OptionError(name, f'be a multiple of scale ({scale})', gt_size, f'The nearest below is {nearest}.')


def _growing(block: Mapping[str, Any], key: str, full: int) -> list[int]:
    """A strictly growing list that ends with the full value; the full value alone where it is left out."""
    name = f'multigrid.{key}'
    values = block.get(key, [full])
    if any(small >= large for small, large in pairwise(values)):
        raise OptionError(name, 'grow strictly', values, 'Sort it, without repeats; other orders go into `stages`.')
    if values[-1] != full:
        raise OptionError(name, f'end with datasets.train.{key} ({full})', values, 'A run ends with the full shape.')
    return values


def _check_length(name: str, values: Sequence[Any], length: int, per: str) -> None:
    if len(values) != length:
        rule = f'have {length} entries, one for each {per}'
        raise OptionError(name, rule, f'{list(values)} ({len(values)})', 'Add or remove entries.')


def _positive(opt: Mapping[str, Any], option: str) -> int:
    return WHOLE.check(option, lookup(opt, option))
