"""Resumes runs, and locks the folder of a run against a second one.

The lock file ``.NAME.lock`` lies beside the run's folder and names host, process and time. The process holds a POSIX
lock on this file. It ends with the process, even if workers live on, which would inherit a lock of ``flock``.
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.host.launch import current, decided_by_rank_0
from multigrid_vsr.host.patch import follows_schedules, patch, replace
from multigrid_vsr.options.option_file import leaves

_held: dict[Path, IO[str]] = {}
_holder = 0  # the process that holds these locks


def claim(folders: Iterable[str | Path]) -> None:
    """Locks the folders of a run for this process, and releases those of the run before.

    Raises:
        InputError: If another process holds one of them.
        OptionError: If the lock file cannot be written.
    """
    global _holder
    locks = [_lock_of(folder) for folder in folders]
    if os.getpid() != _holder:  # this process may be a fork of one that holds locks
        _holder = os.getpid()
        _held.clear()
        atexit.register(release)
    release(set(_held) - set(locks))
    try:
        for lock in locks:
            if lock not in _held:
                _held[lock] = _claimed(lock)
    except InputError:
        release()
        raise


def check(folders: Iterable[str | Path]) -> None:
    """Raises the InputError of :func:`claim`, but keeps no lock."""
    for lock in map(_lock_of, folders):
        if lock not in _held and lock.exists():
            with contextlib.suppress(OSError), open(lock, 'r+') as file:
                _lock(file, lock)


def release(locks: Iterable[Path] | None = None) -> None:
    """Releases these locks of this process, or all of them."""
    if os.getpid() == _holder:
        for lock in list(_held if locks is None else locks):
            with _held.pop(lock):  # closing the file ends the lock
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
                _lock(file, lock)
            except InputError:
                file.close()
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    break
            file.close()  # its last owner has just removed the file
        now = datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M:%S %z')
        file.truncate(0)
        file.write(json.dumps({'host': socket.gethostname(), 'pid': os.getpid(), 'since': now}))
        file.flush()
        os.fsync(file.fileno())  # for other machines
    except OSError as error:
        rule, value = 'be a folder that this process can write to', f'{lock.parent} ({error.strerror})'
        raise OptionError('path.experiments_root', rule, value, 'Change the folder, or its permissions.') from error
    return file


def _lock(file: IO[str], lock: Path) -> None:
    """Locks the file, or says who holds it. A file system without locks lets everybody in."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        file.seek(0)
        owner = {'host': socket.gethostname(), 'pid': '(just started)', 'since': 'now'}
        with contextlib.suppress(ValueError):
            owner |= json.loads(file.read() or '{}')
        raise InputError(
            f'name: {lock.name[1:].removesuffix(".lock")} is already being trained by process {owner["pid"]} on host '
            f'{owner["host"]} (since {owner["since"]}), in {lock.parent}. Wait for it, stop it, or choose another name.'
        ) from None
    except OSError:
        pass


@patch(
    '`load_resume_state`',
    why='BasicSR moves away the folder of a running run of the same name. It resumes only on CUDA, runs code that a '
    'state holds, fails on a damaged state, and looks for `--auto_resume` below the current folder',
    needed='the folder of the run is locked, or `model_type` is one of this plugin',
    goes='when BasicSR resumes on any device, from plain data, and moves no running run; a plain run locks nothing',
    vital=True,
)
def whole_states() -> None:
    replace('basicsr.train', 'load_resume_state', _loading_resume_state)


def _loading_resume_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Resumes on any device, from the newest whole checkpoint of the run."""

    @functools.wraps(original)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        is_ours = follows_schedules(opt['model_type'])
        decided_by_rank_0(opt['rank'], lambda: (claim if is_ours else check)(_folders(opt)))  # only rank 0 writes
        if not is_ours:
            return original(opt)
        from basicsr.utils import check_resume

        from multigrid_vsr.host.checks import check_state
        from multigrid_vsr.models import checkpoints

        path = opt['path']
        if opt['auto_resume']:
            path['resume_state'] = decided_by_rank_0(opt['rank'], lambda: _newest(opt))
        if not path.get('resume_state'):
            decided_by_rank_0(opt['rank'], lambda: _check_moved(opt))
            return None
        schedule = opt['datasets']['train'].get('multigrid')
        seed = opt['manual_seed'] if opt.get('seed_is_given') else None
        given = {key: value for key, value in path.items() if key.startswith('param_key_')}
        state, weights, keys = check_state(opt, schedule, checkpoints.ranks(opt), path['models'], seed)
        if schedule is not None and not opt['seed_is_given']:
            opt['manual_seed'] = state.get('seed', opt['manual_seed'])
        check_resume(opt, state['iter'])
        path |= given  # a checkpoint may have other keys than the first weights
        for network, file in weights.items():
            path |= {f'pretrain_{network}': file, f'param_key_{network.removeprefix("network_")}': keys[network]}
        for name in ('models', 'training_states', 'visualization'):
            os.makedirs(path[name], exist_ok=True)
        state['epoch'] = 0  # the whole run is one epoch
        opt['datasets']['train']['start_iter'] = state['iter']
        return state

    return load_resume_state


def _folders(opt: dict[str, Any]) -> list[str]:
    """The folders that BasicSR moves away when another run of this name starts."""
    folders = [opt['path']['experiments_root']]
    if opt['logger'].get('use_tb_logger') and 'debug' not in opt['name']:
        folders.append(os.path.join(opt['root_path'], 'tb_logger', opt['name']))
    return folders


def _newest(opt: dict[str, Any]) -> str | None:
    from multigrid_vsr.models import checkpoints

    path, _, warnings = checkpoints.newest_good(opt)
    print(*warnings, sep='\n', end='\n' if warnings else '')
    return None if path is None else str(path)


def _check_moved(opt: dict[str, Any]) -> None:
    for error in read_and_moved(opt, opt['path']['experiments_root'], current().opt_file or ''):
        raise error


def read_and_moved(opt: dict[str, Any], folder: str, opt_file: str) -> Iterator[OptionError]:
    """A line for each path that a new run reads in its own folder, because BasicSR moves that folder away first."""
    if not os.path.isdir(folder):
        return
    root = os.path.join(os.path.realpath(folder), '')
    for name, value in [('-opt', opt_file), *((name, container[key]) for name, container, key in leaves(opt, ''))]:
        is_set_by_basicsr = name.startswith('path.') and not name.startswith('path.pretrain_')
        if is_set_by_basicsr or not isinstance(value, str) or not os.path.exists(value):
            continue
        if os.path.realpath(value).startswith(root):
            rule = f'be outside {folder}, which a new run of this name moves away'
            yield OptionError(name, rule, value, 'Change the name, or resume with --auto_resume.')


@patch(
    '`copy_opt_file`',
    why='a run that resumes with the copy of the option file in its own folder would copy it onto itself, which fails',
    needed='both are the same file',
    goes='when BasicSR leaves such a file as it is',
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


PATCHES = (whole_states, copy_that_is_there)
