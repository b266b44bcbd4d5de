"""The command ``multigrid-vsr``. Each command is a module of this package with ``add_parser`` and ``run``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from multigrid_vsr.cli import (
    average,
    batch,
    bench,
    convert,
    cooldown,
    demo,
    fit,
    infer,
    plan,
    prepare,
    report,
    schema,
    test,
    train,
)
from multigrid_vsr.core.errors import InputError

_COMMANDS = (train, test, plan, batch, convert, fit, cooldown, prepare, report, average, infer, bench, demo, schema)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; what the user can mend ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(prog='multigrid-vsr', description='Multigrid training of video super-resolution.')
    subparsers = parser.add_subparsers(metavar='COMMAND', required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    args, others = parser.parse_known_args(argv)
    if args.run in (train.run, test.run):
        args.arguments = others
    elif others:
        parser.error(f'unrecognized arguments: {" ".join(others)}')
    try:
        args.run(args)
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
