"""Where a run goes on: the state it is resumed from, and that nobody else is training in its folder.

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
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.host import command_line
from multigrid_vsr.host.launch import decided_by_rank_0
from multigrid_vsr.host.patch import patch, replace
from multigrid_vsr.host.registering import follows_schedules
from multigrid_vsr.options.option_file import leaves

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


@patch(
    '`load_resume_state`',
    why='it loads onto a CUDA device only, runs what code a state holds, fails on a damaged one, and looks for '
    '`--auto_resume` below the current folder',
    needed='`model_type` is one of this plugin',
    goes='when BasicSR resumes on any device, from plain data',
    vital=True,
)
def whole_states() -> None:
    replace('basicsr.train', 'load_resume_state', _loading_resume_state)


def _loading_resume_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Resumes on any device, from the newest whole checkpoint where the run writes, at the next iteration."""

    @functools.wraps(original)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        if not follows_schedules(opt['model_type']):
            return original(opt)
        from basicsr.utils import check_resume

        from multigrid_vsr.models import checkpoints

        if opt['auto_resume']:
            opt['path']['resume_state'] = decided_by_rank_0(opt['rank'], lambda: _newest(opt))
        if not opt['path'].get('resume_state'):
            decided_by_rank_0(opt['rank'], lambda: check_moved(opt))
            return None
        from multigrid_vsr.host.checks import check_state

        schedule = opt['datasets']['train'].get('multigrid')
        seed = opt['manual_seed'] if opt.get('seed_is_given') else None
        given = {key: value for key, value in opt['path'].items() if key.startswith('param_key_')}
        state, weights, keys = check_state(opt, schedule, checkpoints.ranks(opt), opt['path']['models'], seed)
        if schedule is not None and not opt['seed_is_given']:
            opt['manual_seed'] = state.get('seed', opt['manual_seed'])
        check_resume(opt, state['iter'])
        opt['path'] |= given  # what the file says is of its own weights, not of those of a checkpoint
        for network, path in weights.items():
            label = network.removeprefix('network_')
            opt['path'] |= {f'pretrain_{network}': path, f'param_key_{label}': keys[network]}
        for name in ('models', 'training_states', 'visualization'):
            os.makedirs(opt['path'][name], exist_ok=True)
        state['epoch'] = 0  # the whole run is one virtual epoch
        opt['datasets']['train']['start_iter'] = state['iter']
        return state

    return load_resume_state


def check_moved(opt: dict[str, Any]) -> None:
    """Looks for what a new run reads in the folder that BasicSR moves away before the run starts.

    Raises:
        OptionError: If the option file or something that it names is there.
    """
    for error in read_and_moved(opt, opt['path']['experiments_root'], command_line.file() or ''):
        raise error


def read_and_moved(opt: dict[str, Any], folder: str, opt_file: str) -> Iterator[OptionError]:
    """A line for each file or folder that a new run reads in its own folder.

    Args:
        opt: The options.
        folder: That of the run.
        opt_file: The option file.
    """
    if not os.path.isdir(folder):
        return
    root = os.path.join(os.path.realpath(folder), '')
    named = [('-opt', opt_file), *((name, container[key]) for name, container, key in leaves(opt, ''))]
    for name, value in named:
        is_set_by_basicsr = name.startswith('path.') and not name.startswith('path.pretrain_')
        if is_set_by_basicsr or not isinstance(value, str) or not os.path.exists(value):
            continue
        if os.path.realpath(value).startswith(root):
            rule = f'be outside {folder}, which a new run of this name moves away'
            yield OptionError(name, rule, value, 'Change the name, or go on with --auto_resume.')


def _newest(opt: dict[str, Any]) -> str | None:
    from multigrid_vsr.models import checkpoints

    path, _, warnings = checkpoints.newest_good(opt)
    print(*warnings, sep='\n', end='\n' if warnings else '')
    return None if path is None else str(path)


@patch(
    '`load_resume_state`: one run, one folder',
    why='BasicSR moves the folder of a run of the same name away, be it under way',
    needed='another process that lives has claimed the folder',
    goes='never; a plain run claims nothing, and is refused only where it would move a claimed folder',
)
def one_run_one_folder() -> None:
    replace('basicsr.train', 'load_resume_state', _claiming_folders)


@patch(
    '`copy_opt_file`',
    why='a run goes on with the copy of the option file in its own folder, and a file cannot be copied onto itself',
    needed='both are the same file',
    goes='when BasicSR leaves such a file alone',
)
def copy_that_is_there() -> None:
    def copying(original: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(original)
        def copy_opt_file(opt_file: str, experiments_root: str) -> None:
            copy = os.path.join(experiments_root, os.path.basename(opt_file))
            if not (os.path.exists(copy) and os.path.samefile(opt_file, copy)):
                original(opt_file, experiments_root)

        return copy_opt_file

    replace('basicsr.utils.options', 'copy_opt_file', copying)


def _claiming_folders(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        ask = claim if follows_schedules(opt['model_type']) else check
        decided_by_rank_0(opt['rank'], lambda: ask(_folders(opt)))  # it alone writes
        return original(opt)

    return load_resume_state


def _folders(opt: dict[str, Any]) -> list[str]:
    """The folders of a run that BasicSR moves away when another of its name starts."""
    folders = [opt['path']['experiments_root']]
    if opt['logger'].get('use_tb_logger') and 'debug' not in opt['name']:
        folders.append(os.path.join(opt['root_path'], 'tb_logger', opt['name']))
    return folders


PATCHES = (whole_states, one_run_one_folder, copy_that_is_there)
