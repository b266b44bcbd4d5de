"""The frames that loading is measured on, as PNG, LMDB and store, and what loads them."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from multigrid_vsr.core.schedule import BatchShape, SampleRequest, Schedule
from multigrid_vsr.data.loader import BatchRequests, MultigridLoader
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames import pairs, prepare
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.sources import default_workers
from multigrid_vsr.frames.store import FINISHED, StoreInfo

COUNT = 100
LARGE = BatchShape(4, 15, 256)  # what through_loader loads
SHAPES = ((64, 7), (64, 15), (128, 15), (256, 15))  # gt_size, num_frame

Load = Callable[[int], Any]  # of a sample, by a number


def prepare_frames(root: Path) -> None:
    """Writes 100 frames of 1280x720 and their LQ frames as PNG and as a store, 0.4 GB, where they are not there yet.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    if not (root / 'png').exists():
        for number, frame in zip(range(COUNT), read_frames(find_video('bigbuckbunny.mp4'))):
            for kind, image in (('gt', frame), ('lq', pairs.shrink(frame, 4))):
                path = root / f'png.unfinished/{kind}/001/{number:08d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image)
        (root / 'png.unfinished/meta_info.txt').write_text(f'001 {COUNT} (720,1280,3)\n')
        (root / 'png.unfinished').rename(root / 'png')
    if not all((root / 'store' / kind / FINISHED).exists() for kind in ('gt', 'lq')):
        prepare.build(sources(root), root / 'store', default_workers())


def sources(root: Path) -> pairs.Sources:
    """What a store of the frames is built from."""
    return pairs.open_sources(root / 'png/gt', root / 'png/lq', 4)


def prepare_lmdbs(root: Path) -> None:
    """Writes BasicSR's LMDBs of the frames, where they are not there yet.

    There are two copies, because LMDB opens a file only once in a process.
    """
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    keys = [f'001/{number:08d}' for number in range(COUNT)]
    for target in (root / f'{name}/{kind}.lmdb' for name in ('lmdb', 'lmdb_stock') for kind in ('gt', 'lq')):
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its bars
                make_lmdb_from_imgs(str(root / 'png' / target.stem), str(target), [f'{key}.png' for key in keys], keys)


def write_black_store(root: Path, count: int, num_frame: int, height: int, width: int) -> None:
    """Writes ``root/store/{gt,lq}`` and ``root/png/meta_info.txt``: a store of so many clips of black frames.

    Its files are sparse, so a data set of any size takes no room. Height and width are those of ground truth.
    """
    gt = tuple(Clip(f'{number:06d}', num_frame, height, width) for number in range(count))
    for kind, clips in (('gt', gt), ('lq', tuple(clip.shrunk(4) for clip in gt))):
        folder, info = root / 'store' / kind, StoreInfo(clips, 4)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / 'frames.bin').open('wb') as file:
            file.truncate(info.size)
        np.zeros(count * num_frame, '<u8').tofile(folder / 'checksums.bin')
        (folder / FINISHED).write_text(info.to_json())
    (root / 'png').mkdir(exist_ok=True)
    lines = [f'{clip.name} {num_frame} ({height},{width},3)\n' for clip in gt]
    (root / 'png/meta_info.txt').write_text(''.join(lines))


def dataset_options(root: Path, backend: str, gt_size: int, num_frame: int) -> dict[str, Any]:
    """``datasets.train`` on the frames, by ``io_backend.type``."""
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


def ours(root: Path, backend: str, gt_size: int, num_frame: int) -> Load:
    """This project's dataset."""
    dataset = MultigridREDSDataset(dataset_options(root, backend, gt_size, num_frame))
    return lambda seed: dataset[[SampleRequest(seed * 7919 % len(dataset), num_frame, gt_size, seed)]]


def stock(root: Path, backend: str, gt_size: int, num_frame: int) -> Load:
    """BasicSR's dataset."""
    from basicsr.data.reds_dataset import REDSRecurrentDataset

    opt = dataset_options(root, backend, gt_size, num_frame)
    if backend == 'lmdb':
        opt.update({key: opt[key].replace('/lmdb/', '/lmdb_stock/') for key in ('dataroot_gt', 'dataroot_lq')})
    dataset = REDSRecurrentDataset(opt)

    def load(seed: int) -> Any:
        random.seed(seed)
        return dataset[seed % 80]

    return load


def timed(load: Load, seeds: Iterator[int], seconds: float) -> float:
    """Milliseconds a sample: the mean over as many as fit into ``seconds``, at least two."""
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        load(next(seeds))
        count += 1
    return (time.perf_counter() - start) / count * 1e3


def batches(root: Path, shape: BatchShape, count: int) -> tuple[MultigridREDSDataset, BatchRequests]:
    """A dataset on the store, and the requests of so many batches."""
    dataset = MultigridREDSDataset(dataset_options(root, 'packed', shape.gt_size, shape.num_frame))
    return dataset, BatchRequests(Schedule.from_shapes([(count, shape)], shape), len(dataset), seed=0)


def through_loader(root: Path, workers: int, count: int = 400) -> float:
    """Samples a second of so many batches, through the loader of a run; the first ones do not count."""
    loaded = iter(MultigridLoader(*batches(root, LARGE, count + 20), num_workers=workers))
    for _ in range(20):
        next(loaded)
    start = time.perf_counter()
    return sum(LARGE.batch_size_per_gpu for _ in loaded) / (time.perf_counter() - start)
