"""The shapes of a recipe, fitted to what a run and its arch take: the ``multigrid`` block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.plan import LEAST_LQ
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.options.arch_limits import UNET_MULTIPLE, fixed_gt_size, target_of
from multigrid_vsr.options.recipes import Recipe
from multigrid_vsr.options.windows import has_built_in_size, limits_with_windows


class _Sizes(NamedTuple):
    """What a crop or a number of frames may be: all of ``full``, or a multiple of ``multiple`` from ``least`` on."""

    full: int
    multiple: int
    least: int
    why: str = ''

    @property
    def smallest(self) -> int:
        """The first multiple that is not below ``least``."""
        return math.ceil(self.least / self.multiple) * self.multiple

    def share(self, share: Fraction | int) -> int:
        """A share of all, rounded down to what may be."""
        return min(self.full, max(self.smallest, int(share * self.full) // self.multiple * self.multiple))

    def grown(self, shares: Sequence[Fraction]) -> list[int]:
        """The shares and all, without repeats."""
        return sorted({*map(self.share, shares), self.full})

    def reason(self, shares: Sequence[Fraction | int]) -> str:
        """How the sizes follow from the shares."""
        if self.why:
            return self.why
        rounded = f' to multiples of {self.multiple}' if self.multiple > 1 else ''
        return f'{", ".join(map(str, shares))} and all of {self.full}, rounded down{rounded}, {self.smallest} or more'


def shapes_of(recipe: Recipe, opt: Mapping[str, Any], full: BatchShape, reasons: list[str]) -> dict[str, Any]:
    """The options of ``multigrid`` that a recipe gives a run.

    Args:
        recipe: One with shapes.
        opt: The options of the run, of this project's types already.
        full: Its full shape.
        reasons: Gets a line for each decision.

    Raises:
        OptionError: If the run has no smaller shape that the recipe has, or would train on more than before.
    """
    sizes = {'gt_size': _gt_sizes(opt, recipe, full.gt_size), 'num_frame': _num_frames(opt, recipe, full.num_frame)}
    if recipe.stages:
        return {'stages': _stages(recipe, sizes, int(opt['train']['total_iter']), reasons)}
    block: dict[str, Any] = {}
    for key, shares in {'gt_size': recipe.sides, 'num_frame': recipe.frames}.items():
        if len(grown := sizes[key].grown(shares)) > 1:
            block[key] = grown
        reasons.append(f'multigrid.{key}: {block.get(key, "left out")}, {sizes[key].reason(shares)}')
    if not block:
        raise OptionError(
            'multigrid',
            'let gt_size or num_frame grow',
            f'gt_size {full.gt_size} and num_frame {full.num_frame} alone',
            'No smaller shape that the recipe has fits this run: use --recipe plain.',
        )
    return block


def sides_of(block: Mapping[str, Any], full: BatchShape) -> list[int]:
    """The crops of the spatial stages of such a block, in order."""
    if 'stages' in block:
        return list(dict.fromkeys(entry['gt_size'] for entry in block['stages']))
    return list(block.get('gt_size', [full.gt_size]))


def _stages(recipe: Recipe, sizes: Mapping[str, _Sizes], stock_iter: int, reasons: list[str]) -> list[dict[str, int]]:
    gt_size, num_frame = sizes['gt_size'], sizes['num_frame']
    lengths: dict[tuple[int, int], int] = {}  # shapes grow, so equal ones follow each other
    for length, side, frames in recipe.stages:
        shape = gt_size.share(side), num_frame.share(frames)
        lengths[shape] = lengths.get(shape, 0) + max(1, round(length * stock_iter))
    pixels = sum(count * side**2 * frames for (side, frames), count in lengths.items())
    of_stock = pixels / (stock_iter * gt_size.full**2 * num_frame.full)
    if of_stock >= 1:
        raise OptionError(
            'multigrid.stages',
            'have fewer pixels than the stock run',
            f'{of_stock:.0%} of them: crops are {", ".join(dict.fromkeys(str(side) for side, _ in lengths))}',
            'Use --recipe paper, which has no more iterations than the stock run.',
        )
    told = ', '.join(f'{count} iterations of {frames} x {side}' for (side, frames), count in lengths.items())
    reasons.append(f'multigrid.stages: {told}')
    for key, column in (('gt_size', 1), ('num_frame', 2)):
        smaller = sorted({stage[column] for stage in recipe.stages} - {1})
        reasons.append(f'multigrid.stages[].{key}: {sizes[key].reason(smaller)}')
    return [{'iter': count, 'gt_size': side, 'num_frame': frames} for (side, frames), count in lengths.items()]


def _gt_sizes(opt: Mapping[str, Any], recipe: Recipe, full: int) -> _Sizes:
    if fixed_gt_size(opt) is not None:
        return _Sizes(full, 1, full, f'the {opt["network_d"]["type"]} takes {full} pixels alone')
    if has_built_in_size(opt):
        size = opt['network_g']['img_size']
        why = f'network_g.img_size builds the arch for {size}; state multigrid.lq_multiple if it takes others'
        return _Sizes(full, 1, full, why)
    scale, limits = int(opt.get('scale', 1)), limits_with_windows(opt)
    multiple = scale * limits.lq_multiple
    if (opt.get('network_d') or {}).get('type') == 'UNetDiscriminatorSN':
        multiple = math.lcm(multiple, UNET_MULTIPLE)
    # Frames that come enlarged (scale 1, TOFlow) show a quarter of what as large ones show that the network enlarges.
    least_lq = recipe.least_lq if scale > 1 else max(recipe.least_lq, LEAST_LQ)
    return _Sizes(full, multiple, scale * max(least_lq, limits.lq_least))


def _num_frames(opt: Mapping[str, Any], recipe: Recipe, full: int) -> _Sizes:
    if target_of(opt) == 'center':
        return _Sizes(full, 1, full, f'an arch with one target frame has its {full} frames built in')
    dataset_opt = opt['datasets']['train']
    flips = dataset_opt['type'] == 'MultigridVimeo90KDataset' and dataset_opt.get('flip_sequence')
    return _Sizes(full, 2 if flips else 1, max(recipe.least_frames, limits_with_windows(opt).least_frames))
