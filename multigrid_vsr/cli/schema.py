"""``multigrid-vsr schema``: the JSON Schema of an option file, for editors."""

from __future__ import annotations

import argparse
from typing import Any

from multigrid_vsr.options.schema import schema_text


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        'schema',
        help='print the JSON Schema of an option file, with which an editor completes and checks it',
        description='Save it, and begin an option file with `# yaml-language-server: $schema=PATH`.',
        examples=('multigrid-vsr schema > option_file.schema.json',),
    )


def run(args: argparse.Namespace) -> None:
    """Prints it."""
    print(schema_text(), end='')
