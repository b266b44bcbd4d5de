"""The shapes of a run, timed before it: how long the later ones take cannot be told from the first."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from multigrid_vsr.core.plan import remaining_pixels
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.models.preflight import as_before, random_batch

MOST_OF_A_RUN = 0.03  # what the trial may cost
_ROUNDS = 3
_LAUNCHES_BIND = 0.9  # share of the time that the host needs to launch what the device computes


@dataclass(frozen=True)
class ShapeTime:
    """Forward and backward of one batch.

    Attributes:
        seconds: Until the device was done.
        host_seconds: Until the host had launched everything.
    """

    seconds: float
    host_seconds: float

    @property
    def launches_bind(self) -> bool:
        """Whether the device waits for launches."""
        return self.host_seconds > _LAUNCHES_BIND * self.seconds


def time_shapes(model: Any, schedule: Schedule, current_iter: int) -> dict[BatchShape, ShapeTime]:
    """Times a batch of each shape to come; weights, buffers, optimizer and random state stay as they are.

    Args:
        model: A ``MultigridVideoModel``, whose largest shape is known to fit.
        schedule: Shapes of the run.
        current_iter: The iteration that comes next.

    Returns:
        A time for each shape from there on; nothing where there is one shape only, or where the trial would cost more
        than a 33rd of what is left of the run. The trial is eager: with ``train.cuda_graph`` an iteration takes less.
    """
    shapes = list(dict.fromkeys(s.shape for s in schedule.segments if s.end >= current_iter))
    if len(shapes) < 2:
        return {}
    least = _ROUNDS if model.device.type == 'cuda' else 1  # the first chooses algorithms there
    left = remaining_pixels(schedule, current_iter - 1) / sum(shape.pixels for shape in shapes)
    rounds = min(_ROUNDS, int(MOST_OF_A_RUN * left))
    if rounds < least:
        return {}
    with as_before(model):
        _time(model, min(shapes, key=lambda shape: shape.pixels))  # what is loaded and allocated once
        return {
            shape: min((_time(model, shape) for _ in range(rounds)), key=lambda time: time.seconds) for shape in shapes
        }


def _time(model: Any, shape: BatchShape) -> ShapeTime:
    lq, gt = random_batch(model, replace(shape, batch_size_per_gpu=shape.batch_size_per_gpu * model.gpus))
    is_cuda = model.device.type == 'cuda'
    if is_cuda:
        torch.cuda.synchronize(model.device)
    start = time.perf_counter()
    model.backward(lq, gt)
    launched = time.perf_counter()
    if is_cuda:
        torch.cuda.synchronize(model.device)
    return ShapeTime(time.perf_counter() - start, launched - start)
