"""What a dataset of BasicSR costs under the schedule, through the adapter, against its own and ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import run_rounds
from benchmarks.loader import SHAPES, dataset_options, ours, prepare_frames, stock, timed


def measure(root: Path, rounds: int) -> None:
    """Times a sample of 1280x720 video as PNG through each, and prints the table of benchmarks/README.md.

    Args:
        root: Folder for the frames, 0.7 GB.
        rounds: Interleaved rounds, of which medians are taken.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    from multigrid_vsr.core.plan import format_table

    prepare_frames(root, 1)
    rows = []
    for gt_size, num_frame in SHAPES:
        loaders = {
            'stock': stock(root, 'disk', gt_size, num_frame),
            'adapted': _adapted(root, gt_size, num_frame),
            'ours, PNG': ours(root, 'disk', gt_size, num_frame),
            'ours, packed': ours(root, 'packed', gt_size, num_frame),
        }
        times: dict[str, list[float]] = {name: [] for name in loaders}
        seeds = {name: iter(range(1 << 30)) for name in loaders}
        for _ in range(rounds):
            for name, load in loaders.items():
                times[name].append(timed(load, seeds[name], 0.3))
        median = {name: statistics.median(values) for name, values in times.items()}
        ratios = [median['adapted'] / median[name] for name in ('stock', 'ours, PNG', 'ours, packed')]
        rows.append(
            (
                f'{gt_size} x {num_frame}',
                *(f'{value:.2f}' for value in median.values()),
                *(f'{ratio:.{digits}f}x' for ratio, digits in zip(ratios, (2, 2, 0))),
            )
        )
    print('ms a sample, one process; the ratios are adapted / each of the others:')
    print(format_table(('gt x frames', *loaders, 'vs stock', 'vs our PNG', 'vs packed'), rows))


def _adapted(root: Path, gt_size: int, num_frame: int) -> Callable[[int], Any]:
    """``REDSRecurrentDataset`` that has another shape of its own."""
    from basicsr.data.reds_dataset import REDSRecurrentDataset

    from multigrid_vsr.core.schedule import SampleRequest
    from multigrid_vsr.data.dataset_adapter import DatasetAdapter

    opt = dataset_options(root, 'disk', 256, 15)
    adapter = DatasetAdapter(REDSRecurrentDataset(opt), opt)
    return lambda seed: adapter.sample(SampleRequest(seed % 80, num_frame, gt_size, seed))


if __name__ == '__main__':
    run_rounds('datasets', __doc__, measure)
