"""A metric, a picture, TensorBoard or the log file that fails is logged, and does not end the run."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import InputError, one_line


class Failures:
    """Logs what fails beside training, and counts how often in a row."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        for handler in get_root_logger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = partial(_say_once, handler, set())  # type: ignore[method-assign]

    def failed(self, what: str, why: object) -> int:
        """Logs that something failed; returns how often in a row it did."""
        self._in_a_row[what] += 1
        count = self._in_a_row[what]
        times = f', {count} times in a row' if count > 1 else ''
        kind = f'{type(why).__name__}: ' if isinstance(why, Exception) and not isinstance(why, InputError) else ''
        reason = one_line(f'{kind}{why}', 400).rstrip('.')
        get_root_logger().error(f'{what} failed{times}: {reason}. Training goes on.')
        return count

    def worked(self, what: str) -> None:
        """Forgets the failures before."""
        self._in_a_row.pop(what, None)


class TensorBoardLogger:
    """A ``SummaryWriter`` whose failures are logged; it is made anew for the next iteration that is written."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._writer: Any = None
        self._failed_at: Any = None  # the iteration
        self._failures = Failures()
        threading.excepthook = _quiet_about_tensorboard

    def __getattr__(self, name: str) -> Callable[..., None]:
        def write(*args: Any, **kwargs: Any) -> None:
            step = args[2] if len(args) > 2 else kwargs.get('global_step')
            if self._failed_at is not None and step in (None, self._failed_at):
                return
            try:
                if self._writer is None:
                    self._writer = self._make()
                getattr(self._writer, name)(*args, **kwargs)
            except Exception as error:  # of any writer: of the disk, of wandb
                self._failed_at = 'its end' if step is None else step
                self._writer = None  # its thread has ended
                self._failures.failed('TensorBoard', error)
            else:
                if self._failed_at is not None:
                    self._failed_at = None
                    self._failures.worked('TensorBoard')

        return write


def _say_once(handler: logging.FileHandler, said: set[str], record: logging.LogRecord) -> None:
    """Prints why a log line cannot be written, as Python's logging does, but once and without a traceback."""
    why = one_line(sys.exc_info()[1])
    if why not in said:
        said.add(why)
        print(f'The log file {handler.baseFilename} cannot be written ({why}). Training goes on.', file=sys.stderr)


def _quiet_about_tensorboard(args: threading.ExceptHookArgs) -> None:
    """Hides the traceback of a writer's thread: the same error comes again at the next write."""
    if args.thread is None or not type(args.thread).__module__.startswith('tensorboard.'):
        threading.__excepthook__(args)
