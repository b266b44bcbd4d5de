"""``multigrid-vsr convert``: a run of BasicSR made into one of this project, by a recipe. Options in, options out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, NamedTuple

from multigrid_vsr.core.plan import LEAST_LQ
from multigrid_vsr.core.schedule import BatchShape
from multigrid_vsr.options.archs import (
    DATASETS_OF_WINDOWS,
    STATED_LIMITS,
    STOCK_DATASETS,
    STOCK_MODELS,
    UNET_MULTIPLE,
    check_arch,
    fixed_gt_size,
    has_built_in_size,
    is_gan,
    limits_of,
    limits_with_windows,
    target_of,
)
from multigrid_vsr.options.checked import lookup, unread
from multigrid_vsr.options.edit import SCHEDULE_COUNTS, Edit
from multigrid_vsr.options.fitting import batches_that_fill, set_batches
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.multigrid_block import check_blocks, schedule_from_options, total_iter_of
from multigrid_vsr.options.run_options import NOT_IN_A_GAN_RUN, checked_schedule, gpus_of
from multigrid_vsr.options.table import MOST_WARMUP, PAPER_WARMUP_PART, SCHEDULER_TYPE

QUARTER, HALF, THREE_QUARTERS = Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)
Stage = tuple[Fraction | int, Fraction | int, Fraction | int]


@dataclass(frozen=True)
class Recipe:
    """What a converted run does with its shapes and its rate.

    Attributes:
        source: Where it is from.
        sides: Sides of the spatial stages before the last, as shares of the full side.
        min_lq_size: The smallest LQ side, in pixels.
        frames: Frame counts inside a stage before the last, as shares of the full count.
        min_num_frame: The smallest frame count.
        stages: Instead of ``sides`` and ``frames``, each segment: its iterations as a share of the stock run's, its
            side and its frames.
        scheduler: Options of ``MultigridCosineLR``.
        small_rates: By arch, the share of the rate that a spatial stage before the last begins with.
        is_filled: Whether small shapes have larger batches, unless the user says otherwise.
        train: More options of ``train``, each with its comment in the file.
    """

    source: str
    sides: tuple[Fraction, ...] = ()
    min_lq_size: int = 32
    frames: tuple[Fraction, ...] = ()
    min_num_frame: int = 6
    stages: tuple[Stage, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    small_rates: Mapping[str, float] = field(default_factory=dict)
    is_filled: bool = False
    train: Mapping[str, tuple[Any, str]] = field(default_factory=dict)


_RULE = {'restart': 'shape', 'anneal': 'last'}
_SMALL_RATES = {'EDVR': 0.5}  # a larger rate at LQ 32 "may cause severe performance drop" there
_GRAPH = {'cuda_graph': (True, 'one launch an iteration on a GPU, the same bits; not measured on a GPU yet')}
RECIPES = {
    'paper': Recipe(
        source='arXiv 2205.05069: two spatial stages, three frame counts inside each, equation 1 of the rate, one ramp',
        sides=(HALF,),
        frames=(HALF, THREE_QUARTERS),
        scheduler=_RULE,
        small_rates=_SMALL_RATES,
        train=_GRAPH,
    ),
    'fast': Recipe(
        source="this project's own, measured on a small network in short runs only (benchmarks/): nearly twice the "
        'samples, nearly all of them small, and more of them at a time',
        min_lq_size=16,
        min_num_frame=5,
        stages=(
            (Fraction(9, 10), QUARTER, THREE_QUARTERS),
            (Fraction(9, 10), HALF, THREE_QUARTERS),
            (Fraction(1, 20), 1, 1),
        ),
        scheduler=_RULE,
        small_rates=_SMALL_RATES,
        is_filled=True,
        train={
            **_GRAPH,
            'channels_last': (True, 'the layout that convolutions are fastest in'),
            'amp': ('auto', 'bf16 where the device has it; the flow network and the last sum stay in float32'),
        },
    ),
    'plain': Recipe(source="the stock run as it is, with this project's model and loading"),
}


class _Sizes(NamedTuple):
    """What a crop or a number of frames may be: all of ``full``, or a multiple of ``multiple`` from ``least`` on."""

    full: int
    multiple: int
    least: int
    why: str = ''

    @property
    def smallest(self) -> int:
        return math.ceil(self.least / self.multiple) * self.multiple

    def share(self, share: Fraction | int) -> int:
        """A share of all, rounded down to what may be."""
        return min(self.full, max(self.smallest, int(share * self.full) // self.multiple * self.multiple))

    def reason(self, shares: Sequence[Fraction | int]) -> str:
        """How the sizes follow from the shares."""
        if self.why:
            return self.why
        rounded = f' to multiples of {self.multiple}' if self.multiple > 1 else ''
        return f'{", ".join(map(str, shares))} and all of {self.full}, rounded down{rounded}, {self.smallest} or more'


def _shapes_of(recipe: Recipe, edit: Edit, full: BatchShape) -> dict[str, Any]:
    """The options of ``multigrid`` that a recipe with shapes gives a run, which has this project's types already."""
    opt, reasons = edit.options, edit.reasons
    sizes = {'gt_size': _gt_sizes(opt, recipe, full.gt_size), 'num_frame': _num_frames(opt, recipe, full.num_frame)}
    if recipe.stages:
        stages = _stages(recipe, sizes, int(opt['train']['total_iter']))
        told = ', '.join('{iter} iterations of {num_frame} x {gt_size}'.format_map(entry) for entry in stages)
        reasons.append(f'multigrid.stages: {told}')
        for key, column in (('gt_size', 1), ('num_frame', 2)):
            smaller = sorted({stage[column] for stage in recipe.stages} - {1})
            reasons.append(f'multigrid.stages[].{key}: {sizes[key].reason(smaller)}')
        return {'stages': stages}
    block: dict[str, Any] = {}
    for key, shares in {'gt_size': recipe.sides, 'num_frame': recipe.frames}.items():
        grown = sorted({*map(sizes[key].share, shares), sizes[key].full})
        if len(grown) > 1:
            block[key] = grown
        reasons.append(f'multigrid.{key}: {block.get(key, "left out")}, {sizes[key].reason(shares)}')
    got = f'only gt_size {full.gt_size} and num_frame {full.num_frame}'
    fix = 'No smaller shape that the recipe has fits this run: use --recipe plain.'
    refuse(not block, 'multigrid', 'let gt_size or num_frame grow', got, fix)
    return block


def _stages(recipe: Recipe, sizes: Mapping[str, _Sizes], stock_iter: int) -> list[dict[str, int]]:
    gt_size, num_frame = sizes['gt_size'], sizes['num_frame']
    lengths: dict[tuple[int, int], int] = {}  # shapes grow, so equal ones follow each other
    for length, side, frames in recipe.stages:
        shape = gt_size.share(side), num_frame.share(frames)
        lengths[shape] = lengths.get(shape, 0) + max(1, round(length * stock_iter))
    pixels = sum(count * side**2 * frames for (side, frames), count in lengths.items())
    of_stock = pixels / (stock_iter * gt_size.full**2 * num_frame.full)
    got = f'{of_stock:.0%} of them: crops are {", ".join(dict.fromkeys(str(side) for side, _ in lengths))}'
    fix = 'Use --recipe paper, which has no more iterations than the stock run.'
    refuse(of_stock >= 1, 'multigrid.stages', 'have fewer pixels than the stock run', got, fix)
    return [{'iter': count, 'gt_size': side, 'num_frame': frames} for (side, frames), count in lengths.items()]


def _gt_sizes(opt: Mapping[str, Any], recipe: Recipe, full: int) -> _Sizes:
    if fixed_gt_size(opt) is not None:
        return _Sizes(full, 1, full, f'the {opt["network_d"]["type"]} takes only {full} pixels')
    if has_built_in_size(opt):
        size = opt['network_g']['img_size']
        why = f'network_g.img_size builds the arch for {size}; state multigrid.lq_divisor if it takes others'
        return _Sizes(full, 1, full, why)
    scale, limits = int(opt.get('scale', 1)), limits_with_windows(opt)
    multiple = scale * limits.lq_divisor
    if (opt.get('network_d') or {}).get('type') == 'UNetDiscriminatorSN':
        multiple = math.lcm(multiple, UNET_MULTIPLE)
    # Frames that come enlarged (scale 1, TOFlow) show a quarter of what as large ones show that the network enlarges.
    min_lq_size = recipe.min_lq_size if scale > 1 else max(recipe.min_lq_size, LEAST_LQ)
    return _Sizes(full, multiple, scale * max(min_lq_size, limits.min_lq_size))


def _num_frames(opt: Mapping[str, Any], recipe: Recipe, full: int) -> _Sizes:
    if target_of(opt) == 'center':
        return _Sizes(full, 1, full, f'an arch with one target frame has its {full} frames built in')
    dataset_opt = opt['datasets']['train']
    flips = dataset_opt['type'] == 'MultigridVimeo90KDataset' and dataset_opt.get('flip_sequence')
    return _Sizes(full, 2 if flips else 1, max(recipe.min_num_frame, limits_with_windows(opt).min_num_frame))


# In proportion to the batch, a run from an untrained network stays bilinear (benchmarks/README.md).
_FILL_LR_SCALING = 'sqrt'


def unfilled_start(stock_iter: int) -> int:
    """How many iterations a filled run keeps the batch of the file for: until its network has left bilinear."""
    return max(1000, stock_iter // 20)


def _cut_at(stages: list[dict[str, int]], length: int) -> tuple[list[dict[str, int]], int]:
    """Cuts the entry in which so many iterations end, but never the last, and counts the entries before the cut."""
    for place, entry in enumerate(stages[:-1]):
        if length < entry['iter']:
            start = [{**entry, 'iter': length}] if length else []
            rest = {**entry, 'iter': entry['iter'] - length}
            return [*stages[:place], *start, rest, *stages[place + 1 :]], place + len(start)
        length -= entry['iter']
    return stages, len(stages) - 1


def convert(
    stock: Mapping[str, Any], recipe_name: str = 'paper', fill: bool | None = None, num_samples: int | None = None
) -> Edit:
    """Decides what changes in a stock run, and checks the new run as training does.

    Args:
        stock: The options of a BasicSR run, as read from YAML.
        recipe_name: One of ``RECIPES``.
        fill: Whether small shapes have larger batches, at equal samples; ``None`` for what the recipe says.
        num_samples: Samples of the training set; ``None`` where it is not on this machine.
    """
    recipe = RECIPES[recipe_name]
    stated = stock.get('multigrid', {})
    is_other = not isinstance(stated, Mapping) or not stated.keys() <= {*STATED_LIMITS}
    rule = f'not be there yet, or hold only {", ".join(STATED_LIMITS)}'
    refuse(is_other, 'multigrid', rule, 'a block', 'Change it by hand.')
    check_blocks(stock, 'datasets', 'datasets.train', 'train', 'train.scheduler', 'network_g')
    edit = Edit(stock)
    opt = edit.options
    edit.reasons.append(f'Recipe {recipe_name}: {recipe.source}.')
    is_filled = recipe.is_filled if fill is None else fill
    rule = 'stand beside a recipe with small shapes'
    refuse(is_filled and not recipe.scheduler, '--fill', rule, recipe_name, 'Leave it out.')
    if 'name' in opt:
        variant = '' if is_filled == recipe.is_filled else '_filled' if is_filled else '_unfilled'
        edit.set('name', f'{opt["name"]}_{recipe_name}{variant}', 'so that the stock run keeps its folder')
    _convert_type(edit, 'model_type', STOCK_MODELS)
    _convert_type(edit, 'datasets.train.type', STOCK_DATASETS)
    _write_out_vimeo_frames(edit, stock['datasets']['train']['type'])
    for option, _, fix in list(unread(opt)):
        edit.comment_out(option, f'nothing reads it. {fix}')
    if limits_of(opt['network_g']) is None:
        arch = opt['network_g'].get('type')
        told = 'is not known here: the start of the run will show whether it takes the shapes'
        edit.reasons.append(f'network_g.type: {arch} {told}')
        if stock['datasets']['train']['type'] in DATASETS_OF_WINDOWS:
            opt['datasets']['train'].pop('target', None)
            comment = 'ground truth of only the middle frame'
            edit.set('datasets.train.target', 'center', 'as in BasicSR for this dataset', comment, after='type')
    schedule = schedule_from_options(opt)  # the full shape: what is wrong with it was so before
    check_arch(opt, schedule)
    if recipe.scheduler:
        _add_schedule(edit, recipe, schedule.full_shape, num_samples, is_filled)
    edit.schedule = checked_schedule(opt)
    return edit


def _convert_type(edit: Edit, option: str, types: Mapping[str, str]) -> None:
    value = lookup(edit.options, option)
    near = get_close_matches(str(value), types, n=1, cutoff=0.8)  # EDVRModel is near SRModel, which is for images
    fix = f'Did you mean `{near[0]}`?' if near else "It converts BasicSR's video training files."
    refuse(str(value) not in types, option, f'be one of {", ".join(types)}', value, fix)
    edit.set(option, types[value])


def _write_out_vimeo_frames(edit: Edit, stock_type: str) -> None:
    """Writes out what BasicSR takes from Vimeo90K, whatever ``num_frame`` of a recurrent run says."""
    dataset_opt = edit.options['datasets']['train']
    num_frame = dataset_opt.get('num_frame')
    frames, meaning = 7, 'all frames of a septuplet'
    if dataset_opt.get('flip_sequence'):
        frames, meaning = 14, f'{meaning} and the same backwards'
    is_whole = stock_type == 'Vimeo90KRecurrentDataset' or (stock_type == 'Vimeo90KDataset' and num_frame == -1)
    if is_whole and num_frame != frames:
        edit.set('datasets.train.num_frame', frames, meaning)


def _add_schedule(edit: Edit, recipe: Recipe, full: BatchShape, num_samples: int | None, is_filled: bool) -> None:
    """Adds the shapes, their batches and the rule of the learning rate."""
    opt = edit.options
    block = _shapes_of(recipe, edit, full)
    of_entries = [entry['gt_size'] for entry in block.get('stages', ())]
    sides = list(dict.fromkeys(of_entries)) or block.get('gt_size', [full.gt_size])
    lq_sides = ', '.join(str(side // int(opt.get('scale', 1))) for side in sides)
    edit.reasons += [f'multigrid.{key}: {value} stays' for key, value in (opt.get('multigrid') or {}).items()]
    comments = {
        'stages': f'LQ {lq_sides}',
        'gt_size': f'spatial stages, equally long: LQ {lq_sides}',
        'num_frame': f'equal parts of {"every stage" if "gt_size" in block else "the run"}',
    }
    stock_iter = int(opt['train']['total_iter'])
    unfilled = 0  # entries at the start; the nested lists of `paper` have no place for one
    if is_filled and 'stages' in block and not (opt.get('path') or {}).get('pretrain_network_g'):
        start = unfilled_start(stock_iter)
        block['stages'], unfilled = _cut_at(block['stages'], start)
        told = f'the first {start} iterations keep the batch: an untrained network needs iterations more than samples'
        edit.reasons.append(f'multigrid.stages: {told}')
    edit.add_shapes(block, comments)
    if is_filled:
        batches = batches_that_fill(edit, full, gpus_of(opt), num_samples)
        for row in (*batches[:unfilled], batches[-1]):
            row[-1] = full.batch_size_per_gpu
        set_batches(edit, batches, stock_iter, _FILL_LR_SCALING)
    total_iter = total_iter_of(opt) or stock_iter
    _set_rule(edit, recipe, len(sides), total_iter)
    edit.scale(Fraction(total_iter, stock_iter), SCHEDULE_COUNTS)
    edit.add_stock_run(stock_iter, full.batch_size_per_gpu * gpus_of(opt))
    for key, (value, comment) in recipe.train.items():
        if key not in opt['train'] and not (is_gan(opt) and key in NOT_IN_A_GAN_RUN):
            edit.set(f'train.{key}', value, comment, comment, after='total_iter')


_RULE_COMMENTS = {
    'restart': 'the rate starts again at every change of the shape',
    'anneal': 'it stays near its start until the last shape, and falls there',
    'warmup_iter': 'iterations of a linear ramp at the start',
    'restart_weights': 'the small stages begin at half the rate',
}


def _set_rule(edit: Edit, recipe: Recipe, stages: int, total_iter: int) -> None:
    """Puts the recipe's rule of the learning rate in the place of a cosine of BasicSR's."""
    train_opt = edit.options['train']
    scheduler = train_opt['scheduler']
    stock = scheduler.get('type')
    if stock != 'CosineAnnealingRestartLR':
        edit.reasons.append(f'train.scheduler: {stock} stays as it is: the rate does not start again with the shapes')
        return
    for key in ('periods', 'restart_weights'):
        scheduler.pop(key, None)
    rule = {**recipe.scheduler, 'warmup_iter': min(MOST_WARMUP, total_iter // PAPER_WARMUP_PART) or -1}
    small_rate = recipe.small_rates.get(edit.options['network_g'].get('type', ''))
    if small_rate and stages > 1:
        rule['restart_weights'] = [*[small_rate] * (stages - 1), 1]
    scheduler['type'] = SCHEDULER_TYPE
    for after, (key, value) in zip(['type', *rule], rule.items()):
        edit.set(f'train.scheduler.{key}', value, None, _RULE_COMMENTS[key], after=after)
    told = ', '.join(f'{key}: {value}' for key, value in rule.items())
    edit.reasons.append(f'train.scheduler: {SCHEDULER_TYPE} without periods and restart_weights, {told}')
    if (train_opt.get('warmup_iter') or -1) > 0:
        edit.set('train.warmup_iter', -1, "BasicSR's own ramp, as there is one now")
