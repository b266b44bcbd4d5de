"""Where the time of a run goes: steps, waiting for data, saving and validation, segment by segment."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.run_lines import done_line, launch_hint, loading_hint, next_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape, Segment
from multigrid_vsr.core.time_left import LOADING_BINDS, Pace, iteration_seconds, times_between, training_seconds_left
from multigrid_vsr.models.checkpoint import ranks
from multigrid_vsr.models.peak_memory import peak_memory, reset_peak_memory
from multigrid_vsr.models.shape_times import ShapeTime

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
        for span in here.recent:
            recent.add(span)
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
