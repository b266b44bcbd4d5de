"""``python -m benchmarks.train``: a matrix of variants and seeds, or the tables and the picture of one."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.train import tables
from benchmarks.train.claims import CLAIMS
from benchmarks.train.clips import DATA
from benchmarks.train.results import read_runs, read_times
from benchmarks.train.runs import NETWORKS, VARIANTS, Run
from multigrid_vsr.cli.arguments import check_least
from multigrid_vsr.core.errors import InputError, OptionError

LEAST_ITERS = 12  # two stages of three frame counts need as many


def run(args: argparse.Namespace, root: Path) -> None:
    """Trains what is missing and prints the tables, or only reads the results.

    Args:
        args: The arguments.
        root: Folder for data and runs.

    Raises:
        InputError: If an option breaks its rule, or a run fails.
    """
    _check(args)
    path = args.results or root / 'results.jsonl'
    if not (args.retime or args.table or args.plot or args.headline):
        from benchmarks.train import matrix

        matrix.train(root, _runs(args), path, args)
    results = read_runs(path)
    if not results:
        raise InputError(f'--results: must be a file with runs that are done, got {path}. Train first.')
    if args.retime:
        from benchmarks.train import matrix

        matrix.retime(root, path, args.rounds, args.flow_iters)
    times = read_times(path)
    groups = tables.groups(results)
    print('\n\n\n'.join(tables.all_tables(results, times, runs) for runs in groups))
    if args.plot is not None:
        from benchmarks.train.plot import draw

        args.plot.mkdir(parents=True, exist_ok=True)
        for runs in groups:
            draw(args.plot / f'{tables.stem(runs)}.png', results, times, runs)
    if args.headline is not None:
        from benchmarks.train.plot import draw_headline

        draw_headline(args.headline, results, times)


def _runs(args: argparse.Namespace) -> list[Run]:
    names = args.variants or list(VARIANTS)
    if args.rows:
        of_rows = {name for claim in CLAIMS if claim.row in args.rows for name in (claim.variant, claim.against)}
        names = [name for name in names if name in of_rows]
    return [
        Run(name, args.arch, args.gt_size, args.num_frame, rate, args.iters, seed, args.clips)
        for seed in range(args.seeds)
        for rate in args.rates
        for name in names
    ]


def _check(args: argparse.Namespace) -> None:
    least = dict.fromkeys(('--seeds', '--jobs', '--checkpoints', '--flow_iters'), 1)
    sizes = {'--iters': LEAST_ITERS, '--start_iters': LEAST_ITERS, '--gt_size': 64, '--num_frame': 4}
    check_least(args, {**least, **sizes, '--rounds': int(args.retime)})
    for rate in args.rates:
        if not 0 < rate < float('inf'):
            raise OptionError('--rates', 'be numbers above 0', rate, 'Write them as 2e-3 5e-4.')
    check_among('--arch', [args.arch], NETWORKS)
    check_among('--variants', args.variants or [], VARIANTS)
    check_among('--rows', args.rows or [], sorted({claim.row for claim in CLAIMS}))


def check_among(option: str, given: Iterable[Any], known: Collection[Any]) -> None:
    """Refuses a value of an option that is not among the known ones."""
    for name in given:
        if name not in known:
            raise OptionError(option, f'be of {", ".join(map(str, known))}', name, 'Choose among them.')


def add_setting(commands: argparse.ArgumentParser) -> None:
    """Adds what runs share that can be compared: length, network, full shape and clips."""
    add = commands.add_argument
    add('--iters', type=int, default=360, help='iterations of the full shape (default: 360)')
    add('--arch', default='basicvsr', help=f'network: {", ".join(NETWORKS)} (default: basicvsr)')
    add('--gt_size', type=int, default=128, help='the full crop in pixels (default: 128)')
    add('--clips', choices=DATA, default='films', help='what they train on: see clips.py (default: films)')
    add('--num_frame', type=int, default=7, help='the full number of frames (default: 7)')


def main(argv: Sequence[str] | None = None) -> None:
    commands = harness.parser(
        'train', __doc__, '--data matrix', '--data matrix --table', '--data matrix --variants stock paper --seeds 1'
    )
    add = commands.add_argument
    add('--variants', nargs='+', metavar='NAME', help='default: all of benchmarks/train/runs.py')
    add('--rows', type=int, nargs='+', help='only what decides the claims of these rows')
    add('--seeds', type=int, default=3, help='number of seeds (default: 3)')
    add('--rates', type=float, nargs='+', default=[2e-3], help='rates to begin with (default: 2e-3)')
    add_setting(commands)
    add('--jobs', type=int, help='runs at a time, each with one thread, or one GPU where there are any')
    add('--rounds', type=int, default=5, help='rounds of timing before and after (default: 5)')
    add('--checkpoints', type=int, default=4, help='PSNR is measured so often in a run (default: 4)')
    add('--flow_iters', type=int, default=400, help='of the flow network of all runs (default: 400)')
    add('--start_iters', type=int, help='of the network of all runs (default: 240, edvr: 720)')
    add('--results', type=Path, help='JSONL of the results (default: results.jsonl in --data)')
    add('--retime', action='store_true', help='time the shapes of --results anew, all on this machine')
    add('--table', action='store_true', help='print the tables of --results, train nothing')
    add('--plot', type=Path, metavar='DIR', help='draw --results there, train nothing')
    add('--headline', type=Path, metavar='FILE', help='draw the picture of README, train nothing')
    harness.add_data(commands, 'frames and results, kept; an interrupted bench goes on from it')

    def in_folder(args: argparse.Namespace) -> None:
        with harness.folder(args) as root:
            run(args, root)

    harness.run(commands, in_folder, argv)


if __name__ == '__main__':
    main()
