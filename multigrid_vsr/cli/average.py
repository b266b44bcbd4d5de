"""``multigrid-vsr average``: the mean of a run's last checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least, check_writable
from multigrid_vsr.core.errors import OptionError

_EXAMPLES = (
    'multigrid-vsr average experiments/my_run --last 5',
    'multigrid-vsr average experiments/my_run --last 10 -o averaged.pth',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'average',
        help="write the mean of a run's last checkpoints",
        description='Writes the mean of the last checkpoints as a weight file of BasicSR: of `params`, and of '
        '`params_ema` where all have it. Archs with BatchNorm (DUF, TOFlow) are refused.',
        examples=_EXAMPLES,
    )
    parser.add_argument('experiment', type=Path, metavar='EXPERIMENT', help='folder of a run')
    parser.add_argument('--last', type=int, default=5, metavar='N', help='checkpoints (default: 5)')
    default = 'EXPERIMENT/models/net_g_average.pth'
    parser.add_argument('-o', dest='out', type=Path, metavar='FILE', help=f'weight file (default: {default})')
    return parser


def run(args: argparse.Namespace) -> None:
    """Averages and writes.

    Raises:
        InputError: If there are too few checkpoints, or one cannot be used.
    """
    folder: Path = args.experiment
    if not folder.is_dir():
        raise OptionError('EXPERIMENT', 'be the folder of a run', folder, 'Correct the path.')
    check_least(args, {'--last': 1})
    out: Path = args.out or folder / 'models/net_g_average.pth'
    check_writable('-o', out)
    from multigrid_vsr.models import averaging, checkpoints

    paths = averaging.last_checkpoints(folder, args.last)
    weights = averaging.average(paths)
    try:
        checkpoints.save(weights, out)
    except OSError as error:
        raise OptionError('-o', 'be a file that can be written', error, 'Correct the path.') from None
    print(f'{out}: the mean of {", ".join(path.name for path in paths)} ({", ".join(weights)})')
