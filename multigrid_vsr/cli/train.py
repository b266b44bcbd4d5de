"""``multigrid-vsr train``: BasicSR's training script, from any folder."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

_EXAMPLES = (
    'multigrid-vsr train -opt options/train_basicvsr_mg.yml',
    'multigrid-vsr train -opt mg.yml --auto_resume',
    'multigrid-vsr train -opt mg.yml --force_yml train:total_iter=1000 name=short',
    'torchrun --nproc_per_node=8 $(which multigrid-vsr) train -opt mg.yml --launcher pytorch',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'train',
        help="train, with the arguments of BasicSR's train.py; experiments/ goes here",
        description="Trains as BasicSR's train.py does, with experiments/ in the current folder. Ctrl-C, SIGTERM, "
        'SIGHUP and SIGUSR1 let the iteration end and save it.',
        examples=_EXAMPLES,
    )
    parser.add_argument('-opt', required=True, metavar='FILE', help='path to the option YAML file')
    parser.add_argument('--auto_resume', action='store_true', help="go on from the run's newest whole checkpoint")
    parser.add_argument(
        '--launcher', choices=('none', 'pytorch', 'slurm'), default='none', help='what started the ranks'
    )
    parser.add_argument('--force_yml', nargs='+', metavar='KEY:KEY=VALUE', help='change options of the file')
    parser.add_argument('--debug', action='store_true', help="BasicSR's: validate after 8 iterations, log each one")
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Trains. BasicSR parses the arguments ``args.argv`` itself, because it knows more than are listed here."""
    from basicsr.train import train_pipeline

    sys.argv[1:] = args.argv
    train_pipeline(os.getcwd())
