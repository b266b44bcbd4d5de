"""What ``bench gpu`` measures, each in one call in a process of its own; BasicSR's log goes nowhere."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import spynet_arch
from basicsr.data import build_dataset
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from multigrid_vsr.bench import loader
from multigrid_vsr.bench.gpu_plan import IN_PARTS, OPTIONS, STOCK, Sizes, recipe_options, stock_options
from multigrid_vsr.bench.step import batches_of, model_of
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape, SampleRequest
from multigrid_vsr.host.registering import register

_LONG = 1000  # iterations of a segment: a graph of it pays


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


def try_option(
    root: Path, network: dict[str, Any], shapes: tuple[BatchShape, ...], option: str, counts: tuple[int, ...]
) -> dict[str, Any]:
    """Trains a few iterations of each shape with an option; the weights have to change, and the loss to be a number.

    Returns:
        The loss of the last one, and what the log says of graphs and warns of.
    """
    schedule = Schedule.from_shapes([(_LONG, shape) for shape in shapes], shapes[-1])
    clean_up()
    with _notes_of_the_log() as heard:
        changes = OPTIONS.get(option, {})
        max_batch = 1 if option == IN_PARTS else None
        model = model_of(root, 'MultigridVideoModel', network, schedule, max_batch, **changes)
        before = [parameter.detach().clone() for parameter in model.net_g.parameters()]
        for place, (shape, count) in enumerate(zip(shapes, counts)):
            batch = _batch(model, shape)
            for iteration in range(place * _LONG + 1, place * _LONG + 1 + count):
                _step(model, batch, iteration)
        loss = sum(model.get_current_log().values())
    if not math.isfinite(loss):
        raise ArithmeticError(f'the loss is {loss}')
    if all(torch.equal(old, new) for old, new in zip(before, model.net_g.parameters())):
        raise ArithmeticError('no weight has changed')
    return {'loss': loss, 'notes': heard}


def time_steps(root: Path, sizes: Sizes, column: str, shape: BatchShape, counts_launches: bool) -> dict[str, Any]:
    """Times whole iterations at one shape, batches in memory, the log left out.

    Returns:
        Milliseconds an iteration, GiB at the peak, what the log says of graphs and warns of, and launches, kernels and
        waits of one.
    """
    clean_up()
    name = 'VideoRecurrentModel' if column == STOCK else 'MultigridVideoModel'
    schedule = None if column == STOCK else Schedule.from_shapes([(_LONG, shape)], shape)
    with _notes_of_the_log() as heard:
        model = model_of(root, name, sizes.network, schedule, **OPTIONS.get(column, {}))
        batch = _batch(model, shape, name)
        iterations = iter(range(1, _LONG))
        for _ in range(sizes.warmup):
            _step(model, batch, next(iterations))
        times = []
        for _ in range(sizes.rounds):
            _wait()
            start = time.perf_counter()
            for _ in range(sizes.iters):
                _step(model, batch, next(iterations))
            _wait()
            times.append((time.perf_counter() - start) / sizes.iters * 1e3)
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
        found: dict[str, Any] = {'ms': statistics.median(times), 'peak_gib': peak, 'notes': heard}
        if counts_launches:
            activities = [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]
            with profile(activities=activities) as profiler:
                _step(model, batch, next(iterations))
            _wait()
            events = [(e.key, e.device_type == DeviceType.CUDA, e.count) for e in profiler.key_averages()]
            found |= counts_of(events)
    return found


def counts_of(events: Iterable[tuple[str, bool, int]]) -> dict[str, int]:
    """Launches by the host, kernels on the device, and waits of the host, out of a profile.

    Args:
        events: Name, whether it is of the device, and how often.
    """
    counts = {'launches': 0, 'kernels': 0, 'waits': 0}
    for name, is_of_device, count in events:
        if is_of_device:
            counts['kernels'] += 0 if name.startswith(('Memcpy', 'Memset')) else count
        elif name.startswith(('cudaLaunch', 'cuLaunch', 'cudaGraphLaunch')):
            counts['launches'] += count
        elif name.startswith(('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize')):
            counts['waits'] += count
    return counts


def time_loading(root: Path, sizes: Sizes, num_frame: int, gt_size: int, seconds: float) -> dict[str, float]:
    """Milliseconds that a sample takes one process: BasicSR's from PNG files, ours from the packed store."""
    options = {'stock_ms': stock_options(sizes, 12), 'packed_ms': recipe_options('plain', sizes, 12)}
    found = {}
    for name, opt in options.items():
        dataset_opt = opt['datasets']['train']
        dataset_opt |= {'phase': 'train', 'scale': opt['scale'], 'num_frame': num_frame, 'gt_size': gt_size}
        dataset_opt |= {key: str(root / dataset_opt[key]) for key in ('dataroot_gt', 'dataroot_lq', 'meta_info_file')}
        dataset = build_dataset(dataset_opt)
        load = dataset.__getitem__ if name == 'stock_ms' else partial(_load_one, dataset, num_frame, gt_size)
        found[name] = loader.timed(load, itertools.cycle(range(len(dataset))), seconds)
    return found


def _load_one(dataset: Any, num_frame: int, gt_size: int, number: int) -> Any:
    return dataset[[SampleRequest(number, num_frame, gt_size, number)]]


def _batch(model: Any, shape: BatchShape, name: str = 'MultigridVideoModel') -> dict[str, torch.Tensor]:
    batch = batches_of(shape)[name]
    if model.opt['datasets']['train']['target'] == 'center':
        batch['gt'] = batch['gt'][:, shape.num_frame // 2].contiguous()
    return {key: value.pin_memory() for key, value in batch.items()} if torch.cuda.is_available() else batch


def _step(model: Any, batch: dict[str, torch.Tensor], iteration: int) -> None:
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _notes_of_the_log() -> Iterator[list[str]]:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or 'graph' in record.getMessage())
    logger = logging.getLogger('basicsr')
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
