"""``multigrid-vsr train``: BasicSR's training script, from any folder."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        'train', add_help=False, help="train, with the arguments of BasicSR's train.py; experiments/ goes here"
    )


def run(args: argparse.Namespace) -> None:
    """Trains; ``args.arguments`` are BasicSR's."""
    from basicsr.train import train_pipeline

    sys.argv[1:] = args.arguments  # BasicSR parses the command line itself
    train_pipeline(os.getcwd())
