"""``multigrid-vsr convert``: makes an option file of this project out of one of BasicSR's."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.files import check_writable, write_whole
from multigrid_vsr.cli.plan import world_size_of
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.options.conversion import Conversion, convert
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.option_text import rewrite
from multigrid_vsr.options.recipes import RECIPES
from multigrid_vsr.options.settle import take_numbers

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
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the file, and prints what changed and what the new run will do.

    Raises:
        InputError: If the file cannot be converted, or the new one not be written.
    """
    check_out(args.out)
    stock = read_with_numbers(args.opt)
    conversion = convert(stock, args.recipe)
    write_conversion(args.opt, args.out, conversion, int(stock['train']['total_iter']))


def read_with_numbers(opt_file: str) -> dict[str, Any]:
    """Reads an option file, and says which text it takes for a number; paths stay as they are written.

    Raises:
        InputError: If the file cannot be read.
    """
    opt = read_options(opt_file)
    print(*(f'{note}\n' for note in take_numbers(opt)), sep='', end='')
    return opt


def check_out(out: Path) -> None:
    """Asks for a file that can be made.

    Raises:
        OptionError: If it is there, or has no folder.
    """
    if os.path.lexists(out):
        raise OptionError('-o', 'not exist yet', out, 'Give another name.')
    check_writable('-o', out)


def write_conversion(opt_file: str, out: Path, conversion: Conversion, stock_iter: int | None = None) -> None:
    """Writes the new file, and prints why it is as it is and what its run will do.

    Args:
        opt_file: The old file.
        out: The new one.
        conversion: What is new.
        stock_iter: Iterations of the full shape to compare the new run with; as many as it has without it.

    Raises:
        InputError: If the text cannot be edited, or the file not be written.
    """
    text = Path(opt_file).read_bytes().decode()  # read_text would change the line ends
    write_whole('-o', out, rewrite(text, conversion.options, conversion.comments).encode())
    world_size = world_size_of(conversion.options)
    print(*conversion.reasons, sep='\n', end='\n\n')
    print(stage_table(conversion.schedule, world_size))
    print(comparison(conversion.schedule, world_size, stock_iter))
    for note in shape_notes(conversion.schedule, conversion.options.get('scale', 1)):
        print(note)
