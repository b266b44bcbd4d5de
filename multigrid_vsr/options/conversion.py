"""What makes a run of this project out of a stock one of BasicSR, and why: options in, options out.

The shapes and the rule of the rate are those of a recipe (:mod:`multigrid_vsr.options.recipes`), fitted to what the
arch takes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.options import mixed_precision_model
from multigrid_vsr.options.arch_limits import (
    STATED_LIMITS,
    check_arch,
    limits_of,
)
from multigrid_vsr.options.checked import unread
from multigrid_vsr.options.fill import batches_that_fill, with_batches
from multigrid_vsr.options.iteration_counts import SCHEDULE_COUNTS, scaled
from multigrid_vsr.options.known_types import DATASETS_OF_WINDOWS, STOCK_DATASETS, STOCK_MODELS, is_gan
from multigrid_vsr.options.multigrid_block import check_blocks, schedule_from_options, total_iter_of
from multigrid_vsr.options.recipe_shapes import shapes_of, sides_of
from multigrid_vsr.options.recipes import MOST_WARMUP, RECIPES, WARMUP_PART, Recipe
from multigrid_vsr.options.stock_run import COMMENTS, gpus_of, with_stock_run
from multigrid_vsr.options.table import SCHEDULER_TYPE
from multigrid_vsr.options.train_block import NOT_IN_A_GAN_RUN, checked_schedule


@dataclass(frozen=True)
class Conversion:
    """A converted run.

    Attributes:
        options: All options of the new run, in order; those that are new stand where they belong.
        comments: For each new option, by its dotted name, what to say beside it in the file; for one that goes, why.
        reasons: A line for each decision.
        schedule: The shapes of the new run.
    """

    options: dict[str, Any]
    comments: dict[str, str]
    reasons: list[str]
    schedule: Schedule


FILL_RATE = 'sqrt'  # of the batch: in proportion, a run from an untrained network stays bilinear (benchmarks/README.md)


def convert(
    stock: Mapping[str, Any], recipe_name: str = 'paper', fill: bool | None = None, num_samples: int | None = None
) -> Conversion:
    """Decides what changes in a stock run, and checks the outcome as a training run does.

    Args:
        stock: The options of a BasicSR run, as read from YAML.
        recipe_name: One of ``RECIPES``.
        fill: Whether small shapes have larger batches, at equal samples; ``None`` for what the recipe says.
        num_samples: Samples of the training set; ``None`` where it is not on this machine.

    Raises:
        OptionError: If it is no video training run, is converted already, or has nothing to grow.
    """
    recipe = RECIPES[recipe_name]
    stated = stock.get('multigrid', {})
    if not isinstance(stated, Mapping) or not stated.keys() <= STATED_LIMITS.keys():
        rule = f'not be there yet, or hold {", ".join(STATED_LIMITS)} alone'
        raise OptionError('multigrid', rule, 'a block', 'Change it by hand.')
    check_blocks(stock, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    opt = copy.deepcopy(dict(stock))
    reasons = [f'Recipe {recipe_name}: {recipe.source}.']
    is_filled = recipe.is_filled if fill is None else fill
    if is_filled and not recipe.scheduler:
        raise OptionError('--fill', 'stand beside a recipe with small shapes', recipe_name, 'Leave it out.')
    if 'name' in opt:
        variant = '' if is_filled == recipe.is_filled else '_filled' if is_filled else '_unfilled'
        opt['name'] = f'{opt["name"]}_{recipe_name}{variant}'
        reasons.append(f'name: {opt["name"]}, so that the stock run keeps its folder')
    reasons += [
        _convert_type('model_type', opt, 'model_type', STOCK_MODELS),
        _convert_type('datasets.train.type', opt['datasets']['train'], 'type', STOCK_DATASETS),
        *_convert_vimeo_frames(opt['datasets']['train'], stock['datasets']['train']['type']),
    ]
    comments: dict[str, str] = {}
    for option, _, fix in list(unread(opt)):
        reasons.append(f'{option}: commented out, since nothing reads it. {fix}')
        comments[option] = f'nothing reads it. {fix}'
        _remove(opt, option)
    if stock['model_type'] == mixed_precision_model.MODEL_TYPE:
        for key, value in reversed(mixed_precision_model.train_options(opt, reasons).items()):
            before = next(name for name in opt['train'] if name != key)
            opt['train'] = insert(opt['train'], before, key, value)
            comments[f'train.{key}'] = mixed_precision_model.COMMENTS[key]
    if limits_of(opt['network_g']) is None:
        arch = opt['network_g'].get('type')
        reasons.append(
            f'network_g.type: {arch} is not known here: the start of the run will show whether it takes the shapes'
        )
        if stock['datasets']['train']['type'] in DATASETS_OF_WINDOWS:
            opt['datasets']['train'] = insert(opt['datasets']['train'], 'type', 'target', 'center')
            comments['datasets.train.target'] = 'ground truth of the frame in the middle alone'
            reasons.append('datasets.train.target: center, as in BasicSR for this dataset')

    schedule = schedule_from_options(opt)  # the full shape: what is wrong with it was so before
    check_arch(opt, schedule)
    if recipe.scheduler:
        samples = num_samples, is_filled
        opt = _with_schedule(opt, recipe, schedule.full_shape, samples, comments, reasons)
    return Conversion(opt, comments, reasons, checked_schedule(opt))


def _with_schedule(
    opt: dict[str, Any],
    recipe: Recipe,
    full: BatchShape,
    samples: tuple[int | None, bool],
    comments: dict[str, str],
    reasons: list[str],
) -> dict[str, Any]:
    """Adds the shapes, their batches and the rule of the rate; says so in ``comments`` and ``reasons``."""
    block = shapes_of(recipe, opt, full, reasons)
    sides = sides_of(block, full)
    lq_sides = ', '.join(str(side // int(opt.get('scale', 1))) for side in sides)
    comments |= {
        'multigrid': 'the shapes of the run',
        'multigrid.stages': f'LQ {lq_sides}',
        'multigrid.gt_size': f'spatial stages, equally long: LQ {lq_sides}',
        'multigrid.num_frame': f'equal parts of {"every stage" if "gt_size" in block else "the run"}',
    }
    if 'multigrid' in opt:
        reasons += [f'multigrid.{key}: {value} stays' for key, value in opt['multigrid'].items()]
        opt['multigrid'] = {**opt['multigrid'], **block}
    else:
        opt = insert(opt, 'datasets', 'multigrid', block)
    stock_iter = int(opt['train']['total_iter'])
    num_samples, is_filled = samples
    if is_filled:
        batches = batches_that_fill(opt['multigrid'], full, gpus_of(opt), num_samples, reasons)
        batches[-1][-1] = full.batch_size_per_gpu
        opt = with_batches(opt, batches, stock_iter, FILL_RATE, comments, reasons)
    total_iter = total_iter_of(opt) or stock_iter
    opt['train'] = _with_rule(opt, recipe, len(sides), total_iter, comments, reasons)
    opt = scaled(opt, Fraction(total_iter, stock_iter), SCHEDULE_COUNTS, reasons)
    opt = with_stock_run(opt, stock_iter, full.batch_size_per_gpu * gpus_of(opt))
    comments |= COMMENTS
    for key, (value, comment) in recipe.train.items():
        if key not in opt['train'] and not (is_gan(opt) and key in NOT_IN_A_GAN_RUN):
            opt['train'] = insert(opt['train'], 'total_iter', key, value)
            comments[f'train.{key}'] = comment
            reasons.append(f'train.{key}: {value}, {comment}')
    return opt


def _convert_type(option: str, block: dict[str, Any], key: str, types: Mapping[str, str]) -> str:
    value = block.get(key)
    stock = str(value)
    if stock not in types:
        near = get_close_matches(stock, types, n=1, cutoff=0.8)  # EDVRModel is near to SRModel, which is for images
        fix = f'Did you mean `{near[0]}`?' if near else "It converts BasicSR's video training files."
        raise OptionError(option, f'be one of {", ".join(types)}', value, fix)
    block[key] = types[stock]
    return f'{option}: {block[key]} for {stock}'


def _convert_vimeo_frames(dataset_opt: dict[str, Any], stock_type: str) -> list[str]:
    """Writes out what BasicSR takes from Vimeo90K, whatever ``num_frame`` of a recurrent run says."""
    num_frame = dataset_opt.get('num_frame')
    frames, meaning = 7, 'all frames of a septuplet'
    if dataset_opt.get('flip_sequence'):
        frames, meaning = 14, f'{meaning} and the same backwards'
    is_whole = stock_type == 'Vimeo90KRecurrentDataset' or (stock_type == 'Vimeo90KDataset' and num_frame == -1)
    if not is_whole or num_frame == frames:
        return []
    dataset_opt['num_frame'] = frames
    return [f'datasets.train.num_frame: {frames}, {meaning}']


def _with_rule(
    opt: Mapping[str, Any],
    recipe: Recipe,
    stages: int,
    total_iter: int,
    comments: dict[str, str],
    reasons: list[str],
) -> dict[str, Any]:
    """``train`` with the recipe's rule of the rate in the place of a cosine of BasicSR's."""
    train_opt: dict[str, Any] = dict(opt['train'])
    stock = train_opt['scheduler'].get('type')
    if stock != 'CosineAnnealingRestartLR':
        reasons.append(f'train.scheduler: {stock} stays as it is: the rate does not start again with the shapes')
        return train_opt
    scheduler = {
        key: value for key, value in train_opt['scheduler'].items() if key not in ('periods', 'restart_weights')
    }
    scheduler['type'] = SCHEDULER_TYPE
    ramp = min(MOST_WARMUP, total_iter // WARMUP_PART) or -1
    rule = {**recipe.scheduler, 'warmup_iter': ramp}
    small_rate = recipe.small_rates.get(opt['network_g'].get('type', ''))
    if small_rate and stages > 1:
        rule['restart_weights'] = [*[small_rate] * (stages - 1), 1]
    for after, (key, value) in zip(['type', *rule], rule.items()):
        scheduler = insert(scheduler, after, key, value)
        comments[f'train.scheduler.{key}'] = _RULE_COMMENTS[key]
    train_opt['scheduler'] = scheduler
    reasons.append(
        f'train.scheduler: {SCHEDULER_TYPE} without periods and restart_weights, '
        + ', '.join(f'{key}: {value}' for key, value in rule.items())
    )
    if (train_opt.get('warmup_iter') or -1) > 0:
        reasons.append(f"train.warmup_iter: -1 for {train_opt['warmup_iter']}, BasicSR's own ramp, as there is one now")
        train_opt['warmup_iter'] = -1
    return train_opt


_RULE_COMMENTS = {
    'restart': 'the rate starts again at every change of the shape',
    'anneal': 'it stays near its start until the last shape, and falls there',
    'warmup_iter': 'iterations of a linear ramp at the start',
    'restart_weights': 'the small stages begin at half the rate',
}


def _remove(opt: dict[str, Any], option: str) -> None:
    *blocks, key = option.split('.')
    for block in blocks:
        opt = opt[block]
    opt.pop(key, None)


def insert(block: Mapping[str, Any], after: str, key: str, value: object) -> dict[str, Any]:
    """The block with one more option, right after another."""
    items = [item for item in block.items() if item[0] != key]
    place = [name for name, _ in items].index(after) + 1
    return dict([*items[:place], (key, value), *items[place:]])
