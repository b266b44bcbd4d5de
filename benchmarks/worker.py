"""A process that measures, one call at a time: a crash or a hang there costs one figure."""

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
    """Makes calls in a process of its own, and starts another one when a call has ended it.

    Args:
        begin: Called first in the process.
        end: Called there after a call that raised an error; if it raises one too, the process is not used again.
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin, self._end = begin, end
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """The result of a module's function; raises ``CallError`` if there is none within so many seconds."""
        self.send(function, *arguments)
        return self.result(seconds)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begins a call; :meth:`result` waits for it."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context('spawn')
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._begin, self._end))
            self._process.start()
            theirs.close()
        assert self._connection is not None
        self._connection.send((function, arguments))

    def result(self, seconds: float) -> Any:
        """The result of the call that was sent; raises ``CallError`` if there is none within so many seconds."""
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
        """Kills the process and all that it started: they are one group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has no group yet, or is gone
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(connection: Connection, begin: Callable[[], None], end: Callable[[], None]) -> None:
    os.setsid()
    begin()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            function, arguments = connection.recv()
            result, error, is_usable = None, None, True
            try:
                result = function(*arguments)
            except Exception as failure:
                error = f'{type(failure).__name__}: {one_line(failure)}'
                traceback.clear_frames(failure.__traceback__)  # they hold tensors
                try:
                    end()
                except Exception:
                    is_usable = False
            connection.send((result, error, is_usable))
