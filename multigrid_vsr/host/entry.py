"""Where a run begins: its options are checked before BasicSR writes anything, and its schedule goes to the data."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from multigrid_vsr.core.errors import InputError, one_line
from multigrid_vsr.host import command_line
from multigrid_vsr.host.command_line import refusal
from multigrid_vsr.host.launch import check_torchrun, from_rank_0, is_first_rank, is_first_to_say
from multigrid_vsr.host.patch import left_out, patch, replace, replace_copies
from multigrid_vsr.host.registering import register
from multigrid_vsr.options.archs import target_of
from multigrid_vsr.options.checked import checked
from multigrid_vsr.options.multigrid_block import asked_for, schedule_from_options, uses_multigrid
from multigrid_vsr.options.option_file import settle, unshared
from multigrid_vsr.options.run_options import checked_schedule


def lacking() -> str | None:
    """What keeps option files from being checked in this host; then it is left alone."""
    parse_options = getattr(importlib.import_module('basicsr.utils.options'), 'parse_options', None)
    if parse_options is None:
        return 'its utils/options.py has no parse_options'
    parameters = list(inspect.signature(parse_options).parameters)
    return None if parameters == ['root_path', 'is_train'] else f'its parse_options takes ({", ".join(parameters)})'


@patch(
    '`parse_options`: `path.experiments_root`, `path.results_root`',
    why='BasicSR 1.4.2 overwrites both with folders below the root path',
    needed='the run would not go where the file says',
    goes='git master honours them: nothing is changed there',
)
def written_roots() -> None:
    def honouring_roots(original: Callable[..., Any]) -> Callable[..., Any]:

        @functools.wraps(original)
        def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
            opt, args = original(root_path, is_train)
            written = command_line.written() or {}
            settle(written)
            _honour_roots(written.get('path') or {}, opt)
            return opt, args

        return parse_options

    replace('basicsr.utils.options', 'parse_options', honouring_roots)


def _honour_roots(written: Mapping[str, Any], opt: dict[str, Any]) -> None:
    key = 'experiments_root' if opt['is_train'] else 'results_root'
    if written.get(key) is None:
        return
    path, wrong = opt['path'], opt['path'][key]
    root = os.path.join(written[key], opt['name'])
    for name in (key, 'models', 'training_states', 'log', 'visualization'):
        if isinstance(path.get(name), str) and (path[name] + os.sep).startswith(wrong + os.sep):
            path[name] = root + path[name][len(wrong) :]


@patch(
    '`parse_options`',
    why='the first call of every entry, before anything is written: options are checked here, and the schedule is put '
    'into `datasets.train`',
    needed='always',
    goes='never',
    vital=True,
)
def checked_options() -> None:
    replace('basicsr.utils.options', 'parse_options', _checking)


def _checking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        replace_copies(sys._getframe(1).f_globals)
        _print_input_errors_as_one_line()
        written = command_line.written()
        if written is None:
            return original(root_path, is_train)
        _check_host(written)
        notes = settle(written)
        follows_schedule = is_train and uses_multigrid(written)
        is_our_test = not is_train and asked_for(written) is not None
        if not (follows_schedule or is_our_test):
            return original(root_path, is_train)
        # They import libraries that a plain run of BasicSR does without.
        from multigrid_vsr.host.checks import (
            check_bf16,
            check_num_gpu,
            check_run,
            check_seed,
            check_several_gpus,
            check_state,
            check_test,
            counted,
            fetch_vgg,
        )
        from multigrid_vsr.models.checkpoints import ranks

        check_torchrun()
        if follows_schedule:
            checked_schedule(written)
            check_run(counted(written))
            check_seed(written)
            check_num_gpu(written, command_line.has_launcher())
            notes += check_several_gpus(counted(written), command_line.has_launcher())
            fetch_vgg(written)
            if is_first_rank():
                print(*notes, sep='\n', end='\n' if notes else '')
        if is_our_test:
            check_test(counted(written))
            check_num_gpu(written, command_line.has_launcher())
        opt, args = original(root_path, is_train)
        opt = unshared(opt)
        settle(opt)
        for dataset_opt in opt['datasets'].values():
            dataset_opt['scale'] = opt.setdefault('scale', 1)
        if follows_schedule:
            check_bf16(opt)
            opt['datasets']['train'].update(checked('datasets.train', written['datasets']['train']))
            _check_data(opt)
            opt['manual_seed'] = from_rank_0(opt['manual_seed'])  # without one in the file each rank draws its own
            opt['datasets']['train']['target'] = target_of(opt)
            opt['datasets']['train']['degraded'] = opt['train'].get('degradation') is not None
            opt['seed_is_given'] = written.get('manual_seed') is not None
            opt['datasets']['train']['multigrid'] = schedule = schedule_from_options(opt)
            if opt['path'].get('resume_state') and not opt['auto_resume']:
                seed = written.get('manual_seed')
                check_state(opt, schedule, ranks(opt), opt['path']['models'], seed)
        return opt, args

    return parse_options


def _check_host(written: Mapping[str, Any]) -> None:
    """Says what could not be patched, where something of this plugin is asked for.

    Raises:
        InputError: If a run cannot do without it.
    """
    asked = asked_for(written)
    if asked is None:
        return
    try:
        register()  # what could not be imported together with BasicSR
    except (ImportError, AttributeError) as error:
        raise InputError(refusal(*asked, one_line(error))) from error
    for unit, reason in left_out:
        if unit.vital:
            raise InputError(refusal(*asked, f'{unit.what} cannot be patched: {reason}'))
    if left_out and is_first_rank():
        reasons = '; '.join(f'{unit.what}, {reason}' for unit, reason in left_out)
        print(f'BasicSR is not as it was. Not patched: {reasons}')


def _check_data(opt: Mapping[str, Any]) -> None:
    from multigrid_vsr.data.check import check_data
    from multigrid_vsr.models.checkpoints import ranks

    notes = check_data(opt, schedule_from_options(opt), ranks(opt)).notes
    if opt['rank'] == 0:
        print(*notes, sep='\n', end='\n' if notes else '')


def _print_input_errors_as_one_line() -> None:
    """Ends the process with the line alone where an option or a frame cannot be used."""
    previous = sys.excepthook
    if getattr(previous, 'prints_input_errors', False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        if not isinstance(error, InputError):
            previous(kind, error, traceback)
        elif is_first_to_say(error):
            print(error, file=sys.stderr)

    excepthook.prints_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook


@patch(
    '`build_dataloader`',
    why='BasicSR has one batch size and ends with an epoch: a training set that follows a schedule gets a loader of '
    'its own',
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
    '`MessageLogger`',
    why='its time left is a mean over iterations of all shapes',
    needed='`datasets.train.multigrid`; it is a subclass, which without a schedule is the original',
    goes='never',
)
def log_line() -> None:
    from multigrid_vsr.host.message_logger import MultigridMessageLogger

    replace('basicsr.utils.logger', 'MessageLogger', lambda _: MultigridMessageLogger)


@patch(
    '`init_wandb_logger`',
    why='it asks `wandb.util` for `generate_id`, which newer wandb does not have, and raises without a network: the '
    'run ends with a traceback',
    needed='`wandb.util` has no such function, and that of `wandb.sdk.lib.runid` stands in; a run of this plugin says '
    'what failed and goes on',
    goes='when BasicSR lets wandb draw the id',
)
def wandb_ids() -> None:
    def having_ids(original: Callable[..., Any]) -> Callable[..., Any]:

        @functools.wraps(original)
        def init_wandb_logger(opt: dict[str, Any]) -> None:
            import wandb

            if not hasattr(wandb.util, 'generate_id'):
                vars(wandb.util)['generate_id'] = importlib.import_module('wandb.sdk.lib.runid').generate_id
            if asked_for(opt) is None:
                return original(opt)
            from multigrid_vsr.models.run_watch import Beside

            try:
                original(opt)
            except Exception as error:  # of the network, or of who is logged in
                Beside().failed('wandb', error)

        return init_wandb_logger

    replace('basicsr.utils.logger', 'init_wandb_logger', having_ids)


@patch(
    '`init_tb_logger`',
    why='a writer of TensorBoard raises where its disk is full: the run ends with a traceback',
    needed='an option file that asks for this plugin; what its writer raises is said and it is made anew',
    goes='when BasicSR goes on without it',
)
def tensorboard() -> None:
    def making_safe(original: Callable[..., Any]) -> Callable[..., Any]:

        @functools.wraps(original)
        def init_tb_logger(log_dir: str) -> Any:
            from basicsr.utils.dist_util import get_dist_info

            from multigrid_vsr.models.run_watch import TensorBoardLogger

            if get_dist_info()[0] != 0 or asked_for(command_line.written() or {}) is None:
                return original(log_dir)
            return TensorBoardLogger(functools.partial(original, log_dir))

        return init_tb_logger

    replace('basicsr.utils.logger', 'init_tb_logger', making_safe)


PATCHES = (written_roots, checked_options, scheduled_loader, log_line, wandb_ids, tensorboard)
