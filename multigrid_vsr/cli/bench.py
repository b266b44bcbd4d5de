"""``multigrid-vsr bench``: loading or an iteration against BasicSR's, or learning rates against each other."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError

_MEASURES = {
    'loader': 'loading against BasicSR',
    'step': 'an iteration against BasicSR',
    'options': 'an iteration with each option that makes it faster',
    'run': 'a whole run against the sum of its steps',
    'lr': 'learning rates of a multigrid run, by what they reach on the video of the demo',
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser('bench', help='measure loading, an iteration or learning rates on this machine')
    measures = parser.add_subparsers(dest='what', metavar='WHAT', required=True)
    for what, description in _MEASURES.items():
        measure = measures.add_parser(what, help=description)
        if what == 'lr':
            measure.add_argument('--seeds', type=int, default=3, help='number of seeds (default: 3)')
            measure.add_argument('--iters', type=int, default=360, help='iterations of each run (default: 360)')
            kept = 'frames and results, kept; an interrupted bench goes on from it'
        else:
            measure.add_argument('--rounds', type=int, default=5, help='interleaved; medians are printed (default: 5)')
            kept = 'frames (loader: 0.7 GB) and runs, kept'
        measure.add_argument('--data', type=Path, help=f'folder for {kept}; default: one that is deleted')
    return parser


def run(args: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        InputError: If an option breaks its rule, the video of the demo is not installed, or a run fails.
    """
    if args.what == 'lr':
        if args.seeds < 1:
            raise OptionError('--seeds', 'be at least 1', args.seeds, 'Each seed trains every variant once.')
        if args.iters < 12:
            raise OptionError('--iters', 'be at least 12', args.iters, 'Two stages of three frame counts need as many.')
    elif args.rounds < 1:
        raise OptionError('--rounds', 'be at least 1', args.rounds, 'Medians are taken over the rounds.')
    from multigrid_vsr.bench import acceleration, learning_rate, loader, step, whole_run

    warnings.filterwarnings('ignore', 'Detected call of `lr_scheduler|torch.meshgrid')  # BasicSR's; they mean nothing
    with tempfile.TemporaryDirectory() as temporary:
        root = args.data or Path(temporary)
        if args.what == 'lr':
            learning_rate.compare(root, args.seeds, args.iters)
        else:
            modules = {'loader': loader, 'step': step, 'options': acceleration, 'run': whole_run}
            modules[args.what].measure(root, args.rounds)
