"""Kernel launches of an iteration of BasicSR's video archs, without building them.

The formulas are fitted to counts of ``python -m benchmarks.launches`` with torch 2.14: forward and backward, the same
for any batch, crop and number of channels. A test counts again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from multigrid_vsr.core.plan import Launches
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.multigrid_block import largest_part


def known_launches(network_opt: Mapping[str, Any], num_frame: int) -> tuple[int, int] | None:
    """Launches of one forward and backward of BasicSR's own arch, and of the arch as this project patches it.

    ``None`` for an arch or an option that is not in the table.
    """
    formula = _FORMULAS.get(network_opt.get('type', ''))
    arguments = {key: value for key, value in network_opt.items() if key not in _NO_MATTER}
    if formula is None or not arguments.keys() <= inspect.signature(formula).parameters.keys():
        return None
    return formula(num_frame, **arguments)


def known_run_launches(opt: Mapping[str, Any], schedule: Schedule) -> Launches | None:
    """Launches of a whole run whose arch is in the table."""
    counts = {frames: known_launches(opt['network_g'], frames) for frames in frame_counts(schedule)}
    return None if None in counts.values() else run_launches(opt, schedule, counts)  # type: ignore[arg-type]


def run_launches(opt: Mapping[str, Any], schedule: Schedule, counts: Mapping[int, tuple[int, int]]) -> Launches:
    """Launches of a run, from those of :func:`known_launches` for each of its frame counts."""
    part = largest_part(opt)
    here = {}
    for shape in {segment.shape for segment in schedule.segments}:
        samples = shape.batch_size_per_gpu
        at_a_time = samples if part is None else part.samples_of(shape.num_frame, shape.gt_size)
        here[shape] = -(-samples // at_a_time) * counts[shape.num_frame][1]
    return Launches(here, counts[schedule.full_shape.num_frame][0], bool(opt['train'].get('cuda_graph')))


def frame_counts(schedule: Schedule) -> set[int]:
    """The frame counts of a run, that of its full shape among them."""
    return {schedule.full_shape.num_frame, *(segment.shape.num_frame for segment in schedule.segments)}


def _basicvsr(t: int, num_block: int = 15) -> tuple[int, int]:
    offset = 800 - 8 * num_block
    return offset + t * (116 + 40 * num_block), offset + t * (110 + 36 * num_block)


def _iconvsr(t: int, num_block: int = 15, keyframe_stride: int = 5, temporal_padding: int = 2) -> tuple[int, int]:
    keyframes, padding = len({*range(0, t, keyframe_stride), t - 1}), temporal_padding - 2
    stock = 710 - 8 * num_block + t * (106 + 40 * num_block) + keyframes * (1454 + 456 * padding)
    return stock, 706 - 8 * num_block + t * (100 + 36 * num_block) + keyframes * (1384 + 432 * padding)


def _basicvsrpp(t: int, num_blocks: int = 7, is_low_res_input: bool = True) -> tuple[int, int] | None:
    if not is_low_res_input:
        return None
    stock = 108 - 16 * num_blocks + t * (770 + 80 * num_blocks) - 4 * (t % 2)
    return stock, 148 - 16 * num_blocks + t * (724 + 72 * num_blocks)


def _edvr(
    t: int,
    num_extract_block: int = 5,
    num_reconstruct_block: int = 10,
    with_tsa: bool = True,
    hr_in: bool = False,
    with_predeblur: bool = False,
) -> tuple[int, int] | None:
    if hr_in or with_predeblur:
        return None
    blocks = num_extract_block + num_reconstruct_block
    fixed, fusion = (154, 7) if with_tsa else (38, 0)
    return fixed + t * (221 + fusion) + 16 * blocks, fixed + t * (209 + fusion) + 14 * blocks


def _duf(t: int, num_layer: int = 52) -> tuple[int, int]:
    return 15 + 11 * num_layer, 15 + 11 * num_layer


def _toflow(t: int) -> tuple[int, int]:
    return 1958, 1888


_FORMULAS: dict[str, Callable[..., tuple[int, int] | None]] = {
    'BasicVSR': _basicvsr,
    'IconVSR': _iconvsr,
    'BasicVSRPlusPlus': _basicvsrpp,
    'EDVR': _edvr,
    'DUF': _duf,
    'TOFlow': _toflow,
}
_NO_MATTER = (  # options that change no launch; `num_frame` of EDVR is that of the shape
    *('type', 'num_feat', 'mid_channels', 'num_in_ch', 'num_out_ch', 'deformable_groups', 'num_frame'),
    *('center_frame_idx', 'max_residue_magnitude', 'cpu_cache_length', 'spynet_path', 'edvr_path', 'scale'),
    'adapt_official_weights',
)
