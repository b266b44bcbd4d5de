"""What many GPUs on a shared file system meet: the shares of 1024 ranks, reads that wait, bytes a second."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frames import ours, prepare_frames, through_loader, timed, write_black_store
from benchmarks.harness import run_rounds
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import BatchShape, Schedule

RANKS = (1, 8, 64, 1024)
CLIPS, SAMPLES = 266, 26600  # REDS without REDS4
SHAPES = ((128, 7), (256, 15))  # gt_size, num_frame: the paper's first and last on REDS
LATENCIES, RATES = (0.2, 1.0, 5.0), (1000.0, 100.0)  # ms a read; MB/s of all reads together
WORKERS = (1, 2, 4, 8)
_MOUNTED_IN = 60  # seconds


def measure(root: Path, rounds: int) -> None:
    """Prints what ranks cost, what a sample takes where reads wait, and how workers make up for it.

    Raises:
        InputError: If the video of the demo, mfusepy or FUSE is missing.
    """
    print(f'Global batches of 4 samples a rank, of {SAMPLES} samples:')
    print(format_table(('ranks', 'us a rank and batch', 'samples of a pass given twice'), [shares(n) for n in RANKS]))
    prepare_frames(root)
    write_black_store(root / 'reds', CLIPS, 100, 720, 1280)
    rows = []
    for latency in LATENCIES:
        with slow_folder(root, root / 'slow', latency, RATES[0]):
            found = _samples(root / 'slow/reds', 'packed', rounds), _samples(root / 'slow', 'disk', rounds)
        rows.append((f'{latency:g}', *found[0], *found[1]))
    columns = [f'{kind}, {gt_size} x {num_frame}' for kind in ('packed', 'PNG') for gt_size, num_frame in SHAPES]
    print(f'ms a sample of 1280x720, nothing of it in memory, one process; reads at {RATES[0]:.0f} MB/s together:')
    print(format_table(('ms a read', *columns), rows))
    rows = []
    for rate, workers in itertools.product(RATES, WORKERS):
        with slow_folder(root / 'reds', root / 'slow', LATENCIES[1], rate):
            rows.append((f'{rate:.0f}', str(workers), f'{through_loader(root / "slow", workers, 50):.0f}'))
    print(f'Samples a second of 256 x 15 through the loader, none in memory, {LATENCIES[1]:g} ms a read:')
    print(format_table(('MB/s', 'workers', 'samples / s'), rows))


def _samples(root: Path, backend: str, rounds: int) -> list[str]:
    found = []
    for gt_size, num_frame in SHAPES:
        load, numbers = ours(root, backend, gt_size, num_frame), itertools.count(1)
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


@contextlib.contextmanager
def slow_folder(root: Path, mount: Path, latency_ms: float, mb_per_second: float) -> Iterator[None]:
    """Shows ``root`` read-only under ``mount``, as a shared file system does: each read waits, and all share one rate.

    Raises:
        InputError: If mfusepy or FUSE is missing; both are needed, on Linux.
    """
    needed = '`pip install mfusepy`, and libfuse.'
    if importlib.util.find_spec('mfusepy') is None:
        raise InputError(f'mfusepy: must be installed, got nothing. {needed}')
    mount.mkdir(parents=True, exist_ok=True)
    arguments = str(root.resolve()), str(mount), latency_ms, mb_per_second
    process = multiprocessing.get_context('spawn').Process(target=_serve, args=arguments)
    process.start()
    end = time.monotonic() + _MOUNTED_IN
    try:
        while not mount.is_mount():
            if not process.is_alive() or time.monotonic() > end:
                raise InputError(f'{mount}: must be mounted with FUSE, got nothing. {needed}')
            time.sleep(0.05)
        yield
    finally:
        if mount.is_mount():
            subprocess.run(('fusermount', '-u', '-z', mount), check=False)
        process.terminate()
        process.join()


def _serve(root: str, mount: str, latency_ms: float, mb_per_second: float) -> None:
    import mfusepy

    free_at, lock = time.monotonic(), threading.Lock()

    class Slow(mfusepy.Operations):
        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            try:
                found = os.lstat(root + path)
            except FileNotFoundError as error:
                raise mfusepy.FuseOSError(error.errno) from None
            names = ('st_mode', 'st_nlink', 'st_size', 'st_uid', 'st_gid', 'st_atime', 'st_mtime', 'st_ctime')
            return {name: getattr(found, name) for name in names}

        def readdir(self, path: str, fh: Any) -> list[str]:
            return ['.', '..', *os.listdir(root + path)]

        def open(self, path: str, flags: int) -> int:
            return os.open(root + path, os.O_RDONLY)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            nonlocal free_at
            with lock:
                free_at = max(free_at, time.monotonic()) + size / (mb_per_second * 1e6)
                wait = free_at - time.monotonic() + latency_ms / 1e3
            time.sleep(wait)
            return os.pread(fh, size, offset)

    mfusepy.FUSE(Slow(), mount, foreground=True, ro=True, nothreads=False)


if __name__ == '__main__':
    run_rounds('scale', __doc__, measure)
