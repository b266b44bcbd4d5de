"""The wall-clock of a whole run against the sum of its pure steps: what loading, logging and saving add."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness import run_rounds
from benchmarks.step import batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape
from multigrid_vsr.demo.training import prepare, train
from multigrid_vsr.measure import one_device
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import read_options

ITERS = 300


def measure(root: Path, rounds: int) -> None:
    """Trains the demo's multigrid run, its steps measured before, after and between on tensors in memory.

    Args:
        root: Folder for the demo's data and the runs.
        rounds: Whole runs, of which the median is taken.

    Raises:
        InputError: If the video of the demo is not installed, or the run fails.
    """
    prepare(root / 'data')
    model = model_of(root, 'MultigridVideoModel', ema_decay=0)  # as the demo's run
    times: dict[BatchShape, list[float]] = {}
    walls = []
    for round_ in range(rounds):
        out = root / f'round_{round_}'
        out.mkdir()
        (out / 'data').symlink_to((root / 'data').resolve())
        _measure_steps(model, times)
        walls.append(train(out, 'multigrid', ITERS, round_, one_device()).checkpoints[-1][1])
        schedule = schedule_from_options(read_options(out / 'train_multigrid.yml'))
    _measure_steps(model, times)

    rows, pure = [], 0.0
    for segment in schedule.segments:
        median = statistics.median(times[segment.shape])
        pure += segment.num_iter * median / 1e3
        rows.append((str(segment.shape), f'{segment.num_iter}', f'{median:.1f}'))
    print(format_table(('batch x frames x gt', 'iterations', 'ms a step'), rows))
    wall = statistics.median(walls)
    print(f'Sum of the steps {pure:.1f} s, whole run {wall:.1f} s (median of {rounds}): {wall / pure:.3f}.')


def _measure_steps(model: Any, times: dict[BatchShape, list[float]]) -> None:
    for gt_size in (64, 128):
        for num_frame in (3, 5, 7):
            shape = BatchShape(2, num_frame, gt_size)
            batch = batches_of(shape)['MultigridVideoModel']
            run_step(model, batch)
            times.setdefault(shape, []).extend(run_step(model, batch) for _ in range(5))


if __name__ == '__main__':
    run_rounds('whole_run', __doc__, measure)
