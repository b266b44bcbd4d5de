"""What makes a run of this project out of a stock one of BasicSR, and why: options in, options out.

The shapes and the rule of the rate are those of a recipe (:mod:`multigrid_vsr.options.recipes`), fitted to what the
arch takes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule, split
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.options import mixed_precision_model
from multigrid_vsr.options.arch_limits import (
    STATED_LIMITS,
    UNET_MULTIPLE,
    ArchLimits,
    check_arch,
    fixed_gt_size,
    limits_of,
    target_of,
)
from multigrid_vsr.options.iteration_counts import SCHEDULE_COUNTS, scaled
from multigrid_vsr.options.known_types import DATASETS_OF_WINDOWS, STOCK_DATASETS, STOCK_MODELS
from multigrid_vsr.options.multigrid_block import check_blocks, schedule_from_options, total_iter_of_samples
from multigrid_vsr.options.recipes import MOST_WARMUP, RECIPES, WARMUP_PART, Recipe
from multigrid_vsr.options.table import SCHEDULER_TYPE
from multigrid_vsr.options.train_block import checked_schedule
from multigrid_vsr.options.windows import has_built_in_size, limits_with_windows


@dataclass(frozen=True)
class Conversion:
    """A converted run.

    Attributes:
        options: All options of the new run, in order; those that are new stand where they belong.
        comments: For each new option, by its dotted name, what to say beside it in the file.
        reasons: A line for each decision.
        schedule: The shapes of the new run.
    """

    options: dict[str, Any]
    comments: dict[str, str]
    reasons: list[str]
    schedule: Schedule


def convert(stock: Mapping[str, Any], recipe_name: str = 'paper') -> Conversion:
    """Decides what changes in a stock run, and checks the outcome as a training run does.

    Args:
        stock: The options of a BasicSR run, as read from YAML.
        recipe_name: One of ``RECIPES``.

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
    if 'name' in opt:
        opt['name'] = f'{opt["name"]}_multigrid'
        reasons.append(f'name: {opt["name"]}, so that the stock run keeps its folder')
    reasons += [
        _convert_type('model_type', opt, 'model_type', STOCK_MODELS),
        _convert_type('datasets.train.type', opt['datasets']['train'], 'type', STOCK_DATASETS),
        *_convert_vimeo_frames(opt['datasets']['train'], stock['datasets']['train']['type']),
    ]
    comments: dict[str, str] = {}
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
        opt = _with_schedule(opt, recipe, schedule.full_shape, comments, reasons)
    return Conversion(opt, comments, reasons, checked_schedule(opt))


def _with_schedule(
    opt: dict[str, Any],
    recipe: Recipe,
    full: BatchShape,
    comments: dict[str, str],
    reasons: list[str],
) -> dict[str, Any]:
    """Adds the shapes and the rule of the rate; says so in ``comments`` and ``reasons``."""
    total_iter = int(opt['train']['total_iter'])
    block, why = _shapes(opt, recipe, full, limits_with_windows(opt))
    reasons += why
    stages, part = len(block.get('gt_size', [full.gt_size])), 'every stage' if 'gt_size' in block else 'the run'
    comments['multigrid'] = 'the shapes of the run'
    if 'gt_size' in block:
        sides = ', '.join(str(gt_size // int(opt.get('scale', 1))) for gt_size in block['gt_size'])
        comments['multigrid.gt_size'] = f'spatial stages{"" if recipe.batch else ", equally long"}: LQ {sides}'
    comments['multigrid.num_frame'] = f'equal parts of {part}'
    if recipe.batch:
        shares = recipe.stage_shares if stages == len(recipe.stage_shares) else (1,) * stages
        block |= {'stage_iter': split(total_iter, shares), **recipe.batch}
        block['max_batch_size_per_gpu'] = recipe.most_growth * full.batch_size_per_gpu
        comments['multigrid.stage_iter'] = 'length of each stage in samples, as iterations of the full batch'
        comments['multigrid.share'] = 'a larger batch gets fewer iterations'
        comments['multigrid.batch_size_per_gpu'] = 'as many pixels at every shape'
        comments['multigrid.max_batch_size_per_gpu'] = f'at most {recipe.most_growth} times the full batch'
        reasons.append(f'multigrid.stage_iter: {block["stage_iter"]}, and larger batches in smaller shapes')
    if 'multigrid' in opt:
        reasons += [f'multigrid.{key}: {value} stays' for key, value in opt['multigrid'].items()]
        opt['multigrid'] = {**opt['multigrid'], **block}
    else:
        opt = insert(opt, 'datasets', 'multigrid', block)
    opt['train'] = _with_rule(opt, recipe, stages, comments, reasons)
    if recipe.batch:
        opt = scaled(opt, Fraction(total_iter_of_samples(opt), total_iter), SCHEDULE_COUNTS, reasons)
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


def _shapes(
    opt: Mapping[str, Any], recipe: Recipe, full: BatchShape, limits: ArchLimits
) -> tuple[dict[str, Any], list[str]]:
    """What grows, and why."""
    block: dict[str, Any] = {}
    reasons = []
    for key, (values, reason) in {
        'gt_size': _gt_sizes(opt, recipe, full.gt_size, limits),
        'num_frame': _num_frames(opt, recipe, full.num_frame, limits),
    }.items():
        if len(values) > 1:
            block[key] = values
        reasons.append(f'multigrid.{key}: {block.get(key, "left out")}, {reason}')
    if not block:
        raise OptionError(
            'multigrid',
            'let gt_size or num_frame grow',
            f'gt_size {full.gt_size} and num_frame {full.num_frame} alone',
            'No smaller shape that the recipe has fits this run: use --recipe plain.',
        )
    return block, reasons


def _gt_sizes(opt: Mapping[str, Any], recipe: Recipe, full: int, limits: ArchLimits) -> tuple[list[int], str]:
    """The spatial stages, and why."""
    if fixed_gt_size(opt) is not None:
        return [full], f'the {opt["network_d"]["type"]} takes {full} pixels alone'
    if has_built_in_size(opt):
        size = opt['network_g']['img_size']
        return [full], f'network_g.img_size builds the arch for {size}; state multigrid.lq_multiple if it takes others'
    scale = int(opt.get('scale', 1))
    multiple = scale * limits.lq_multiple
    if (opt.get('network_d') or {}).get('type') == 'UNetDiscriminatorSN':
        multiple = math.lcm(multiple, UNET_MULTIPLE)
    return _grow(full, recipe.sides, multiple, scale * max(recipe.least_lq, limits.lq_least))


def _num_frames(opt: Mapping[str, Any], recipe: Recipe, full: int, limits: ArchLimits) -> tuple[list[int], str]:
    """The frames inside each stage, and why."""
    if target_of(opt) == 'center':
        return [full], f'an arch with one target frame has its {full} frames built in'
    dataset_opt = opt['datasets']['train']
    flips = dataset_opt['type'] == 'MultigridVimeo90KDataset' and dataset_opt.get('flip_sequence')
    return _grow(full, recipe.frames, 2 if flips else 1, max(recipe.least_frames, limits.least_frames))


def _grow(full: int, shares: Sequence[Fraction], multiple: int, least: int) -> tuple[list[int], str]:
    """The shares of ``full``, each at least ``least``, then all of it; without repeats."""
    least = math.ceil(least / multiple) * multiple
    sizes = {max(least, int(share * full) // multiple * multiple) for share in shares}
    reason = f'{", ".join(map(str, shares))} and all of {full}, rounded down'
    if multiple > 1:
        reason += f' to multiples of {multiple}'
    return [*sorted(size for size in sizes if size < full), full], f'{reason}, {least} or more'


def _with_rule(
    opt: Mapping[str, Any], recipe: Recipe, stages: int, comments: dict[str, str], reasons: list[str]
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
    ramp = min(MOST_WARMUP, int(train_opt['total_iter']) // WARMUP_PART) or -1
    rule = {**recipe.scheduler, 'warmup_iter': ramp}
    weights = recipe.weights.get(opt['network_g'].get('type', ''))
    if weights and len(weights) == stages:
        rule['restart_weights'] = list(weights)
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
    'batch_scaling': 'the rate follows the batch of each shape',
    'restart_weights': 'the first spatial stage begins at half the rate',
}


def insert(block: Mapping[str, Any], after: str, key: str, value: object) -> dict[str, Any]:
    """The block with one more option, right after another."""
    items = [item for item in block.items() if item[0] != key]
    place = [name for name, _ in items].index(after) + 1
    return dict([*items[:place], (key, value), *items[place:]])
