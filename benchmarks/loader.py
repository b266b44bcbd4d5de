"""Loading, measured against BasicSR's side by side."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import run_rounds
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.data.loader import BatchRequests

SHAPES = ((64, 7), (64, 15), (128, 15), (256, 15))  # gt_size, num_frame
_LARGE = BatchShape(4, 15, 256)


def measure(root: Path, rounds: int) -> None:
    """Prepares 100 frames of 1280x720 as PNG, LMDB and store, and prints the tables of benchmarks/README.md.

    Args:
        root: Folder for the frames, 0.7 GB.
        rounds: Interleaved rounds, of which medians are taken.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    decode_rate, build_rate = prepare_frames(root, rounds)
    _compare(root, rounds)
    _scaling(root, rounds)
    _cold(root)
    _memory(root)
    print(f'Building: {build_rate:.1f} frames/s, decoding alone {decode_rate:.1f}: {build_rate / decode_rate:.0%}.')


def prepare_frames(root: Path, rounds: int) -> tuple[float, float]:
    """Writes the frames in three ways; returns frames a second of decoding alone and of building the store."""
    import contextlib
    import io
    import shutil

    import cv2
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    from multigrid_vsr.demo.training import find_video, read_frames
    from multigrid_vsr.frames import pairs, prepare

    if not (root / 'png').exists():
        for number, frame in zip(range(100), read_frames(find_video('bigbuckbunny.mp4'))):
            for kind, image in (('gt', frame), ('lq', pairs.shrink(frame, 4))):
                path = root / f'png.unfinished/{kind}/001/{number:08d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image)
        (root / 'png.unfinished/meta_info.txt').write_text('001 100 (720,1280,3)\n')
        (root / 'png.unfinished').rename(root / 'png')
    for kind in ('gt', 'lq'):
        for name in ('lmdb', 'lmdb_stock'):  # two copies: LMDB opens a file once in a process
            shutil.rmtree(root / f'{name}/{kind}.lmdb', ignore_errors=True)
            keys = [f'001/{number:08d}' for number in range(100)]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its bars
                target = root / f'{name}/{kind}.lmdb'
                target.parent.mkdir(exist_ok=True)
                make_lmdb_from_imgs(str(root / 'png' / kind), str(target), [f'{key}.png' for key in keys], keys)

    sources = pairs.open_sources(root / 'png/gt', root / 'png/lq', 4)
    workers = pairs.default_workers()
    decoding, building = [], []
    for _ in range(rounds):
        shutil.rmtree(root / 'store', ignore_errors=True)
        start = time.perf_counter()
        for _ in pairs.in_processes(_decode_alone, pairs.tasks(sources), workers):
            pass
        decoding.append(time.perf_counter() - start)
        start = time.perf_counter()
        prepare.build(sources, root / 'store', workers)
        building.append(time.perf_counter() - start)
    return 100 / statistics.median(decoding), 100 / statistics.median(building)


def _decode_alone(task: Any) -> None:
    from multigrid_vsr.frames import pairs

    pairs.decode_pair(4, task)


def dataset_options(root: Path, backend: str, gt_size: int, num_frame: int) -> dict[str, Any]:
    folder, suffix = {'disk': ('png', ''), 'lmdb': ('lmdb', '.lmdb'), 'packed': ('store', '')}[backend]
    return {
        'name': 'bench',
        'dataroot_gt': str(root / folder / f'gt{suffix}'),
        'dataroot_lq': str(root / folder / f'lq{suffix}'),
        'meta_info_file': str(root / 'png/meta_info.txt'),
        'val_partition': 'REDS4',
        'test_mode': False,
        'io_backend': {'type': backend},
        'scale': 4,
        'num_frame': num_frame,
        'gt_size': gt_size,
        'interval_list': [1],
        'random_reverse': False,
        'use_hflip': True,
        'use_rot': True,
    }


def ours(root: Path, backend: str, gt_size: int, num_frame: int) -> Callable[[int], Any]:
    from multigrid_vsr.core.schedule import SampleRequest
    from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset

    dataset = MultigridREDSDataset(dataset_options(root, backend, gt_size, num_frame))
    return lambda seed: dataset[[SampleRequest(seed * 7919 % len(dataset), num_frame, gt_size, seed)]]


def stock(root: Path, backend: str, gt_size: int, num_frame: int) -> Callable[[int], Any]:
    from basicsr.data.reds_dataset import REDSRecurrentDataset

    opt = dataset_options(root, backend, gt_size, num_frame)
    if backend == 'lmdb':
        opt.update({key: opt[key].replace('/lmdb/', '/lmdb_stock/') for key in ('dataroot_gt', 'dataroot_lq')})
    dataset = REDSRecurrentDataset(opt)

    def load(seed: int) -> Any:
        random.seed(seed)
        return dataset[seed % 80]

    return load


def timed(load: Callable[[int], Any], seeds: Iterator[int], seconds: float) -> float:
    """Milliseconds a sample: the mean over as many as fit into ``seconds``, at least two."""
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        load(next(seeds))
        count += 1
    return (time.perf_counter() - start) / count * 1e3


def _compare(root: Path, rounds: int) -> None:
    from multigrid_vsr.core.plan import format_table

    rows = []
    for gt_size, num_frame in SHAPES:
        loaders = {
            (kind, backend): make(root, backend, gt_size, num_frame)
            for kind, make in (('stock', stock), ('ours', ours))
            for backend in ('disk', 'lmdb', 'packed')
            if (kind, backend) != ('stock', 'packed')
        }
        times: dict[tuple[str, str], list[float]] = {key: [] for key in loaders}
        seeds = {key: iter(range(1 << 30)) for key in loaders}
        for load, counter in zip(loaders.values(), seeds.values()):
            load(next(counter))
        for _ in range(rounds):
            for key, load in loaders.items():
                times[key].append(timed(load, seeds[key], 0.3))
        median = {key: statistics.median(values) for key, values in times.items()}
        packed = median['ours', 'packed']
        rows.append(
            (
                f'{gt_size} x {num_frame}',
                *(f'{value:.2f}' for value in median.values()),
                f'{median["stock", "disk"] / packed:.0f}x',
                f'{median["stock", "lmdb"] / packed:.0f}x',
                f'{median["stock", "disk"] / median["ours", "disk"]:.2f}x',
                f'{packed / (gt_size**2 * num_frame) * 1e6:.2f}',
            )
        )
    header = ('gt x frames', *(f'{kind} {backend}' for kind, backend in loaders))
    print('ms a sample, one process; the ratios are stock PNG / packed, stock LMDB / packed, stock PNG / our PNG:')
    print(format_table((*header, 'vs PNG', 'vs LMDB', 'PNG', 'ns/pixel'), rows))


def _scaling(root: Path, rounds: int) -> None:
    """Samples a second with one worker and with two, through the loader of a run and without it."""
    rates: dict[tuple[str, int], list[float]] = {
        (kind, workers): [] for kind in ('loader', 'alone') for workers in (1, 2)
    }
    for _ in range(rounds):
        for (kind, workers), values in rates.items():
            values.append((through_loader if kind == 'loader' else _in_processes)(root, workers))
    one, two, one_alone, two_alone = (statistics.median(values) for values in rates.values())
    print(
        f'gt 256 x 15, packed: {one:.0f} samples/s with 1 worker, {two:.0f} with 2: {two / one:.2f}x. Processes that '
        f'load for nobody: {one_alone:.0f} and {two_alone:.0f}: {two_alone / one_alone:.2f}x.'
    )


def batches(root: Path, shape: BatchShape, count: int) -> tuple[Any, BatchRequests]:
    """A dataset on the store, and the requests of so many batches."""
    from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset

    dataset = MultigridREDSDataset(dataset_options(root, 'packed', shape.gt_size, shape.num_frame))
    return dataset, BatchRequests(Schedule.from_shapes([(count, shape)], shape), len(dataset), seed=0)


def through_loader(root: Path, workers: int, count: int = 400) -> float:
    """Samples a second of so many batches, through the loader of a run; the first ones do not count."""
    from multigrid_vsr.data.loader import MultigridLoader

    loaded = iter(MultigridLoader(*batches(root, _LARGE, count + 20), num_workers=workers))
    for _ in range(20):
        next(loaded)
    start = time.perf_counter()
    return sum(4 for _ in loaded) / (time.perf_counter() - start)


def _in_processes(root: Path, count: int) -> float:
    """What processes load that have nothing to do with each other, each into memory of its own."""
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

    dataset, requests = batches(root, _LARGE, 220)
    num_bytes = dataset.num_bytes(requests.schedule.full_shape)
    slots = SharedSlots(dataset, requests.at, num_bytes, num_ahead=1, num_held=0)
    for iteration in requests.iterations[:20]:
        slots[0, iteration]
    barrier.wait()
    start = time.perf_counter()
    for iteration in requests.iterations[20:]:
        slots[0, iteration]
    answers.put(4 * 200 / (time.perf_counter() - start))


def _cold(root: Path) -> None:
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
                _unmap_pages(root / f'store/{kind}/frames.bin')
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
            before = _read_bytes()
            load(seed)
            ratios.append((_read_bytes() - before) / crop)
        print(
            f'gt {gt_size} x {num_frame}, cold cache: {statistics.median(ratios):.2f} bytes read a byte of the crops.'
        )


def _unmap_pages(path: Path) -> None:
    """Drops this process's own mapped pages of a file: the kernel keeps what is mapped."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with open('/proc/self/maps') as maps:
        for line in maps:
            if line.rstrip().endswith(str(path.resolve())):
                start, end = (int(value, 16) for value in line.split()[0].split('-'))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED


def _read_bytes() -> int:
    for line in Path('/proc/self/io').read_text().splitlines():
        if line.startswith('read_bytes'):
            return int(line.split()[1])
    return 0


def _memory(root: Path) -> None:
    """Memory beside mapped pages: what opening takes, and what 100,000 samples add."""
    before = _anonymous_mb()
    load = ours(root, 'packed', 64, 7)
    load(0)
    opened = _anonymous_mb()
    for seed in range(100_000):
        load(seed)
    print(
        f'Memory beside mapped pages: opening a store takes {opened - before:.1f} MiB, 100,000 samples add '
        f'{_anonymous_mb() - opened:.1f} MiB.'
    )


def _anonymous_mb() -> float:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == '__main__':
    run_rounds('loader', __doc__, measure)
