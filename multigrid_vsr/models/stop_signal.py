"""SIGTERM, Ctrl-C and the like: remembered until all ranks have saved the run together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from torch import distributed

from multigrid_vsr.core.errors import one_line
from multigrid_vsr.data.loader import LEFT_TO_THE_RUN, kill_workers

# Ranks wait this long for one that cannot connect. Later a rank may wait for another that saves or validates, so the
# group of the run has gloo's own timeout, half an hour.
_CONNECTS_WITHIN = timedelta(minutes=1)
_MEANT_TWICE = 1.0  # seconds between two Ctrl-C of a person; a launcher passes one on at once
_LOOKS = 0.25  # seconds between two looks at what other ranks have received
_PATIENCE = 1.0  # seconds that a frame has to end; launchers wait for half a minute


class Stopped(BaseException):
    """Leaves a validation, or the waiting for a batch, before its end.

    Attributes:
        signal: The signal on which all ranks agreed; 0 if this rank leaves by itself.
    """

    def __init__(self, signal: int = 0) -> None:
        super().__init__(signal)
        self.signal = signal


class StopSignal:
    """Remembers that the process was asked to stop, so that it can save first; a second Ctrl-C stops it at once.

    A launcher passes each signal on to every process, so a repeated SIGTERM means nothing. A signal that is ignored, as
    SIGHUP is under ``nohup``, stays ignored.

    All ranks have to stop after the same iteration: they exchange what they know over gloo while the next iteration
    runs. A rank that validates or waits for data exchanges nothing, so a thread reads the store of the run.

    Args:
        dist: Whether there is a launcher.
        device: Where the ranks exchange tensors if gloo cannot connect them.

    Attributes:
        received: The first signal, or 0.
        has_nothing_to_save: Whether a signal ends the process at once.
    """

    def __init__(self, dist: bool = False, device: torch.device | str = 'cpu') -> None:
        self.received = 0
        self.has_nothing_to_save = False
        self._since = 0.0
        self._can_leave = False
        self._group: Any = None
        self._store: Any = None
        if dist:
            self._of_run = device
            self._group, self._device = _group_of_all(device)
            self._store = distributed.distributed_c10d._get_default_store()  # torch has no public name for it
        self._exchange: tuple[Any, torch.Tensor] | None = None  # what is under way
        self._has_ended = threading.Event()
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            numbers = [number for number in LEFT_TO_THE_RUN if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._remember) for number in numbers}
            threading.Thread(target=self._look, name='multigrid_vsr stop', daemon=True).start()

    def after_iteration(self) -> int:
        """The signal after which all ranks stop now, or 0."""
        if self._group is None:
            return self.received
        known = self._end_exchange()
        self._exchange = self._largest_of_all(self.received)
        return known

    def meet(self, *facts: int) -> list[int]:
        """Waits for every rank; returns the signal that one has received, or 0, and the largest of each number."""
        if self._group is None:
            return [self.received, *facts]
        work, values = self._largest_of_all(self.received, *facts)
        while not work.is_completed():  # in Python, so that a signal is heard: another rank may still validate
            time.sleep(0.005)
        work.wait()
        return values.tolist()

    @contextmanager
    def can_leave(self) -> Iterator[None]:
        """:class:`Stopped` may leave what is inside: at :meth:`leave_if_asked`, or anywhere after a while."""
        self._can_leave = True
        try:
            yield
        finally:
            self._can_leave = False

    def leave_if_asked(self) -> None:
        """Raises :class:`Stopped` if a rank was asked to stop; called between two frames."""
        if self.received and self._can_leave:
            raise Stopped

    def has_others_that_left(self) -> bool:
        """Whether this rank has lost others that were asked to stop."""
        with suppress(RuntimeError):  # the store may have gone with them
            self._look_once()
        return self._store is not None and self.received != 0

    def is_first_to_leave(self, rank: int) -> bool:
        """Whether this rank saves for all that leave by themselves; rank 0 gets the time to be the first."""
        if self._store is None:
            return True
        time.sleep(1.0 if rank else 0.0)
        try:
            return self._store.add('multigrid_vsr left', 1) == 1
        except RuntimeError:  # the rank that had the store has left
            return False

    def wait_for_all(self) -> None:
        """Waits for every rank: the launcher kills the others as soon as one has ended."""
        if self._group is not None:
            distributed.barrier(self._group)
            self._leave_group()

    def restore(self) -> None:
        """Gives the signals back to their handlers before, at the end of the run. Ranks can still :meth:`meet`."""
        self._has_ended.set()
        if self._group is not None:  # a validation at the end of the run still meets
            self._leave_group()
            self._group, self._device = distributed.group.WORLD, self._of_run
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        self.received = 0

    def _largest_of_all(self, *values: int) -> tuple[Any, torch.Tensor]:
        tensor = torch.tensor(values, device=self._device)
        return distributed.all_reduce(tensor, distributed.ReduceOp.MAX, self._group, async_op=True), tensor

    def _leave_group(self) -> None:
        """Ends the group before Python ends: its threads would abort the process then."""
        self._end_exchange()
        if self._group is not distributed.group.WORLD:
            distributed.destroy_process_group(self._group)
        self._group = None

    def _end_exchange(self) -> int:
        """What the exchange under way gives, or 0."""
        if self._exchange is None:
            return 0
        (work, value), self._exchange = self._exchange, None
        work.wait()
        return int(value)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT and time.monotonic() - self._since > _MEANT_TWICE:
            end_at_once(128 + number)
        if not self.received:
            self.received, self._since = int(number), time.monotonic()
        if self.has_nothing_to_save:
            with suppress(OSError):  # not by the logger, which this may have interrupted
                os.write(2, f'Asked to stop by signal {int(number)} before an iteration was done here.\n'.encode())
            end_at_once(128 + number)
        if self._can_leave and time.monotonic() - self._since >= _PATIENCE:
            self._can_leave = False
            raise Stopped

    def _look(self) -> None:
        """Tells other ranks, hears them, and wakes the main thread."""
        while not self._has_ended.wait(_LOOKS):
            with suppress(RuntimeError):
                self._look_once()
            if self.received and self._can_leave:
                _wake(signal.SIGTERM)

    def _look_once(self) -> None:
        if self._store is None:
            return
        is_told = self._store.check(['multigrid_vsr stop'])
        if self.received and not is_told:
            self._store.set('multigrid_vsr stop', str(self.received))
        elif is_told and not self.received:
            number = int(self._store.get('multigrid_vsr stop'))
            _wake(number if number in self._previous else signal.SIGTERM)


def _wake(number: int) -> None:
    """Sends a signal to the main thread: nothing else interrupts its waiting."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _group_of_all(device: torch.device | str) -> tuple[Any, torch.device | str]:
    """A group over gloo, which does not keep the device waiting; the run's own group if gloo cannot connect."""
    trial, error = None, 'on another rank'
    _holds_on_all(True, device)  # so that no rank waits in the trial for one that still loads its weights
    try:
        trial = distributed.new_group(backend='gloo', timeout=_CONNECTS_WITHIN)
    except RuntimeError as failure:
        error = one_line(failure)
    has_connected = _holds_on_all(trial is not None, device)
    if trial is not None:
        distributed.destroy_process_group(trial)
    if has_connected:
        return distributed.new_group(backend='gloo'), 'cpu'
    get_root_logger().warning(
        f'gloo cannot connect the ranks ({error}): signals go over the backend of the run, which costs a wait an '
        'iteration. Set GLOO_SOCKET_IFNAME to the network interface of the nodes.'
    )
    return distributed.group.WORLD, device


def _holds_on_all(holds: bool, device: torch.device | str) -> bool:
    held = torch.tensor(int(holds), device=device)
    distributed.all_reduce(held, distributed.ReduceOp.MIN)
    return bool(held)


def end_at_once(status: int) -> NoReturn:
    """Ends the process now: a normal exit would wait for a worker that waits for a frame.

    This damages nothing: a checkpoint gets its name when it is whole.
    """
    kill_workers()
    with suppress(OSError):  # a terminal that has closed
        sys.stdout.flush()
    os._exit(status)
