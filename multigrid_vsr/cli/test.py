"""``multigrid-vsr test``: measures a trained network on test sets, by BasicSR's test script, from any folder."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.option_file import read_options, settle
from multigrid_vsr.options.run_options import as_test, newest_weights, trains

_EXAMPLES = (
    'multigrid-vsr test -opt options/test_basicvsr_mg.yml',
    'multigrid-vsr test -opt options/train_basicvsr_mg.yml',
    'multigrid-vsr test -opt my_run.yml -w experiments/my_run/models/net_g_50000.pth --json',
    'torchrun --nproc_per_node=4 $(which multigrid-vsr) test -opt my_test.yml --launcher pytorch',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'test',
        help="measure a trained network, as BasicSR's test.py does; results/ goes here",
        description="Measures a trained network on the test sets of an option file: BasicSR's for a test, or that of a "
        'training run, whose newest checkpoint is taken.',
        examples=_EXAMPLES,
    )
    parser.add_argument('-opt', required=True, metavar='FILE', help='option file of a test, or of a training run')
    parser.add_argument('-w', '--weights', metavar='FILE', help='weight file, instead of the one of the option file')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON; all else goes to stderr')
    launchers = ('none', 'pytorch', 'slurm')
    parser.add_argument('--launcher', choices=launchers, default='none', help='what started the ranks')
    changes = 'change options of the file'
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY:KEY=VALUE', help=changes)
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Tests, and prints the figures."""
    is_first = args.launcher == 'none' or os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        opt, notes = _test_options(args)
        if is_first:
            print(*notes, sep='\n')
        found = _run(opt, Path(args.opt).name, ['--launcher', args.launcher, '--local_rank', args.local_rank])
    if args.json and is_first:
        path_opt = opt['path']
        weights = {'weights': path_opt['pretrain_network_g'], 'param_key': path_opt['param_key_g']}
        print(json.dumps({'name': opt['name'], **weights, 'datasets': found}, indent=1))


def _test_options(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The options of the test, and lines for the user."""
    from multigrid_vsr.models.checkpoints import read_weights
    from multigrid_vsr.models.inference import param_keys

    written = read_options(args.opt, args.force_yml)
    notes = settle(written)
    is_run = trains(written)
    option = '--weights' if args.weights or is_run else 'path.pretrain_network_g'
    weights = args.weights or (newest_weights(written) if is_run else lookup(written, option))
    if weights is None:
        raise OptionError(option, 'be given', None, 'A test needs trained weights: or give --weights.')
    if not os.path.isfile(weights):
        raise OptionError(option, 'be a path that exists', weights, 'Correct the path.')
    keys = param_keys(read_weights(option, weights))
    # A run validates the first of its keys. BasicSR's test takes `params`.
    key = next(iter(keys), None) if is_run else (written.get('path') or {}).get('param_key_g', 'params')
    others = [] if is_run else [f' (it has {other} too: path.param_key_g)' for other in keys if other != key]
    opt, changes = as_test(written, weights, key)
    return opt, [*notes, *changes, f'Weights: {weights}, {key or "without a key"}{"".join(others[:1])}.']


def _run(opt: dict[str, Any], name: str, arguments: list[str]) -> dict[str, Any]:
    from multigrid_vsr.host.checks import run_test

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
        sys.argv[1:] = ['-opt', str(file), *arguments]  # BasicSR parses the command line itself
        return run_test(os.getcwd(), opt)
