"""What ``benchmarks.gpu`` measures, each in one call in a process of its own; BasicSR's log goes nowhere."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import statistics
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import spynet_arch
from basicsr.data import build_dataset
from torch import nn
from tqdm import tqdm

from benchmarks.frames import timed
from benchmarks.gpu_plan import OPTIONS, STOCK, Sizes, run_options
from benchmarks.step import batches_of, model_of
from multigrid_vsr.core.schedule import BatchShape, SampleRequest, Schedule
from multigrid_vsr.demo import prepare
from multigrid_vsr.host.registering import register
from multigrid_vsr.launches import as_basicsr_has_them

_PATHS = ('dataroot_gt', 'dataroot_lq', 'meta_info_file')
LONG = 1000  # iterations of a segment: a graph of it pays


def begin(said: Path) -> None:
    """Makes a process ready to measure; what it prints goes into a file, which a crash may be in."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    warnings.filterwarnings('ignore')
    register()  # BasicSR was imported from here, so nothing has been yet


def begin_dry(said: Path) -> None:
    """The same with a flow network of a few channels; nothing is compiled, which takes minutes on a CPU."""
    begin(said)

    class BasicModule(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(8, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1))

    spynet_arch.BasicModule = BasicModule

    def as_written(module: nn.Module, **_: Any) -> None:
        module._compiled_call_impl = module._call_impl

    nn.Module.compile = as_written  # type: ignore[method-assign, assignment]


def clean_up() -> None:
    """Gives all memory back; raises an error where the device is lost."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device() -> dict[str, str]:
    """What it is measured on."""
    found = {'torch': torch.__version__, 'cuda': torch.version.cuda or '-', 'device': 'CPU'}
    if torch.cuda.is_available():
        found |= {'device': torch.cuda.get_device_name(), 'cudnn': str(torch.backends.cudnn.version())}
    return found


def time_steps(root: Path, sizes: Sizes, column: str, shape: BatchShape) -> dict[str, Any]:
    """Times whole iterations at one shape, batches in memory, the log left out; stock's archs are BasicSR's own.

    Returns:
        Milliseconds an iteration, GiB at the peak, whether a graph was asked for and not captured, and what the log
        says of graphs and warns of.
    """
    clean_up()
    is_stock = column == STOCK
    name = 'VideoRecurrentModel' if is_stock else 'MultigridVideoModel'
    schedule = None if is_stock else Schedule.from_shapes([(LONG, shape)], shape)
    with notes_of_the_log() as heard, as_basicsr_has_them() if is_stock else nullcontext():
        model = model_of(root, name, sizes.network, schedule, **OPTIONS.get(column, {}))
        batch = batch_of(model, batches_of(shape)[name])
        step = partial(train_next, model, batch, itertools.count(1))
        for _ in range(sizes.warmup):
            step()
        times = []
        for _ in range(sizes.rounds):
            _wait()
            start = time.perf_counter()
            for _ in range(sizes.iters):
                step()
            _wait()
            times.append((time.perf_counter() - start) / sizes.iters * 1e3)
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    graph = 'stays eager' if stays_eager(column, heard, 1) else None
    return {'ms': statistics.median(times), 'peak_gib': peak, 'graph': graph, 'notes': heard}


def load(root: Path, sizes: Sizes, shapes: Iterable[tuple[int, int]], seconds: float) -> dict[str, list[float]]:
    """Prepares the frames of the demo, and times how long a sample takes one process, at each (num_frame, gt_size).

    Returns:
        Milliseconds of each shape: BasicSR's dataset on PNG files, ours on the packed store.
    """
    os.nice(10)  # the processes that pack the frames share the cores with what is measured meanwhile
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, left behind when this process is killed
    prepare(root / 'data')
    found: dict[str, list[float]] = {}
    for name, run in (('stock_ms', STOCK), ('packed_ms', 'plain')):
        opt = run_options(run, sizes, 12)
        dataset_opt = {**opt['datasets']['train'], 'phase': 'train', 'scale': opt['scale']}
        dataset_opt |= {key: str(root / dataset_opt[key]) for key in _PATHS}
        found[name] = []
        for num_frame, gt_size in shapes:
            dataset = build_dataset({**dataset_opt, 'num_frame': num_frame, 'gt_size': gt_size})
            load_one = dataset.__getitem__ if run == STOCK else partial(_load_one, dataset, num_frame, gt_size)
            found[name].append(timed(load_one, itertools.cycle(range(len(dataset))), seconds))
    return found


def _load_one(dataset: Any, num_frame: int, gt_size: int, number: int) -> Any:
    return dataset[[SampleRequest(number, num_frame, gt_size, number)]]


def batch_of(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch as a loader gives it."""
    if model.opt['datasets']['train']['target'] == 'center':
        batch['gt'] = batch['gt'][:, batch['gt'].shape[1] // 2].contiguous()
    return {key: on_host(frames) for key, frames in batch.items()}


def on_host(frames: torch.Tensor) -> torch.Tensor:
    """Frames as a loader gives them."""
    return frames.pin_memory() if torch.cuda.is_available() else frames.contiguous()


def train_next(model: Any, batch: dict[str, torch.Tensor], iterations: Iterator[int]) -> None:
    """The next iteration, the log left out."""
    iteration = next(iterations)
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def stays_eager(option: str, heard: list[str], count: int) -> bool:
    """Whether an option asked for graphs, and less than so many were captured."""
    return 'cuda_graph' in OPTIONS.get(option, {}) and sum(note.startswith('Captured ') for note in heard) < count


@contextmanager
def notes_of_the_log() -> Iterator[list[str]]:
    """Gives what the log says of graphs and warns of."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or 'graph' in record.getMessage())
    logger = logging.getLogger('basicsr')
    level = logger.level
    logger.setLevel(logging.INFO)  # BasicSR sets it where it has a file to log to
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
