"""What a whole run will take, from the time of an iteration of each of its shapes: pure."""

from __future__ import annotations

from collections.abc import Mapping

from multigrid_vsr.core.schedule import BatchShape, Schedule

STOCK_SAMPLES = 300_000 * 16  # BasicSR's BasicVSR on REDS


def gpu_hours(
    schedule: Schedule,
    step_ms: Mapping[BatchShape, float],
    load_ms: Mapping[tuple[int, int], float] | None = None,
    workers: int = 1,
) -> float:
    """Hours of one GPU: each iteration takes as long as its step, or as its batch takes to load if that is longer.

    Args:
        schedule: Shapes of the run.
        step_ms: Milliseconds of an iteration of each shape.
        load_ms: Milliseconds that a sample of (num_frame, gt_size) takes one worker; without it none.
        workers: Workers of the GPU.

    Raises:
        KeyError: If one of its shapes has not been measured.
    """
    total = 0.0
    for segment in schedule.segments:
        shape = segment.shape
        sample_ms = load_ms[shape.num_frame, shape.gt_size] if load_ms is not None else 0.0
        total += segment.num_iter * max(step_ms[shape], sample_ms * shape.batch_size_per_gpu / workers)
    return total / 3_600_000
