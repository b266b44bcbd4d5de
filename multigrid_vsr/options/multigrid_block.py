"""The ``multigrid`` block of an option file, checked and turned into a schedule.

Every complaint is one line: ``<dotted.option>: must <rule>, got <value>. <fix>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from itertools import pairwise
from typing import Any

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
from multigrid_vsr.options.kinds import WHOLE, refuse

_SIZES = ('gt_size', 'num_frame')


def uses_multigrid(opt: Mapping[str, Any]) -> bool:
    """Whether a training run follows a schedule: it has the block, or this plugin's model and dataset together."""
    for key in opt:
        is_slip = key != 'multigrid' and get_close_matches(str(key).lower(), ['multigrid'], cutoff=0.8)
        refuse(is_slip, str(key), 'be multigrid', key, 'Did you mean `multigrid`?')
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
    ours = (*MODEL_TYPES, *DATASET_TYPES, *TEST_SET_TYPES)
    block = ('multigrid', 'a block') if opt.get('multigrid') is not None else None
    return next(((option, value) for option, value in found.items() if value in ours), block)


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
    fix = 'Write one option a line below it.'
    refuse(not isinstance(block, Mapping), 'multigrid', 'be a block of options', block, fix)
    if block.get('stages') is not None:
        return _from_stages(block, full, total_iter, scale)
    nested = _Nested.read(block, full)
    for place, gt_size in enumerate(nested.gt_sizes):
        _check_divisible(f'multigrid.gt_size[{place}]', gt_size, scale)
    rows = zip(nested.gt_sizes, nested.iterations(total_iter), nested.batches)
    shapes = [
        (num_iter, BatchShape(batch, num_frame, gt_size))
        for gt_size, row, batch_row in rows
        for num_frame, num_iter, batch in zip(nested.num_frames, row, batch_row)
    ]
    return Schedule.from_shapes(shapes, full)


def total_iter_of(opt: Mapping[str, Any]) -> int | None:
    """What ``train.total_iter`` has to be by the lengths of the ``multigrid`` block; ``None`` where they follow it."""
    block = opt.get('multigrid') or {}
    if block.get('stages'):
        return sum(entry['iter'] for entry in block['stages'])
    if block.get('share') != 'samples' or not block.get('stage_iter'):
        return None
    return _rounded(_Nested.read(block, full_shape(opt)).exact_iterations())


def check_blocks(opt: Mapping[str, Any], *options: str) -> None:
    """Asks for blocks that a training run has."""
    for option in options:
        value = lookup(opt, option)
        refuse(not isinstance(value, Mapping), option, 'be a block of options', value, 'A training run needs it.')


def largest_part(opt: Mapping[str, Any]) -> BatchShape | None:
    """What goes through the network at a time, at the full shape; of smaller samples as many as have its pixels.

    A larger batch accumulates gradients. ``None``: no bound.
    """
    value = (opt.get('multigrid') or {}).get('micro_batch_size_per_gpu')
    return None if value is None else replace(full_shape(opt), batch_size_per_gpu=int(value))


def full_shape(opt: Mapping[str, Any]) -> BatchShape:
    """The shape of ``datasets.train``."""
    return BatchShape(
        *(_positive(opt, f'datasets.train.{key}') for key in ('batch_size_per_gpu', 'num_frame', 'gt_size'))
    )


@dataclass
class _Nested:
    """The block without ``stages``: spatial stages outside, frame counts inside each, and a batch for each of both."""

    gt_sizes: list[int]
    num_frames: list[int]
    frame_ratio: list[float]
    stage_iter: list[int] | None
    batches: list[list[int]]
    full: BatchShape
    has_shares_of_samples: bool

    @classmethod
    def read(cls, block: Mapping[str, Any], full: BatchShape) -> _Nested:
        values = checked('multigrid', block)
        gt_sizes, num_frames = (_growing(values, key, getattr(full, key)) for key in ('gt_size', 'num_frame'))
        frame_ratio, stage_iter = values.get('frame_ratio', [1] * len(num_frames)), values.get('stage_iter')
        _check_length('multigrid.frame_ratio', frame_ratio, len(num_frames), 'num_frame')
        _check_length('multigrid.stage_iter', stage_iter or gt_sizes, len(gt_sizes), 'stage')
        batches = _batch_sizes(values, full, gt_sizes, num_frames)
        return cls(gt_sizes, num_frames, frame_ratio, stage_iter, batches, full, values.get('share') == 'samples')

    def exact_iterations(self) -> list[list[Fraction]]:
        """The iterations of each (stage, num_frame) with ``share: samples``, not rounded."""
        stage_iter = self.stage_iter or [1] * len(self.gt_sizes)
        return exact_iterations(stage_iter, self.frame_ratio, self.batches, self.full.batch_size_per_gpu)

    def iterations(self, total_iter: int) -> list[list[int]]:
        """The iterations of each (stage, num_frame); with ``share: samples`` a larger batch gets fewer."""
        if self.has_shares_of_samples:
            exact = self.exact_iterations()
            needed, stage_iter = _rounded(exact), self.stage_iter or []
            batch = self.full.batch_size_per_gpu
            rule = f'be {needed} to have the samples of {sum(stage_iter)} iterations (stage_iter) of {batch}'
            fix = f'Write {needed}, or change stage_iter.'
            refuse(stage_iter and total_iter != needed, 'train.total_iter', rule, total_iter, fix)
            lengths = iter(split(total_iter, [share for row in exact for share in row]))
            return [[next(lengths) for _ in row] for row in exact]
        stage_iter = self.stage_iter or split(total_iter, [1] * len(self.gt_sizes))
        total = sum(stage_iter)
        rule, fix = f'add up to train.total_iter ({total_iter})', f'Change it by {total_iter - total:+d}.'
        refuse(total != total_iter, 'multigrid.stage_iter', rule, f'{stage_iter} (sum {total})', fix)
        return [split(length, self.frame_ratio) for length in stage_iter]


def _rounded(exact: list[list[Fraction]]) -> int:
    return max(1, round(sum(map(sum, exact))))


def _batch_sizes(
    block: Mapping[str, Any], full: BatchShape, gt_sizes: list[int], num_frames: list[int]
) -> list[list[int]]:
    """The batch size of each (stage, num_frame)."""
    option, cap_option = 'multigrid.batch_size_per_gpu', 'multigrid.max_batch_size_per_gpu'
    value, cap, batch = block.get('batch_size_per_gpu'), block.get('max_batch_size_per_gpu'), full.batch_size_per_gpu
    if value == 'volume':
        fix = 'Raise it, or lower datasets.train.batch_size_per_gpu.'
        rule = f'be at least datasets.train.batch_size_per_gpu ({batch})'
        refuse(cap is not None and cap < batch, cap_option, rule, cap, fix)
        grown = [[full.samples_of(t, g) for t in num_frames] for g in gt_sizes]
        return [[min(samples, cap or samples) for samples in row] for row in grown]
    fix = 'For micro-batches set micro_batch_size_per_gpu.'
    refuse(cap is not None, cap_option, 'stand beside batch_size_per_gpu: volume', cap, fix)
    value = [batch] * len(gt_sizes) if value is None else value
    _check_length(option, value, len(gt_sizes), 'stage')
    rows = [entry if isinstance(entry, list) else [entry] * len(num_frames) for entry in value]
    for place, row in enumerate(rows):
        _check_length(f'{option}[{place}]', row, len(num_frames), 'num_frame')
    return rows


def _from_stages(block: Mapping[str, Any], full: BatchShape, total_iter: int, scale: int) -> Schedule:
    """The explicit form: any sequence of shapes that ends with the full one."""
    others = [key for key in block if key not in ('stages', 'micro_batch_size_per_gpu', *STATED_LIMITS)]
    fix = 'Keep either `stages` or the other keys.'
    refuse(
        others, 'multigrid.stages', 'be the only key of shapes in the block', f'also {next(iter(others), None)}', fix
    )
    shapes: list[tuple[int, BatchShape]] = []
    for place, entry in enumerate(checked('multigrid', block)['stages']):
        name = f'multigrid.stages[{place}]'
        values = checked('multigrid.stages[]', entry, name)
        refuse('iter' not in values, f'{name}.iter', 'be given', None, 'Say how many iterations the entry lasts.')
        shape = replace(full, **{key: value for key, value in values.items() if key != 'iter'})
        _check_divisible(f'{name}.gt_size', shape.gt_size, scale)
        for key in _SIZES:
            value, most = getattr(shape, key), getattr(full, key)
            fix = f'Raise datasets.train.{key}, the largest of the run.'
            refuse(value > most, f'{name}.{key}', f'be at most datasets.train.{key} ({most})', value, fix)
        shapes.append((values['iter'], shape))
    total = sum(num_iter for num_iter, _ in shapes)
    rule, fix = f'have `iter` add up to train.total_iter ({total_iter})', f'Change it by {total_iter - total:+d}.'
    refuse(total != total_iter, 'multigrid.stages', rule, total, fix)
    for key in _SIZES:
        value, rule = getattr(shapes[-1][1], key), f'equal datasets.train.{key} ({getattr(full, key)})'
        is_other = value != getattr(full, key)
        refuse(is_other, f'multigrid.stages[{len(shapes) - 1}].{key}', rule, value, 'A run ends with the full shape.')
    return Schedule.from_shapes(shapes, full)


def _check_types(opt: Mapping[str, Any]) -> None:
    model, dataset = opt.get('model_type'), lookup(opt, 'datasets.train.type')
    if not isinstance(model, str) or model in STOCK_MODELS:
        raise wrong_model(model)
    rule = f'be {" or ".join(DATASET_TYPES)}, one of BasicSR or your own beside a `multigrid` block'
    fix = f'Set datasets.train.type: {DATASET_TYPES[0]}.'
    refuse(not isinstance(dataset, str), 'datasets.train.type', rule, dataset, fix)


def _check_divisible(name: str, gt_size: int, scale: int) -> None:
    fix = f'The nearest below is {max(scale, gt_size - gt_size % scale)}.'
    refuse(gt_size % scale, name, f'be a multiple of scale ({scale})', gt_size, fix)


def _growing(block: Mapping[str, Any], key: str, full: int) -> list[int]:
    """A strictly growing list that ends with the full value; only the full value if it is left out."""
    name, values = f'multigrid.{key}', block.get(key, [full])
    falls = any(small >= large for small, large in pairwise(values))
    refuse(falls, name, 'grow strictly', values, 'Sort it, without repeats; other orders go into `stages`.')
    rule = f'end with datasets.train.{key} ({full})'
    refuse(values[-1] != full, name, rule, values, 'A run ends with the full shape.')
    return values


def _check_length(name: str, values: Sequence[Any], length: int, per: str) -> None:
    rule = f'have {length} entries, one for each {per}'
    refuse(len(values) != length, name, rule, f'{list(values)} ({len(values)})', 'Add or remove entries.')


def _positive(opt: Mapping[str, Any], option: str) -> int:
    return WHOLE.check(option, lookup(opt, option))
