"""The table of options of validation in pieces, and what they ask of each other and of the arch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.windows import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.options.arch_limits import ArchLimits, limits_in, window_of
from multigrid_vsr.options.kinds import WHOLE, Option, whole

VALIDATION_OPTIONS = (
    Option(
        'val.max_frames',
        WHOLE,
        'Frames of a clip that go through the network together; longer clips go in windows that overlap.',
        'frames',
        'whole clips',
        'above twice the overlap',
    ),
    Option(
        'val.overlap',
        whole(0),
        'Frames of context on each side of a window of a recurrent arch, computed and left out.',
        'frames',
        FRAMES_OVERLAP,
        'beside `max_frames`',
    ),
    Option(
        'val.tile',
        WHOLE,
        'LQ side of the tiles that larger frames go through the network in.',
        'LQ pixels',
        'whole frames',
        'above twice `tile_overlap`',
    ),
    Option(
        'val.tile_overlap',
        whole(0),
        'Context on each side of a tile, computed and left out.',
        'LQ pixels',
        TILE_OVERLAP,
        'beside `tile`',
    ),
)


def check_pieces(opt: Mapping[str, Any]) -> None:
    """Compares the pieces of a validation with each other and with what the arch takes.

    Args:
        opt: Options of a run or a test; each value is of its kind.

    Raises:
        OptionError: If windows or tiles would keep nothing, or be too small for the arch.
    """
    val_opt, limits, window = opt.get('val') or {}, limits_in(opt) or ArchLimits(), window_of(opt)
    for context, size in (('overlap', 'max_frames'), ('tile_overlap', 'tile')):
        if val_opt.get(context) is not None and val_opt.get(size) is None:
            raise OptionError(f'val.{size}', f'be given beside val.{context}', None, f'Give it, or remove {context}.')
    if window is not None and val_opt.get('overlap') is not None:
        rule = f'be left out for an arch that sees {window} frames, whose windows are exact'
        raise OptionError('val.overlap', rule, val_opt['overlap'], 'Remove it.')
    if val_opt.get('max_frames') is not None:
        if val_opt.get('center_frame_only'):
            rule = 'be left out beside val.center_frame_only'
            raise OptionError('val.max_frames', rule, val_opt['max_frames'], 'Remove one of them.')
        overlap = _given(val_opt, 'overlap', FRAMES_OVERLAP) if window is None else window - 1
        if 2 * overlap + 1 < limits.least_frames:
            raise OptionError(
                'val.overlap', f'be at least {limits.least_frames // 2} for this arch', overlap, 'Raise it.'
            )
        _check_keeps_some('max_frames', val_opt['max_frames'], overlap, 'overlap' if window is None else None)
    if val_opt.get('tile') is not None:
        overlap = _given(val_opt, 'tile_overlap', TILE_OVERLAP)
        if 2 * overlap + 1 < limits.lq_least:
            raise OptionError(
                'val.tile_overlap', f'be at least {limits.lq_least // 2} for this arch', overlap, 'Raise it.'
            )
        _check_keeps_some('tile', val_opt['tile'], overlap, 'tile_overlap')


def _given(val_opt: Mapping[str, Any], key: str, otherwise: int) -> int:
    return otherwise if val_opt.get(key) is None else int(val_opt[key])


def _check_keeps_some(key: str, value: int, overlap: int, context: str | None) -> None:
    if value <= 2 * overlap:
        fix = 'Raise it.' if context is None else f'Raise it, or lower val.{context}.'
        raise OptionError(f'val.{key}', f'be above {2 * overlap}, twice the context of {overlap}', value, fix)
