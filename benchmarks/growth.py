"""What an iteration, loading and opening cost as a run grows: in crop, frames, batch, clips and workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.frames import batches, ours, prepare_frames, through_loader, timed, write_black_store
from benchmarks.harness import medians, run_rounds
from benchmarks.step import OURS, batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape

SIDES, FRAMES, BATCHES = (64, 96, 128, 192, 256), (3, 5, 7, 11, 15), (1, 2, 4, 8)
CLIPS, WORKERS = (30, 300, 3000, 30000), (1, 2, 4)
_SECONDS = 0.3  # of loading in a round
_COLUMNS = 3

Timers = dict[int, Callable[[], float]]


class Curve(NamedTuple):
    """What one thing costs as another grows."""

    what: str  # is measured, with its unit
    grows: str
    sizes: Sequence[int]
    values: Sequence[float]  # medians

    @property
    def exponent(self) -> float:
        """The slope of the logarithms, by least squares: the power of the size that the cost follows."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.values), 1)[0])


def measure(root: Path, rounds: int, plot: Path | None = None) -> None:
    """Prints a row for each curve, the medians and what twice the size costs, and draws ``plot``.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    prepare_frames(root)
    curves = []
    for what, grows, timers in _kinds(root):
        found = medians(timers, rounds)
        curves.append(Curve(what, grows, list(found), list(found.values())))
    rows = []
    for curve in curves:
        cells = ', '.join(f'{size}: {value:.4g}' for size, value in zip(curve.sizes, curve.values))
        rows.append((curve.what, curve.grows, cells, f'{curve.exponent:.2f}', f'{2**curve.exponent:.2f}'))
    print(format_table(('what', 'as what grows', 'medians', 'power', 'twice the size'), rows))
    if plot is not None:
        draw(plot, curves)


def _kinds(root: Path) -> Iterator[tuple[str, str, Timers]]:
    shapes = {
        'gt_size, 1 x 7': {side: BatchShape(1, 7, side) for side in SIDES},
        'frames, 1 x 64': {count: BatchShape(1, count, 64) for count in FRAMES},
        'batch, 7 x 64': {count: BatchShape(count, 7, 64) for count in BATCHES},
    }
    model = model_of(root, OURS)
    for grows, by_size in shapes.items():
        loaded = {size: batches_of(shape)[OURS] for size, shape in by_size.items()}
        yield 'iteration / ms', grows, {size: partial(run_step, model, batch) for size, batch in loaded.items()}
    for grows, by_size in shapes.items():
        yield 'loading a batch / ms', grows, {size: _batch_timer(root, shape) for size, shape in by_size.items()}
    for count in CLIPS:
        write_black_store(root / f'clips_{count}', count, num_frame=10, height=96, width=96)
    yield 'opening the data / ms', 'clips', {count: partial(_open, root / f'clips_{count}') for count in CLIPS}
    samples = {count: _batch_timer(root / f'clips_{count}', BatchShape(1, 7, 64)) for count in CLIPS}
    yield 'loading a sample / ms, 7 x 64', 'clips', samples
    yield 'samples / s, 4 x 15 x 256', 'workers', {count: partial(through_loader, root, count) for count in WORKERS}


def _batch_timer(root: Path, shape: BatchShape) -> Callable[[], float]:
    """Milliseconds to load a batch, by one process."""
    dataset, requests = batches(root, shape, 1 << 30)
    return partial(timed, lambda iteration: dataset[requests.at(iteration)], iter(requests.iterations), _SECONDS)


def _open(root: Path) -> float:
    """Milliseconds until a dataset has given its first sample."""
    start = time.perf_counter()
    ours(root, 'packed', 64, 7)(0)
    return (time.perf_counter() - start) * 1e3


def draw(path: Path, curves: Sequence[Curve]) -> None:
    """Draws a panel for each curve, both axes logarithmic, with its power and a dashed line of the power 1."""
    from matplotlib.figure import Figure

    rows = -(-len(curves) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 3 * rows), layout='constrained')
    panels = figure.subplots(rows, _COLUMNS)
    for axes, curve in zip(panels.flat, curves):
        proportional = [curve.values[0] * size / curve.sizes[0] for size in curve.sizes]
        axes.plot(curve.sizes, proportional, color='#BBBBBB', linestyle='--', linewidth=1)
        axes.plot(curve.sizes, curve.values, marker='o', color='#0072B2')
        axes.set(xscale='log', yscale='log', xlabel=curve.grows, ylabel=curve.what)
        axes.set_xticks(curve.sizes, map(str, curve.sizes))
        for size, value in zip(curve.sizes, curve.values):
            words = f'{float(f"{value:.3g}"):g}'
            axes.annotate(words, (size, value), (0, 6), textcoords='offset points', ha='center', fontsize=8)
        axes.set_yticks([])
        axes.minorticks_off()
        axes.margins(0.12, 0.2)
        axes.set_title(f'power {curve.exponent:.2f}', fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    figure.suptitle('Dashed: in proportion, power 1', fontsize=10, color='#777777')
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    run_rounds('growth', __doc__, measure, plots=True)
