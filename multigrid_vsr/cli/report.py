"""``multigrid-vsr report``: one page that compares runs, finished or under way."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_writable, write_whole
from multigrid_vsr.options.kinds import refuse

_EXAMPLES = (
    'multigrid-vsr report experiments/my_run',
    'multigrid-vsr report experiments/stock experiments/multigrid -o report.html',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'report',
        help='compare runs on one page',
        description="Writes one self-contained HTML page from the logs, checkpoints and pictures of BasicSR's runs and "
        "this project's, also of a run under way. The first run is the one to compare with.",
        examples=_EXAMPLES,
    )
    parser.add_argument('experiments', nargs='+', type=Path, metavar='EXPERIMENT', help='folder of a run')
    parser.add_argument(
        '-o', dest='out', type=Path, default=Path('report.html'), metavar='FILE', help='page (default: report.html)'
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the page, over an older one."""
    for folder in args.experiments:
        refuse(not folder.is_dir(), 'EXPERIMENT', 'be the folder of a run', folder, 'Correct the path.')
    check_writable('-o', args.out)
    from multigrid_vsr.report.page import render, verdict
    from multigrid_vsr.report.read import read_experiment

    experiments = [read_experiment(folder) for folder in args.experiments]
    write_whole('-o', args.out, render(experiments).encode())
    print(*verdict(experiments), f'Report: {args.out}', sep='\n')
