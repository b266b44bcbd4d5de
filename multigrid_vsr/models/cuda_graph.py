"""A whole iteration as one CUDA graph (``train.cuda_graph``): one launch in place of thousands.

Not measured on a GPU yet.

On a fast GPU an iteration of a small crop takes as long as the host needs to launch its kernels. A graph of forward,
losses and backward is captured once for each kind of iteration and launched as a whole. Graphs of single modules
(``torch.cuda.make_graphed_callables``) do not work here: a recurrent network calls a module many times an iteration,
and the next call would overwrite what the backward needs.
"""

from __future__ import annotations

import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.preflight import is_out_of_memory, remember
from multigrid_vsr.models.wrapping import average_gradients, broadcast, buffers_may_differ, of_all_ranks

Losses = dict[str, torch.Tensor]

_ALIGNED = 16  # bytes, where each gradient begins: kernels read four floats at a time from there


@dataclass(frozen=True)
class Failure:
    """Why an iteration is not captured."""

    reason: str  # what was raised, and where
    # CUDA could not end the capture. Torch's allocator then waits for that end for ever, and up to torch 2.12 the next
    # `torch.cuda.empty_cache()` raises.
    is_fatal: bool = False


@dataclass(frozen=True)
class Captured:
    """An iteration that is launched as a whole. The graph reads ``lq`` and ``gt``, and writes losses and gradients."""

    graph: Any
    lq: torch.Tensor
    gt: torch.Tensor
    losses: Losses
    gradients: list[torch.Tensor]  # flat: one tensor for each dtype
    of_parameter: list[tuple[torch.nn.Parameter, torch.Tensor]]  # each one that trains, and its view of the gradients

    def replay(self, lq: torch.Tensor, gt: torch.Tensor) -> Losses:
        """Computes losses and gradients of another batch."""
        self.lq.copy_(lq)
        self.gt.copy_(gt)
        self.graph.replay()
        self.set_gradients()
        return self.losses

    def set_gradients(self) -> None:
        """Gives the parameters their gradients."""
        for parameter, gradient in self.of_parameter:
            parameter.grad = gradient


def capture(
    backward: Callable[[torch.Tensor, torch.Tensor], Losses],
    batch: tuple[torch.Tensor, torch.Tensor],
    losses: Mapping[str, torch.Tensor],
    parameters: Sequence[torch.nn.Parameter],
    stream: Any,
) -> Captured | Failure:
    """Captures an iteration, which computes nothing.

    Args:
        backward: Adds the gradient of LQ and ground truth, and gives the losses.
        batch: LQ and ground truth of the shape of all batches.
        losses: Losses of the kind that ``backward`` gives.
        parameters: Those that get a gradient.
        stream: The stream on which the iteration has warmed up.
    """
    reason, before = None, torch.cuda.current_stream()
    try:
        lq, gt = (frames.clone() for frames in batch)
        gradients, views = flat_like(parameters)
        kept = {name: torch.empty_like(loss) for name, loss in losses.items()}
        captured = Captured(torch.cuda.CUDAGraph(), lq, gt, kept, gradients, list(zip(parameters, views, strict=True)))
        pool = torch.cuda.graph_pool_handle()
        # Other threads go on meanwhile: workers' batches are pinned, ranks are watched.
        with torch.cuda.graph(captured.graph, pool=pool, stream=stream, capture_error_mode='thread_local'):
            try:
                captured.set_gradients()
                for gradient in gradients:
                    gradient.zero_()
                for name, loss in backward(lq, gt).items():
                    kept[name].copy_(loss)
            except RuntimeError as error:
                reason = told(error)  # the first error: at the end CUDA only says that there was one
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # `torch.cuda.graph` stays on its own where the end fails
        # Memory may be full before the capture, or after its end, where CUDA makes it launchable: that spoils nothing.
        is_fatal = reason is not None or not is_out_of_memory(error)
        return Failure(reason or told(error), is_fatal)
    return captured if reason is None else Failure(reason)


def told(error: Exception) -> str:
    """An error with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{one_line(error)} ({os.path.basename(frame.filename)}, line {frame.lineno})'


def flat_like(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """One flat tensor for each dtype, and views of it that are laid out as the given tensors."""
    sizes: dict[torch.dtype, int] = {}
    starts = []
    for tensor in tensors:
        step = _ALIGNED // tensor.element_size()
        starts.append(-(-sizes.get(tensor.dtype, 0) // step) * step)
        sizes[tensor.dtype] = starts[-1] + tensor.numel()
    flat = {dtype: torch.empty(size, dtype=dtype, device=tensors[0].device) for dtype, size in sizes.items()}
    views = [
        flat[tensor.dtype].as_strided(tensor.shape, tensor.stride(), start) for tensor, start in zip(tensors, starts)
    ]
    return list(flat.values()), views


LEAST_ITERATIONS = 50  # of a kind, for which capturing pays
WARM_UP = 3  # iterations of a kind before it is captured, as torch's documentation asks; they train like any other
_OWN_STEP = ('optimize_parameters', 'update')


def graph_of(model: Any, base: type) -> IterationGraph | None:
    """What computes the gradients of a model with ``train.cuda_graph``; ``None`` without it, or where it cannot.

    Args:
        model: A ``MultigridVideoModel``.
        base: That class. A subclass with an iteration of its own computes its gradients itself.
    """
    if not model.opt['train'].get('cuda_graph'):
        return None
    own = [name for name in _OWN_STEP if getattr(type(model), name) is not getattr(base, name)]
    if not is_on_gpu(model):
        reason = 'there is no GPU'
    elif own:
        reason = f'{type(model).__name__} has its own {own[0]}'
    elif not model.opt['dist'] and model.opt['num_gpu'] > 1:
        reason = 'one process has several GPUs'
    elif model.opt['train'].get('checkpoint_modules'):
        reason = 'checkpoint_modules set the random state again, which a graph cannot'
    else:
        return IterationGraph(model)
    get_root_logger().info(f'train.cuda_graph is off: {reason}.')
    return None


def is_on_gpu(model: Any) -> bool:
    """Whether the model is on a device that takes graphs."""
    return model.device.type == 'cuda'


def iterations_alike(current_iter: int, opt: Mapping[str, Any], schedule: Schedule | None) -> int:
    """How many iterations, from this one on, are of its kind: to a boundary, a thaw, a validation or the end.

    Args:
        current_iter: BasicSR's, which counts from 1.
        opt: Options of the run.
        schedule: Shapes of the run; ``None`` for one shape without end.
    """
    train_opt = opt['train']
    end = sys.maxsize if schedule is None else schedule.at_current_iter(current_iter).end
    left = [end - (current_iter - 1)]
    left += [n - current_iter for n in map(train_opt.get, ('fix_flow', 'tsa_iter')) if n and current_iter < n]
    every = (opt.get('val') or {}).get('val_freq')
    if every and any(name.startswith('val') for name in opt['datasets']):
        left.append(int(every - (current_iter - 1) % every))
    return min(left)


class IterationGraph:
    """Computes the gradients of each iteration: by a graph where one pays, else as ``model.backward`` does.

    Iterations are of a kind if their shapes are equal and the same parameters train. The first few of a kind warm up on
    a stream of their own. During the last of these torch raises at each wait for the device, which no graph can hold. A
    kind that waits, or cannot be captured, stays eager, with a line in the log.

    Autograd ties a parameter to the stream on which it was first used, as long as an output is alive. So the last
    output is dropped before each forward, and with it what a failed capture holds.

    Ranks exchange gradients here, once an iteration, and the network is bare: the hooks of ``DistributedDataParallel``
    belong to the stream on which it wrapped the network.

    Args:
        model: A ``MultigridVideoModel`` on a GPU.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parameters = list(model.net_g.parameters())
        self._stream = torch.cuda.Stream()
        self._kind: Any = None
        self._stays_eager: set[Any] = set()
        self._pays = False
        self._num_warm = 0
        self._losses: Losses = {}  # of the last iteration that warmed up, and what had a gradient in it
        self._trained: list[torch.nn.Parameter] = []
        self._captured: Captured | None = None
        self._shares_buffers = model.opt['dist'] and buffers_may_differ(model.net_g)

    def __call__(self, current_iter: int) -> Losses:
        """Computes the gradients of ``model.lq`` and ``model.gt``, the mean over all ranks.

        Returns:
            The losses of the batch, on the device.
        """
        model = self._model
        kind = (model.lq.shape, model.gt.shape, tuple(p.requires_grad for p in self._parameters))
        if kind != self._kind:
            self.drop()
            self._kind = kind
            self._pays = iterations_alike(current_iter, model.opt, model.schedule) >= LEAST_ITERATIONS
        if self._shares_buffers:
            broadcast(list(model.net_g.buffers()))
        captured = self._captured
        if captured is not None:
            losses = captured.replay(model.lq, model.gt)
        elif self._may_capture and self._num_warm < WARM_UP:
            losses = self._losses = self._warm_up()
            self._trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        else:
            losses = self._eager()
        if model.opt['dist']:
            average_gradients(captured.gradients if captured else [p.grad for p in self._parameters])
        return losses

    def after_step(self) -> OptionError | None:
        """Captures an iteration once its kind is warm: between two, where nothing is half done.

        Returns:
            Why the run has to end, on all ranks: CUDA could not end the capture. ``None`` where it goes on.
        """
        if self._captured is not None or not self._may_capture or self._num_warm < WARM_UP:
            return None
        self._model.output = None
        batch = (self._model.lq, self._model.gt)
        found = capture(self._model.backward, batch, self._losses, self._trained, self._stream)
        self._captured = found if isinstance(found, Captured) else None
        failure = self._agreed(found if isinstance(found, Failure) else None)
        del found  # a graph that another rank failed to capture is freed below
        if failure is None:
            get_root_logger().info(f'Captured an iteration of {self._shape} as a CUDA graph.')
        elif failure.is_fatal:
            got = f'True (CUDA cannot go on after the capture of {self._shape}: {failure.reason})'
            fix = 'Leave it out and go on with --auto_resume.'
            return OptionError('train.cuda_graph', 'be left out for this network', got, fix)
        else:
            self._free()
        return None

    def begin(self) -> None:
        """Gives all ranks the weights of rank 0."""
        broadcast([*(parameter.detach() for parameter in self._parameters), *self._model.net_g.buffers()])

    def drop(self) -> None:
        """Frees the graph and its memory for other shapes or for validation."""
        if self._captured is not None:
            self._free()
        self._kind, self._num_warm = None, 0

    def _free(self) -> None:
        """Frees what a graph holds, even if it was not captured to its end."""
        if self._captured is not None:
            self._captured.graph.reset()
            self._captured = None
        self._model.optimizer_g.zero_grad()
        self._model.output = None
        torch.cuda.empty_cache()

    @property
    def _may_capture(self) -> bool:
        return self._pays and self._kind not in self._stays_eager

    def _eager(self) -> Losses:
        self._model.output = None
        self._model.optimizer_g.zero_grad()
        return self._model.backward(self._model.lq, self._model.gt)

    def _warm_up(self) -> Losses:
        self._num_warm += 1
        with _on(self._stream):
            return self._eager() if self._num_warm < WARM_UP else self._tried()

    def _tried(self) -> Losses:
        """An iteration that says so where it cannot be captured."""
        bring_back, drawn = remember(self._model), _host_random_state()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode('error')
        failure, losses = None, None
        try:
            losses = self._eager()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            failure = Failure(told(error))
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        if losses is None:
            bring_back()
            losses = self._eager()
        elif _host_random_state() != drawn:
            failure = Failure('it draws random numbers on the CPU, which a graph would repeat')
        self._agreed(failure)
        return losses

    def _agreed(self, failure: Failure | None) -> Failure | None:
        """The failure of any rank. After it the kind stays eager on all, since they exchange the same tensors."""
        if self._model.opt['dist']:
            failures = [found for found in of_all_ranks(failure) if found is not None]
            failure = max(failures, key=lambda found: found.is_fatal, default=None)
        if failure is not None and not failure.is_fatal:
            get_root_logger().info(f'No CUDA graph of {self._shape}: {failure.reason}.')
            self._stays_eager.add(self._kind)
        return failure

    @property
    def _shape(self) -> str:
        batch, num_frame = self._model.lq.shape[:2]
        return f'{batch} x {num_frame} x {self._model.gt.shape[-1]}'


@contextmanager
def _on(stream: torch.cuda.Stream) -> Iterator[None]:
    """Runs on another stream, which waits for the current one before, and is waited for after."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _host_random_state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]
