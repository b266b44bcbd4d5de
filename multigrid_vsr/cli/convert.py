"""``multigrid-vsr convert``: turns an option file of BasicSR into one of this project."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_writable, write_whole
from multigrid_vsr.cli.plan import launches_of
from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.data.check import count_samples
from multigrid_vsr.options.conversion import RECIPES, convert
from multigrid_vsr.options.edit import Edit
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.multigrid_block import check_blocks
from multigrid_vsr.options.option_file import check_read_alike, read_options, take_new_names, take_numbers
from multigrid_vsr.options.run_options import gpus_of, stock_run_of

_EXAMPLES = (
    'multigrid-vsr convert -opt stock.yml -o mg.yml',
    'multigrid-vsr convert -opt stock.yml -o fast.yml --recipe fast',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'convert', help="turn a BasicSR video training file into one of this project's", examples=_EXAMPLES
    )
    parser.add_argument('-opt', required=True, help='path to the option YAML file of BasicSR')
    parser.add_argument('-o', dest='out', type=Path, required=True, metavar='FILE', help='file to write')
    parser.add_argument(
        '--recipe', choices=list(RECIPES), default='paper', help='shapes and rule of the rate (default: paper)'
    )
    parser.add_argument(
        '--fill',
        action=argparse.BooleanOptionalAction,
        help='more samples at a time in small shapes, at equal samples (default: only with --recipe fast)',
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the file, and prints what changed and what the new run will do."""
    check_out(args.out)
    stock = read_with_numbers(args.opt)
    check_blocks(stock, 'datasets', 'datasets.train')
    write_edited(args.opt, args.out, convert(stock, args.recipe, args.fill, count_samples(stock)))


def read_with_numbers(opt_file: str) -> dict[str, Any]:
    """Reads an option file, and prints which texts it reads as numbers. Paths stay unchanged."""
    opt = read_options(opt_file)
    check_read_alike(opt_file, Path(opt_file).read_text(encoding='utf-8'))
    print(*(f'{note}\n' for note in (*take_new_names(opt), *take_numbers(opt))), sep='', end='')
    return opt


def check_out(out: Path) -> None:
    """Refuses a file that exists, or that could not be written."""
    refuse(os.path.lexists(out), '-o', 'not exist yet', out, 'Give another name.')
    check_writable('-o', out)


def write_edited(opt_file: str, out: Path, edit: Edit) -> None:
    """Writes the edited option file to ``out``, and prints the reasons and what the new run will do."""
    text = Path(opt_file).read_bytes().decode()  # read_text would change the line ends
    write_whole('-o', out, edit.applied_to(text).encode())
    print(*edit.reasons, sep='\n', end='\n\n')
    opt, schedule = edit.options, edit.schedule
    world_size = gpus_of(opt)
    launches, notes = launches_of(opt, schedule)
    print(stage_table(schedule, world_size, launches=launches))
    print(comparison(schedule, world_size, stock_run_of(opt, world_size), launches))
    print(*(f'{note}\n' for note in (*shape_notes(schedule, opt.get('scale', 1)), *notes)), sep='', end='')
