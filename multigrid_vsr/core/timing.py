"""How long the rest of a run takes, and what the log says of where time goes.

An iteration takes as long as its kernels need to be launched, which follows its frames, or as long as they compute,
which follows its pixels. Which of the two it is differs between shapes of one run, so a shape counts by its own time as
far as there is one: as the run saw it, or as it was tried before. For others ``a * frames + b * pixels`` is fitted.
Where the run is faster than the trial, as by CUDA graphs, a trial says only the most that a shape takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from statistics import fmean

from multigrid_vsr.core.schedule import BatchShape, Schedule, Segment

LOADING_BINDS = 0.1  # share of the time spent waiting for data


@dataclass(frozen=True)
class Pace:
    """What an iteration of one shape takes, in seconds.

    Attributes:
        step: From the batch to the new weights.
        waiting: For the batch.
    """

    step: float
    waiting: float = 0.0

    @property
    def seconds(self) -> float:
        return self.step + self.waiting

    @property
    def waiting_share(self) -> float:
        return self.waiting / self.seconds if self.seconds else 0.0


Paces = Mapping[BatchShape, Pace]  # of the shapes that the run has seen, the last one last
Tried = Mapping[BatchShape, float]  # seconds of an eager trial before the run, without the optimizer's step


def iteration_seconds(shape: BatchShape, seen: Paces, tried: Tried) -> float:
    """What an iteration of a shape takes.

    Args:
        shape: Any shape.
        seen: What the run's own iterations take. At least one shape is seen or tried.
        tried: Of all shapes, or empty.
    """
    if shape in seen:
        return seen[shape].seconds
    return max(_step_seconds(shape, seen, tried), _loading_seconds(shape, seen))


def _step_seconds(shape: BatchShape, seen: Paces, tried: Tried) -> float:
    beyond = [pace.step - tried[other] for other, pace in seen.items() if other in tried]
    if shape in tried and (not beyond or fmean(beyond) >= 0):
        # the optimizer's step and the like, the same for every shape
        return tried[shape] + (fmean(beyond) if beyond else 0.0)
    per_frame, per_pixel = fit({other: pace.step for other, pace in seen.items()})
    return min(per_frame * shape.num_frame + per_pixel * shape.pixels, tried.get(shape, inf))


def _loading_seconds(shape: BatchShape, seen: Paces) -> float:
    """What a batch takes to be loaded, where that is known: where loading binds. It follows frames, decoded whole."""
    bound = [(other, pace) for other, pace in seen.items() if pace.waiting_share > LOADING_BINDS]
    if not bound:
        return 0.0
    other, pace = bound[-1]
    frames = other.batch_size_per_gpu * other.num_frame
    return pace.seconds / frames * shape.batch_size_per_gpu * shape.num_frame


def fit(seconds: Mapping[BatchShape, float]) -> tuple[float, float]:
    """Fits ``a * frames + b * pixels`` to times, a and b at least 0, by least squares of the relative error.

    Where the times do not tell frames from pixels, they follow pixels.

    Returns:
        Seconds a frame of a sample, and seconds a ground-truth pixel of the batch.
    """
    rows = [(shape.num_frame / time, shape.pixels / time) for shape, time in seconds.items()]
    ff, fp, pp = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    f, p = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = ff * pp - fp * fp
    if determinant <= 1e-6 * ff * pp or f * pp <= p * fp:
        return 0.0, p / pp
    if p * ff <= f * fp:
        return f / ff, 0.0
    return (f * pp - p * fp) / determinant, (p * ff - f * fp) / determinant


def training_seconds_left(schedule: Schedule, current_iter: int, seen: Paces, tried: Tried) -> float:
    """Seconds of the iterations after ``current_iter``, without validation and saving."""
    return sum(
        (segment.end - max(segment.start, current_iter)) * iteration_seconds(segment.shape, seen, tried)
        for segment in schedule.segments
        if segment.end > current_iter
    )


def times_between(every: int, first: int, last: int) -> int:
    """How many iterations in ``[first, last]``, counted from 1, are multiples of ``every``."""
    return last // every - (first - 1) // every


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
