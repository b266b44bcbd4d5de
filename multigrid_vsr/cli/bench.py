"""``multigrid-vsr bench``: loading or an iteration, measured against BasicSR's on this machine."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser('bench', help='measure loading or an iteration against BasicSR, on this machine')
    parser.add_argument('what', choices=['loader', 'step'], help='what to measure')
    parser.add_argument('--rounds', type=int, default=5, help='interleaved rounds; medians are printed (default: 5)')
    parser.add_argument('--data', type=Path, help='folder for 0.7 GB of frames, kept; default: one that is deleted')
    return parser


def run(args: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    from multigrid_vsr.bench import loader, step

    measure = {'loader': loader.measure, 'step': step.measure}[args.what]
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.data or Path(temporary), args.rounds)
