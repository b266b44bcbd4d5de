"""Batches tried on the device: real iterations of a run's model on random frames."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from multigrid_vsr.core.batch_search import enough, try_batches
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.models.memory import is_out_of_memory
from multigrid_vsr.models.preflight import random_batch
from multigrid_vsr.options.fill import shortened

_ROW = '{:>7}  {:>9}  {:>11}  {:>14}  {:>6}  {:>9}'


def measure(model: Any, schedule: Schedule, has_entries: bool, limit: int, iters: int) -> Iterator[str]:
    """Tries batches of every shape of a run.

    Args:
        model: A ``MultigridVideoModel`` on one device; its weights are spoilt.
        schedule: Shapes of the run.
        has_entries: Whether ``multigrid.stages`` writes each segment out.
        limit: Largest batch to try.
        iters: Iterations of which the median is taken, after two others.

    Yields:
        The lines of a table, each as soon as it is known, and the lines for the option file.

    Raises:
        InputError: If one sample of a shape does not fit.
    """
    batches: dict[tuple[int, int], int] = {}
    header = _ROW.format('gt_size', 'num_frame', 'fits', 'samples/s of 1', 'enough', 'samples/s')
    yield f'{header}\n{"-" * len(header)}'
    for num_frame, gt_size in dict.fromkeys((s.shape.num_frame, s.shape.gt_size) for s in schedule.segments):
        rates = try_batches(partial(_samples_a_second, model, iters, num_frame, gt_size), limit)
        if not rates:
            raise InputError(
                f'multigrid: must have shapes of which the GPU holds one sample, got num_frame {num_frame} and '
                f'gt_size {gt_size}. Leave that shape out, or set train.amp: auto.'
            )
        best, most = enough(rates), max(rates)
        batches[num_frame, gt_size] = best
        fits = f'{most}' if most < limit else f'{most} or more'
        yield _ROW.format(gt_size, num_frame, fits, f'{rates[1]:.1f}', best, f'{rates[best]:.1f}')
    yield ''
    yield from (_entries if has_entries else _lists)(schedule, batches)


def _lists(schedule: Schedule, batches: dict[tuple[int, int], int]) -> Iterator[str]:
    """What to put below ``multigrid``: a batch for each stage and frame count."""
    stages: dict[int, list[int]] = {}
    for segment in schedule.segments:
        shape = segment.shape
        stages.setdefault(segment.stage, []).append(batches[shape.num_frame, shape.gt_size])
    yield f'  batch_size_per_gpu: {shortened(list(stages.values()))}'


def _entries(schedule: Schedule, batches: dict[tuple[int, int], int]) -> Iterator[str]:
    """The same as entries of ``stages``, and what ``fit`` takes to make fewer iterations of larger batches."""
    held = [batches[segment.shape.num_frame, segment.shape.gt_size] for segment in schedule.segments]
    yield '  stages:'
    for segment, batch in zip(schedule.segments, held):
        shape = segment.shape
        yield (
            f'    - {{iter: {segment.num_iter}, gt_size: {shape.gt_size}, num_frame: {shape.num_frame}, '
            f'batch_size_per_gpu: {batch}}}'
        )
    yield f'  # with as many samples as now: multigrid-vsr fit --fill "{held}"'


def _samples_a_second(model: Any, iters: int, num_frame: int, gt_size: int, batch: int) -> float | None:
    """The throughput of whole iterations, optimizer and EMA included; ``None`` where memory does not hold them."""
    times = []
    try:
        model.lq, model.gt = random_batch(model, BatchShape(batch, num_frame, gt_size))
        for _ in range(2 + iters):
            start = time.perf_counter()
            model.update(1)
            if model.device.type == 'cuda':
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        model.lq = model.gt = model.output = None
        for optimizer in model.optimizers:
            optimizer.zero_grad()
        if model.device.type == 'cuda':
            torch.cuda.empty_cache()
    return batch / statistics.median(times[2:])
