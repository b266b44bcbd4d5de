"""A whole iteration as one CUDA graph (``train.cuda_graph``): one launch in place of thousands.

On a fast GPU an iteration of a small crop takes as long as the host needs to launch its kernels. A graph of forward,
losses and backward is captured once for each kind of iteration and launched as a whole. Not each module by itself
(``torch.cuda.make_graphed_callables``): a recurrent network calls one many times an iteration, and the next call would
overwrite what the backward needs.
"""

from __future__ import annotations

import os
import random
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.memory import is_out_of_memory
from multigrid_vsr.models.undo import remember
from multigrid_vsr.models.wrapping import average_gradients, is_so_on_any_rank, share

LEAST_ITERATIONS = 50  # of a kind, for which capturing pays
WARM_UP = 3  # iterations of a kind before it is captured, as torch's documentation has it; they train as any
_OWN_STEP = ('optimize_parameters', 'update')

Losses = dict[str, torch.Tensor]


def graph_of(model: Any, base: type) -> IterationGraph | None:
    """What computes the gradients of a model with ``train.cuda_graph``; ``None`` without it, or where it cannot.

    Args:
        model: A ``MultigridVideoModel``.
        base: That class: a subclass with an iteration of its own does not come here for its gradients.
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
    """Whether there is a device that takes graphs."""
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


@dataclass
class _Captured:
    graph: Any
    lq: torch.Tensor
    gt: torch.Tensor
    losses: Losses
    gradients: list[torch.Tensor]  # flat, one for each dtype
    of_parameter: list[tuple[torch.nn.Parameter, torch.Tensor]]  # views of them


class IterationGraph:
    """Computes the gradients of each iteration: by a graph where one pays, else as ``model.backward`` does.

    Iterations are of a kind if their shapes are equal and the same parameters train. The first few of a kind warm up on
    a stream of their own; the last of these runs while torch raises at whatever waits for the device, which no graph
    can hold. A kind that waits, or cannot be captured, stays eager, with a line in the log.

    Ranks exchange gradients here, once an iteration, and the network is bare: what ``DistributedDataParallel`` hooks
    into a backward belongs to the stream on which it was wrapped.

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
        self._captured: _Captured | None = None

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
        if model.opt['dist']:
            share(list(model.net_g.buffers()))
        if not self._pays or kind in self._stays_eager:
            losses = self._eager()
        elif self._num_warm < WARM_UP:
            losses = self._losses = self._warm_up()
            self._trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        else:
            losses = self._replay()
        if model.opt['dist']:
            captured = self._captured
            average_gradients(captured.gradients if captured else [p.grad for p in self._parameters])
        return losses

    def begin(self) -> None:
        """Gives all ranks the weights of rank 0."""
        share([*(parameter.detach() for parameter in self._parameters), *self._model.net_g.buffers()])

    def drop(self) -> None:
        """Gives the graph and its memory back: to other shapes, or to validation."""
        if self._captured is not None:
            self._captured.graph.reset()
            self._captured = None
            self._model.optimizer_g.zero_grad()
            self._model.output = None
            torch.cuda.empty_cache()
        self._kind, self._num_warm = None, 0

    def _eager(self) -> Losses:
        self._model.optimizer_g.zero_grad()
        return self._model.backward(self._model.lq, self._model.gt)

    def _warm_up(self) -> Losses:
        self._num_warm += 1
        with _on(self._stream):
            self._model.output = None  # with it goes what autograd knows of the stream before
            return self._eager() if self._num_warm < WARM_UP else self._tried()

    def _tried(self) -> Losses:
        """An iteration that says so where it cannot be captured."""
        bring_back, drawn = remember(self._model), _host_random_state()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode('error')
        reason, losses = None, None
        try:
            losses = self._eager()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = _told(error)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        if losses is None:
            bring_back()
            losses = self._eager()
        elif _host_random_state() != drawn:
            reason = 'it draws random numbers on the CPU, which a graph would repeat'
        self._stay_eager_for(reason)
        return losses

    def _stay_eager_for(self, reason: str | None) -> bool:
        """Whether the kind cannot be captured, on this rank or on another: all exchange the same tensors."""
        if self._model.opt['dist'] and is_so_on_any_rank(reason is not None, self._model.device):
            reason = reason or 'another rank cannot capture it'
        if reason is not None:
            get_root_logger().info(f'No CUDA graph of {self._shape}: {reason}.')
            self._stays_eager.add(self._kind)
        return reason is not None

    @property
    def _shape(self) -> str:
        batch, num_frame = self._model.lq.shape[:2]
        return f'{batch} x {num_frame} x {self._model.gt.shape[-1]}'

    def _replay(self) -> Losses:
        captured, reason = self._captured, None
        if captured is None:
            try:
                captured = self._capture()
            except RuntimeError as error:
                reason = _told(error)
            if self._stay_eager_for(reason) or captured is None:
                return self._eager()
            self._captured = captured
            get_root_logger().info(f'Captured an iteration of {self._shape} as a CUDA graph.')
        captured.lq.copy_(self._model.lq)
        captured.gt.copy_(self._model.gt)
        captured.graph.replay()
        for parameter, gradient in captured.of_parameter:
            parameter.grad = gradient
        return captured.losses

    def _capture(self) -> _Captured:
        """Captures an iteration, which is not computed by that: what is read and written are tensors that stay."""
        model = self._model
        lq, gt = model.lq.clone(), model.gt.clone()
        gradients, views = _flat_like(self._trained)
        for parameter, view in zip(self._trained, views, strict=True):
            parameter.grad = view
        losses = {name: torch.empty_like(loss) for name, loss in self._losses.items()}
        model.output = None
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: workers' batches are pinned, ranks are watched.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode='thread_local'):
            for gradient in gradients:
                gradient.zero_()
            for name, loss in model.backward(lq, gt).items():
                losses[name].copy_(loss)
        return _Captured(graph, lq, gt, losses, gradients, list(zip(self._trained, views, strict=True)))


@contextmanager
def _on(stream: torch.cuda.Stream) -> Iterator[None]:
    """Another stream, which waits for what is queued and is waited for."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _told(error: Exception) -> str:
    """An error with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{one_line(error)} ({os.path.basename(frame.filename)}, line {frame.lineno})'


def _host_random_state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]


def _flat_like(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tensors laid out as others, one behind the other: what holds them, one for each dtype, and each of them."""
    sizes: dict[torch.dtype, int] = {}
    starts = []
    for tensor in tensors:
        starts.append(sizes.get(tensor.dtype, 0))
        sizes[tensor.dtype] = starts[-1] + tensor.numel()
    flat = {dtype: torch.empty(size, dtype=dtype, device=tensors[0].device) for dtype, size in sizes.items()}
    views = [
        flat[tensor.dtype].as_strided(tensor.shape, tensor.stride(), start) for tensor, start in zip(tensors, starts)
    ]
    return list(flat.values()), views
