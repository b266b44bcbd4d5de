"""What an iteration, loading and opening cost as a run grows: in crop, frames, batch, clips and workers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.black_store import write_black_store
from benchmarks.curves import Curve, draw
from benchmarks.harness import run_rounds
from benchmarks.loader import batches, ours, prepare_frames, through_loader, timed
from benchmarks.step import batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape

SIDES, FRAMES, BATCHES = (64, 96, 128, 192, 256), (3, 5, 7, 11, 15), (1, 2, 4, 8)
CLIPS, WORKERS = (30, 300, 3000, 30000), (1, 2, 4)
_SECONDS = 0.3  # of loading in a round

Timers = dict[int, Callable[[], float]]


def measure(root: Path, rounds: int, plot: Path | None = None) -> None:
    """Prints a row for each curve: the medians, and what twice the size costs.

    Args:
        root: Folder for frames, 0.7 GB.
        rounds: Interleaved rounds, of which medians are taken.
        plot: Picture to draw; ``None`` for none.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    prepare_frames(root, 1)
    curves = []
    for what, grows, timers in _kinds(root):
        curves.append(Curve(what, grows, list(timers), _medians(timers, rounds)))
    rows = []
    for curve in curves:
        cells = ', '.join(f'{size}: {value:.4g}' for size, value in zip(curve.sizes, curve.values))
        rows.append((curve.what, curve.grows, cells, f'{curve.exponent:.2f}', f'{2**curve.exponent:.2f}'))
    print(format_table(('what', 'as what grows', 'medians', 'power', 'twice the size'), rows))
    if plot is not None:
        draw(plot, curves)


def _medians(timers: Timers, rounds: int) -> list[float]:
    times: dict[int, list[float]] = {size: [] for size in timers}
    for round_ in range(rounds + 1):
        for size, timer in timers.items():
            elapsed = timer()
            if round_ > 0:  # the first round warms up
                times[size].append(elapsed)
    return [statistics.median(values) for values in times.values()]


def _kinds(root: Path) -> Iterator[tuple[str, str, Timers]]:
    sides = {side: BatchShape(1, 7, side) for side in SIDES}
    frames = {count: BatchShape(1, count, 64) for count in FRAMES}
    counts = {count: BatchShape(count, 7, 64) for count in BATCHES}
    shapes = {'gt_size, 1 x 7': sides, 'frames, 1 x 64': frames, 'batch, 7 x 64': counts}
    model = model_of(root, 'MultigridVideoModel')
    for grows, by_size in shapes.items():
        loaded = {size: batches_of(shape)['MultigridVideoModel'] for size, shape in by_size.items()}
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


if __name__ == '__main__':
    run_rounds('growth', __doc__, measure, plots=True)
