"""``multigrid-vsr plan``: checks an option file and prints the stages of the run, and with ``--measure`` its time."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least, check_writable, parsed_by_basicsr, write_whole
from multigrid_vsr.core.errors import OptionError, one_line
from multigrid_vsr.core.plan import Launches, comparison, plan_data, shape_notes, stage_table
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.check import check_data
from multigrid_vsr.frames.training import MissingData
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.launches import known_run_launches, run_launches
from multigrid_vsr.options.multigrid_block import uses_multigrid
from multigrid_vsr.options.option_file import read_options, settle
from multigrid_vsr.options.run_options import checked_schedule, gpus_of, rate_of, stock_run_of

_EXAMPLES = (
    'multigrid-vsr plan -opt options/train_basicvsr_mg.yml --gpus 8',
    'multigrid-vsr plan -opt mg.yml --plot plan.png',
    'multigrid-vsr plan -opt mg.yml --measure --json',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser('plan', help='check an option file and print its stages', examples=_EXAMPLES)
    parser.add_argument('-opt', required=True, help='path to the option YAML file')
    parser.add_argument('--gpus', type=int, help='number of GPUs in all; default: num_gpu of the file')
    parser.add_argument('--measure', action='store_true', help='time every shape here: hours of the run and of stock')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the run: a .png or .svg')
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY:KEY=VALUE', help="as BasicSR's")
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the table. Paths that are not on this machine give notes, not errors."""
    check_least(args, {'--gpus': 1})
    if args.plot is not None:
        is_other = args.plot.suffix.lower() not in ('.png', '.svg')
        refuse(is_other, '--plot', 'end with .png or .svg', args.plot, 'Give another name.')
        check_writable('--plot', args.plot)
    opt = read_options(args.opt, args.force_yml)
    notes, follows_schedule = settle(opt), uses_multigrid(opt)
    schedule = checked_schedule(opt)
    notes += shape_notes(schedule, opt.get('scale', 1))
    world_size = args.gpus or gpus_of(opt)
    if follows_schedule:
        notes += _for_this_machine(opt, args.opt, schedule, world_size, args.gpus is None)
    else:
        why = "with neither a block nor the Multigrid types: BasicSR's options not checked."
        notes.append(f'A plain run of BasicSR, {why}')
    rate, stock = rate_of(opt['train'], schedule), stock_run_of(opt, world_size)
    launches, launch_notes = launches_of(opt, schedule)
    notes += launch_notes
    data_notes = data_lines(opt, schedule, world_size)
    if not args.json:
        print(stage_table(schedule, world_size, rate, launches))
        print(comparison(schedule, world_size, stock, launches))
        print(*notes, *data_notes, sep='\n')
    if args.plot is not None:
        from multigrid_vsr.report.plan_plot import plot_plan

        drawn = plot_plan(schedule, rate, stock_run_of(opt, 1), str(opt.get('name')), args.plot.suffix[1:].lower())
        write_whole('--plot', args.plot, drawn)
    prediction = _predict(args, opt) if args.measure else None
    if args.json:
        data = plan_data(schedule, world_size, rate, stock, launches)
        measured = {'measured': prediction.as_data()} if prediction else {}
        print(json.dumps({'name': opt.get('name'), **data, 'notes': [*notes, *data_notes], **measured}, indent=1))
    elif prediction:
        print(prediction)


def launches_of(opt: Mapping[str, Any], schedule: Schedule) -> tuple[Launches | None, list[str]]:
    """Kernel launches of a run on a GPU, by the table or counted, or a note if they cannot be counted here."""
    if opt.get('num_gpu') == 0:
        return None, []
    known = known_run_launches(opt, schedule)
    if known is not None:
        return known, []
    from multigrid_vsr.launches import count_run  # with torch, which takes seconds

    try:
        return run_launches(opt, schedule, count_run(opt, schedule)), []
    except Exception as error:  # whatever an arch raises for such tensors
        return None, [f'Kernel launches not counted: {one_line(error) or type(error).__name__}']


def _predict(args: argparse.Namespace, opt: Mapping[str, Any]) -> Any:
    """Times the run here, without the output of BasicSR."""
    is_plain = not uses_multigrid(opt)
    refuse(is_plain, '--measure', 'stand beside a Multigrid run', 'a plain run', 'Convert the file first.')
    from multigrid_vsr.measure import predict

    with contextlib.redirect_stdout(io.StringIO()):
        run_opt = parsed_by_basicsr(args.opt, args.force_yml)
    logging.getLogger('basicsr').setLevel('ERROR')
    return predict(run_opt, rounds=3)


def data_lines(opt: Mapping[str, Any], schedule: Schedule, world_size: int) -> list[str]:
    """Lines about the training set, or why it was not checked."""
    try:
        summary, notes = check_data(opt, schedule, world_size)
    except MissingData as error:
        return [f'Data not checked. {error}']
    return [*notes, summary]


def _for_this_machine(
    opt: dict[str, Any], opt_file: str, schedule: Schedule, world_size: int, counts_gpus: bool
) -> list[str]:
    """Makes the checks that need BasicSR; returns lines for what ``train`` would refuse only on this machine."""
    import basicsr  # noqa: F401  # its registries

    from multigrid_vsr.host.checks import check_num_gpu, check_run, check_state, missing_vgg
    from multigrid_vsr.host.resume import read_and_moved

    missing = check_run(opt, schedule, may_miss=True)
    lines = [f'Data not checked. {error}' for error in missing]
    folder = os.path.join(opt['path'].get('experiments_root') or os.path.join(os.getcwd(), 'experiments'), opt['name'])
    if not opt['path'].get('resume_state'):
        lines += [f'Not as a new run. {error}' for error in read_and_moved(opt, folder, opt_file)]
    elif all(error.option != 'path.resume_state' for error in missing):
        check_state(opt, schedule, world_size, os.path.join(folder, 'models'), opt.get('manual_seed'))
    lacking = [missing_vgg(opt)]
    try:
        if counts_gpus:
            check_num_gpu(opt)
    except OptionError as error:
        lacking.append(error)
    return lines + [f'Not for this machine. {error}' for error in lacking if error is not None]
