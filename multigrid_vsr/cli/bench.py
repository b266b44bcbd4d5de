"""``multigrid-vsr bench``: loading or an iteration against BasicSR's, or learning rates against each other."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
            measure.add_argument('--rates', type=float, nargs='+', help='rates to begin with (default: 2e-3 5e-4)')
            measure.add_argument('--variants', nargs='+', metavar='NAME', help='default: those of docs/benchmarks.md')
            measure.add_argument('--jobs', type=int, help='runs at a time, with one thread each')
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
        return _compare_rates(args)
    if args.rounds < 1:
        raise OptionError('--rounds', 'be at least 1', args.rounds, 'Medians are taken over the rounds.')
    from multigrid_vsr.bench import acceleration, loader, step, whole_run

    modules = {'loader': loader, 'step': step, 'options': acceleration, 'run': whole_run}
    with _folder(args) as root:
        modules[args.what].measure(root, args.rounds)


def _compare_rates(args: argparse.Namespace) -> None:
    from multigrid_vsr.bench import learning_rate

    if args.seeds < 1:
        raise OptionError('--seeds', 'be at least 1', args.seeds, 'Each seed trains every variant once.')
    if args.iters < 12:
        raise OptionError('--iters', 'be at least 12', args.iters, 'Two stages of three frame counts need as many.')
    if args.jobs is not None and args.jobs < 1:
        raise OptionError('--jobs', 'be at least 1', args.jobs, 'Leave it out for one run with all threads.')
    for rate in args.rates or ():
        if not 0 < rate < float('inf'):
            raise OptionError('--rates', 'be numbers above 0', rate, 'Write them as 2e-3 5e-4.')
    for name in args.variants or ():
        if name not in learning_rate.VARIANTS:
            raise OptionError('--variants', f'be of {", ".join(learning_rate.VARIANTS)}', name, 'Choose among them.')
    with _folder(args) as root:
        learning_rate.compare(
            root,
            args.variants or learning_rate.COMPARED,
            args.rates or learning_rate.RATES,
            args.seeds,
            args.iters,
            args.jobs,
        )


@contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """``--data``, or a folder that is deleted."""
    warnings.filterwarnings('ignore', 'Detected call of `lr_scheduler|torch.meshgrid')  # BasicSR's; they mean nothing
    with tempfile.TemporaryDirectory() as temporary:
        yield args.data or Path(temporary)
