"""BasicSR's log of a training run, taken apart; also one that is still being written."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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
