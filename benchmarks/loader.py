"""Loading, measured against BasicSR's side by side."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from basicsr.data.reds_dataset import REDSRecurrentDataset

from benchmarks.frames import (
    COUNT,
    SHAPES,
    Load,
    dataset_options,
    ours,
    prepare_frames,
    prepare_lmdbs,
    sources,
    stock,
    through_loader,
    timed,
)
from benchmarks.harness import medians, run_rounds
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.dataset_adapter import DatasetAdapter
from multigrid_vsr.frames import prepare
from multigrid_vsr.frames.sources import default_workers

_SECONDS = 0.3  # of loading in a round


def measure(root: Path, rounds: int) -> None:
    """Prepares 100 frames of 1280x720 as PNG, LMDB and store, 0.7 GB, and prints the tables of benchmarks/README.md.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    prepare_frames(root)
    prepare_lmdbs(root)
    _compare(root, rounds)
    _print_scaling(root, rounds)
    _print_cold(root)
    _print_memory(root)
    rates = medians({'decoding': partial(_decode, root), 'building': partial(_build, root)}, rounds)
    print(
        f'Building: {rates["building"]:.1f} frames/s, only decoding {rates["decoding"]:.1f}: '
        f'{rates["building"] / rates["decoding"]:.0%}.'
    )


def _compare(root: Path, rounds: int) -> None:
    rows = []
    for gt_size, num_frame in SHAPES:
        loads = {f'stock {backend}': stock(root, backend, gt_size, num_frame) for backend in ('disk', 'lmdb')}
        loads['adapted disk'] = _adapted(root, gt_size, num_frame)
        loads |= {f'ours {backend}': ours(root, backend, gt_size, num_frame) for backend in ('disk', 'lmdb', 'packed')}
        ms = medians({name: partial(timed, load, itertools.count(), _SECONDS) for name, load in loads.items()}, rounds)
        packed = ms['ours packed']
        ratios = f'{ms["stock disk"] / packed:.0f}x', f'{ms["stock lmdb"] / packed:.0f}x'
        png, pixel = f'{ms["stock disk"] / ms["ours disk"]:.2f}x', f'{packed / (gt_size**2 * num_frame) * 1e6:.2f}'
        rows.append((f'{gt_size} x {num_frame}', *(f'{value:.2f}' for value in ms.values()), *ratios, png, pixel))
    print('ms a sample, one process; the ratios are stock PNG / packed, stock LMDB / packed, stock PNG / our PNG:')
    print(format_table(('gt x frames', *loads, 'vs PNG', 'vs LMDB', 'PNG', 'ns/pixel'), rows))


def _adapted(root: Path, gt_size: int, num_frame: int) -> Load:
    """BasicSR's dataset under the schedule; the dataset has another shape of its own."""
    opt = dataset_options(root, 'disk', 256, 15)
    adapter = DatasetAdapter(REDSRecurrentDataset(opt), opt)
    return lambda seed: adapter.sample(SampleRequest(seed % 80, num_frame, gt_size, seed))


def _print_scaling(root: Path, rounds: int) -> None:
    """Samples a second through the loader of a run, with one worker and with two."""
    one, two = medians({count: partial(through_loader, root, count) for count in (1, 2)}, rounds).values()
    print(f'gt 256 x 15, packed, samples/s with 1 and 2 workers: {one:.0f} and {two:.0f}: {two / one:.2f}x.')


def _print_cold(root: Path) -> None:
    """Bytes that a sample reads from the disk when nothing of it is in memory, against the bytes of its crops."""
    for gt_size, num_frame in SHAPES:
        load = ours(root, 'packed', gt_size, num_frame)
        load(0)
        crop = (gt_size**2 + (gt_size // 4) ** 2) * 3 * num_frame
        ratios = []
        for seed in range(1, 21):
            for kind in ('gt', 'lq'):
                descriptor = os.open(root / f'store/{kind}/frames.bin', os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
            before = _of_process('io', 'read_bytes')
            load(seed)
            ratios.append((_of_process('io', 'read_bytes') - before) / crop)
        read = statistics.median(ratios)
        print(f'gt {gt_size} x {num_frame}, cold cache: {read:.2f} bytes read a byte of the crops.')


def _print_memory(root: Path) -> None:
    """What opening a store takes of memory, and what 100,000 samples add."""
    before = _of_process('status', 'RssAnon')
    load = ours(root, 'packed', 64, 7)
    load(0)
    opened = _of_process('status', 'RssAnon')
    for seed in range(100_000):
        load(seed)
    added = _of_process('status', 'RssAnon') - opened
    print(f'Memory: opening a store takes {(opened - before) / 1024:.1f} MiB, 100,000 samples add {added / 1024:.1f}.')


def _of_process(file: str, name: str) -> int:
    """A number that Linux has of this process."""
    lines = Path('/proc/self', file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _decode(root: Path) -> float:
    """Frames a second of only decoding."""
    return _frames_a_second(
        lambda: list(prepare.in_processes(_decode_one, prepare.tasks(sources(root)), default_workers()))
    )


def _decode_one(task: prepare.Task) -> None:
    task.decode(4)


def _build(root: Path) -> float:
    """Frames a second of building the store."""
    shutil.rmtree(root / 'store', ignore_errors=True)
    return _frames_a_second(lambda: prepare.build(sources(root), root / 'store', default_workers()))


def _frames_a_second(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return COUNT / (time.perf_counter() - start)


if __name__ == '__main__':
    run_rounds('loader', __doc__, measure)
