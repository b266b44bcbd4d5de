"""The command ``multigrid-vsr``. Each of its commands is a module here, with ``add_parser`` and ``run``.

``run`` raises an ``InputError`` for a mistake that the user can correct.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from multigrid_vsr.cli import (
    average,
    batch,
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
from multigrid_vsr.cli.arguments import Parser
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.host.launch import should_print

COMMANDS = (train, plan, batch, convert, fit, cooldown, prepare, report, average, test, infer, demo, schema)


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog='multigrid-vsr',
        description='Multigrid training of video super-resolution. `multigrid-vsr COMMAND --help` has examples.',
    )
    subparsers = parser.add_subparsers(metavar='COMMAND', required=True)
    for command in COMMANDS:
        below = command.add_parser(subparsers)
        below.set_defaults(run=command.run, parser=parser, parser_below=below)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command.

    The exit status is 1 after a line about a mistake of the user, 2 for a wrong command line, 130 after Ctrl-C, and 141
    if the reader of its output has gone.
    """
    with _silent_without_a_reader():
        argv = sys.argv[1:] if argv is None else argv
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors='backslashreplace')  # for file names that are not UTF-8
        args, others = build_parser().parse_known_args(argv)
        args.argv = argv[1:]
        if others and args.run is not train.run:  # `train` passes them to BasicSR
            args.parser_below.error(f'unrecognized arguments: {" ".join(others)}')
        try:
            args.run(args)
        except InputError as error:
            sys.exit(str(error) if should_print(error) else 1)
        except KeyboardInterrupt:
            sys.exit(130)


@contextmanager
def _silent_without_a_reader() -> Iterator[None]:
    """Ends without a traceback if the reader of standard output, such as ``head``, has gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in watched.poll(0)):
            raise  # another pipe, perhaps of a worker
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the buffer
        sys.exit(141)
