"""The life of the processes that load: how they start, what they ignore, how they end."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from basicsr.data import worker_init_fn
from torch.utils.data import DataLoader

from multigrid_vsr.core.errors import InputError

# What workers ignore: a job's end, Ctrl-C, a terminal that closes, and SLURM's --signal.
LEFT_TO_THE_RUN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_REASONS = {
    signal.SIGBUS: 'a file that it read was cut, its disk has failed, or shared memory is full (/dev/shm)',
    signal.SIGKILL: 'memory is short, or somebody has ended it',
}
_LONGEST_END = 1.0  # seconds; a process that waits for a dead disk does not even end when it is killed

_workers: list[BaseProcess] = []


def init_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Leaves the signals that stop a run, which reach all its processes, to the process that trains: it saves first.

    Args:
        worker_id: Number of the worker.
        num_workers, rank, seed: As for BasicSR's ``worker_init_fn``, which seeds the worker.
    """
    for number in LEFT_TO_THE_RUN:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_RUN)
    worker_init_fn(worker_id, num_workers, rank, seed)


def start_workers(loader: DataLoader) -> Iterator[Any]:
    """Starts the workers of a loader so that no signal ends one before it can ignore it, and iterates over it.

    One that dies is found where its batch is waited for. torch would raise in the middle of an iteration instead, whose
    weights cannot be saved.

    A run whose worker has died cannot save. Forked workers have this process's handlers; a launcher's ranks spawn
    theirs, which import for seconds.
    """
    watcher = signal.getsignal(signal.SIGCHLD)
    context = loader.multiprocessing_context or multiprocessing
    if context.get_start_method(allow_none=True) in (None, 'fork'):
        iterator = iter(loader)
    else:
        resource_tracker.ensure_running()  # it would let the signals through in the middle
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RUN)
        try:
            iterator = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, watcher or signal.SIG_DFL)
    if not _workers:
        atexit.register(kill_workers)
    _workers.extend(iterator._workers)  # type: ignore[attr-defined]  # torch has no public name for them
    return iterator


def dead_worker() -> InputError | None:
    """The line for a worker that a signal has ended; ``None`` where all live."""
    for worker in _workers:
        if worker.exitcode is not None and worker.exitcode < 0:
            number = signal.Signals(-worker.exitcode)
            reason = _REASONS.get(number, 'what it loads, or a library, has failed')
            return InputError(f'A worker that loads data was ended by {number.name}: {reason}.')
    return None


def kill_workers() -> None:
    """Ends the workers started here: after an error they may still wait for work, and they ignore being asked to stop.

    Other processes of the program are left alone, and whoever watches the ends of processes does so again afterwards.
    """
    watcher = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take these ends for another error
    for worker in _workers:
        worker.kill()
    for worker in _workers:
        worker.join(_LONGEST_END)
    _workers.clear()
    atexit.unregister(kill_workers)
    signal.signal(signal.SIGCHLD, watcher or signal.SIG_DFL)
