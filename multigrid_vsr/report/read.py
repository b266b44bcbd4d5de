"""Reads a run from the logs, option file and checkpoints in its folder, with one clock for all logs."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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


class Point(NamedTuple):
    """A line of training, or the means of a validation, after an iteration, counted from 1."""

    iteration: int
    time: datetime  # of the record
    values: Mapping[str, float]  # `lr`, `time`, `data_time`, losses and whatever else the line has; or metrics
    eta: str | None = None  # the time left, as the line gives it
    # Wall-clock time of training until then, with validation and saving, without start-up and repeated work.
    seconds: float = 0.0
    # Seconds and iterations since the line before, if no validation, checkpoint or resume lies between them.
    since: tuple[float, int] | None = None


@dataclass
class Log:
    """The content of a log file."""

    options: dict[str, Any] = field(default_factory=dict)  # as BasicSR resolved them, --force_yml included
    parameters: int | None = None  # of network_g
    start_iter: int = 0  # iterations done before
    start: datetime | None = None  # when training started, if it has
    lines: list[Point] = field(default_factory=list)
    validations: list[tuple[str, Point]] = field(default_factory=list)  # with the name of the test set
    saves: list[datetime] = field(default_factory=list)  # when checkpoints were written
    has_ended: bool = False
    last_time: datetime | None = None  # of the last record


def parse_log(text: str) -> Log:
    """Reads a log, without unknown lines and an unfinished last line."""
    log = Log()
    pieces = _RECORD.split(text[: text.rfind('\n') + 1])
    records = list(zip(pieces[1::2], pieces[2::2]))
    if records and records[-1][1].startswith('\n  '):  # the options, perhaps cut off
        records.pop()
    for stamp, message in records:
        log.last_time = datetime.strptime(stamp, '%Y-%m-%d %H:%M:%S,%f')
        _add(log, log.last_time, message.rstrip())
    return log


def _add(log: Log, time: datetime, message: str) -> None:
    if found := _ITERATION.search(message):
        values, eta, rest = {'lr': float(found[2].split(',')[0])}, None, message[found.end() :]
        if times := _TIMES.search(rest):
            eta, values['time'], values['data_time'] = times[1], float(times[2]), float(times[3])
            rest = rest[times.end() :]
        values.update((name, float(value)) for name, value in _VALUE.findall(rest))
        log.lines.append(Point(int(found[1].replace(',', '')), time, values, eta))
    elif message.startswith('Validation '):
        name, _, rows = message.removeprefix('Validation ').partition('\n')
        if metrics := {metric: float(value) for metric, value in _METRIC.findall(rows)}:
            log.validations.append((name, Point(_validated(log, name), time, metrics)))
    elif message.startswith('Sav'):  # 'Saving models and training states.', 'Save the latest model.'
        log.saves.append(time)
    elif found := re.match(r'Network: .*, with parameters: ([\d,]+)', message):
        log.parameters = log.parameters or int(found[1].replace(',', ''))  # the first is network_g
    elif found := re.match(r'Start training from epoch: \d+, iter: (\d+)', message):
        log.start_iter, log.start = int(found[1]), time
    elif message.startswith('End of training'):
        log.has_ended = True
    elif message.startswith('\n  ') and 'datasets' in (options := parse_options(message)):
        log.options = options  # BasicSR's banner begins with spaces too


def _validated(log: Log, dataset: str) -> int:
    """The iteration of a validation, which the log does not say.

    It is the first multiple of ``val.val_freq`` from the last line on that is not yet validated on that set, or after
    the end of training the last iteration.
    """
    if log.has_ended:
        return int(log.options.get('train', {}).get('total_iter', log.lines[-1].iteration if log.lines else 0))
    every = int(float(log.options.get('val', {}).get('val_freq', 1)))
    last_line = log.lines[-1].iteration if log.lines else log.start_iter + 1
    iteration = max([-(-last_line // every) * every, *(point.iteration for _, point in log.validations[-1:])])
    is_done = any((name, point.iteration) == (dataset, iteration) for name, point in log.validations)
    return iteration + every if is_done else iteration


def parse_options(text: str) -> dict[str, Any]:
    """The options in the output of BasicSR's ``dict2str``: ``key: value`` lines, blocks in ``key:[`` and ``]``."""
    root: dict[str, Any] = {}
    blocks = [root]
    for line in map(str.strip, text.splitlines()):
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
        value = ast.literal_eval(text.replace('OrderedDict(', '('))
    except (ValueError, SyntaxError):
        return text
    return [dict(entry) for entry in value] if text.startswith('[OrderedDict(') else value  # multigrid.stages


@dataclass(frozen=True)
class Experiment:
    """A run, finished or not."""

    name: str
    folder: Path  # below experiments/
    options: Mapping[str, Any]  # as BasicSR resolved them
    schedule: Schedule  # one segment for a stock run
    ranks: int  # GPUs that share a global batch
    parameters: int | None  # of network_g, where a log says so
    lines: tuple[Point, ...]
    validations: Mapping[str, tuple[Point, ...]]  # by the name of the test set
    starts: tuple[int, ...]  # iterations at which it was resumed
    has_ended: bool
    last_time: datetime | None  # of the last record
    eta: str | None  # the time left in the last line
    checkpoints: tuple[int, ...]  # iterations whose weights are kept

    @cached_property
    def _points(self) -> list[Point]:
        """The last point of each iteration that was logged or validated, in order."""
        validated = (point for points in self.validations.values() for point in points)
        points = {point.iteration: point for point in (*validated, *self.lines)}
        return [points[iteration] for iteration in sorted(points)]

    @property
    def iteration(self) -> int:
        """The last iteration that is done, as far as known."""
        done = (point.iteration for point in self._points[-1:])
        return self.schedule.total_iter if self.has_ended else max([0, *done, *self.checkpoints])

    @property
    def seconds(self) -> float:
        """Wall-clock of training until the last point."""
        return self._points[-1].seconds if self._points else 0.0

    def samples(self, iteration: int) -> int:
        """Samples that all ranks together have trained on after an iteration."""
        return self.ranks * sum(
            max(0, min(segment.end, iteration) - segment.start) * segment.shape.batch_size_per_gpu
            for segment in self.schedule.segments
        )

    def seconds_at(self, iteration: int) -> float:
        """Wall-clock of training after an iteration, interpolated between the points around it."""
        return _clock(self._points, iteration)


def read_experiment(folder: Path) -> Experiment:
    """Reads the folder of a run: logs, option file and the names of checkpoints.

    Raises:
        InputError: If the folder holds no run, or the options cannot be read.
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
    datasets = options.get('datasets') or {}
    train = {'num_frame': 1, **(datasets.get('train') or {})}  # a run on images has one frame
    try:
        schedule = schedule_from_options({**options, 'datasets': {**datasets, 'train': train}})
    except InputError as error:
        raise InputError(f'{folder}: {error}') from None
    begun = [log for log in logs if log.start is not None]
    lines, validations = _on_one_clock(begun)
    return Experiment(
        name=str(options.get('name', folder.name)),
        folder=folder,
        options=options,
        schedule=schedule,
        ranks=ranks(gpus),
        parameters=next((log.parameters for log in logs if log.parameters), None),
        lines=tuple(lines),
        validations={name: tuple(points) for name, points in validations.items()},
        starts=tuple(log.start_iter for log in begun if log.start_iter),
        has_ended=bool(logs) and logs[-1].has_ended,
        last_time=begun[-1].last_time if begun else None,
        eta=logs[-1].lines[-1].eta if logs and logs[-1].lines else None,
        checkpoints=tuple(sorted(int(p.stem.removeprefix('net_g_')) for p in folder.glob('models/net_g_[0-9]*.pth'))),
    )


def _on_one_clock(logs: Sequence[Log]) -> tuple[list[Point], dict[str, list[Point]]]:
    """Joins the logs of a run: returns lines, and validations by the name of the test set.

    A resumed run continues the clock at the iteration that it resumed from. Later work of the log before was lost, and
    does not count.
    """
    lines: list[Point] = []
    validations: dict[str, list[Point]] = {}
    for log in logs:
        assert log.start is not None
        offset = _clock(lines, log.start_iter)
        for points in (lines, *validations.values()):
            points[:] = [point for point in points if point.iteration <= log.start_iter]
        breaks = sorted([*log.saves, *(point.time for _, point in log.validations)])
        for before, line in zip([None, *log.lines], log.lines):
            since = None
            if before is not None and bisect_right(breaks, before.time) == bisect_right(breaks, line.time):
                since = ((line.time - before.time).total_seconds(), line.iteration - before.iteration)
            lines.append(line._replace(seconds=offset + (line.time - log.start).total_seconds(), since=since))
        at = {point.iteration: point.seconds for point in lines}
        for dataset, found in log.validations:
            points = validations.setdefault(dataset, [])
            points[:] = [point for point in points if point.iteration != found.iteration]  # the last one comes twice
            # The weights were complete before the validation.
            seconds = at.get(found.iteration, offset + (found.time - log.start).total_seconds())
            points.append(found._replace(seconds=seconds))
    return lines, validations


def _clock(points: Sequence[Point], iteration: int) -> float:
    """The clock after an iteration, interpolated between points; 0 before the first iteration."""
    place = bisect_right(points, iteration, key=lambda point: point.iteration)
    before = points[place - 1] if place else Point(0, datetime.min, {})
    if place == len(points):
        return before.seconds
    after = points[place]
    share = (iteration - before.iteration) / (after.iteration - before.iteration)
    return before.seconds + share * (after.seconds - before.seconds)
