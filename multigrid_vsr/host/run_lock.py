"""Who trains in a folder: written beside it, held as long as the process lives.

The lock file ``.NAME.lock`` beside a run's folder says which host, process and time. Its process holds a POSIX lock on
it, which the kernel, or the file server, drops however the process ends; workers that outlive it do not inherit it, as
they would one of ``flock``. Some file systems have such locks on each machine alone, or none. So a file of another
machine that is not locked is watched for signs of life: its process sets the time of the file every few seconds. Only
whether that time changes counts, so clocks need not agree.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from multigrid_vsr.core.errors import OptionError

BEAT = 10.0  # seconds between signs of life
SILENCE = 60.0  # seconds without one, after which a process on another machine has ended

_held: dict[Path, IO[str]] = {}
_holder = 0  # the process that holds them


def claim(folders: Iterable[str | Path]) -> None:
    """Claims the folders of a run for this process until it ends, or claims others: it trains one run at a time.

    Raises:
        OptionError: If a process that lives has claimed one, or nothing can be written beside it.
    """
    global _holder
    locks = [_lock_of(folder) for folder in folders]
    if os.getpid() != _holder:  # the first time, in this process or in one forked from it
        _holder = os.getpid()
        _held.clear()
        atexit.register(release)
        threading.Thread(target=_show_life, daemon=True).start()
    release(set(_held) - set(locks))
    try:
        for lock in locks:
            if lock not in _held:
                _held[lock] = _claimed(lock)
    except OptionError:
        release()
        raise


def check(folders: Iterable[str | Path]) -> None:
    """Looks whether a process that lives has claimed one of the folders, without claiming them.

    Raises:
        OptionError: If one has.
    """
    for lock in map(_lock_of, folders):
        if lock not in _held and lock.exists():
            with contextlib.suppress(OSError), open(lock, 'r+') as file:
                _refuse_if_claimed(file, lock)


def release(locks: Iterable[Path] | None = None) -> None:
    """Gives up what this process has claimed: these locks, or all."""
    if os.getpid() == _holder:
        for lock in list(_held if locks is None else locks):
            with _held.pop(lock):  # whose closing ends the lock
                lock.unlink(missing_ok=True)


def _lock_of(folder: str | Path) -> Path:
    path = Path(os.path.abspath(folder))
    return path.with_name(f'.{path.name}.lock')


def _claimed(lock: Path) -> IO[str]:
    """The lock file, locked and signed."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(lock, 'a+')  # noqa: SIM115  # stays open
            try:
                _refuse_if_claimed(file, lock)
            except OptionError:
                file.close()
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    break
            file.close()  # its last owner has just removed it
        file.truncate(0)
        now = datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M:%S %z')
        owner = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': now, 'boot': _boot()}
        file.write(json.dumps(owner))
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise OptionError(
            'path.experiments_root',
            'be a folder that this process can write to',
            f'{lock.parent} ({error.strerror})',
            'Give another, or the right to.',
        ) from error
    return file


def _refuse_if_claimed(file: IO[str], lock: Path) -> None:
    """Locks the file, unless it is that of a process that lives."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        raise _refused(_owner(file), lock) from None
    except OSError:  # the file system has no locks
        speaks_for = None
    else:
        speaks_for = _boot()
    owner = _owner(file)
    # On this machine an owner that lives would have the lock, whatever its number or its container.
    if owner and owner.get('boot') != speaks_for and _lives(file, owner, lock):
        raise _refused(owner, lock)


def _owner(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return json.loads(file.read() or '{}')
    except ValueError:
        return {'host': 'unknown'}


def _refused(owner: dict[str, Any], lock: Path) -> OptionError:
    name = lock.name.removeprefix('.').removesuffix('.lock')
    return OptionError(
        'name',
        'be of no run that is under way',
        f'{name}, which process {owner.get("pid", "(just started)")} on host {owner.get("host", socket.gethostname())} '
        f'has been training in {lock.parent} since {owner.get("since", "now")}',
        'Wait for its end, stop it, or give another name.',
    )


def _lives(file: IO[str], owner: dict[str, Any], lock: Path) -> bool:
    """Watches for a sign of life of a process on another machine."""
    print(f'Looking up to {SILENCE:.0f} s whether host {owner.get("host")} still writes {lock}.', flush=True)
    # Not by another descriptor: closing it would end the lock on this one.
    before, end = os.fstat(file.fileno()).st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT))
        if os.fstat(file.fileno()).st_mtime_ns != before:
            return True
    return False


def _show_life() -> None:
    while True:
        time.sleep(BEAT)
        for file in list(_held.values()):
            with contextlib.suppress(OSError, ValueError):  # a file that has just been closed
                os.utime(file.fileno())


def _boot() -> str:
    """This machine since its last start; containers on it have the same."""
    with contextlib.suppress(OSError):
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return socket.gethostname()
