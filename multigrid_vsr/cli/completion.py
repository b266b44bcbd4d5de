"""``multigrid-vsr completion``: the script with which a shell completes commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

_EXAMPLES = (
    'multigrid-vsr completion bash > ~/.local/share/bash-completion/completions/multigrid-vsr',
    'multigrid-vsr completion zsh > ~/.zfunc/_multigrid-vsr',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser('completion', help='print the completion of a shell', examples=_EXAMPLES)
    parser.add_argument('shell', choices=('bash', 'zsh', 'tcsh'), metavar='SHELL', help='bash, zsh or tcsh')
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the script that ``shtab`` makes of the parsers."""
    import shtab

    for parser in _with_those_below(args.parser):
        for action in parser._actions:
            if action.choices is None and action.nargs != 0 and action.type not in (int, float):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(args.parser, args.shell))


def _with_those_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _with_those_below(below)
