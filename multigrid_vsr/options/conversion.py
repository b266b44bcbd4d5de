"""What makes a run of this project out of a stock one of BasicSR, and why: options in, options out.

With G and T, the ``gt_size`` and ``num_frame`` of the stock run: the spatial stages are G/2, 3G/4 and G, which is this
project's choice, and the frames inside each T/2, 3T/4 and T, which is the paper's (arXiv 2205.05069). Both are rounded
down to what the arch takes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.options.arch_limits import UNET_MULTIPLE, ArchLimits, check_arch, fixed_gt_size, limits_of, target_of
from multigrid_vsr.options.multigrid_block import check_blocks, schedule_from_options
from multigrid_vsr.options.table import SCHEDULER_TYPE
from multigrid_vsr.options.train_block import checked_schedule

_MODELS = {
    'VideoRecurrentModel': 'MultigridVideoModel',
    'VideoRecurrentGANModel': 'MultigridVideoGANModel',
    'EDVRModel': 'MultigridVideoModel',
    'VideoBaseModel': 'MultigridVideoModel',
}
_DATASETS = {
    'REDSRecurrentDataset': 'MultigridREDSDataset',
    'REDSDataset': 'MultigridREDSDataset',
    'Vimeo90KRecurrentDataset': 'MultigridVimeo90KDataset',
    'Vimeo90KDataset': 'MultigridVimeo90KDataset',
}
_DATASETS_OF_WINDOWS = ('REDSDataset', 'Vimeo90KDataset')  # with the ground truth of the frame in the middle


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


def convert(stock: Mapping[str, Any]) -> Conversion:
    """Decides what changes in a stock run, and checks the outcome as a training run does.

    Args:
        stock: The options of a BasicSR run, as read from YAML.

    Raises:
        OptionError: If it is no video training run, is converted already, or has nothing to grow.
    """
    if 'multigrid' in stock:
        raise OptionError('multigrid', 'not be there yet', 'a block', 'Change it by hand.')
    check_blocks(stock, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    opt = copy.deepcopy(dict(stock))
    reasons = []
    if 'name' in opt:
        opt['name'] = f'{opt["name"]}_multigrid'
        reasons.append(f'name: {opt["name"]}, so that the stock run keeps its folder')
    reasons += [
        _convert_type('model_type', opt, 'model_type', _MODELS),
        _convert_type('datasets.train.type', opt['datasets']['train'], 'type', _DATASETS),
        *_convert_vimeo_frames(opt['datasets']['train'], stock['datasets']['train']['type']),
    ]
    comments = {}
    limits = limits_of(opt['network_g'])
    if limits is None:
        arch = opt['network_g'].get('type')
        reasons.append(
            f'network_g.type: {arch} is not known here: the start of the run will show whether it takes the shapes'
        )
        if stock['datasets']['train']['type'] in _DATASETS_OF_WINDOWS:
            opt['datasets']['train'] = _insert(opt['datasets']['train'], 'type', 'target', 'center')
            comments['datasets.train.target'] = 'ground truth of the frame in the middle alone'
            reasons.append('datasets.train.target: center, as in BasicSR for this dataset')

    schedule = schedule_from_options(opt)  # the full shape: what is wrong with it was so before
    check_arch(opt, schedule)
    block, why = _multigrid_block(opt, schedule.full_shape, limits or ArchLimits())
    reasons += why
    opt = _insert(opt, 'datasets', 'multigrid', block)
    comments['multigrid'] = 'the shapes of the run'
    if 'gt_size' in block:
        sides = ', '.join(str(gt_size // int(opt.get('scale', 1))) for gt_size in block['gt_size'])
        comments['multigrid.gt_size'] = f'spatial stages, equally long: LQ {sides}'
    comments['multigrid.num_frame'] = f'equal parts of {"every stage" if "gt_size" in block else "the run"}'
    reasons.append(_convert_scheduler(opt['train'], grows='gt_size' in block, total_iter=schedule.total_iter))
    comments['train.scheduler.restart'] = 'the rate starts again where gt_size grows'

    return Conversion(opt, comments, reasons, checked_schedule(opt))


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


def _multigrid_block(
    opt: Mapping[str, Any], full: BatchShape, limits: ArchLimits
) -> tuple[dict[str, list[int]], list[str]]:
    """What grows, and why."""
    block, reasons = {}, []
    for key, (values, reason) in {
        'gt_size': _gt_sizes(opt, full.gt_size, limits),
        'num_frame': _num_frames(opt, full.num_frame, limits),
    }.items():
        if len(values) > 1:
            block[key] = values
        reasons.append(f'multigrid.{key}: {block.get(key, "left out")}, {reason}')
    if not block:
        raise OptionError(
            'multigrid',
            'let gt_size or num_frame grow',
            f'gt_size {full.gt_size} and num_frame {full.num_frame} alone',
            'Nothing smaller fits this run: train it as it is.',
        )
    return block, reasons


def _gt_sizes(opt: Mapping[str, Any], full: int, limits: ArchLimits) -> tuple[list[int], str]:
    """The spatial stages, and why."""
    if fixed_gt_size(opt) is not None:
        return [full], f'the {opt["network_d"]["type"]} takes {full} pixels alone'
    scale = int(opt.get('scale', 1))
    multiple = scale * limits.lq_multiple
    if (opt.get('network_d') or {}).get('type') == 'UNetDiscriminatorSN':
        multiple = math.lcm(multiple, UNET_MULTIPLE)
    return _grow(full, multiple, scale * limits.lq_least)


def _num_frames(opt: Mapping[str, Any], full: int, limits: ArchLimits) -> tuple[list[int], str]:
    """The frames inside each stage, and why."""
    if target_of(opt) == 'center':
        return [full], f'an arch with one target frame has its {full} frames built in'
    dataset_opt = opt['datasets']['train']
    flips = dataset_opt['type'] == 'MultigridVimeo90KDataset' and dataset_opt.get('flip_sequence')
    return _grow(full, 2 if flips else 1, max(2, limits.least_frames))  # a sequence has two frames at least


def _grow(full: int, multiple: int, least: int) -> tuple[list[int], str]:
    """Half, three quarters and all of ``full``, without what is below ``least`` and without repeats."""
    rounded = [size - size % multiple for size in (full // 2, 3 * full // 4)]
    values = [*sorted({size for size in rounded if least <= size < full}), full]
    reason = f'1/2, 3/4 and all of {full}, rounded down'
    if multiple > 1:
        reason += f' to multiples of {multiple}'
    if rounded[0] < least:
        reason += f', {least} or more'
    return values, reason


def _convert_scheduler(train_opt: dict[str, Any], grows: bool, total_iter: int) -> str:
    scheduler_opt = train_opt['scheduler']
    stock, periods = scheduler_opt.get('type'), scheduler_opt.get('periods')
    if stock != 'CosineAnnealingRestartLR':
        effect = ', so the rate does not start again where gt_size grows' if grows else ''
        return f'train.scheduler: {stock} stays as it is{effect}'
    if not grows and _add_up_to(total_iter, periods):
        return f'train.scheduler: {stock} stays as it is, as gt_size does not grow'
    kept = {key: value for key, value in scheduler_opt.items() if key not in ('periods', 'restart_weights')}
    train_opt['scheduler'] = _insert({**kept, 'type': SCHEDULER_TYPE}, 'type', 'restart', 'stage')
    why = 'the rate starts again where gt_size grows' if grows else f'the periods {periods} do not fill the run'
    return f'train.scheduler: {SCHEDULER_TYPE} without periods and restart_weights, as {why}'


def _add_up_to(total_iter: int, periods: object) -> bool:
    return (
        isinstance(periods, list) and all(isinstance(p, (int, float)) for p in periods) and sum(periods) == total_iter
    )


def _insert(block: Mapping[str, Any], after: str, key: str, value: object) -> dict[str, Any]:
    """The block with one more option, right after another."""
    items = list(block.items())
    place = list(block).index(after) + 1
    return dict([*items[:place], (key, value), *items[place:]])
