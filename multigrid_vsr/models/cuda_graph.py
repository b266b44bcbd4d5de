"""A whole iteration as one CUDA graph (``train.cuda_graph``): one launch in place of thousands.

On a fast GPU an iteration of a small crop takes as long as the host needs to launch its kernels. A graph of forward,
losses and backward is captured once for each kind of iteration and launched as a whole. Not each module by itself
(``torch.cuda.make_graphed_callables``): a recurrent network calls one many times an iteration, and the next call would
overwrite what the backward needs.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.captured import Captured, Failure, Losses, capture, told
from multigrid_vsr.models.memory import is_out_of_memory
from multigrid_vsr.models.undo import remember
from multigrid_vsr.models.wrapping import average_gradients, buffers_may_differ, of_all_ranks, share

LEAST_ITERATIONS = 50  # of a kind, for which capturing pays
WARM_UP = 3  # iterations of a kind before it is captured, as torch's documentation has it; they train as any
_OWN_STEP = ('optimize_parameters', 'update')


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


class IterationGraph:
    """Computes the gradients of each iteration: by a graph where one pays, else as ``model.backward`` does.

    Iterations are of a kind if their shapes are equal and the same parameters train. The first few of a kind warm up on
    a stream of their own; the last of these runs while torch raises at whatever waits for the device, which no graph
    can hold. A kind that waits, or cannot be captured, stays eager, with a line in the log.

    Autograd ties a parameter to the stream on which it was first used, for as long as an output is alive. So the last
    output goes before each forward. What a failed capture holds goes with it.

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
            share(list(model.net_g.buffers()))
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
        failure = self._agreed(self._capture())
        if failure is None:
            get_root_logger().info(f'Captured an iteration of {self._shape} as a CUDA graph.')
        elif failure.is_fatal:
            got = f'True (CUDA cannot go on after the capture of {self._shape}: {failure.reason})'
            fix = 'Leave it out and go on with --auto_resume.'
            return OptionError('train.cuda_graph', 'be left out for this network', got, fix)
        else:
            self._free()
        return None

    def _capture(self) -> Failure | None:
        model = self._model
        model.output = None
        found = capture(model.backward, (model.lq, model.gt), self._losses, self._trained, self._stream)
        if isinstance(found, Failure):
            return found
        self._captured = found
        return None

    def begin(self) -> None:
        """Gives all ranks the weights of rank 0."""
        share([*(parameter.detach() for parameter in self._parameters), *self._model.net_g.buffers()])

    def drop(self) -> None:
        """Gives the graph and its memory back: to other shapes, or to validation."""
        if self._captured is not None:
            self._free()
        self._kind, self._num_warm = None, 0

    def _free(self) -> None:
        """Gives back what a graph holds, also one that was not captured to its end."""
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
        """The failure of any rank, after which the kind stays eager on all: they exchange the same tensors."""
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
    """Another stream, which waits for what is queued and is waited for."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _host_random_state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]
