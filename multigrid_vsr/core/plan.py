"""What a schedule costs, before it runs: the table of segments and its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.schedule import BatchShape, Schedule

LAUNCH_SECONDS = 5e-6  # what a launch costs the host at least: 5 to 8 us were seen with eager PyTorch


@dataclass(frozen=True)
class StockRun:
    """The run of BasicSR that a run is compared with, at the full shape; its batch is that of all GPUs."""

    total_iter: int
    batch_size: float


@dataclass(frozen=True)
class Launches:
    """Kernels that one GPU launches in an iteration, forward and backward.

    Attributes:
        here: At each shape of the run, for all micro-batches.
        stock: With BasicSR's own arch at the full number of frames.
        has_graph: Whether the run launches an iteration as one CUDA graph.
    """

    here: Mapping[BatchShape, int]
    stock: int
    has_graph: bool

    def total(self, schedule: Schedule) -> int:
        """Launches of the whole run."""
        return sum(segment.num_iter * self.here[segment.shape] for segment in schedule.segments)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text, columns right-aligned, a rule below the header."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in (header, *rows)]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def stage_table(
    schedule: Schedule, world_size: int = 1, rate: Rate | None = None, launches: Launches | None = None
) -> str:
    """The table that the log and ``multigrid-vsr plan`` print: a row for each segment, then the whole run.

    Iterations are written as BasicSR counts them, from 1. Samples and ground-truth pixels are those of all
    ``world_size`` GPUs. ``cost`` compares pixels with as many iterations of the full shape. The learning rate is that
    of the first and the last iteration, launches are those of one GPU; ``None`` leaves their column out.
    """
    unit, per_unit = _unit(schedule, world_size)
    header = ['stage', 'iterations', 'count', 'gt_size', 'num_frame', 'batch/gpu', 'samples', unit, 'cost']
    header += ['Mlaunches'] if launches else []
    header += ['learning rate'] if rate else []
    rows = []
    for segment in schedule.segments:
        shape = segment.shape
        row = [
            f'{segment.stage + 1}',
            f'{segment.start + 1}-{segment.end}',
            f'{segment.num_iter}',
            f'{shape.gt_size}',
            f'{shape.num_frame}',
            f'{shape.batch_size_per_gpu}',
            f'{segment.num_iter * shape.batch_size_per_gpu * world_size}',
            f'{segment.num_iter * shape.pixels * world_size / per_unit:.3f}',
            f'{shape.pixels / schedule.full_shape.pixels:.1%}',
        ]
        row += [f'{segment.num_iter * launches.here[shape] / 1e6:.3f}'] if launches else []
        row += [f'{rate(segment.start):.2e} to {rate(segment.end - 1):.2e}'] if rate else []
        rows.append(row)
    samples = total_samples(schedule) * world_size
    pixels = total_pixels(schedule) * world_size
    full = schedule.total_iter * schedule.full_shape.pixels * world_size
    total = ['all', f'1-{schedule.total_iter}', f'{schedule.total_iter}', '', '', '', f'{samples}']
    total += [f'{pixels / per_unit:.3f}', f'{pixels / full:.1%}']
    total += [f'{launches.total(schedule) / 1e6:.3f}'] if launches else []
    total += [''] if rate else []
    return format_table(header, [*rows, total])


def plan_data(
    schedule: Schedule,
    world_size: int,
    rate: Rate | None,
    stock: StockRun | None = None,
    launches: Launches | None = None,
) -> dict[str, Any]:
    """What :func:`stage_table` and :func:`comparison` say, as plain data; all samples and pixels are of all ranks."""
    full = schedule.full_shape
    data = {
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
                **({'launches': segment.num_iter * launches.here[segment.shape]} if launches else {}),
            }
            for segment in schedule.segments
        ],
        'total_iter': schedule.total_iter,
        'gpus': world_size,
        'samples': total_samples(schedule) * world_size,
        'pixels': total_pixels(schedule) * world_size,
        'full_shape_pixels': schedule.total_iter * full.pixels * world_size,
        'launches': launches.total(schedule) if launches else None,
        'stock': None,
    }
    if stock is not None:
        data['stock'] = {
            'total_iter': stock.total_iter,
            'samples': stock.total_iter * stock.batch_size,
            'pixels': stock_pixels(schedule, stock),
            'launches': stock.total_iter * launches.stock if launches else None,
        }
    return data


def total_pixels(schedule: Schedule) -> int:
    """Ground-truth pixels that one GPU trains on in the whole run."""
    return sum(segment.num_iter * segment.shape.pixels for segment in schedule.segments)


def total_samples(schedule: Schedule) -> int:
    """Samples that one GPU trains on in the whole run."""
    return sum(segment.num_iter * segment.shape.batch_size_per_gpu for segment in schedule.segments)


def fewer_pixels(schedule: Schedule, world_size: int, stock: StockRun | None) -> float:
    """How many times fewer pixels a run has than the stock run, or than as many iterations of the full shape."""
    stock = stock or as_many_iterations(schedule, world_size)
    return stock_pixels(schedule, stock) / (total_pixels(schedule) * world_size)


def as_many_iterations(schedule: Schedule, world_size: int) -> StockRun:
    """A run of the full shape throughout with the iterations of a schedule, for a file that names no stock run."""
    return StockRun(schedule.total_iter, schedule.full_shape.batch_size_per_gpu * world_size)


def stock_pixels(schedule: Schedule, stock: StockRun) -> float:
    """Ground-truth pixels that all GPUs train on in the stock run."""
    full = schedule.full_shape
    return stock.total_iter * stock.batch_size * full.num_frame * full.gt_size**2


def comparison(
    schedule: Schedule, world_size: int = 1, stock: StockRun | None = None, launches: Launches | None = None
) -> str:
    """The lines below the table: the run against the stock run, in pixels and in kernel launches.

    Without ``stock`` the comparison is with as many iterations of the full shape.
    """
    known = stock or as_many_iterations(schedule, world_size)
    pixels, full = total_pixels(schedule) * world_size, stock_pixels(schedule, known)
    unit, per_unit = _unit(schedule, world_size)
    if stock is None:
        other, share = f'for {known.total_iter} iterations of the full shape', ' at equal iterations'
    else:
        samples = total_samples(schedule) * world_size / (stock.total_iter * stock.batch_size)
        other = f'for the stock run, {stock.total_iter} iterations of {stock.batch_size:g} samples'
        share = f', with {samples:.2f}x the samples'
    fewer = fewer_pixels(schedule, world_size, stock)
    lines = [
        f'{pixels / per_unit:.3f} {unit} against {full / per_unit:.3f} {other}: {fewer:.2f}x fewer{share}. '
        'Wall-clock follows pixels only as far as the GPU is busy.'
    ]
    if launches is not None:
        lines.append(
            _launch_line(launches, schedule, known.total_iter, 'for the same' if stock is None else 'of stock')
        )
    return '\n'.join(lines)


def _launch_line(launches: Launches, schedule: Schedule, stock_iter: int, stock: str) -> str:
    here, there = launches.total(schedule), stock_iter * launches.stock
    line = (
        f'Kernel launches on each GPU: {here / 1e6:.0f} million against {there / 1e6:.0f} {stock}, '
        f'{here / there:.2f} as many. At 5 us each they take at least {here * LAUNCH_SECONDS / 3600:.1f} h against '
        f'{there * LAUNCH_SECONDS / 3600:.1f} h.'
    )
    if launches.has_graph:
        return f'{line} With train.cuda_graph launches do not bind.'
    if here > there:
        line += (
            f'\nWarning: the run launches {here / there:.2f} times the kernels {stock}: on a fast GPU it may take '
            'longer. Set train.cuda_graph: true, or fill the small shapes (convert --fill).'
        )
    return line


LEAST_LQ, LEAST_FRAMES = 32, 6  # below them arXiv 2205.05069 saw losses


def shape_notes(schedule: Schedule, scale: int) -> list[str]:
    """A line for each way in which early shapes are smaller than the paper's smallest."""
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
