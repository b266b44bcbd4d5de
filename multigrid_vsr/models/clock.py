"""The clock of a run: seconds of a step, of a segment and until the end, and the log line that shows them.

The time of a shape comes from the run's own iterations of it. Before there are any, it comes from a trial before the
run; without a trial, from the last shape, scaled by pixels.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import MessageLogger

from multigrid_vsr.core.schedule import BatchShape, Schedule, Segment
from multigrid_vsr.models.checkpoints import ranks

LOADING_BINDS = 0.1  # share of the time spent waiting for data
_LAUNCHES_BIND = 0.9  # share of a step in which the host still launches kernels
_RECENT = 50  # log lines that the pace of a shape is a mean over: a frozen module may thaw
_SURE = 3  # log lines before a hint
_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def span(seconds: float) -> str:
    """A time as the log writes it, never below 0."""
    return str(timedelta(seconds=max(0, round(seconds))))


class StepTime(NamedTuple):
    """Seconds of one call: until the device was done, and until the host had launched everything."""

    seconds: float
    host_seconds: float


def time_step(device: torch.device, step: Callable[[], object]) -> StepTime:
    """Times a step: forward and backward, or a whole iteration."""
    _wait_for(device)
    start = time.perf_counter()
    step()
    launched = time.perf_counter()
    _wait_for(device)
    return StepTime(time.perf_counter() - start, launched - start)


def _wait_for(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def segment_seconds(schedule: Schedule, seconds_of: Callable[[BatchShape], float], done: int = 0) -> list[float]:
    """Seconds of each segment, without the first ``done`` iterations of the run."""
    return [
        (segment.end - max(segment.start, done)) * seconds_of(segment.shape) if segment.end > done else 0.0
        for segment in schedule.segments
    ]


@dataclass(frozen=True)
class Pace:
    """Iterations of one shape, and the seconds that they took.

    Attributes:
        step: From the batch to the new weights.
        waiting: For the batch.
    """

    step: float
    waiting: float = 0.0
    iterations: int = 1

    def __add__(self, other: Pace) -> Pace:
        return Pace(self.step + other.step, self.waiting + other.waiting, self.iterations + other.iterations)

    @property
    def mean(self) -> Pace:
        """The pace of one iteration."""
        return Pace(self.step / self.iterations, self.waiting / self.iterations)

    @property
    def seconds(self) -> float:
        """Of one iteration, waiting included."""
        return (self.step + self.waiting) / self.iterations

    @property
    def waiting_share(self) -> float:
        return self.waiting / (self.step + self.waiting) if self.waiting else 0.0


_NONE = Pace(0.0, 0.0, 0)


def iteration_seconds(shape: BatchShape, seen: Mapping[BatchShape, Pace], tried: Mapping[BatchShape, float]) -> float:
    """Seconds of an iteration of a shape.

    Args:
        shape: Any shape.
        seen: An iteration of each shape that the run has had, the last shape last. A shape is seen or tried.
        tried: Forward and backward of every shape in a trial before the run, or empty.
    """
    if shape in seen:
        return seen[shape].seconds
    if not seen:
        return tried[shape]
    last, pace = list(seen.items())[-1]
    seconds = pace.step * shape.pixels / last.pixels
    beyond = [seen[other].step - tried[other] for other in seen if other in tried]
    if shape in tried and beyond and fmean(beyond) >= 0:  # the optimizer's step, the same for every shape
        seconds = tried[shape] + fmean(beyond)
    elif shape in tried:  # the run is faster than the trial, as with CUDA graphs
        seconds = min(seconds, tried[shape])
    if pace.waiting_share > LOADING_BINDS:  # loading follows frames, which are decoded whole
        frames = shape.batch_size_per_gpu * shape.num_frame / (last.batch_size_per_gpu * last.num_frame)
        seconds = max(seconds, pace.seconds * frames)
    return seconds


@dataclass
class _SegmentTime:
    """What this process has seen of a segment.

    The first iteration chooses algorithms and fills caches, so only the time of the whole segment includes it.
    """

    segment: Segment
    first_iter: int  # the first iteration here, counted from 1
    last_iter: int = 0
    first: float = 0.0  # seconds of the first iteration
    others: Pace = _NONE  # all iterations but the first
    recent: deque[Pace] = field(default_factory=lambda: deque(maxlen=_RECENT))  # the same by log line
    since_line: Pace = _NONE
    peak: float = 0.0  # gigabytes before the last validation or save


class Clock:
    """Times a run with a schedule, logs a line at each boundary, and knows when the run ends.

    A GPU computes behind the host's back. The clock waits for the GPU at a log line, where BasicSR waits anyway, and at
    a boundary. So sums are right, and single iterations in between are not.

    Attributes:
        tried: What each shape took before the run.
    """

    def __init__(
        self,
        schedule: Schedule,
        opt: Mapping[str, Any],
        device: torch.device,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tried: dict[BatchShape, StepTime] = {}
        self._schedule = schedule
        self._device = device
        self._now = now
        self._ranks = ranks(opt)
        self._calls = {'saving': 1, 'validation': sum(name != 'train' for name in opt['datasets'])}
        self._every = {'saving': opt['logger']['save_checkpoint_freq']}
        if opt.get('val') is not None:
            self._every['validation'] = opt['val']['val_freq']
        self._others: dict[str, list[float]] = {'saving': [], 'validation': []}  # seconds of each time
        self._here = _SegmentTime(schedule.segments[0], 0)
        self._seen: dict[BatchShape, Pace] = {}
        self._mark = 0.0
        self._is_in_iteration = False

    @property
    def is_running(self) -> bool:
        """Whether an iteration has been timed: a model of another plugin times none."""
        return self._here.first > 0

    def begin(self, current_iter: int) -> None:
        """Starts an iteration; the time since the last one was spent waiting for its batch."""
        segment = self._schedule.at_current_iter(current_iter)
        if segment is not self._here.segment or not self._here.first_iter:
            self._end_segment(segment)
            self._here = _SegmentTime(segment, current_iter)
            self._reset_peak()
        elif current_iter > self._here.first_iter:
            self._here.since_line += Pace(0.0, self._now() - self._mark, 0)
        self._mark, self._is_in_iteration = self._now(), True

    def end(self, current_iter: int) -> None:
        """Ends an iteration."""
        here = self._here
        here.last_iter = current_iter
        if current_iter == here.first_iter:
            _wait_for(self._device)
            here.first = self._now() - self._mark
        else:
            here.since_line += Pace(self._now() - self._mark)
        self._mark, self._is_in_iteration = self._now(), False

    def finish(self) -> None:
        """Logs the line of the last segment."""
        self._end_segment(None)
        self._here = _SegmentTime(self._schedule.segments[0], 0)

    @contextlib.contextmanager
    def counted_as(self, what: str) -> Iterator[None]:
        """Counts time apart: not to the iteration, nor to the waiting for the next one.

        Args:
            what: ``saving``, ``validation``, ``trial``; or ``step`` for what belongs to the iteration all the same.
        """
        start = self._now()
        if what != 'step':
            self._here.peak = self._peak()
        try:
            yield
        finally:
            seconds = self._now() - start
            self._mark = self._mark + seconds if self._is_in_iteration else self._now()
            if what != 'step':
                self._others.setdefault(what, []).append(seconds)
                self._reset_peak()
            elif self._here.since_line.iterations:
                self._here.since_line += Pace(seconds, 0.0, 0)

    def line(self, current_iter: int) -> dict[str, float]:
        """The figures of a log line, since the last one in the same segment.

        Returns:
            ``seconds_left``; ``samples_per_s`` and ``megapixels_per_s`` (ground truth) of all ranks; ``waiting``, the
            share of the time spent waiting for data; ``peak_memory`` of this process in the segment, in GB.
        """
        here = self._here
        pace = here.since_line if here.since_line.iterations else Pace(here.first)
        self._take_line()
        if len(here.recent) == _SURE:
            self._hint_at_loading(pace)
        shape = here.segment.shape
        return {
            'seconds_left': self.seconds_left(current_iter),
            'samples_per_s': shape.batch_size_per_gpu * self._ranks / pace.seconds,
            'megapixels_per_s': shape.pixels * self._ranks / pace.seconds / 1e6,
            'waiting': pace.waiting_share,
            'peak_memory': self._peak(),
        }

    def seconds_left(self, current_iter: int) -> float:
        """Seconds until the run ends, validations and saves included once there has been one."""
        training = sum(segment_seconds(self._schedule, self._seconds_of, current_iter))
        return training + self._others_between(current_iter, self._schedule.total_iter, at_the_end=1)

    def log_tried(self) -> None:
        """Logs a line if kernel launches are the bottleneck of a shape that was tried."""
        bound = [f'[{shape}]' for shape, (seconds, host) in self.tried.items() if host > _LAUNCHES_BIND * seconds]
        if bound and self._device.type == 'cuda':
            get_root_logger().info(
                f'Kernel launches are the bottleneck at {", ".join(bound)}: the GPU waits for the host, and fewer '
                'pixels take no less time. Set train.cuda_graph: true, or take a larger batch (multigrid-vsr batch '
                'finds it).'
            )

    def _seconds_of(self, shape: BatchShape) -> float:
        tried = {other: step.seconds for other, step in self.tried.items()}
        first = {} if tried else {self._here.segment.shape: Pace(self._here.first)}
        return iteration_seconds(shape, self._seen or first, tried)

    def _others_between(self, first: int, last: int, at_the_end: int = 0) -> float:
        """Seconds of validation and saving at the iterations from first to last, counted from 1."""
        seconds = 0.0
        for name, every in self._every.items():
            if taken := self._others[name]:
                times = last // every - (first - 1) // every + at_the_end
                seconds += times * self._calls[name] * fmean(taken)
        return seconds

    def _take_line(self) -> None:
        """Adds what came since the last line to the pace of the shape."""
        here, shape = self._here, self._here.segment.shape
        if here.since_line.iterations:
            here.recent.append(here.since_line)
            here.others += here.since_line
            here.since_line = _NONE
            self._seen.pop(shape, None)  # the last shape stands last
            self._seen[shape] = sum(here.recent, _NONE).mean

    def _peak(self) -> float:
        """Gigabytes (1e9 bytes) at most in the segment: tensors on a GPU, or resident pages."""
        if self._device.type == 'cuda':
            return max(self._here.peak, torch.cuda.max_memory_allocated(self._device) / 1e9)
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith('VmHWM'))
        return max(self._here.peak, int(line.split()[1]) * 1024 / 1e9)

    def _reset_peak(self) -> None:
        """Looks for the largest anew; where a container does not allow it, the peak is that of the whole run."""
        if self._device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        with contextlib.suppress(OSError):
            _CLEAR.write_text('5')

    def _end_segment(self, following: Segment | None) -> None:
        """Logs what the segment took, and what comes next."""
        if not self.is_running:
            return
        here, segment = self._here, self._here.segment
        with self.counted_as('step'):
            _wait_for(self._device)
        self._take_line()
        pace = here.others if here.others.iterations else Pace(here.first)
        segments = self._schedule.segments
        is_done = here.last_iter == segment.end
        state = 'done' if is_done else f'left at iteration {here.last_iter} of {segment.end}'
        message = (
            f'Stage {segment.stage + 1}, segment {segments.index(segment) + 1} of {len(segments)} {state}: '
            f'[{segment.shape}], iterations {here.first_iter}-{here.last_iter}, '
            f'{span(here.first + here.others.step + here.others.waiting)}, {pace.seconds:.4g} s an iteration, '
            f'{pace.waiting_share:.1%} of it waiting for data, peak memory {self._peak():.2f} GB.'
        )
        if following is not None:
            seconds = self._seconds_of(following.shape) * following.num_iter
            seconds += self._others_between(following.start + 1, following.end)
            message += (
                f' Next: [{following.shape}], iterations {following.start + 1}-{following.end}, about {span(seconds)}, '
                f'until {datetime.now() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}.'
            )
        get_root_logger().info(message)
        self._hint_at_loading(pace)

    def _hint_at_loading(self, pace: Pace) -> None:
        if pace.waiting_share > LOADING_BINDS:
            get_root_logger().info(
                f'Data loading is the bottleneck at [{self._here.segment.shape}]: {pace.waiting_share:.0%} of the time '
                'is spent waiting for data. Pack the frames (multigrid-vsr prepare), or raise '
                'datasets.train.num_worker_per_gpu.'
            )


class MultigridMessageLogger(MessageLogger):
    """BasicSR's log line with the shape, rates, and a time left that knows the shapes to come.

    BasicSR multiplies the iterations left by the mean time of those done: far too low while shapes are small. Without a
    schedule, or with a model that is not timed, the line is BasicSR's.
    """

    def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
        super().__init__(opt, start_iter, tb_logger)
        self._run = opt['datasets']['train'].get('run')

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Writes one line to the log, and its values to TensorBoard.

        Args:
            log_vars: ``epoch``, ``iter``, ``lrs``, ``time`` and ``data_time`` (seconds), and what ``get_current_log``
                gave.
        """
        clock = None if self._run is None else self._run.clock
        if clock is None or not clock.is_running:
            return super().__call__(log_vars)
        epoch, current_iter, lrs = (log_vars.pop(key) for key in ('epoch', 'iter', 'lrs'))
        iter_time, data_time = log_vars.pop('time'), log_vars.pop('data_time')
        shape = self._run.schedule.at_current_iter(current_iter).shape
        values = {key: getattr(shape, key) for key in ('gt_size', 'num_frame', 'batch_size_per_gpu')}
        figures = clock.line(current_iter)

        message = f'[{self.exp_name[:5]}..][epoch:{epoch:3d}, iter:{current_iter:8,d}, lr:('
        message += ''.join(f'{lr:.3e},' for lr in lrs) + ')] '
        message += f'[eta: {span(figures["seconds_left"])}, time (data): {iter_time:.3f} ({data_time:.3f})] '
        message += ''.join(f'{key}: {value} ' for key, value in values.items())
        message += ''.join(f'{key}: {value:.4e} ' for key, value in log_vars.items())
        message += f'samples/s: {figures["samples_per_s"]:.4g} Mpixels/s: {figures["megapixels_per_s"]:.4g} '
        message += f'waiting: {figures["waiting"]:.1%} peak_memory: {figures["peak_memory"]:.2f} '
        self.logger.info(message)
        if self.use_tb_logger and 'debug' not in self.exp_name:
            for key, value in (values | figures).items():
                self.tb_logger.add_scalar(f'multigrid/{key}', value, current_iter)
            for place, lr in enumerate(lrs):
                self.tb_logger.add_scalar(f'lr/group_{place}', lr, current_iter)
            for key, value in log_vars.items():
                self.tb_logger.add_scalar(f'losses/{key}' if key.startswith('l_') else key, value, current_iter)
