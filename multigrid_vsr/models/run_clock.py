"""Where the time of a run goes, segment by segment, and what the rest will take."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.plan import remaining_pixels
from multigrid_vsr.core.schedule import BatchShape, Schedule, Segment
from multigrid_vsr.core.timing import (
    LOADING_BINDS,
    Pace,
    done_line,
    iteration_seconds,
    launch_hint,
    loading_hint,
    next_line,
    times_between,
    training_seconds_left,
)
from multigrid_vsr.models.checkpoints import ranks
from multigrid_vsr.models.preflight import as_before, random_batch

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_memory(device: torch.device) -> float:
    """Gigabytes (1e9 bytes) at most since :func:`reset_peak_memory`: tensors on a GPU, or resident pages."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024 / 1e9


def reset_peak_memory(device: torch.device) -> None:
    """Starts to look for the largest anew; where a container does not allow it, the peak is that of the whole run."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text('5')


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


_RECENT = 50  # log lines that the pace of a segment is a mean over: what was held fixed once is not for ever
_SURE = 3  # log lines before a hint


@dataclass
class _Span:
    """Iterations and their seconds."""

    iterations: int = 0
    step: float = 0.0
    waiting: float = 0.0

    def add(self, other: _Span) -> None:
        self.iterations += other.iterations
        self.step += other.step
        self.waiting += other.waiting

    @property
    def pace(self) -> Pace:
        return Pace(self.step / self.iterations, self.waiting / self.iterations)


@dataclass
class _SegmentTime:
    """A segment as far as this process has seen it.

    Attributes:
        segment: Its iterations and shape.
        first_iter: The first iteration of it here, counted from 1. It chooses algorithms and fills caches, so it counts
            for nothing but the whole time.
        last_iter: The last one that is done.
        first: What that took.
        whole: All others.
        recent: The same, log line by log line.
        since_line: Those since the last line.
        peak: Gigabytes, as far as a validation lies behind.
    """

    segment: Segment
    first_iter: int
    last_iter: int = 0
    first: float = 0.0
    whole: _Span = field(default_factory=_Span)
    recent: deque[_Span] = field(default_factory=lambda: deque(maxlen=_RECENT))
    since_line: _Span = field(default_factory=_Span)
    peak: float = 0.0


class RunClock:
    """Times a run with a schedule, says so at each boundary, and knows when it ends.

    A GPU computes behind the host's back. It is waited for where BasicSR does so anyway, at a log line, and at a
    boundary; in between, sums are right and single iterations are not.

    Args:
        schedule: Shapes of the run.
        opt: Options of the run.
        device: Where it computes.
        now: Gives seconds.

    Attributes:
        current: That of the run of this process. BasicSR shows neither model nor logger to the other.
        tried: What each shape took before the run.
    """

    current: ClassVar[RunClock | None] = None

    def __init__(
        self,
        schedule: Schedule,
        opt: Mapping[str, Any],
        device: torch.device,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tried: dict[BatchShape, ShapeTime] = {}
        self._schedule = schedule
        self._device = device
        self._now = now
        self._ranks = ranks(opt)
        self._calls = {'saving': 1, 'validation': sum(name != 'train' for name in opt['datasets'])}
        self._every = {'saving': opt['logger']['save_checkpoint_freq']}
        if opt.get('val') is not None:
            self._every['validation'] = opt['val']['val_freq']
        self._others: dict[str, list[float]] = {'saving': [], 'validation': []}  # seconds of each time
        self._here: _SegmentTime | None = None
        self._seen: dict[BatchShape, Pace] = {}
        self._mark = 0.0
        self._is_in_iteration = False

    def begin(self, current_iter: int) -> None:
        """Starts an iteration; the time since the last one was spent waiting for its batch."""
        segment = self._schedule.at_current_iter(current_iter)
        if self._here is None or segment is not self._here.segment:
            if self._here is not None:
                self._finish(segment)
            self._here = _SegmentTime(segment, current_iter)
            reset_peak_memory(self._device)
        elif current_iter > self._here.first_iter:
            self._here.since_line.waiting += self._now() - self._mark
        self._mark, self._is_in_iteration = self._now(), True

    def end(self, current_iter: int) -> None:
        """Ends an iteration."""
        if self._here is None:  # a step by itself, which nothing began
            return
        self._here.last_iter = current_iter
        if current_iter == self._here.first_iter:
            self._wait_for_device()
            self._here.first = self._now() - self._mark
        else:
            self._here.since_line.step += self._now() - self._mark
            self._here.since_line.iterations += 1
        self._mark, self._is_in_iteration = self._now(), False

    @contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Takes time out of the iteration, or out of the waiting for the next one.

        Args:
            on: ``saving``, ``validation``, ``trial``; or ``step`` for what belongs to the iteration all the same.
        """
        start = self._now()
        if on != 'step' and self._here is not None:
            self._here.peak = self._peak()
        try:
            yield
        finally:
            seconds = self._now() - start
            self._mark = self._mark + seconds if self._is_in_iteration else self._now()
            if on != 'step':
                self._others.setdefault(on, []).append(seconds)
                reset_peak_memory(self._device)
            elif self._here is not None and self._here.since_line.iterations:
                self._here.since_line.step += seconds

    @property
    def is_running(self) -> bool:
        """Whether an iteration has been timed: a model of another plugin does not say when."""
        return self._here is not None and self._here.first > 0

    def line(self, current_iter: int) -> dict[str, float]:
        """The figures of a log line, since the last one in the same segment.

        Args:
            current_iter: The iteration that is done.

        Returns:
            ``seconds_left``; ``samples_per_s`` and ``megapixels_per_s`` (ground truth) of all ranks; ``waiting``, the
            share of the time spent waiting for data; ``peak_memory`` of this process in the segment, in GB.
        """
        here = self._here
        assert here is not None
        pace = here.since_line.pace if here.since_line.iterations else Pace(here.first)
        self._take_line()
        if pace.waiting_share > LOADING_BINDS and len(here.recent) == _SURE:
            get_root_logger().info(loading_hint(here.segment.shape, pace.waiting_share))
        shape = here.segment.shape
        return {
            'seconds_left': self.seconds_left(current_iter),
            'samples_per_s': shape.batch_size_per_gpu * self._ranks / pace.seconds,
            'megapixels_per_s': shape.pixels * self._ranks / pace.seconds / 1e6,
            'waiting': pace.waiting_share,
            'peak_memory': self._peak(),
        }

    def seconds_left(self, current_iter: int) -> float:
        """Seconds until the run ends, validation and saving among them as far as there has been one.

        Args:
            current_iter: The iteration that is done; what BasicSR does after it is to come.
        """
        training = training_seconds_left(self._schedule, current_iter, self._paces(), self._tried_seconds)
        return training + self._others_between(current_iter, self._schedule.total_iter, at_the_end=1)

    def _others_between(self, first: int, last: int, at_the_end: int = 0) -> float:
        """Seconds of validation and saving at the iterations from first to last."""
        seconds = 0.0
        for name, every in self._every.items():
            taken = self._others[name]
            times = (times_between(every, first, last) + at_the_end) * self._calls[name]
            seconds += times * sum(taken) / len(taken) if taken else 0.0
        return seconds

    def finish(self) -> None:
        """The line of the last segment."""
        if self._here is not None:
            self._finish(None)
        self._here = None

    def _take_line(self) -> None:
        """Puts what came since the last line into the pace of the segment."""
        here = self._here
        assert here is not None
        if not here.since_line.iterations:
            return
        here.recent.append(here.since_line)
        here.whole.add(here.since_line)
        here.since_line = _Span()
        recent = _Span()
        for past in here.recent:
            recent.add(past)
        self._seen.pop(here.segment.shape, None)
        self._seen[here.segment.shape] = recent.pace

    def _paces(self) -> dict[BatchShape, Pace]:
        if self._seen or self._tried_seconds:
            return self._seen
        assert self._here is not None
        return {self._here.segment.shape: Pace(self._here.first)}

    @property
    def _tried_seconds(self) -> dict[BatchShape, float]:
        return {shape: time.seconds for shape, time in self.tried.items()}

    def _peak(self) -> float:
        assert self._here is not None
        return max(self._here.peak, peak_memory(self._device))

    def _wait_for_device(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)

    def _finish(self, following: Segment | None) -> None:
        """Says what the segment took, and what comes next."""
        if not self.is_running:
            return
        here = self._here
        assert here is not None
        with self.spending('step'):
            self._wait_for_device()
        self._take_line()
        whole = here.whole
        pace = whole.pace if whole.iterations else Pace(here.first)
        seconds = here.first + whole.step + whole.waiting
        message = done_line(self._schedule, here.segment, here.first_iter, here.last_iter, seconds, pace, self._peak())
        if following is not None:
            seconds = iteration_seconds(following.shape, self._paces(), self._tried_seconds) * following.num_iter
            seconds += self._others_between(following.start + 1, following.end)
            message += next_line(following, seconds, datetime.now())
        get_root_logger().info(message)
        if pace.waiting_share > LOADING_BINDS:
            get_root_logger().info(loading_hint(here.segment.shape, pace.waiting_share))

    def say_tried(self) -> None:
        """A line where launches bind a shape."""
        bound = [shape for shape, time in self.tried.items() if time.launches_bind]
        if bound and self._device.type == 'cuda':
            get_root_logger().info(launch_hint(bound))
