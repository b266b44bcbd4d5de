"""``multigrid-vsr prepare``: packs frames for fast loading."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least
from multigrid_vsr.core.errors import InputError, OptionError

_EXAMPLES = (
    'multigrid-vsr prepare --gt videos -o datasets/mine',
    'multigrid-vsr prepare --gt REDS/train_sharp --lq REDS/train_sharp_bicubic/X4 -o datasets/REDS',
    'multigrid-vsr prepare --gt vimeo/sequences --list sep_trainlist.txt -o datasets/vimeo90k',
    'multigrid-vsr prepare --verify -o datasets/mine',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'prepare',
        help='pack frames into a store, from which a crop reads only its own bytes',
        description='Writes STORE/gt and STORE/lq for `io_backend: {type: packed}`. Run it again to go on after an '
        'interruption.',
        examples=_EXAMPLES,
    )
    parser.add_argument(
        '--gt', type=_path, help='ground truth: folders of images, a BasicSR LMDB, a video or a folder of videos'
    )
    parser.add_argument('--lq', type=_path, help='LQ frames of the same clips; default: --gt shrunk by imresize')
    parser.add_argument('--scale', type=int, default=4, help='ground truth side / LQ side (default: 4)')
    parser.add_argument('--list', type=_path, metavar='FILE', help="clips to take: a name a line, or BasicSR's list")
    parser.add_argument(
        '--min-frames', type=int, default=1, metavar='N', help='leave out clips with fewer frames (default: 1)'
    )
    parser.add_argument('-o', dest='out', type=_path, required=True, metavar='STORE', help='folder of the stores')
    parser.add_argument(
        '--rebuild', action='store_true', help='replace a store of other frames, or of sources that have changed'
    )
    parser.add_argument('--strict', action='store_true', help='refuse a video with frames that do not decode')
    parser.add_argument('--workers', type=int, help='processes (default: one for each core)')
    parser.add_argument('--verify', action='store_true', help='check a store, against --gt and --lq too if given')
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def run(args: argparse.Namespace) -> None:
    """Builds or verifies a store."""
    from multigrid_vsr.frames.pairs import open_sources
    from multigrid_vsr.frames.prepare import build, verify
    from multigrid_vsr.frames.sources import default_workers

    check_least(args, {'--scale': 1, '--workers': 1, '--min-frames': 1})
    workers, sources = args.workers or default_workers(), None
    if args.gt is not None:
        sources = open_sources(
            args.gt, args.lq, args.scale, list_file=args.list, min_frames=args.min_frames, is_strict=args.strict
        )
        for note in sources.notes:
            print(note)
    elif args.lq is not None or not args.verify:
        raise OptionError('--gt', 'be given', None, 'Say where the frames are.')
    if args.verify:
        verify(args.out, sources, workers)
        return
    assert sources is not None
    try:
        build(sources, args.out, workers, args.rebuild)
    except KeyboardInterrupt:
        raise InputError(f'Interrupted. What is written stays in {args.out}: run it again to go on.') from None
    print(f'dataroot_gt: {args.out / "gt"}\ndataroot_lq: {args.out / "lq"}\nio_backend: {{type: packed}}')
