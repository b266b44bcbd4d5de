"""The start of a run: options are checked before BasicSR writes anything, and the schedule goes to the data."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from multigrid_vsr.core.errors import InputError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.host import launch
from multigrid_vsr.host.patch import left_out, patch, register, replace, replace_copies
from multigrid_vsr.options.archs import target_of
from multigrid_vsr.options.checked import checked
from multigrid_vsr.options.multigrid_block import asked_for, uses_multigrid
from multigrid_vsr.options.option_file import settle, unshared
from multigrid_vsr.options.run_options import checked_schedule

Parsed = tuple[dict[str, Any], argparse.Namespace]


@patch(
    '`parse_options`',
    why='every entry calls it first, before anything is written: here options are checked, and the schedule goes into '
    '`datasets.train`. BasicSR 1.4.2 ignores `path.experiments_root` and `path.results_root`, and exits at '
    '`--local-rank`, the spelling of `torch.distributed.launch`',
    needed='always; a plain run only gets the folders that its file names',
    goes='never; git master honours both paths',
    vital=True,
)
def checked_options() -> None:
    replace('basicsr.utils.options', 'parse_options', _checking)


def _checking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def parse_options(root_path: str, is_train: bool = True) -> Parsed:
        replace_copies(sys._getframe(1).f_globals)
        _print_input_errors_as_one_line()
        line = launch.read()
        if line.asked is not None:
            _check_host(line.asked)
        is_ours = uses_multigrid(line.options) if is_train else line.asked is not None
        schedule = _check_options(line, is_train) if is_ours else None
        argv = [re.sub('^--local-rank', '--local_rank', word) for word in sys.argv]  # BasicSR's spelling
        with mock.patch.object(sys, 'argv', argv), mock.patch.dict(original.__globals__, osp=_PATHS_OR_LISTS):
            opt, args = original(root_path, is_train)
        _honour_roots(line.options.get('path') or {}, opt)
        if is_ours:
            opt = unshared(opt)
            settle(opt)
            for dataset_opt in opt['datasets'].values():
                dataset_opt['scale'] = opt.setdefault('scale', 1)
        if schedule is not None:
            _hand_over(opt, schedule, line.options)
        return opt, args

    return parse_options


# `os.path` for BasicSR, which would fail to expand `~` in a `dataroot_gt` that is a list.
_PATHS_OR_LISTS = types.SimpleNamespace(
    **{**vars(os.path), 'expanduser': lambda path: path if isinstance(path, list) else os.path.expanduser(path)}
)


def _check_host(asked: tuple[str, Any]) -> None:
    """Says what could not be patched; refuses the run if that was vital."""
    try:
        register()  # the types that could not be registered while BasicSR was imported
    except (ImportError, AttributeError) as error:
        raise InputError(launch.refusal(*asked, one_line(error))) from error
    for unit, reason in left_out:
        if unit.vital:
            raise InputError(launch.refusal(*asked, f'{unit.what} cannot be patched: {reason}'))
    reasons = '; '.join(f'{unit.what}, {reason}' for unit, reason in left_out)
    launch.print_first([f'BasicSR is not as it was. Not patched: {reasons}'] if left_out else [])


def _check_options(line: launch.CommandLine, is_train: bool) -> Schedule | None:
    """Checks a run before anything is written; returns the schedule of a training run.

    Raises:
        InputError: If an option cannot be used here.
    """
    from multigrid_vsr.host import checks  # imports libraries that a plain run does without

    launch.check_torchrun()
    opt = checks.counted(line.options)
    if not is_train:
        checks.check_test(opt)
        checks.check_num_gpu(line.options, line.has_launcher)
        return None
    schedule = checked_schedule(line.options)
    checks.check_run(opt, schedule)
    launch.print_first([*line.notes, *checks.check_machine(opt, line.has_launcher)])
    return schedule


def _hand_over(opt: dict[str, Any], schedule: Schedule, written: Mapping[str, Any]) -> None:
    """Checks data and state, and adds the schedule and what else the training set needs to its options.

    Raises:
        InputError: If the data or the state to resume do not fit the run.
    """
    from multigrid_vsr.data.check import check_data
    from multigrid_vsr.host.checks import check_bf16, check_state
    from multigrid_vsr.models.checkpoints import ranks
    from multigrid_vsr.models.run import Run

    check_bf16(opt)
    train_set, seed = opt['datasets']['train'], written.get('manual_seed')
    train_set.update(checked('datasets.train', written['datasets']['train']))
    launch.print_first(check_data(opt, schedule, ranks(opt))[1])
    opt['manual_seed'] = launch.from_rank_0(opt['manual_seed'])  # without one in the file each rank has drawn its own
    opt['seed_is_given'] = seed is not None
    train_set['target'] = target_of(opt)
    train_set['degraded'] = opt['train'].get('degradation') is not None
    train_set['multigrid'], train_set['run'] = schedule, Run(schedule)
    if opt['path'].get('resume_state') and not opt['auto_resume']:
        check_state(opt, schedule, ranks(opt), opt['path']['models'], seed)


def _honour_roots(written: Mapping[str, Any], opt: dict[str, Any]) -> None:
    key = 'experiments_root' if opt['is_train'] else 'results_root'
    if written.get(key) is None:
        return
    path, wrong = opt['path'], opt['path'][key]
    root = os.path.join(written[key], opt['name'])
    for name in (key, 'models', 'training_states', 'log', 'visualization'):
        if isinstance(path.get(name), str) and (path[name] + os.sep).startswith(wrong + os.sep):
            path[name] = root + path[name][len(wrong) :]


def _print_input_errors_as_one_line() -> None:
    """Lets an InputError end the process with its line and no traceback."""
    previous = sys.excepthook
    if getattr(previous, 'prints_input_errors', False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        if not isinstance(error, InputError):
            previous(kind, error, traceback)
        elif launch.should_print(error):
            print(error, file=sys.stderr)

    excepthook.prints_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook


@patch(
    '`build_dataloader`',
    why='BasicSR has one batch size and counts epochs by it; a training set with a schedule gets a loader of its own',
    needed='`datasets.train.multigrid`, which only a schedule sets',
    goes='never',
    vital=True,
)
def scheduled_loader() -> None:
    def building_dataloader(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def build_dataloader(dataset: Any, dataset_opt: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            if dataset_opt.get('multigrid') is None:
                return original(dataset, dataset_opt, *args, **kwargs)
            from multigrid_vsr.data.loader import build_multigrid_loader

            return build_multigrid_loader(dataset, dataset_opt, *args, **kwargs)

        return build_dataloader

    replace('basicsr.data', 'build_dataloader', building_dataloader)


@patch(
    '`CUDAPrefetcher`',
    why='it asks for the first batch when it is made, and again when the loop begins: the workers start twice',
    needed='its loader is a `MultigridLoader`; with another loader the subclass changes nothing',
    goes='when it waits for its `reset`',
)
def first_batch_once() -> None:
    def starting_at_reset(original: Any) -> Any:
        class CUDAPrefetcher(original):
            def __init__(self, loader: Any, opt: dict[str, Any]) -> None:
                from multigrid_vsr.data.loader import MultigridLoader

                super().__init__(() if isinstance(loader, MultigridLoader) else loader, opt)
                self.ori_loader = loader

        return CUDAPrefetcher

    replace('basicsr.data.prefetch_dataloader', 'CUDAPrefetcher', starting_at_reset)


@patch(
    '`MessageLogger`',
    why='its time left is a mean over iterations of all shapes',
    needed='`datasets.train.multigrid`; without a schedule the subclass changes nothing',
    goes='never',
)
def log_line() -> None:
    from multigrid_vsr.models.clock import MultigridMessageLogger

    replace('basicsr.utils.logger', 'MessageLogger', lambda _: MultigridMessageLogger)


@patch(
    '`init_wandb_logger`, `init_tb_logger`',
    why='if wandb has no network, or TensorBoard has a full disk, the run ends with a traceback; newer wandb has no '
    '`wandb.util.generate_id`',
    needed='the option file asks for this plugin: its run reports the failure and continues. If `wandb.util` lacks the '
    'function, that of `wandb.sdk.lib.runid` replaces it',
    goes='when BasicSR continues without them, and lets wandb draw the id',
)
def loggers_beside() -> None:
    def having_ids(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_wandb_logger(opt: dict[str, Any]) -> None:
            import wandb

            if not hasattr(wandb.util, 'generate_id'):
                vars(wandb.util)['generate_id'] = importlib.import_module('wandb.sdk.lib.runid').generate_id
            if asked_for(opt) is None:
                return original(opt)
            from multigrid_vsr.models.failures import Failures

            try:
                original(opt)
            except Exception as error:  # no network, or nobody logged in
                Failures().failed('wandb', error)

        return init_wandb_logger

    def making_safe(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_tb_logger(log_dir: str) -> Any:
            from basicsr.utils.dist_util import get_dist_info

            from multigrid_vsr.models.failures import TensorBoardLogger

            if get_dist_info()[0] != 0 or launch.current().asked is None:
                return original(log_dir)
            return TensorBoardLogger(functools.partial(original, log_dir))

        return init_tb_logger

    replace('basicsr.utils.logger', 'init_wandb_logger', having_ids)
    replace('basicsr.utils.logger', 'init_tb_logger', making_safe)


PATCHES = (checked_options, scheduled_loader, log_line, loggers_beside)
