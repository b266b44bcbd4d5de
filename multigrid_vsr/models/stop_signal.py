"""SIGTERM and Ctrl-C, held until an iteration is done on all ranks."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import distributed

from multigrid_vsr.core.errors import one_line
from multigrid_vsr.data.workers import kill_workers

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A rank that cannot connect says so at once, and the others wait for it as long as a group's timeout. Later a rank may
# wait for another that saves or validates, so the group of the run has gloo's own, half an hour.
_CONNECTS_WITHIN = timedelta(minutes=1)
_MEANT_TWICE = 1.0  # seconds between two Ctrl-C of a person; a launcher passes its own on at once


class StopSignal:
    """Remembers that the process was asked to stop, so that it can save first; a second Ctrl-C stops it at once.

    Under a launcher every process gets the signal, and from the launcher once more, so a repeated SIGTERM says nothing
    new. All ranks have to stop after the same iteration: what they know is summed over gloo while the next one runs.

    Args:
        dist: Whether there is a launcher.
        device: Where the ranks exchange tensors if they cannot do so over gloo.
    """

    def __init__(self, dist: bool = False, device: torch.device | str = 'cpu') -> None:
        self._received = 0
        self._since = 0.0
        self._device: torch.device | str = 'cpu'
        self._group: Any = None
        if dist:
            self._group, self._device = _group_of_all(device)
        self._summed: tuple[Any, torch.Tensor] | None = None  # what is under way
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}

    def after_iteration(self) -> int:
        """The signal after which all ranks stop now, or 0."""
        if self._group is None:
            return self._received
        known = 0
        if self._summed is not None:
            work, value = self._summed
            work.wait()
            known = int(value)
        value = torch.tensor(self._received, device=self._device)
        work = distributed.all_reduce(value, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._summed = work, value
        return known

    def wait_for_all(self) -> None:
        """Returns when every rank is here: the launcher ends the others as soon as one has ended."""
        if self._group is not None:
            distributed.barrier(self._group)
            self._leave_group()

    def _leave_group(self) -> None:
        """Ends the group while Python runs: at its end, a sum under way would abort the process."""
        if self._group is not None:
            if self._summed is not None:
                self._summed[0].wait()
            if self._group is not distributed.group.WORLD:
                distributed.destroy_process_group(self._group)
            self._group = self._summed = None

    def restore(self) -> None:
        """Gives the signals back to who had them, at the end of the run."""
        self._leave_group()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT and time.monotonic() - self._since > _MEANT_TWICE:
            _end_at_once(128 + number)
        if not self._received:
            self._received, self._since = int(number), time.monotonic()


def _group_of_all(device: torch.device | str) -> tuple[Any, torch.device | str]:
    """A group over gloo, whose sums the device does not wait for; the run's own where gloo cannot connect."""
    trial, error = None, ''
    _holds_on_all(True, device)  # none waits in the trial for one that still loads its weights
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
        f'gloo cannot connect the ranks ({error or "on another rank"}): signals go over the backend of the run, which '
        'costs a wait an iteration. Set GLOO_SOCKET_IFNAME to the network interface of the nodes.'
    )
    return distributed.group.WORLD, device


def _holds_on_all(holds: bool, device: torch.device | str) -> bool:
    """Whether something holds on all ranks, as soon as all are here."""
    held = torch.tensor(int(holds), device=device)
    distributed.all_reduce(held, distributed.ReduceOp.MIN)
    return bool(held)


def _end_at_once(status: int) -> None:
    """Ends the process as it is: an exit in good order would wait for a thread or a worker that a frame keeps waiting.

    Nothing can be damaged by it: a checkpoint gets its name when it is whole.
    """
    kill_workers()
    sys.stdout.flush()
    os._exit(status)
