"""``multigrid-vsr plan``: checks an option file and prints what the run will do, without building a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.check import check_data
from multigrid_vsr.frames.clips import MissingData
from multigrid_vsr.options.multigrid_block import uses_multigrid
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.settle import settle
from multigrid_vsr.options.train_block import checked_schedule


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser('plan', help='check an option file and print its stages')
    parser.add_argument('-opt', required=True, help='path to the option YAML file')
    parser.add_argument('--gpus', type=int, help='number of GPUs in all; default: num_gpu of the file')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY:KEY=VALUE', help="as BasicSR's")
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the table; files and folders that are not on this machine are notes, not errors.

    Raises:
        InputError: If the file or an option of it cannot be used.
    """
    opt = read_options(args.opt, args.force_yml)
    notes = settle(opt)
    schedule = checked_schedule(opt)
    notes += shape_notes(schedule, opt.get('scale', 1))
    world_size = args.gpus or world_size_of(opt)
    if uses_multigrid(opt):
        notes += _checked_run(opt, schedule, world_size)
    else:
        notes.append(
            "A plain run of BasicSR, with neither a block nor the Multigrid types: BasicSR's options not checked."
        )
    print(stage_table(schedule, world_size))
    print(comparison(schedule, world_size))
    print(*notes, sep='\n', end='\n' if notes else '')
    print(*data_lines(opt, schedule, world_size), sep='\n')
    if args.gpus is None and uses_multigrid(opt):
        from multigrid_vsr.host.device_check import check_num_gpu

        check_num_gpu(opt)


def data_lines(opt: Mapping[str, Any], schedule: Schedule, world_size: int) -> list[str]:
    """Compares the training set with the shapes; what it is, or why it could not be looked at.

    Raises:
        InputError: If it does not fit the run.
    """
    try:
        checked = check_data(opt, schedule, world_size)
    except MissingData as error:
        return [f'Data not checked. {error}']
    return [*checked.notes, checked.summary]


def _checked_run(opt: dict[str, Any], schedule: Schedule, world_size: int) -> list[str]:
    """Makes the checks that need BasicSR; returns a line for each path that is not on this machine."""
    import basicsr  # noqa: F401  # its registries

    from multigrid_vsr.host.run_check import check_run, check_state

    missing = check_run(opt, may_miss=True)
    if opt['path'].get('resume_state') and all(error.option != 'path.resume_state' for error in missing):
        experiments = opt['path'].get('experiments_root') or os.path.join(os.getcwd(), 'experiments')
        check_state(opt, schedule, world_size, os.path.join(experiments, opt['name']))
    return [f'Data not checked. {error}' for error in missing]


def world_size_of(opt: Mapping[str, Any]) -> int:
    """``num_gpu`` of the file; 1 where it is ``auto``, or 0 for the CPU."""
    num_gpu = opt.get('num_gpu')
    return (num_gpu if isinstance(num_gpu, int) else 1) or 1
