"""A run as its files show it: lines, validations and checkpoints on the clock of training."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.checkpoint import ranks
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import copy_in_run_folder, read_options
from multigrid_vsr.report.event_files import read_events
from multigrid_vsr.report.log_file import Line, Log, Validation, parse_log


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
    """Reads the folder of a run: logs, event files, option file and the names of checkpoints.

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
    gpus = {'dist': False, 'world_size': 1, **options}
    gpus['num_gpu'] = gpus.get('num_gpu') if isinstance(gpus.get('num_gpu'), int) else 1
    events = next((path for path in _event_folders(folder, options) if path.is_dir()), folder / 'tb_logger')
    run = _on_one_clock(logs, *read_events(events, _metrics(options)))
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


def _event_folders(folder: Path, options: Mapping[str, Any]) -> Iterator[Path]:
    name = str(options.get('name', folder.name))
    yield folder.resolve().parent.parent / 'tb_logger' / name
    if isinstance(options.get('root_path'), str):
        yield Path(options['root_path']) / 'tb_logger' / name


def _metrics(options: Mapping[str, Any]) -> dict[str, list[str]]:
    metrics = list((options.get('val') or {}).get('metrics') or {})
    sets = {k: v for k, v in (options.get('datasets') or {}).items() if k.startswith('val') and isinstance(v, Mapping)}
    return {str(dataset.get('name', phase)): metrics for phase, dataset in sets.items()}


@dataclass
class _Run:
    lines: list[Point]
    validations: dict[str, list[Point]]
    last_time: datetime | None


def _on_one_clock(logs: list[Log], lines: list[Line], validations: list[Validation]) -> _Run:
    """Lays the logs of a run end to end; event files stand in for what came before the first of them.

    A run that was resumed goes on at the clock of the iteration it was resumed from: what it had done after that
    iteration is lost, and does not count.
    """
    run = _Run([], {}, None)
    started = [log for log in logs if log.start is not None]
    first = started[0].start_iter if started else sys.maxsize
    early = [line for line in lines if line.iteration <= first]
    if early:
        _append(run, early[0].time, 0, early, [v for v in validations if v.iteration <= first], [])
    for log in started:
        assert log.start is not None
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
