"""The command ``multigrid-vsr``. Each command is a module of this package with ``add_parser`` and ``run``.

``run`` raises an ``InputError`` where the user can mend what its one line says.
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

    Its exit status is 1 where the user can mend what the one line says, 2 where the command line cannot be read, 130
    after Ctrl-C and 141 where nobody reads its output any more.
    """
    with _silent_without_a_reader():
        argv = sys.argv[1:] if argv is None else argv
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors='backslashreplace')  # a file's name may be no UTF-8
        args, others = build_parser().parse_known_args(argv)
        args.argv = argv[1:]
        if others and args.run is not train.run:  # those BasicSR may know
            args.parser_below.error(f'unrecognized arguments: {" ".join(others)}')
        try:
            args.run(args)
        except InputError as error:
            sys.exit(str(error) if should_print(error) else 1)
        except KeyboardInterrupt:
            sys.exit(130)


@contextmanager
def _silent_without_a_reader() -> Iterator[None]:
    """Ends as a program in C does where standard output is a pipe that has been closed, as by ``head``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in watched.poll(0)):
            raise  # another pipe, of a worker say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in the buffer
        sys.exit(141)
