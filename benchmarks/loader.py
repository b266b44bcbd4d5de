"""Loading, measured against BasicSR's side by side."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frames import (
    COUNT,
    LARGE,
    SHAPES,
    Load,
    batches,
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
    rates = medians({'alone': partial(_decode, root), 'building': partial(_build, root)}, rounds)
    print(
        f'Building: {rates["building"]:.1f} frames/s, decoding alone {rates["alone"]:.1f}: '
        f'{rates["building"] / rates["alone"]:.0%}.'
    )


def ms_a_sample(loads: Mapping[str, Load], rounds: int) -> dict[str, float]:
    """The medians of each way to load a sample."""
    return medians({name: partial(timed, load, itertools.count(), _SECONDS) for name, load in loads.items()}, rounds)


def _compare(root: Path, rounds: int) -> None:
    rows = []
    for gt_size, num_frame in SHAPES:
        loads = {f'stock {backend}': stock(root, backend, gt_size, num_frame) for backend in ('disk', 'lmdb')}
        loads |= {f'ours {backend}': ours(root, backend, gt_size, num_frame) for backend in ('disk', 'lmdb', 'packed')}
        ms = ms_a_sample(loads, rounds)
        packed = ms['ours packed']
        ratios = f'{ms["stock disk"] / packed:.0f}x', f'{ms["stock lmdb"] / packed:.0f}x'
        png, pixel = f'{ms["stock disk"] / ms["ours disk"]:.2f}x', f'{packed / (gt_size**2 * num_frame) * 1e6:.2f}'
        rows.append((f'{gt_size} x {num_frame}', *(f'{value:.2f}' for value in ms.values()), *ratios, png, pixel))
    print('ms a sample, one process; the ratios are stock PNG / packed, stock LMDB / packed, stock PNG / our PNG:')
    print(format_table(('gt x frames', *loads, 'vs PNG', 'vs LMDB', 'PNG', 'ns/pixel'), rows))


def _print_scaling(root: Path, rounds: int) -> None:
    """Samples a second with one worker and with two, through the loader of a run and without it."""
    ways: dict[str, Callable[[Path, int], float]] = {'loader': through_loader, 'alone': _in_processes}
    rates = medians({(name, count): partial(ways[name], root, count) for name in ways for count in (1, 2)}, rounds)
    words = {
        name: f'{rates[name, 1]:.0f} and {rates[name, 2]:.0f}: {rates[name, 2] / rates[name, 1]:.2f}x' for name in ways
    }
    print(
        f'gt 256 x 15, packed, samples/s with 1 and 2 workers: {words["loader"]}. Processes that load for nobody: '
        f'{words["alone"]}.'
    )


def _in_processes(root: Path, count: int) -> float:
    """Samples a second of processes that have nothing to do with each other, each into memory of its own."""
    context = multiprocessing.get_context('spawn')
    barrier, answers = context.Barrier(count), context.SimpleQueue()
    processes = [context.Process(target=_load_alone, args=(root, barrier, answers)) for _ in range(count)]
    for process in processes:
        process.start()
    rate = sum(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return rate


def _load_alone(root: Path, barrier: Any, answers: Any) -> None:
    from multigrid_vsr.data.batches import SharedSlots

    dataset, requests = batches(root, LARGE, 220)
    num_bytes = dataset.num_bytes(requests.schedule.full_shape)
    slots = SharedSlots(dataset, requests.at, num_bytes, num_ahead=1, num_held=0)
    for iteration in requests.iterations[:20]:
        slots[0, iteration]
    barrier.wait()
    start = time.perf_counter()
    for iteration in requests.iterations[20:]:
        slots[0, iteration]
    answers.put(LARGE.batch_size_per_gpu * 200 / (time.perf_counter() - start))


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
    """Frames a second of decoding alone."""
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
