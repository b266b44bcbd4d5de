"""What a schedule costs, before it runs: the table of segments and its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.schedule import Schedule


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text, columns right-aligned, a rule below the header."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in (header, *rows)]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def stage_table(schedule: Schedule, world_size: int = 1, rate: Rate | None = None) -> str:
    """The table that the log and ``multigrid-vsr plan`` print: a row for each segment, then the whole run.

    Iterations are written as BasicSR counts them, from 1. Samples and ground-truth pixels are those of all ranks;
    ``cost`` is a row's share of the pixels that as many iterations of the full shape would take.

    Args:
        schedule: Shapes of the run.
        world_size: Number of GPUs.
        rate: The learning rate; ``None`` leaves its column out. It is that of the first and the last iteration.
    """
    unit, per_unit = _unit(schedule, world_size)
    header: tuple[str, ...] = ('stage', 'iterations', 'count', 'gt_size', 'num_frame', 'batch/gpu', 'samples', unit)
    header += ('cost',)
    rows = []
    for segment in schedule.segments:
        shape = segment.shape
        rows.append(
            (
                f'{segment.stage + 1}',
                f'{segment.start + 1}-{segment.end}',
                f'{segment.num_iter}',
                f'{shape.gt_size}',
                f'{shape.num_frame}',
                f'{shape.batch_size_per_gpu}',
                f'{segment.num_iter * shape.batch_size_per_gpu * world_size}',
                f'{segment.num_iter * shape.pixels * world_size / per_unit:.3f}',
                f'{shape.pixels / schedule.full_shape.pixels:.1%}',
                f'{rate(segment.start):.2e} to {rate(segment.end - 1):.2e}' if rate else '',
            )
        )
    samples = total_samples(schedule) * world_size
    pixels = total_pixels(schedule) * world_size
    full = schedule.total_iter * schedule.full_shape.pixels * world_size
    rows.append(
        (
            'all',
            f'1-{schedule.total_iter}',
            f'{schedule.total_iter}',
            '',
            '',
            '',
            f'{samples}',
            f'{pixels / per_unit:.3f}',
            f'{pixels / full:.1%}',
            '',
        )
    )
    if rate is None:
        return format_table(header, [row[:-1] for row in rows])
    return format_table((*header, 'learning rate'), rows)


def plan_data(schedule: Schedule, world_size: int, rate: Rate | None) -> dict[str, Any]:
    """What :func:`stage_table` and :func:`comparison` say, as plain data; all samples and pixels are of all ranks."""
    full = schedule.full_shape
    return {
        'segments': [
            {
                'stage': segment.stage + 1,
                'first_iter': segment.start + 1,
                'last_iter': segment.end,
                **asdict(segment.shape),
                'samples': segment.num_iter * segment.shape.batch_size_per_gpu * world_size,
                'pixels': segment.num_iter * segment.shape.pixels * world_size,
                'cost': segment.shape.pixels / full.pixels,
                'lr': [rate(segment.start), rate(segment.end - 1)] if rate else None,
            }
            for segment in schedule.segments
        ],
        'total_iter': schedule.total_iter,
        'gpus': world_size,
        'samples': total_samples(schedule) * world_size,
        'pixels': total_pixels(schedule) * world_size,
        'full_shape_pixels': schedule.total_iter * full.pixels * world_size,
    }


def total_pixels(schedule: Schedule) -> int:
    """Ground-truth pixels that one GPU trains on in the whole run."""
    return sum(segment.num_iter * segment.shape.pixels for segment in schedule.segments)


def total_samples(schedule: Schedule) -> int:
    """Samples that one GPU trains on in the whole run."""
    return sum(segment.num_iter * segment.shape.batch_size_per_gpu for segment in schedule.segments)


def comparison(schedule: Schedule, world_size: int = 1, stock_iter: int | None = None) -> str:
    """The sentences below the table: the run against one of the full shape throughout, of as many samples too.

    Args:
        schedule: Shapes of the run.
        world_size: Number of processes.
        stock_iter: Iterations of the run to compare with, where it is known; as many as this one without it.
    """
    pixels = total_pixels(schedule) * world_size
    full_iter = schedule.total_iter if stock_iter is None else stock_iter
    full = full_iter * schedule.full_shape.pixels * world_size
    unit, per_unit = _unit(schedule, world_size)
    batch = schedule.full_shape.batch_size_per_gpu
    iterations = round(total_samples(schedule) / batch)
    of_samples = ''
    if iterations != schedule.total_iter:
        same = iterations * schedule.full_shape.pixels * world_size
        of_samples = f' Its samples are those of {iterations} such iterations: {same / pixels:.2f}x fewer.'
    return (
        f'{pixels / per_unit:.3f} {unit} against {full / per_unit:.3f} for {full_iter} iterations of the '
        f'full shape: {full / pixels:.2f}x fewer.{of_samples} Wall-clock follows pixels only as far as the GPU is busy.'
    )


LEAST_LQ, LEAST_FRAMES = 32, 6  # below them arXiv 2205.05069 saw losses


def shape_notes(schedule: Schedule, scale: int) -> list[str]:
    """A line for each way in which early shapes are smaller than the paper's smallest; the full shape is as it is.

    Args:
        schedule: Shapes of the run.
        scale: Ground truth side / LQ side.
    """
    full = schedule.full_shape
    lq = min(segment.shape.gt_size for segment in schedule.segments) // scale
    frames = min(segment.shape.num_frame for segment in schedule.segments)
    lines = []
    if lq < min(LEAST_LQ, full.gt_size // scale):
        lines.append(f'Note: LQ frames of {lq} pixels. The paper stays at {LEAST_LQ} or more: it lost quality with 16.')
    if frames < min(LEAST_FRAMES, full.num_frame):
        lines.append(f'Note: {frames} frames. The paper stays at {LEAST_FRAMES} or more: it lost quality with 3.')
    return lines


def _unit(schedule: Schedule, world_size: int) -> tuple[str, float]:
    is_large = schedule.total_iter * schedule.full_shape.pixels * world_size >= 1e10
    return ('Gpixels', 1e9) if is_large else ('Mpixels', 1e6)


def remaining_pixels(schedule: Schedule, current_iter: int) -> int:
    """Ground-truth pixels that one GPU still trains on after ``current_iter`` iterations."""
    return sum(
        max(0, segment.end - max(segment.start, current_iter)) * segment.shape.pixels for segment in schedule.segments
    )
