"""Where a run goes on: the state it is resumed from, and that nobody else is training in its folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.host import command_line, run_lock
from multigrid_vsr.host.launch import decided_by_rank_0
from multigrid_vsr.host.patch import patch, replace
from multigrid_vsr.host.registering import follows_schedules
from multigrid_vsr.options.settle import leaves


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

        from multigrid_vsr.models import checkpoint

        if opt['auto_resume']:
            opt['path']['resume_state'] = decided_by_rank_0(opt['rank'], lambda: _newest(opt))
        if not opt['path'].get('resume_state'):
            decided_by_rank_0(opt['rank'], lambda: check_moved(opt))
            return None
        from multigrid_vsr.host.run_check import check_state

        schedule = opt['datasets']['train'].get('multigrid')
        seed = opt['manual_seed'] if opt.get('seed_is_given') else None
        given = {key: value for key, value in opt['path'].items() if key.startswith('param_key_')}
        state, weights, keys = check_state(opt, schedule, checkpoint.ranks(opt), opt['path']['models'], seed)
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
    from multigrid_vsr.models import checkpoint

    path, _, warnings = checkpoint.newest_good(opt)
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
        claim = run_lock.claim if follows_schedules(opt['model_type']) else run_lock.check
        decided_by_rank_0(opt['rank'], lambda: claim(_folders(opt)))  # it alone writes
        return original(opt)

    return load_resume_state


def _folders(opt: dict[str, Any]) -> list[str]:
    """The folders of a run that BasicSR moves away when another of its name starts."""
    folders = [opt['path']['experiments_root']]
    if opt['logger'].get('use_tb_logger') and 'debug' not in opt['name']:
        folders.append(os.path.join(opt['root_path'], 'tb_logger', opt['name']))
    return folders


PATCHES = (whole_states, one_run_one_folder, copy_that_is_there)
