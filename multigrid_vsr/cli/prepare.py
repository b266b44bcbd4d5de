"""``multigrid-vsr prepare``: packs frames for fast loading."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'prepare',
        help='pack frames into a store of which a crop reads its own bytes alone',
        description='Writes STORE/gt and STORE/lq for `io_backend: {type: packed}`. Interrupted, run again it goes on.',
    )
    parser.add_argument(
        '--gt', type=Path, help='ground truth: folders of PNG, a BasicSR LMDB, a video or a folder of them'
    )
    parser.add_argument('--lq', type=Path, help='LQ frames of the same clips; default: --gt shrunk by bicubic imresize')
    parser.add_argument('--scale', type=int, default=4, help='ground truth side / LQ side (default: 4)')
    parser.add_argument('-o', dest='out', type=Path, required=True, metavar='STORE', help='folder of the stores')
    parser.add_argument('--workers', type=int, help='processes (default: one for each core)')
    parser.add_argument('--verify', action='store_true', help='check a store, against --gt and --lq too if given')
    return parser


def run(args: argparse.Namespace) -> None:
    """Builds or verifies.

    Raises:
        InputError: If an argument, a frame or the disk does not do.
    """
    from multigrid_vsr.frames import prepare
    from multigrid_vsr.frames.frame_sources import open_source

    for name in ('scale', 'workers'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise OptionError(f'--{name}', 'be at least 1', value, 'Correct the value.')
    workers = args.workers or prepare.default_workers()
    sources = None
    if args.gt is not None:
        lq = open_source('--lq', args.lq) if args.lq is not None else None
        sources = prepare.Sources(open_source('--gt', args.gt), lq, args.scale)
        prepare.check_sources(sources)
    if args.verify:
        prepare.verify(args.out, sources, workers)
    elif sources is None:
        raise OptionError('--gt', 'be given', None, 'Say where the frames are.')
    else:
        try:
            prepare.build(sources, args.out, workers)
        except KeyboardInterrupt:
            raise InputError(f'Interrupted. What is written stays in {args.out}: run it again to go on.') from None
        print(f'dataroot_gt: {args.out / "gt"}\ndataroot_lq: {args.out / "lq"}\nio_backend: {{type: packed}}')
