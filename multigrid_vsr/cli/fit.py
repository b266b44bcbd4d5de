"""``multigrid-vsr fit``: fits an option file to other GPUs, another batch or a part of the samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.cli.arguments import check_least
from multigrid_vsr.cli.convert import check_out, read_with_numbers, write_edited
from multigrid_vsr.cli.plan import data_lines
from multigrid_vsr.options.archs import STOCK_DATASETS
from multigrid_vsr.options.fitting import LR_SCALINGS, fit
from multigrid_vsr.options.kinds import refuse

_EXAMPLES = (
    'multigrid-vsr fit -opt mg.yml -o mine.yml --gpus 2 --fill 4',
    'multigrid-vsr fit -opt mg.yml -o mine.yml --fill "[16, [8, 6, 4]]"',
    'multigrid-vsr fit -opt stock.yml -o mine.yml --file-gpus 4 --gpus 16 --batch 64',
    'multigrid-vsr fit -opt mg.yml -o half.yml --sample-fraction 0.5',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'fit', help='fit an option file to your GPUs, a batch or a part of the samples', examples=_EXAMPLES
    )
    parser.add_argument('-opt', required=True, help="path to the option YAML file, BasicSR's or this project's")
    parser.add_argument('-o', dest='out', type=Path, required=True, metavar='FILE', help='file to write')
    parser.add_argument('--gpus', type=int, help='GPUs to train on; default: as in the file')
    parser.add_argument('--batch', type=int, help='batch on all GPUs together; default: as in the file')
    parser.add_argument(
        '--sample-fraction', '--samples', type=float, default=1.0, help="fraction of the run's samples (default: 1)"
    )
    parser.add_argument(
        '--lr-scaling',
        '--rate',
        choices=LR_SCALINGS,
        default='linear',
        help='how the learning rate follows the batch (default: linear)',
    )
    parser.add_argument(
        '--fill',
        metavar='BATCHES',
        help='samples that a GPU holds at the full shape, or the list that `multigrid-vsr batch` printed',
    )
    parser.add_argument('--file-gpus', type=int, help='GPUs that the file is written for; default: its num_gpu')
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the file, and prints what changed and why, and what the new run will do."""
    check_least(args, {'--gpus': 1, '--batch': 1, '--file-gpus': 1})
    fraction, fix = args.sample_fraction, 'Half of them are 0.5.'
    refuse(not 0 < fraction < float('inf'), '--sample-fraction', 'be a number above 0', fraction, fix)
    for old, new in (('--samples', '--sample-fraction'), ('--rate', '--lr-scaling')):
        if old in args.argv:
            print(f'{old}: is called {new} now. The old name is taken until the next release.')
    check_out(args.out)
    asked = {key: vars(args)[key] for key in ('gpus', 'file_gpus', 'batch', 'sample_fraction', 'lr_scaling')}
    edit = fit(read_with_numbers(args.opt), **asked, fill=_fill(args.fill))
    opt, dataset_opt = edit.options, edit.options['datasets']['train']
    ours = {**dataset_opt, 'type': STOCK_DATASETS.get(dataset_opt.get('type'), dataset_opt.get('type'))}
    data = data_lines({**opt, 'datasets': {**opt['datasets'], 'train': ours}}, edit.schedule, opt['num_gpu'])
    write_edited(args.opt, args.out, edit)
    print(*data, sep='\n')


def _fill(text: str | None) -> Any:
    """A number or a list, perhaps in the line that ``multigrid-vsr batch`` prints."""
    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, dict):
        value = value.get('batch_size_per_gpu')
    is_other = type(value) not in (int, list)
    refuse(is_other, '--fill', 'be a number or a list', text, 'Write it as "[16, [8, 6, 4]]".')
    return value
