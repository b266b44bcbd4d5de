"""What ``benchmarks.gpu`` measures: each function is one call in a process of its own, BasicSR's log goes nowhere."""

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
from benchmarks.gpu_plan import IN_PARTS, OPTIONS, STOCK, Sizes, run_options
from benchmarks.step import batches_of, model_of
from multigrid_vsr.core.schedule import BatchShape, SampleRequest, Schedule
from multigrid_vsr.demo import prepare
from multigrid_vsr.host.patch import register
from multigrid_vsr.launches import as_basicsr_has_them

LONG = 1000  # iterations of a segment: long enough for a graph to pay
# How far the gradient of a part of the network may be from eager float32's, as a share of its norm. A part that is
# missing or stale is off by about 1. On a CPU, with BasicVSR (64 features, 4 blocks) and four seeds, other layouts in
# float32 were off by up to 0.0005 (rounding takes a flow to the next pixel), bfloat16 by up to 0.06. Parts are compared
# because 95 % of the norm of the whole gradient is the last convolution, and 1 % a trunk.
_LIMIT, _HALF_LIMIT = 0.005, 0.25
Gradients = list[dict[str, torch.Tensor]]  # at each shape, by the part of the network
_eager_float32: dict[str, Gradients] = {}  # by arch


def begin(said: Path) -> None:
    """Makes a process ready to measure; its output goes into a file, which then also has the output of a crash."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    warnings.filterwarnings('ignore')
    register()  # this module imported BasicSR, so nothing is registered yet


def begin_dry(said: Path) -> None:
    """The same with a flow network of a few channels, and without compiling, which takes minutes on a CPU."""
    begin(said)

    class BasicModule(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(8, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1))

    spynet_arch.BasicModule = BasicModule

    def as_written(module: nn.Module, **_: Any) -> None:
        module._compiled_call_impl = module._call_impl

    nn.Module.compile = as_written  # type: ignore[method-assign, assignment]


def clean_up() -> None:
    """Gives all memory back; raises an error if the device is lost."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device() -> dict[str, str]:
    """The device and the versions."""
    found = {'torch': torch.__version__, 'cuda': torch.version.cuda or '-', 'device': 'CPU'}
    if torch.cuda.is_available():
        found |= {'device': torch.cuda.get_device_name(), 'cudnn': str(torch.backends.cudnn.version())}
    return found


def try_option(
    root: Path, network: dict[str, Any], shapes: tuple[BatchShape, ...], option: str, count: int
) -> dict[str, Any]:
    """Compares the gradient of an option with eager float32's at each shape, after so many iterations of the shape.

    Returns:
        The verdict, the largest difference of a part of the network as a share of its norm, and the log's warnings and
        lines on graphs.
    """
    clean_up()
    arch = network['type']
    if arch not in _eager_float32:
        _eager_float32[arch] = _gradients(root, network, shapes, 'none', count)
    with _notes_of_the_log() as heard:
        found = _gradients(root, network, shapes, option, count)
    differences = [
        (gradients.get(part, 0) - gradient).norm() / gradient.norm()
        for gradients, expected in zip(found, _eager_float32[arch], strict=True)
        for part, gradient in expected.items()
    ]
    difference = float(torch.stack(differences).max())  # NaN if one is
    verdict = 'stays eager' if _stays_eager(option, heard, len(shapes)) else 'passes'
    if not difference <= (_HALF_LIMIT if 'amp' in OPTIONS.get(option, {}) else _LIMIT):
        verdict = 'WRONG'
    return {'verdict': verdict, 'difference': difference, 'notes': heard}


def _gradients(
    root: Path, network: dict[str, Any], shapes: tuple[BatchShape, ...], option: str, count: int
) -> Gradients:
    """Gradients for new weights and frames, which a captured graph has to read."""
    torch.manual_seed(0)
    schedule = Schedule.from_shapes([(LONG, shape) for shape in shapes], shapes[-1])
    max_batch = 1 if option == IN_PARTS else None
    model = model_of(root, 'MultigridVideoModel', network, schedule, max_batch, **OPTIONS.get(option, {}))
    named = list(model.get_bare_model(model.net_g).named_parameters())
    generator = torch.Generator().manual_seed(1)
    weights = [p.detach().cpu() + 0.01 * torch.randn(p.shape, generator=generator) for _, p in named]
    found = []
    # Tuning would take most of the time, and with TensorFloat-32 kernels differ by more than by rounding.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        for place, shape in enumerate(shapes):
            batch = _batch_of(model, {'lq': _waves(shape, shape.gt_size // 4), 'gt': _waves(shape, shape.gt_size)})
            iterations = itertools.count(place * LONG + 1)
            for _ in range(count):
                train_next(model, batch, iterations)
            for (_, parameter), weight in zip(named, weights):
                parameter.data.copy_(weight)
            train_next(model, {key: _on_host(frames.flip(-2)) for key, frames in batch.items()}, iterations)
            parts: dict[str, list[torch.Tensor]] = {}
            for name, parameter in named:
                if parameter.grad is not None:
                    parts.setdefault(name.split('.')[0], []).append(parameter.grad.flatten())
            found.append({part: torch.cat(gradients) for part, gradients in parts.items()})
    if all(torch.equal(parameter.detach().cpu(), weight) for (_, parameter), weight in zip(named, weights)):
        raise ArithmeticError('no weight has changed')
    return found


def _waves(shape: BatchShape, side: int) -> torch.Tensor:
    """Smooth frames that move, uint8 (b, t, h, w, c): with noise, rounding decides the flow network's gradient."""
    sample, frame = torch.arange(shape.batch_size_per_gpu), torch.arange(shape.num_frame)
    place = torch.linspace(0, 9, side)
    phase = 2 * sample.view(-1, 1, 1, 1, 1) + 0.3 * frame.view(-1, 1, 1, 1) + torch.arange(3)
    return ((1 + torch.sin(phase + 0.7 * place.view(-1, 1, 1) + place.view(-1, 1))) * 127.5).byte()


def time_steps(root: Path, sizes: Sizes, column: str, shape: BatchShape) -> dict[str, Any]:
    """Times whole iterations at one shape, batches in memory, the log left out; stock has BasicSR's own archs.

    Returns:
        Milliseconds an iteration, GiB at the peak, whether a graph was asked for and not captured, and the log's
        warnings and lines on graphs.
    """
    clean_up()
    is_stock = column == STOCK
    name = 'VideoRecurrentModel' if is_stock else 'MultigridVideoModel'
    schedule = None if is_stock else Schedule.from_shapes([(LONG, shape)], shape)
    with _notes_of_the_log() as heard, as_basicsr_has_them() if is_stock else nullcontext():
        model = model_of(root, name, sizes.network, schedule, **OPTIONS.get(column, {}))
        batch, iterations = _batch_of(model, batches_of(shape)[name]), itertools.count(1)
        for _ in range(sizes.warmup):
            train_next(model, batch, iterations)
        times = []
        for _ in range(sizes.rounds):
            _wait()
            start = time.perf_counter()
            for _ in range(sizes.iters):
                train_next(model, batch, iterations)
            _wait()
            times.append((time.perf_counter() - start) / sizes.iters * 1e3)
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    graph = 'stays eager' if _stays_eager(column, heard, 1) else None
    return {'ms': statistics.median(times), 'peak_gib': peak, 'graph': graph, 'notes': heard}


def load(root: Path, sizes: Sizes, shapes: Iterable[tuple[int, int]], seconds: float) -> dict[str, list[float]]:
    """Prepares the frames of the demo, and times how long a sample takes one process, at each (num_frame, gt_size).

    Returns:
        Milliseconds of each shape: BasicSR's dataset on PNG files, ours on the packed store.
    """
    os.nice(10)  # the processes that pack the frames share the cores with the measurements
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, left behind when this process is killed
    prepare(root / 'data')
    found: dict[str, list[float]] = {}
    for name, run in (('stock_ms', STOCK), ('packed_ms', 'plain')):
        opt = run_options(run, sizes, 12)
        dataset_opt = {**opt['datasets']['train'], 'phase': 'train', 'scale': opt['scale']}
        paths = ('dataroot_gt', 'dataroot_lq', 'meta_info_file')
        dataset_opt |= {key: str(root / dataset_opt[key]) for key in paths}
        found[name] = []
        for num_frame, gt_size in shapes:
            dataset = build_dataset({**dataset_opt, 'num_frame': num_frame, 'gt_size': gt_size})
            load_one = dataset.__getitem__ if run == STOCK else partial(_load_one, dataset, num_frame, gt_size)
            found[name].append(timed(load_one, itertools.cycle(range(len(dataset))), seconds))
    return found


def _load_one(dataset: Any, num_frame: int, gt_size: int, number: int) -> Any:
    return dataset[[SampleRequest(number, num_frame, gt_size, number)]]


def _batch_of(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch as a loader gives it."""
    if model.opt['datasets']['train']['target'] == 'center':
        batch['gt'] = batch['gt'][:, batch['gt'].shape[1] // 2].contiguous()
    return {key: _on_host(frames) for key, frames in batch.items()}


def _on_host(frames: torch.Tensor) -> torch.Tensor:
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


def _stays_eager(option: str, heard: list[str], count: int) -> bool:
    """Whether an option asked for graphs, and fewer than so many were captured."""
    return 'cuda_graph' in OPTIONS.get(option, {}) and sum(note.startswith('Captured ') for note in heard) < count


@contextmanager
def _notes_of_the_log() -> Iterator[list[str]]:
    """Collects the log's warnings and lines on graphs."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or 'graph' in record.getMessage())
    logger = logging.getLogger('basicsr')
    level = logger.level
    logger.setLevel(logging.INFO)  # BasicSR sets it only where it has a file to log to
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
