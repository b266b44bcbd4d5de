"""What the log says of where time goes: a line for each segment that is done, and what to do where something binds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape, Segment
from multigrid_vsr.core.time_left import Pace


def done_line(
    schedule: Schedule,
    segment: Segment,
    first_iter: int,
    last_iter: int,
    seconds: float,
    pace: Pace,
    peak_memory: float,
) -> str:
    """The line at a boundary.

    Args:
        schedule: Shapes of the run.
        segment: The one that is done.
        first_iter: Its first iteration in this process, counted from 1.
        last_iter: The last one.
        seconds: What training took since then, without validation and saving.
        pace: Of its iterations.
        peak_memory: Gigabytes.
    """
    number = schedule.segments.index(segment) + 1
    state = 'done' if last_iter == segment.end else f'left at iteration {last_iter} of {segment.end}'
    place = f'segment {number} of {len(schedule.segments)} {state}'
    return (
        f'Stage {segment.stage + 1}, {place}: [{segment.shape}], iterations '
        f'{first_iter}-{last_iter}, {span(seconds)}, {pace.seconds:.4g} s an iteration, {pace.waiting_share:.1%} of '
        f'it waiting for data, peak memory {peak_memory:.2f} GB.'
    )


def next_line(segment: Segment, seconds: float, now: datetime) -> str:
    """The end of the line at a boundary: what comes next, and when it ends."""
    return (
        f' Next: [{segment.shape}], iterations {segment.start + 1}-{segment.end}, about {span(seconds)}, until '
        f'{now + timedelta(seconds=seconds):%Y-%m-%d %H:%M}.'
    )


def loading_hint(shape: BatchShape, share: float) -> str:
    """What to do where waiting for data takes a share of the time."""
    return (
        f'Loading binds [{shape}]: {share:.0%} of the time goes by waiting for data. Pack the frames '
        '(multigrid-vsr prepare), or raise datasets.train.num_worker_per_gpu.'
    )


def launch_hint(shapes: Iterable[BatchShape]) -> str:
    """What to do where a GPU waits for its host."""
    return (
        f'Kernel launches bind {", ".join(f"[{shape}]" for shape in shapes)}: the GPU waits for the host, and fewer '
        'pixels take no less time. Set train.cuda_graph: true, or take a larger batch (multigrid-vsr batch finds it).'
    )


def span(seconds: float) -> str:
    """A time as the log writes it, never below 0."""
    return str(timedelta(seconds=max(0, round(seconds))))
