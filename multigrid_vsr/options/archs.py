"""Names that are known without BasicSR, and what its video archs accept as far as a schedule can break it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.kinds import refuse

MODEL_TYPES = ('MultigridVideoModel', 'MultigridVideoGANModel')
DATASET_TYPES = ('MultigridREDSDataset', 'MultigridVimeo90KDataset')
TEST_SET_TYPES = ('MultigridVideoTestDataset',)
STOCK_TEST_SETS = (  # of BasicSR
    'VideoTestDataset', 'VideoTestDUFDataset', 'VideoRecurrentTestDataset', 'VideoTestVimeo90KDataset',
)  # fmt: skip
STOCK_MODELS = {  # and what takes their place
    'VideoRecurrentModel': 'MultigridVideoModel',
    'VideoRecurrentGANModel': 'MultigridVideoGANModel',
    'EDVRModel': 'MultigridVideoModel',
    'VideoBaseModel': 'MultigridVideoModel',
}
STOCK_DATASETS = {
    'REDSRecurrentDataset': 'MultigridREDSDataset',
    'REDSDataset': 'MultigridREDSDataset',
    'Vimeo90KRecurrentDataset': 'MultigridVimeo90KDataset',
    'Vimeo90KDataset': 'MultigridVimeo90KDataset',
}
DATASETS_OF_WINDOWS = ('REDSDataset', 'Vimeo90KDataset')  # with the ground truth of the frame in the middle
_GAN_MODELS = ('MultigridVideoGANModel', 'VideoRecurrentGANModel')


def is_known_dataset(dataset_opt: Mapping[str, Any]) -> bool:
    """Whether all options of a training set are known: it is one of this project or of BasicSR, not the user's own."""
    return dataset_opt.get('type') in (*DATASET_TYPES, *STOCK_DATASETS)


def is_gan(opt: Mapping[str, Any]) -> bool:
    """Whether a run trains a discriminator: by its model, or by its network where the model is the user's own."""
    model = opt.get('model_type')
    return model in _GAN_MODELS or (model not in (*MODEL_TYPES, *STOCK_MODELS) and bool(opt.get('network_d')))


def wrong_model(model: Any) -> OptionError:
    """The line for a model that cannot follow a schedule."""
    return OptionError(
        'model_type',
        f'be {", ".join(MODEL_TYPES)} or derived from one of them or MultigridMixin beside a `multigrid` block',
        model,
        f'Set model_type: {STOCK_MODELS.get(model, MODEL_TYPES[0])}, or delete the block.',
    )


UNET_MULTIPLE = 8  # UNetDiscriminatorSN halves an image three times


@dataclass(frozen=True)
class ArchLimits:
    """What one arch takes.

    Attributes:
        lq_divisor: The LQ side is a multiple of it.
        target: ``sequence`` where the output has every frame. ``center`` where it has the middle one: then the number
            of frames is part of the network.
        scale: Output side / input side, which is built in; ``None`` where it is not known.
    """

    lq_divisor: int = 1
    min_lq_size: int = 1
    min_num_frame: int = 1
    max_num_frame: int | None = None
    target: str = 'sequence'
    scale: int | None = None


LIMITS = {
    'BasicVSR': ArchLimits(scale=4),
    'IconVSR': ArchLimits(scale=4),
    'BasicVSRPlusPlus': ArchLimits(scale=4),
    'EDVR': ArchLimits(lq_divisor=4, target='center', scale=4),
    'DUF': ArchLimits(min_lq_size=4, min_num_frame=7, max_num_frame=7, target='center', scale=4),
    'TOFlow': ArchLimits(lq_divisor=16, min_num_frame=7, max_num_frame=7, target='center', scale=1),
}


_WINDOW = 5  # EDVR's where nothing says another
STATED_LIMITS = ('lq_divisor', 'min_lq_size', 'min_num_frame')  # of an arch, in the `multigrid` block
# Arguments that may change what BasicSR's archs take.
_UNUSUAL = {
    *('num_in_ch', 'num_out_ch', 'max_residue_magnitude', 'deformable_groups'),
    *('center_frame_idx', 'with_predeblur'),
}


def limits_of(network_opt: Mapping[str, Any]) -> ArchLimits | None:
    """The limits of ``network_g`` with the options that it has; ``None`` for an arch that is not known here."""
    arch = network_opt.get('type', '')
    limits = LIMITS.get(arch)
    if limits is None:
        return None
    if arch == 'IconVSR':  # it mirrors `temporal_padding` frames at each end
        return replace(limits, min_num_frame=2 * network_opt.get('temporal_padding', 2) + 1)
    if arch == 'BasicVSRPlusPlus':  # longer sequences go through its cache, which cannot train
        full_size = not network_opt.get('is_low_res_input', True)
        limits = replace(limits, max_num_frame=network_opt.get('cpu_cache_length', 100))
        return replace(limits, lq_divisor=4, scale=1) if full_size else limits
    if arch == 'EDVR' and network_opt.get('hr_in'):
        return replace(limits, lq_divisor=16, scale=1)
    if arch == 'DUF':
        return replace(limits, scale=network_opt.get('scale', 4))
    return limits


def limits_in(opt: Mapping[str, Any]) -> ArchLimits | None:
    """The limits of ``network_g``, with those that the ``multigrid`` block states."""
    limits, block = limits_of(opt.get('network_g') or {}), opt.get('multigrid') or {}
    stated = {key: int(block[key]) for key in STATED_LIMITS if block.get(key) is not None}
    return replace(limits or ArchLimits(), **stated) if stated else limits  # type: ignore[arg-type]


def window_of(opt: Mapping[str, Any]) -> int | None:
    """The frames that a sliding-window arch takes for the one in their middle; ``None`` for another arch."""
    limits, network_opt = limits_of(opt.get('network_g') or {}), opt.get('network_g') or {}
    dataset_opt = (opt.get('datasets') or {}).get('train') or {}
    if (limits.target if limits else dataset_opt.get('target')) != 'center':
        return None
    built_in = limits.max_num_frame if limits else None
    return network_opt.get('num_frame') or built_in or dataset_opt.get('num_frame') or _WINDOW


def leaves_doubt(network_opt: Mapping[str, Any]) -> bool:
    """Whether an arch may have other limits than the table says: it is not in the table, or has an unusual option."""
    return network_opt.get('type') not in LIMITS or not _UNUSUAL.isdisjoint(network_opt)


def fixed_gt_size(opt: Mapping[str, Any]) -> int | None:
    """The only ``gt_size`` that the discriminator of a GAN run takes; ``None`` where it takes any."""
    network_opt = opt.get('network_d') or {}
    if not is_gan(opt) or network_opt.get('type') != 'VGGStyleDiscriminator':
        return None
    return network_opt.get('input_size', 128)


def target_of(opt: Mapping[str, Any]) -> str:
    """``datasets.train.target``: what it says, else what the arch gives, else what the dataset does."""
    limits, dataset_opt = limits_of(opt.get('network_g') or {}), opt['datasets']['train']
    of_dataset = 'center' if dataset_opt.get('type') in DATASETS_OF_WINDOWS else 'sequence'
    target = dataset_opt.get('target') or (limits.target if limits else of_dataset)
    fix = 'Leave it out for what the arch needs.'
    refuse(target not in ('sequence', 'center'), 'datasets.train.target', 'be sequence or center', target, fix)
    return target


def check_arch(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Compares every shape of a run with what its arch accepts, as far as the table and the file say."""
    network_opt = opt.get('network_g') or {}
    arch, target, scale = network_opt.get('type', ''), target_of(opt), opt.get('scale', 1)
    if target == 'center':
        _check_window(network_opt, schedule)
    _check_discriminator(opt, schedule)
    known, limits = limits_of(network_opt), limits_in(opt)
    if known is not None:
        num_feat = network_opt.get('num_feat', 64)
        is_wrong = arch == 'IconVSR' and num_feat % 8
        refuse(is_wrong, 'network_g.num_feat', 'be a multiple of 8 for IconVSR', num_feat, 'Its EDVR has 8 groups.')
        rule = f'be {known.target} for {arch}'
        refuse(target != known.target, 'datasets.train.target', rule, target, 'Leave it out.')
        rule = f'be {known.scale} for {arch}, which has it built in'
        refuse(scale != known.scale, 'scale', rule, scale, 'Change it.')
    if limits is None:
        return
    side, divisor = limits.min_lq_size * scale, limits.lq_divisor * scale
    for option, gt_size, num_frame in _sizes(schedule):
        fewest, most = limits.min_num_frame, limits.max_num_frame or num_frame
        for is_wrong, key, rule, value, fix in (
            (gt_size < side, 'gt_size', f'at least {side}', gt_size, 'Leave smaller ones out.'),
            (gt_size % divisor, 'gt_size', f'a multiple of {divisor}', gt_size, 'Change it.'),
            (num_frame < fewest, 'num_frame', f'at least {fewest}', num_frame, 'Leave fewer out.'),
            (num_frame > most, 'num_frame', f'at most {most}', num_frame, 'Leave more out.'),
        ):
            refuse(is_wrong, f'{option}.{key}', f'be {rule} for {arch}', value, fix)


def _sizes(schedule: Schedule) -> Iterator[tuple[str, int, int]]:
    """The side and the frames of each segment, and the block that states them."""
    for shape in (segment.shape for segment in schedule.segments):
        yield 'datasets.train' if shape == schedule.full_shape else 'multigrid', shape.gt_size, shape.num_frame


def _check_window(network_opt: Mapping[str, Any], schedule: Schedule) -> None:
    """A sliding-window arch has its number of frames built in, around one in the middle."""
    full, option = schedule.full_shape.num_frame, 'datasets.train.num_frame'
    counts = sorted({num_frame for _, _, num_frame in _sizes(schedule)})
    rule = f'be left out for an arch with one target frame, whose frames are fixed ({full})'
    refuse(counts != [full], 'multigrid.num_frame', rule, counts, 'Use only spatial stages.')
    refuse(full % 2 == 0, option, 'be odd, with one frame in the middle', full, 'Change it by one.')
    built_in = network_opt.get('num_frame', full)
    refuse(built_in != full, option, f'equal network_g.num_frame ({built_in})', full, 'Make them equal.')


def _check_discriminator(opt: Mapping[str, Any], schedule: Schedule) -> None:
    fixed = fixed_gt_size(opt)
    is_unet = is_gan(opt) and opt['network_d'].get('type') == 'UNetDiscriminatorSN'
    for option, gt_size, _ in _sizes(schedule):
        rule = f'be {fixed} throughout for a VGGStyleDiscriminator with that input_size'
        fix = 'Leave multigrid.gt_size out, or use UNetDiscriminatorSN, which takes any multiple of 8.'
        refuse(fixed is not None and gt_size != fixed, f'{option}.gt_size', rule, gt_size, fix)
        rule = f'be a multiple of {UNET_MULTIPLE} for UNetDiscriminatorSN'
        refuse(is_unet and gt_size % UNET_MULTIPLE, f'{option}.gt_size', rule, gt_size, 'Change it.')


def has_built_in_size(opt: Mapping[str, Any]) -> bool:
    """Whether an arch is built for one size, ``img_size`` as in SwinIR, and the file states no limits instead."""
    stated = opt.get('multigrid') or {}
    network_opt = opt['network_g']
    is_stated = stated.get('lq_divisor') is not None or stated.get('min_lq_size') is not None
    return network_opt.get('type') not in LIMITS and network_opt.get('img_size') is not None and not is_stated


def limits_with_windows(opt: Mapping[str, Any]) -> ArchLimits:
    """The limits that are known or stated; else the LQ side is a multiple of ``window_size``, (t, h, w) or a side."""
    limits, network_opt = limits_in(opt) or ArchLimits(), opt['network_g']
    window = network_opt.get('window_size')
    sides = window[-2:] if isinstance(window, list) else [window]
    is_known = network_opt.get('type') in LIMITS or (opt.get('multigrid') or {}).get('lq_divisor') is not None
    if is_known or not all(isinstance(side, int) and side > 0 for side in sides):
        return limits
    return replace(limits, lq_divisor=math.lcm(*sides))
