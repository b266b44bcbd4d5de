"""Where a run goes on: the state it is resumed from, and that nobody else is training in its folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from multigrid_vsr.host import run_lock
from multigrid_vsr.host.launch import decided_by_rank_0
from multigrid_vsr.host.patch import patch, replace
from multigrid_vsr.host.registering import follows_schedules


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


PATCHES = (whole_states, one_run_one_folder)
