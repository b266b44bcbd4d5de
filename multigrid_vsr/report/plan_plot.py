"""``plan --plot``: draws the shapes of a run as areas, and below them batch and learning rate."""

from __future__ import annotations

import io
from typing import Any

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.plan import StockRun, fewer_pixels
from multigrid_vsr.core.schedule import Schedule

_STAGE_COLOURS = ('#9ecae1', '#4292c6', '#08519c', '#08306b')  # the last one for all later stages too
_LINE, _RATE, _GREY = '#222222', '#D55E00', '#888888'
_POINTS = 1000
_LEAST_WIDTH = 0.065  # share of the axis that a label needs


def plot_plan(schedule: Schedule, rate: Rate | None, stock: StockRun | None, title: str, kind: str) -> bytes:
    """Draws a schedule as ``png`` or ``svg``; an unknown rate or stock run is ``None``.

    Raises:
        InputError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError:
        raise InputError(
            '--plot: must have matplotlib, got none installed. pip install "multigrid_vsr[plot]".'
        ) from None
    panels = 3 if rate else 2
    figure = Figure(figsize=(10, 6.2 if rate else 4.8), dpi=150, layout='constrained')
    axes = figure.subplots(panels, 1, sharex=True, height_ratios=[5, 1.3, 2][:panels])
    other = 'the stock run' if stock else 'as many iterations of the full shape'
    axes[0].set_title(f'{title}: {1 / fewer_pixels(schedule, 1, stock):.0%} of the pixels of {other}', loc='left')
    _draw_cost(axes[0], schedule)
    _draw_batch(axes[1], schedule)
    if rate:
        _draw_rate(axes[2], schedule, rate)
    axes[-1].set_xlabel('iteration')
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=''))
    for axis in axes:
        axis.set_xlim(0, schedule.total_iter)
        axis.spines[['top', 'right']].set_visible(False)
        for segment in schedule.segments[1:]:
            axis.axvline(segment.start, color=_GREY, linewidth=0.5, alpha=0.5, zorder=0)
    written = io.BytesIO()
    figure.savefig(written, format=kind)
    return written.getvalue()


def _draw_cost(axis: Any, schedule: Schedule) -> None:
    """Draws pixels an iteration, relative to the full shape. The area is the number of pixels of the run."""
    segments = schedule.segments
    costs = [segment.shape.pixels / schedule.full_shape.pixels for segment in segments]
    colours = [_STAGE_COLOURS[min(segment.stage, len(_STAGE_COLOURS) - 1)] for segment in segments]
    axis.fill_between([0, schedule.total_iter], 1, color='#eeeeee', zorder=0)
    lengths = [segment.num_iter for segment in segments]
    bars = axis.bar([segment.start for segment in segments], costs, lengths, align='edge', color=colours)
    labels = [f'{s.shape.gt_size}²\n{s.shape.num_frame} frames\n{cost:.0%}' for s, cost in zip(segments, costs)]
    fits = [length >= _LEAST_WIDTH * schedule.total_iter for length in lengths]
    axis.bar_label(bars, [label if fit else '' for label, fit in zip(labels, fits)], padding=4, fontsize=9, color=_LINE)
    axis.set_ylim(0, max(1.0, *costs) * 1.27)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ['0', '25%', '50%', '75%', '100%'])
    axis.set_ylabel('pixels an iteration')


def _draw_batch(axis: Any, schedule: Schedule) -> None:
    batches = [segment.shape.batch_size_per_gpu for segment in schedule.segments]
    edges = [0, *(segment.end for segment in schedule.segments)]
    axis.stairs(batches, edges, baseline=None, color=_LINE, linewidth=1.5)
    axis.set_ylim(0, max(batches) * 1.25)
    axis.set_yticks(sorted({0, min(batches), max(batches)}))
    axis.set_ylabel('batch\na GPU')


def _draw_rate(axis: Any, schedule: Schedule, rate: Rate) -> None:
    """Draws the rate at evenly spaced iterations, and right before and after each jump."""
    total = schedule.total_iter
    edges = [i for segment in schedule.segments for i in (segment.start, segment.end - 1)]
    iterations = sorted({*(n * (total - 1) // _POINTS for n in range(_POINTS + 1)), *edges})
    axis.plot(iterations, [rate(i) for i in iterations], color=_RATE, linewidth=1.5)
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    axis.set_ylabel('learning rate')
