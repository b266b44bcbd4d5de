"""A whole iteration as one CUDA graph (``train.cuda_graph``): one launch in place of thousands.

Not measured on a GPU yet.

On a fast GPU an iteration of a small crop takes as long as the host needs to launch its kernels. So forward, losses and
backward are captured once for each kind of iteration, and launched together. Graphs of single modules
(``torch.cuda.make_graphed_callables``) do not work here: a recurrent network calls a module many times an iteration,
and the next call would overwrite what the backward needs.
"""

from __future__ import annotations

import os
import random
import sys
import traceback
from collections.abc import Mapping
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

LEAST_ITERATIONS = 50  # of a kind, for which a capture pays
WARM_UP = 3  # iterations of a kind before it is captured, as torch's documentation asks; they train like any other


def graph_of(model: Any, base: type) -> IterationGraph | None:
    """The graph that computes the gradients of a model; ``None`` without ``train.cuda_graph``, or with a line why.

    ``base`` is ``MultigridVideoModel``. A subclass with an iteration of its own computes its gradients itself.
    """
    if not model.opt['train'].get('cuda_graph'):
        return None
    own = [name for name in ('optimize_parameters', 'update') if getattr(type(model), name) is not getattr(base, name)]
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

    ``current_iter`` counts from 1, as BasicSR's does. Without a schedule one shape has no end.
    """
    train_opt = opt['train']
    end = sys.maxsize if schedule is None else schedule.at_current_iter(current_iter).end
    left = [end - (current_iter - 1)]
    left += [n - current_iter for n in map(train_opt.get, ('fix_flow', 'tsa_iter')) if n and current_iter < n]
    every = (opt.get('val') or {}).get('val_freq')
    if every and any(name.startswith('val') for name in opt['datasets']):
        left.append(int(every - (current_iter - 1) % every))
    return min(left)


@dataclass(frozen=True)
class _Failure:
    """Why an iteration is not captured."""

    reason: str  # what was raised, and where
    # CUDA could not end the capture. Torch's allocator then waits for that end for ever, and up to torch 2.12 the next
    # `torch.cuda.empty_cache()` raises.
    is_fatal: bool = False


@dataclass(frozen=True)
class _Captured:
    """A graph, which reads ``lq`` and ``gt`` and writes losses and the gradients of the parameters that train."""

    graph: Any
    lq: torch.Tensor
    gt: torch.Tensor
    losses: Losses
    parameters: list[torch.nn.Parameter]
    gradients: list[torch.Tensor]

    def set_gradients(self) -> None:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


class IterationGraph:
    """Computes the gradients of each iteration: by a graph where one pays, else as ``model.backward`` does.

    Iterations are of a kind if their shapes are equal and the same parameters train. The first few of a kind warm up on
    a stream of their own. During the last of these torch raises where the host waits for the device, which no graph can
    hold. A kind that waits, or cannot be captured, stays eager, with a line in the log.

    Autograd ties a parameter to the stream that first used it, as long as an output is alive. So the last output is
    dropped before each forward, and with it what a failed capture holds.

    Ranks exchange gradients here, once an iteration, and the network is bare: the hooks of ``DistributedDataParallel``
    belong to the stream on which it wrapped the network.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parameters = list(model.net_g.parameters())
        self._stream = torch.cuda.Stream()
        self._kind: Any = None
        self._stays_eager: set[Any] = set()
        self._pays = False
        self._num_warm = 0
        self._losses: Losses = {}  # of the last iteration that warmed up
        self._captured: _Captured | None = None
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
        if self._captured is not None:
            self._captured.lq.copy_(model.lq)
            self._captured.gt.copy_(model.gt)
            self._captured.graph.replay()
            self._captured.set_gradients()
            losses = self._captured.losses
        elif self._may_capture and self._num_warm < WARM_UP:
            losses = self._losses = self._warm_up()
        else:
            losses = self._eager()
        if model.opt['dist']:
            average_gradients(p.grad for p in self._parameters)
        return losses

    def after_step(self) -> OptionError | None:
        """Captures an iteration once its kind is warm: between two, where nothing is half done.

        Returns:
            Why the run has to end, on all ranks: CUDA could not end the capture. ``None`` where it goes on.
        """
        if self._captured is not None or not self._may_capture or self._num_warm < WARM_UP:
            return None
        self._model.output = None
        found = self._capture()
        self._captured = found if isinstance(found, _Captured) else None
        failure = self._agreed(found if isinstance(found, _Failure) else None)
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
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._eager() if self._num_warm < WARM_UP else self._tried()
        current.wait_stream(self._stream)
        return losses

    def _tried(self) -> Losses:
        """An eager iteration that finds out whether it can be captured."""
        bring_back, drawn = remember(self._model), _host_random_state()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode('error')
        failure, losses = None, None
        try:
            losses = self._eager()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            failure = _Failure(_told(error))
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        if losses is None:
            bring_back()
            losses = self._eager()
        elif _host_random_state() != drawn:
            failure = _Failure('it draws random numbers on the CPU, which a graph would repeat')
        self._agreed(failure)
        return losses

    def _capture(self) -> _Captured | _Failure:
        """Records an iteration, which computes nothing."""
        reason, before = None, torch.cuda.current_stream()
        try:
            trained = [parameter for parameter in self._parameters if parameter.grad is not None]
            gradients = [torch.empty_like(parameter) for parameter in trained]
            losses = {name: torch.empty_like(loss) for name, loss in self._losses.items()}
            lq, gt = self._model.lq.clone(), self._model.gt.clone()
            captured = _Captured(torch.cuda.CUDAGraph(), lq, gt, losses, trained, gradients)
            pool = torch.cuda.graph_pool_handle()
            # Other threads go on meanwhile: workers' batches are pinned, ranks are watched.
            with torch.cuda.graph(captured.graph, pool=pool, stream=self._stream, capture_error_mode='thread_local'):
                try:
                    captured.set_gradients()
                    torch._foreach_zero_(gradients)
                    for name, loss in self._model.backward(lq, gt).items():
                        losses[name].copy_(loss)
                except RuntimeError as error:
                    reason = _told(error)  # the first error: at the end CUDA only says that there was one
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # `torch.cuda.graph` stays on its own where the end fails
            # Memory may be full before the capture, or after its end, where CUDA makes it launchable. That spoils
            # nothing.
            is_fatal = reason is not None or not is_out_of_memory(error)
            return _Failure(reason or _told(error), is_fatal)
        return captured if reason is None else _Failure(reason)

    def _agreed(self, failure: _Failure | None) -> _Failure | None:
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


def _told(error: Exception) -> str:
    """An error with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{one_line(error)} ({os.path.basename(frame.filename)}, line {frame.lineno})'


def _host_random_state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]
