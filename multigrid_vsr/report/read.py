"""A run as its files show it: the log, taken apart, validations and checkpoints on the clock of training."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.checkpoints import ranks
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import copy_in_run_folder, read_options, take_new_names

_RECORD = re.compile(r'^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+: ', re.MULTILINE)
_NUMBER = r'-?(?:\d+\.?\d*(?:e[+-]?\d+)?|nan|inf)'
_ITERATION = re.compile(r'\[epoch: *[\d,]+, iter: *([\d,]+), lr:\(([^)]*)\)\]')
_TIMES = re.compile(rf'\[eta: (.*?), time \(data\): ({_NUMBER}) \(({_NUMBER})\)')
_VALUE = re.compile(rf'(\S+): ({_NUMBER})(?=\s|$)')
_METRIC = re.compile(rf'^\t # (.+?): ({_NUMBER})', re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """One line of an iteration.

    Attributes:
        iteration: BasicSR's ``current_iter``, counted from 1.
        time: When it was written.
        values: ``lr``, ``time`` and ``data_time`` in seconds, and all others under their own names.
        eta: The time left, as written.
    """

    iteration: int
    time: datetime
    values: dict[str, float]
    eta: str | None = None


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        iteration: Iteration whose weights were validated.
        time: When it ended.
        dataset: Name of the test set.
        metrics: Its metrics, means over clips.
    """

    iteration: int
    time: datetime
    dataset: str
    metrics: dict[str, float]


@dataclass
class Log:
    """What one log file says.

    Attributes:
        options: Options of the run as BasicSR resolved them, ``--force_yml`` included.
        parameters: Parameters of ``network_g``.
        start_iter: Iterations done before.
        start: When training started; ``None`` where it has not.
        saves: When checkpoints were written.
        has_ended: Whether it came to the end of training.
    """

    options: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    start_iter: int = 0
    start: datetime | None = None
    lines: list[Line] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    saves: list[datetime] = field(default_factory=list)
    has_ended: bool = False
    last_time: datetime | None = None


def parse_log(text: str) -> Log:
    """Takes a log apart. What cannot be told is left out: a last line that is not whole, and lines of other kinds."""
    log = Log()
    pieces = _RECORD.split(text[: text.rfind('\n') + 1])
    for stamp, message in zip(pieces[1::2], pieces[2::2]):
        _add(log, datetime.strptime(stamp, '%Y-%m-%d %H:%M:%S,%f'), message.rstrip())
    return log


def _add(log: Log, time: datetime, message: str) -> None:
    log.last_time = time
    if found := _ITERATION.search(message):
        log.lines.append(_line(time, int(found[1].replace(',', '')), found[2], message[found.end() :]))
    elif message.startswith('Validation '):
        name, _, rows = message.removeprefix('Validation ').partition('\n')
        if metrics := {metric: float(value) for metric, value in _METRIC.findall(rows)}:
            log.validations.append(Validation(_validated(log, name), time, name, metrics))
    elif message.startswith('Sav'):  # 'Saving models and training states.', 'Save the latest model.'
        log.saves.append(time)
    elif found := re.match(r'Network: .*, with parameters: ([\d,]+)', message):
        log.parameters = log.parameters or int(found[1].replace(',', ''))  # the first is network_g
    elif found := re.match(r'Start training from epoch: \d+, iter: (\d+)', message):
        log.start_iter, log.start = int(found[1]), time
    elif message.startswith('End of training'):
        log.has_ended = True
    elif message.startswith('\n  ') and not log.options:
        log.options = parse_options(message)


def _line(time: datetime, iteration: int, lrs: str, rest: str) -> Line:
    values = {'lr': float(lrs.split(',')[0])}
    eta = None
    if found := _TIMES.search(rest):
        eta, values['time'], values['data_time'] = found[1], float(found[2]), float(found[3])
        rest = rest[found.end() :]
    values.update((name, float(value)) for name, value in _VALUE.findall(rest))
    return Line(iteration, time, values, eta)


def _validated(log: Log, dataset: str) -> int:
    """The iteration of the validation that comes next in a log, which does not say it.

    It is the next multiple of ``val.val_freq`` that is not before the last line and not validated already on that set;
    the one after the end of training is of the last iteration.
    """
    if log.has_ended:
        return int(log.options.get('train', {}).get('total_iter', log.lines[-1].iteration if log.lines else 0))
    every = int(float(log.options.get('val', {}).get('val_freq', 1)))
    last_line = log.lines[-1].iteration if log.lines else log.start_iter + 1
    iteration = max([-(-last_line // every) * every, *(v.iteration for v in log.validations[-1:])])
    is_done = any((v.iteration, v.dataset) == (iteration, dataset) for v in log.validations)
    return iteration + every if is_done else iteration


def parse_options(text: str) -> dict[str, Any]:
    """The options in BasicSR's ``dict2str``: ``key: value`` lines, blocks between ``key:[`` and ``]``."""
    root: dict[str, Any] = {}
    blocks = [root]
    for line in text.splitlines():
        line = line.strip()
        if line == ']' and len(blocks) > 1:
            blocks.pop()
        elif line.endswith(':['):
            blocks.append(blocks[-1].setdefault(line[:-2], {}))
        elif ': ' in f'{line} ':
            key, _, value = line.partition(':')
            blocks[-1][key] = _literal(value.strip())
    return root


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@dataclass(frozen=True)
class Point:
    """Values at an iteration.

    Attributes:
        iteration: BasicSR's ``current_iter``, counted from 1.
        seconds: Wall-clock of training until then; validation and saving count, start-up and lost work do not.
        values: Figures by their names.
        since: Seconds and iterations since the point before; ``None`` where a validation, a checkpoint or a new start
            lies between.
    """

    iteration: int
    seconds: float
    values: Mapping[str, float]
    since: tuple[float, int] | None = None


@dataclass(frozen=True)
class Experiment:
    """A run, finished or not.

    Attributes:
        name: ``name`` of its options.
        folder: Its folder below ``experiments/``.
        options: Its options as BasicSR resolved them.
        schedule: The shapes of its iterations; one segment for a stock run.
        ranks: GPUs that share a global batch.
        parameters: Parameters of ``network_g``, where a log says so.
        lines: Rate, losses and times at the iterations that were logged.
        validations: Metrics, by the name of the test set.
        starts: Iterations at which it was resumed.
        has_ended: Whether it came to its end.
        last_time: When its files last say anything.
        eta: The time left that its last line gives.
        checkpoints: Iterations of which weights are kept.
    """

    name: str
    folder: Path
    options: Mapping[str, Any]
    schedule: Schedule
    ranks: int
    parameters: int | None
    lines: tuple[Point, ...]
    validations: Mapping[str, tuple[Point, ...]]
    starts: tuple[int, ...]
    has_ended: bool
    last_time: datetime | None
    eta: str | None
    checkpoints: tuple[int, ...]

    @property
    def iteration(self) -> int:
        """The last iteration that is known to be done."""
        points = [*self.lines, *(p for points in self.validations.values() for p in points)]
        done = max((point.iteration for point in points), default=0)
        return self.schedule.total_iter if self.has_ended else max([done, *self.checkpoints])

    @property
    def seconds(self) -> float:
        """Wall-clock of training until the last point."""
        points = [*self.lines, *(p for points in self.validations.values() for p in points)]
        return max((point.seconds for point in points), default=0.0)

    def samples(self, iteration: int) -> int:
        """Samples that all ranks together have trained on after an iteration."""
        return self.ranks * sum(
            max(0, min(segment.end, iteration) - segment.start) * segment.shape.batch_size_per_gpu
            for segment in self.schedule.segments
        )

    def seconds_at(self, iteration: int) -> float:
        """The clock of training after an iteration, between the lines and validations around it."""
        validated = (p for points in self.validations.values() for p in points)
        points = {point.iteration: point for point in (*validated, *self.lines)}
        return _clock(sorted(points.values(), key=lambda point: point.iteration), iteration)


def read_experiment(folder: Path) -> Experiment:
    """Reads the folder of a run: logs, option file and the names of checkpoints.

    Raises:
        InputError: If there is no run in it, or its options cannot be read.
    """
    logs = sorted(
        (parse_log(path.read_text(encoding='utf-8', errors='replace')) for path in folder.glob('train_*.log')),
        key=lambda log: log.start or log.last_time or datetime.min,
    )
    copy = copy_in_run_folder(folder)
    options = next((log.options for log in reversed(logs) if 'train' in log.options), None)
    if options is None and copy is not None:
        options = read_options(copy)
    if options is None:
        raise InputError(
            f'EXPERIMENT: must be the folder of a run with a train_*.log or an option file, got {folder}. Give one of '
            'the folders below experiments/.'
        )
    take_new_names(options)
    gpus = {'dist': False, 'world_size': 1, **options}
    gpus['num_gpu'] = gpus.get('num_gpu') if isinstance(gpus.get('num_gpu'), int) else 1
    run = _on_one_clock(logs)
    return Experiment(
        name=str(options.get('name', folder.name)),
        folder=folder,
        options=options,
        schedule=_schedule(folder, options),
        ranks=ranks(gpus),
        parameters=next((log.parameters for log in logs if log.parameters), None),
        lines=tuple(run.lines),
        validations={name: tuple(points) for name, points in run.validations.items()},
        starts=tuple(log.start_iter for log in logs if log.start and log.start_iter),
        has_ended=bool(logs) and logs[-1].has_ended,
        last_time=run.last_time,
        eta=logs[-1].lines[-1].eta if logs and logs[-1].lines else None,
        checkpoints=tuple(sorted(int(p.stem.removeprefix('net_g_')) for p in folder.glob('models/net_g_[0-9]*.pth'))),
    )


def _schedule(folder: Path, options: Mapping[str, Any]) -> Schedule:
    """The shapes of a run; one on images has one frame.

    Raises:
        InputError: If the options give none.
    """
    datasets = options.get('datasets') or {}
    train = {'num_frame': 1, **(datasets.get('train') or {})}
    try:
        return schedule_from_options({**options, 'datasets': {**datasets, 'train': train}})
    except InputError as error:
        raise InputError(f'{folder}: {error}') from None


@dataclass
class _Run:
    lines: list[Point]
    validations: dict[str, list[Point]]
    last_time: datetime | None


def _on_one_clock(logs: list[Log]) -> _Run:
    """Lays the logs of a run end to end.

    A run that was resumed goes on at the clock of the iteration it was resumed from: what it had done after that
    iteration is lost, and does not count.
    """
    run = _Run([], {}, None)
    for log in logs:
        if log.start is not None:
            _append(run, log.start, log.start_iter, log.lines, log.validations, log.saves)
            run.last_time = log.last_time
    return run


def _append(
    run: _Run,
    start: datetime,
    start_iter: int,
    lines: list[Line],
    validations: list[Validation],
    saves: list[datetime],
) -> None:
    """Adds what came after a start, and takes out what an earlier one had done beyond that iteration."""
    offset = _clock(run.lines, start_iter)
    run.lines = [point for point in run.lines if point.iteration <= start_iter]
    breaks = sorted([*saves, *(validation.time for validation in validations)])
    for before, line in zip([None, *lines], lines):
        since = None
        if before is not None and bisect_right(breaks, before.time) == bisect_right(breaks, line.time):
            since = ((line.time - before.time).total_seconds(), line.iteration - before.iteration)
        seconds = offset + (line.time - start).total_seconds()
        run.lines.append(Point(line.iteration, seconds, line.values, since))
    for points in run.validations.values():
        points[:] = [point for point in points if point.iteration <= start_iter]
    at = {point.iteration: point.seconds for point in run.lines}
    for validation in validations:  # it is of weights that were there before it began
        points = run.validations.setdefault(validation.dataset, [])
        points[:] = [point for point in points if point.iteration != validation.iteration]  # the last comes twice
        seconds = at.get(validation.iteration, offset + (validation.time - start).total_seconds())
        points.append(Point(validation.iteration, seconds, validation.metrics))
    run.last_time = max([line.time for line in lines] + [v.time for v in validations], default=run.last_time)


def _clock(points: Sequence[Point], iteration: int) -> float:
    """The clock after an iteration, in proportion between the points around it; 0 before the first iteration."""
    place = bisect_right(points, iteration, key=lambda point: point.iteration)
    before = points[place - 1] if place else Point(0, 0.0, {})
    if place == len(points):
        return before.seconds
    after = points[place]
    share = (iteration - before.iteration) / (after.iteration - before.iteration)
    return before.seconds + share * (after.seconds - before.seconds)
