"""The trial of shapes before iteration 1: what does not fit fails now and not days later, and each shape is timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from multigrid_vsr.core.errors import InputError, one_line
from multigrid_vsr.core.plan import remaining_pixels
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models import acceleration
from multigrid_vsr.models.clock import StepTime, time_step
from multigrid_vsr.options.archs import leaves_doubt

MOST_OF_A_RUN = 0.03  # what timing the shapes may cost
_ROUNDS = 3
# A library that is refused its workspace says so in its own words, as an error of its own or of CUDA.
_WORDS = ('out of memory', 'alloc_failed', 'cudnn_status_not_supported', 'not enough memory', "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or of a library below it says that memory is full."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def remember(model: Any) -> Callable[[], None]:
    """Remembers the buffers of a model's networks and the random state of its devices; returns what restores them."""
    networks = [getattr(model, name) for name in ('net_g', 'net_d') if hasattr(model, name)]
    buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    on_cpu = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(model.device) if model.device.type == 'cuda' else None

    def bring_back() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, model.device)

    return bring_back


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Puts buffers, gradients, random state and scaler back as they were."""
    bring_back, scaler = remember(model), copy.deepcopy(model.scaler.state_dict())
    yield
    for optimizer in model.optimizers:
        optimizer.zero_grad()
    bring_back()
    if scaler:
        model.scaler.load_state_dict(scaler)
    if model.device.type == 'cuda':
        torch.cuda.empty_cache()


def preflight(model: Any, schedule: Schedule, current_iter: int = 1) -> None:
    """Tries the shapes of a run that are still to come; the model stays as it is.

    A small batch of every shape goes forward through an arch whose limits are not sure. The largest shape goes forward
    and backward where memory is that of a GPU. With ``train.compile`` every shape does, so that none is compiled later.

    Raises:
        InputError: If the arch does not take a shape, or the memory of the GPU does not hold the largest.
    """
    shapes = sorted(_ahead(schedule, current_iter), key=partial(_part_pixels, model), reverse=True)
    with _unchanged(model):
        is_basicsrs = type(model.get_bare_model(model.net_g)).__module__.startswith('basicsr.archs.')
        if leaves_doubt(model.opt['network_g']) or not is_basicsrs:
            for num_frame, gt_size in dict.fromkeys((shape.num_frame, shape.gt_size) for shape in shapes):
                _check_output(model, num_frame, gt_size)
        if model.opt['train'].get('checkpoint_modules'):
            _check_computed_again(model, shapes[-1])
        if model.opt['train'].get('compile'):
            for shape in shapes:
                _run(model, shape)
        elif model.device.type == 'cuda':
            _run(model, shapes[0])


def time_shapes(model: Any, schedule: Schedule, current_iter: int) -> dict[BatchShape, StepTime]:
    """Times forward and backward of each shape to come; the model stays as it is.

    The trial is eager: with ``train.cuda_graph`` an iteration takes less. Nothing is timed where there is one shape
    only, or where the trial would cost more than a 33rd of what is left.
    """
    shapes = _ahead(schedule, current_iter)
    if len(shapes) < 2:
        return {}
    least = _ROUNDS if model.device.type == 'cuda' else 1  # the first chooses algorithms there
    left = remaining_pixels(schedule, current_iter - 1) / sum(shape.pixels for shape in shapes)
    rounds = min(_ROUNDS, int(MOST_OF_A_RUN * left))
    if rounds < least:
        return {}

    def time_of(shape: BatchShape) -> StepTime:
        batch = random_batch(model, _of_all_gpus(model, shape))
        return time_step(model.device, lambda: model.backward(*batch))

    with _unchanged(model):
        time_of(min(shapes, key=lambda shape: shape.pixels))  # what is loaded and allocated once
        return {shape: min(time_of(shape) for _ in range(rounds)) for shape in shapes}


def random_batch(model: Any, shape: BatchShape) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as the training set gives it. Random: BasicVSR++ takes a batch of zeros for a mirrored sequence, and
    every later one too."""
    lead = (shape.batch_size_per_gpu, shape.num_frame)
    lq_size = shape.gt_size // model.opt.get('scale', 1)
    lq = torch.rand(*lead, 3, lq_size, lq_size, device=model.device)
    gt_lead = lead[:1] if model.opt['datasets']['train'].get('target') == 'center' else lead
    return lq, torch.rand(*gt_lead, 3, shape.gt_size, shape.gt_size, device=model.device)


def _ahead(schedule: Schedule, current_iter: int) -> list[BatchShape]:
    return list(dict.fromkeys(segment.shape for segment in schedule.segments if segment.end >= current_iter))


def _of_all_gpus(model: Any, shape: BatchShape) -> BatchShape:
    """The batch of this process: without a launcher it feeds all its GPUs."""
    return replace(shape, batch_size_per_gpu=shape.batch_size_per_gpu * model.gpus)


def _part_pixels(model: Any, shape: BatchShape) -> int:
    """Ground-truth pixels that go through the network at a time: what memory has to hold."""
    samples = model.samples_at_a_time(shape.batch_size_per_gpu * model.gpus, shape.num_frame, shape.gt_size)
    return replace(shape, batch_size_per_gpu=samples).pixels


def _check_output(model: Any, num_frame: int, gt_size: int) -> None:
    wrong = _failure(model, num_frame, gt_size)
    if wrong is None:
        return
    scale, full = model.opt.get('scale', 1), model.schedule.full_shape.gt_size
    larger = range(gt_size + scale, full + 1, scale)
    smallest = next((size for size in larger if _failure(model, num_frame, size) is None), None)
    fix = 'Leave that shape out.' if smallest is None else (
        f'The smallest gt_size that it takes is {smallest}: leave smaller ones out (multigrid.min_lq_size: '
        f'{smallest // scale}).'
    )  # fmt: skip
    if wrong.startswith('output'):
        fix = 'Correct scale, or set datasets.train.target: center for an arch that gives the frame in the middle.'
    raise InputError(
        f'multigrid: must have shapes that {model.opt["network_g"]["type"]} takes, got num_frame {num_frame} and '
        f'gt_size {gt_size} ({wrong}). {fix}'
    )


def _failure(model: Any, num_frame: int, gt_size: int) -> str | None:
    """What is wrong with a shape, or ``None`` where the network takes it."""
    lq, gt = random_batch(model, BatchShape(1, num_frame, gt_size))
    network = model.get_bare_model(model.net_g).eval()
    try:
        with torch.no_grad(), acceleration.eager():  # a batch of one is compiled for nothing
            output = network(lq)
    except Exception as error:  # whatever an arch raises at a shape that it does not take
        return one_line(error) or type(error).__name__
    finally:
        network.train()
    if not isinstance(output, torch.Tensor):
        return f'output {type(output).__name__} in place of a tensor'
    same = output.shape == gt.shape
    return None if same else f'output {tuple(output.shape)} for a ground truth of {tuple(gt.shape)}'


def _check_computed_again(model: Any, shape: BatchShape) -> None:
    try:
        _run(model, replace(shape, batch_size_per_gpu=1))
    except RuntimeError as error:  # torch's, where a module has changed its input in place
        names = model.opt['train']['checkpoint_modules']
        raise InputError(
            f'train.checkpoint_modules: must name modules that can be computed again, got {names} '
            f'({one_line(error, 200)}). Name those below or above them.'
        ) from None


def _run(model: Any, shape: BatchShape) -> None:
    try:
        model.backward(*random_batch(model, _of_all_gpus(model, shape)))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        need = torch.cuda.max_memory_allocated() / 2**30 if model.device.type == 'cuda' else 0.0
        raise InputError(
            f'multigrid.batch_size_per_gpu: must fit the memory of the GPU, got {shape.batch_size_per_gpu} samples of '
            f'{shape.num_frame} frames and gt_size {shape.gt_size}, which need more than {need:.1f} GiB. '
            'Lower it, or set multigrid.micro_batch_size_per_gpu to cut it into parts.'
        ) from None
