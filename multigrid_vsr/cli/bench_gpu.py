"""``multigrid-vsr bench gpu``: what the first hour on a GPU should show, within minutes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from multigrid_vsr.core.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for all that it writes')
    parser.add_argument('--minutes', type=float, default=9, help='time for all of it; 4 give the hours (default: 9)')
    parser.add_argument('--dry', action='store_true', help='try all of it, tiny, on the CPU, however long it takes')


def run(args: argparse.Namespace) -> None:
    """Measures, prints, and keeps ``gpu.json`` and ``gpu.md`` up to date with every figure.

    Raises:
        InputError: If an option breaks its rule, or the video of the demo is not installed.
    """
    if not 0 < args.minutes < float('inf'):
        raise OptionError('--minutes', 'be a number above 0', args.minutes, 'Correct the value.')
    if args.dry:  # the processes that it starts see no GPU either, and share the cores with what else runs
        os.environ |= {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    import torch

    if not args.dry and not torch.cuda.is_available():
        raise OptionError('--dry', 'be given on a machine without a GPU', None, 'It tries all of it, tiny.')
    from multigrid_vsr.bench.gpu import Bench
    from multigrid_vsr.demo.video import find_video

    find_video('bikes.mp4')  # it is asked for late, and would end the command then
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what was started ends too
    Bench(args.out, args.minutes, args.dry).run()
    print(f'Figures: {args.out}/gpu.json, tables: {args.out}/gpu.md')
