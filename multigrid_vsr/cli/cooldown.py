"""``multigrid-vsr cooldown``: makes an option file that ends a run in a given number of iterations."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least
from multigrid_vsr.cli.convert import check_out, read_with_numbers, write_edited
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.lr import batch_factor
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.fitting import cooldown
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.multigrid_block import uses_multigrid
from multigrid_vsr.options.run_options import checked_schedule

_EXAMPLES = (
    'multigrid-vsr cooldown -opt mg.yml -o end.yml --iter 10000',
    'multigrid-vsr cooldown -opt mg.yml -o end.yml --iter 10000 --from 40000 --run experiments/my_run',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'cooldown', help='end a run under way: anneal the rate from a checkpoint of it', examples=_EXAMPLES
    )
    parser.add_argument('-opt', required=True, help='path to the option YAML file of the run')
    parser.add_argument('-o', dest='out', type=Path, required=True, metavar='FILE', help='file to write')
    parser.add_argument('--iter', type=int, required=True, help='iterations to go on for, at the full shape')
    parser.add_argument('--from', type=int, help='iteration of a checkpoint; default: the newest')
    parser.add_argument(
        '--run', dest='folder', type=Path, metavar='FOLDER', help='folder of the run; default: experiments/NAME'
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Reads a checkpoint, writes the file and prints what the new run will do; the old run stays as it is."""
    check_least(args, {'--iter': 1, '--from': 1})
    check_out(args.out)
    opt = read_with_numbers(args.opt)
    fix = 'Give the file of a run with the Multigrid types.'
    refuse(not uses_multigrid(opt), '-opt', 'be a file of this project', args.opt, fix)
    schedule = checked_schedule(opt)
    root = Path(lookup(opt, 'path.experiments_root') or 'experiments').expanduser()
    path, state = _checkpoint(opt, args.folder or root / str(opt.get('name')), vars(args)['from'])
    # The rate of the state relative to the first rate, without batch scaling.
    group = state['optimizers'][0]['param_groups'][0]
    factor = batch_factor(schedule, state['iter'] - 1, opt['train']['scheduler'].get('batch_scaling') or 'none')
    rate = float(group['lr']) / factor / float(group['initial_lr'])
    write_edited(args.opt, args.out, cooldown(opt, str(path.resolve()), state['iter'], args.iter, rate))
    print(f'Go on with: multigrid-vsr train -opt {args.out}')


def _checkpoint(opt: Mapping[str, Any], folder: Path, start: int | None) -> tuple[Path, dict[str, Any]]:
    """The path and the content of the state of an iteration, or of the newest whole state."""
    from multigrid_vsr.models.checkpoints import newest_good

    paths = {'training_states': folder / 'training_states', 'models': folder / 'models'}
    try:
        path, state, warnings = newest_good({**opt, 'path': paths}, start)
    except InputError as error:
        raise InputError(
            f'--from: must be a whole checkpoint in {folder}, got damaged ones. Give another iteration. ({error})'
        ) from None
    if path is None or state is None:
        there = ', '.join(sorted((each.stem for each in paths['training_states'].glob('*.state')), key=len)) or 'none'
        raise InputError(
            f'--from: must be the iteration of a checkpoint in {folder}, got {start or "nothing"} (there: {there}). '
            'Say where the run is with --run.'
        )
    print(*warnings, sep='\n', end='\n' if warnings else '')
    return path, state
