"""A process that measures, one call at a time: what crashes or hangs there costs one figure."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from multigrid_vsr.core.errors import one_line


class CallError(Exception):
    """A call that raised an error, took too long, or ended its process; its text is one line."""


class Worker:
    """Makes calls in a process of its own, which is started again after one that took it down.

    What the process starts belongs to its group, and ends with it.

    Args:
        begin: Called first in the process.
        end: Called there after a call that raised an error; where it raises one too, the process is not used again.
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin, self._end = begin, end
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """What a function of a module gives; raises ``CallError`` where that is nothing within so many seconds."""
        self.send(function, *arguments)
        return self.result(seconds)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begins a call; :meth:`result` waits for it."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        self._connection.send((function, arguments))

    def result(self, seconds: float) -> Any:
        """The result of the call that was sent; raises ``CallError`` where there is none within so many seconds."""
        assert self._connection is not None
        if not self._connection.poll(seconds):
            self.close()
            raise CallError(f'not done after {seconds:.0f} s')
        try:
            result, error, is_usable = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode
            self.close()
            raise CallError(f'its process ended with status {status}') from None
        if not is_usable:
            self.close()
        if error is not None:
            raise CallError(error)
        return result

    def close(self) -> None:
        """Ends the process and what it started, whatever they do."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has no group yet, or is gone
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._begin, self._end))
        self._process.start()
        theirs.close()


def _serve(connection: Connection, begin: Callable[[], None], end: Callable[[], None]) -> None:
    os.setsid()
    begin()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            function, arguments = connection.recv()
            result, error, is_usable = None, None, True
            try:
                result = function(*arguments)
            except Exception as failure:  # whatever it is: it is what is reported
                error = f'{type(failure).__name__}: {one_line(failure)}'
                traceback.clear_frames(failure.__traceback__)  # they hold tensors
                is_usable = _raises_nothing(end)
            connection.send((result, error, is_usable))


def _raises_nothing(function: Callable[[], None]) -> bool:
    try:
        function()
    except Exception:
        return False
    return True
