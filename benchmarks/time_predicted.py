"""What ``plan --measure`` and the log's time left say of a run, against what it then takes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import yaml

from benchmarks.base_run import options
from benchmarks.harness import run_rounds
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.demo import prepare, train_file
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.report.read import Log, parse_log

ITERS = 600  # as many as let each shape be tried three times
_LEFT_AT = (0.05, 0.1, 0.25, 0.5, 0.75)  # shares of the iterations at which the time left is compared


def measure(root: Path, rounds: int) -> None:
    """Predicts the multigrid base run, trains it and prints both, ``rounds`` times.

    Raises:
        InputError: If the video of the demo is not installed, or the run fails.
    """
    prepare(root / 'data')
    for round_ in range(rounds):
        out = root / f'predicted_{round_}'
        out.mkdir()
        (out / 'data').symlink_to((root / 'data').resolve())
        path = out / 'run.yml'
        path.write_text(yaml.safe_dump(options('multigrid', ITERS, seed=round_), sort_keys=False))
        predicted = _predicted(path)
        train_file(path, ITERS, 'Train')
        log = parse_log(next((out / 'experiments/multigrid').glob('train_*.log')).read_text())
        print(f'Run {round_ + 1}:\n{compared(path, predicted, log)}\n{time_left(log)}', flush=True)


def _predicted(path: Path) -> list[float]:
    command = [sys.executable, '-m', 'multigrid_vsr.cli', 'plan', '-opt', path.name, '--measure', '--json']
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{path}: must be measured, got {done.stderr[-500:]}')
    return [segment['seconds'] for segment in json.loads(done.stdout)['measured']['segments']]


def compared(path: Path, predicted: list[float], log: Log) -> str:
    """A row for each segment, and the run: seconds from line to line of the log, whatever lies between."""
    schedule = schedule_from_options(read_options(path))
    assert log.start is not None
    times = {0: log.start, **{line.iteration: line.time for line in log.lines}}
    spans = [(segment.start, segment.end, str(segment.shape)) for segment in schedule.segments]
    rows = [
        (f'{start + 1}-{end}', shape, *_pair(seconds, (times[end] - times[start]).total_seconds()))
        for (start, end, shape), seconds in zip(
            [*spans, (0, schedule.total_iter, '')], [*predicted, sum(predicted)], strict=True
        )
    ]
    return format_table(('iterations', 'batch x frames x gt', 'predicted / s', 'true / s', 'predicted / true'), rows)


def time_left(log: Log) -> str:
    """The time left that lines of the log have said, against when the log ends."""
    assert log.last_time is not None
    total = log.lines[-1].iteration
    rows = []
    for share in _LEFT_AT:
        line = next(line for line in log.lines if line.iteration >= share * total)
        assert line.eta is not None
        rows.append((f'{line.iteration}', *_pair(_seconds(line.eta), (log.last_time - line.time).total_seconds())))
    return format_table(('iteration', 'time left / s', 'true / s', 'said / true'), rows)


def _seconds(eta: str) -> float:
    days, _, clock = eta.rpartition(', ')
    hours, minutes, seconds = map(int, clock.split(':'))
    return timedelta(int(days.split()[0]) if days else 0, seconds, 0, 0, minutes, hours).total_seconds()


def _pair(said: float, true: float) -> tuple[str, str, str]:
    return f'{said:.1f}', f'{true:.1f}', f'{said / true:.3f}'


if __name__ == '__main__':
    run_rounds('time_predicted', __doc__, measure)
