"""What many GPUs on a shared file system meet: the shares of 1024 ranks, reads that wait, bytes a second."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.black_store import write_black_store
from benchmarks.harness import run_rounds
from benchmarks.loader import ours, prepare_frames, through_loader, timed
from benchmarks.slow_files import slow_folder
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import BatchShape, Schedule

RANKS = (1, 8, 64, 1024)
CLIPS, SAMPLES = 266, 26600  # REDS without REDS4
SHAPES = ((128, 7), (256, 15))  # gt_size, num_frame: the paper's first and last on REDS
LATENCIES, RATES = (0.2, 1.0, 5.0), (1000.0, 100.0)  # ms a read; MB/s of all reads together
WORKERS = (1, 2, 4, 8)


def measure(root: Path, rounds: int) -> None:
    """Prints what ranks cost, what a sample takes where reads wait, and how workers make up for it.

    Args:
        root: Folder for frames, 0.7 GB, and the mount.
        rounds: Rounds, of which medians are taken.

    Raises:
        InputError: If the video of the demo, mfusepy or FUSE is missing, or ranks share a sample.
    """
    print(f'Global batches of 4 samples a rank, of {SAMPLES} samples:')
    print(format_table(('ranks', 'us a rank and batch', 'samples of a pass given twice'), [shares(n) for n in RANKS]))
    prepare_frames(root, 1)
    write_black_store(root / 'reds', CLIPS, 100, 720, 1280)
    rows = []
    for latency in LATENCIES:
        with slow_folder(root, root / 'slow', latency, RATES[0]):
            rows.append(
                (
                    f'{latency:g}',
                    *_samples(root / 'slow/reds', 'packed', rounds),
                    *_samples(root / 'slow', 'disk', rounds),
                )
            )
    shapes = [f'{gt_size} x {num_frame}' for gt_size, num_frame in SHAPES]
    header = ('ms a read', *(f'packed, {shape}' for shape in shapes), *(f'PNG, {shape}' for shape in shapes))
    print(f'ms a sample of 1280x720, nothing of it in memory, one process; reads at {RATES[0]:.0f} MB/s together:')
    print(format_table(header, rows))
    rows = []
    for rate in RATES:
        for workers in WORKERS:
            with slow_folder(root / 'reds', root / 'slow', LATENCIES[1], rate):
                rows.append((f'{rate:.0f}', str(workers), f'{through_loader(root / "slow", workers, 50):.0f}'))
    print(f'Samples a second of 256 x 15 through the loader, none in memory, {LATENCIES[1]:g} ms a read:')
    print(format_table(('MB/s', 'workers', 'samples / s'), rows))


def _samples(root: Path, backend: str, rounds: int) -> list[str]:
    found = []
    for gt_size, num_frame in SHAPES:
        load, numbers = ours(root, backend, gt_size, num_frame), iter(range(1, 1 << 30))
        load(0)
        found.append(f'{statistics.median(timed(load, numbers, 0.0) for _ in range(rounds)):.1f}')
    return found


def shares(count: int) -> Sequence[str]:
    """Every rank's batch at each iteration of a pass, of which no two may share a sample."""
    shape = BatchShape(4, 7, 128)
    schedule = Schedule.from_shapes([(10**6, shape)], shape)
    in_pass = SAMPLES // (4 * count)
    seen: list[int] = []
    start = time.perf_counter()
    for iteration, rank in itertools.product(range(in_pass), range(count)):
        found = batch_requests(schedule, iteration, num_samples=SAMPLES, seed=0, world_size=count, rank=rank)
        seen += [request.index for request in found]
    spent = (time.perf_counter() - start) / (in_pass * count) * 1e6
    return str(count), f'{spent:.0f}', str(len(seen) - len(set(seen)))


if __name__ == '__main__':
    run_rounds('scale', __doc__, measure)
