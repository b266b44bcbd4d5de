"""One iteration as a CUDA graph: how it is captured, and the tensors that it reads and writes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from multigrid_vsr.core.errors import one_line
from multigrid_vsr.models.memory import is_out_of_memory

Losses = dict[str, torch.Tensor]

_ALIGNED = 16  # bytes, where each gradient begins: kernels read four floats at a time from there


@dataclass(frozen=True)
class Failure:
    """Why an iteration is not captured.

    Attributes:
        reason: What was raised, and where.
        is_fatal: Whether CUDA could not end the capture. Torch's allocator then waits for that end for ever, and up to
            torch 2.12 the next ``torch.cuda.empty_cache()`` raises.
    """

    reason: str
    is_fatal: bool = False


@dataclass(frozen=True)
class Captured:
    """An iteration that is launched as a whole.

    Attributes:
        graph: Torch's graph.
        lq: What it reads.
        gt: What it reads.
        losses: What it writes.
        gradients: What it writes, flat: one tensor for each dtype.
        of_parameter: Each parameter that trains, and its gradient, a view of those.
    """

    graph: Any
    lq: torch.Tensor
    gt: torch.Tensor
    losses: Losses
    gradients: list[torch.Tensor]
    of_parameter: list[tuple[torch.nn.Parameter, torch.Tensor]]

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
    """Captures an iteration, which is not computed by that.

    Args:
        backward: Adds the gradient of LQ and ground truth, and gives the losses.
        batch: LQ and ground truth like those of all batches.
        losses: Like those that it gives.
        parameters: Those that get a gradient.
        stream: That on which the iteration has warmed up.
    """
    reason, before = None, torch.cuda.current_stream()
    try:
        captured = _with_room(batch, losses, parameters)
        pool = torch.cuda.graph_pool_handle()
        # Other threads go on meanwhile: workers' batches are pinned, ranks are watched.
        with torch.cuda.graph(captured.graph, pool=pool, stream=stream, capture_error_mode='thread_local'):
            try:
                _record(captured, backward)
            except RuntimeError as error:
                reason = told(error)  # the first error: at the end CUDA only says that there was one
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # `torch.cuda.graph` stays on its own where the end fails
        # Memory may be full before the capture, or after its end, where CUDA makes it launchable: that spoils nothing.
        is_fatal = reason is not None or not is_out_of_memory(error)
        return Failure(reason or told(error), is_fatal)
    return captured if reason is None else Failure(reason)


def _with_room(
    batch: tuple[torch.Tensor, torch.Tensor],
    losses: Mapping[str, torch.Tensor],
    parameters: Sequence[torch.nn.Parameter],
) -> Captured:
    """A graph of nothing yet, and tensors that stay."""
    lq, gt = (frames.clone() for frames in batch)
    gradients, views = flat_like(parameters)
    kept = {name: torch.empty_like(loss) for name, loss in losses.items()}
    return Captured(torch.cuda.CUDAGraph(), lq, gt, kept, gradients, list(zip(parameters, views, strict=True)))


def _record(captured: Captured, backward: Callable[[torch.Tensor, torch.Tensor], Losses]) -> None:
    captured.set_gradients()
    for gradient in captured.gradients:
        gradient.zero_()
    for name, loss in backward(captured.lq, captured.gt).items():
        captured.losses[name].copy_(loss)


def told(error: Exception) -> str:
    """An error with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{one_line(error)} ({os.path.basename(frame.filename)}, line {frame.lineno})'


def flat_like(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tensors laid out as others, one behind the other: what holds them, one for each dtype, and each of them."""
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
