"""The wall-clock of a whole run against the sum of its pure steps: what loading, logging and saving add."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.base_run import train
from benchmarks.harness import in_rounds, run_rounds
from benchmarks.step import OURS, batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape
from multigrid_vsr.demo import prepare
from multigrid_vsr.measure import one_device
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import read_options

ITERS = 300
SHAPES = tuple(BatchShape(2, num_frame, gt_size) for gt_size in (64, 128) for num_frame in (3, 5, 7))


def measure(root: Path, rounds: int) -> None:
    """Trains the multigrid base run ``rounds`` times, its steps measured on tensors in memory around each run.

    Raises:
        InputError: If the video of the demo is not installed, or the run fails.
    """
    prepare(root / 'data')
    model = model_of(root, OURS, ema_decay=0)  # as the base run
    times = _measure_steps(model)
    walls = []
    for round_ in range(rounds):
        out = root / f'round_{round_}'
        out.mkdir()
        (out / 'data').symlink_to((root / 'data').resolve())
        walls.append(train(out, 'multigrid', ITERS, round_, one_device()).checkpoints[-1][1])
        for shape, values in _measure_steps(model).items():
            times[shape] += values
    schedule = schedule_from_options(read_options(out / 'train_multigrid.yml'))
    ms = {segment.shape: statistics.median(times[segment.shape]) for segment in schedule.segments}
    pure = sum(segment.num_iter * ms[segment.shape] for segment in schedule.segments) / 1e3
    rows = [(str(s.shape), f'{s.num_iter}', f'{ms[s.shape]:.1f}') for s in schedule.segments]
    print(format_table(('batch x frames x gt', 'iterations', 'ms a step'), rows))
    wall = statistics.median(walls)
    print(f'Sum of the steps {pure:.1f} s, whole run {wall:.1f} s (median of {rounds}): {wall / pure:.3f}.')


def _measure_steps(model: Any) -> dict[BatchShape, list[float]]:
    return in_rounds({shape: partial(run_step, model, batches_of(shape)[OURS]) for shape in SHAPES}, rounds=1, calls=5)


if __name__ == '__main__':
    run_rounds('whole_run', __doc__, measure)
