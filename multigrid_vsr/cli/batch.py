"""``multigrid-vsr batch``: the batch of each shape that the GPU holds, and the one that keeps it busy."""

from __future__ import annotations

import argparse
from typing import Any

from multigrid_vsr.cli.arguments import check_least, parsed_by_basicsr
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.multigrid_block import uses_multigrid
from multigrid_vsr.options.option_file import read_options

_EXAMPLES = (
    'multigrid-vsr batch -opt mg.yml',
    'multigrid-vsr batch -opt mg.yml --limit 32 --force_yml train:amp=bf16',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'batch', help='find the batch of each shape that fits and keeps the GPU busy', examples=_EXAMPLES
    )
    parser.add_argument('-opt', required=True, help='path to the option YAML file')
    parser.add_argument('--limit', type=int, default=128, help='largest batch to try (default: 128)')
    parser.add_argument('--iters', type=int, default=5, help='iterations to time for each batch (default: 5)')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY:KEY=VALUE', help="as BasicSR's")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measures on one device, without compiling and without micro-batches, and prints."""
    check_least(args, {'--limit': 1, '--iters': 1})
    written = read_options(args.opt, args.force_yml)
    fix = 'A plain run has no shapes to try: add the block.'
    refuse(not uses_multigrid(written), 'multigrid', 'be a block of options', None, fix)
    from multigrid_vsr.measure import batch_lines, build, one_device

    num_gpu = one_device() if written.get('num_gpu') == 'auto' else written.get('num_gpu')
    force_yml = [*args.force_yml, *([f'num_gpu={min(num_gpu, 1)}'] if isinstance(num_gpu, int) else [])]
    opt = parsed_by_basicsr(args.opt, force_yml)
    for key in ('compile', 'cuda_graph'):
        opt['train'].pop(key, None)
    block = opt.get('multigrid') or {}
    block.pop('micro_batch_size_per_gpu', None)
    schedule = opt['datasets']['train']['multigrid']
    for line in batch_lines(build(opt), schedule, bool(block.get('stages')), args.limit, args.iters):
        print(line, flush=True)
