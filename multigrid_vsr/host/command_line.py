"""The command line of this process, parsed once, and the option file that it names."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import Any

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.options.multigrid_block import asked_for
from multigrid_vsr.options.option_file import read_options, settle


class CommandLine:
    """What the command line asks of BasicSR.

    Attributes:
        words: The arguments.
        opt_file: The path of the option file; ``None`` without one.
        has_launcher: Whether each process is one rank, with a device of its own.
        notes: A line for each number that YAML would read as text; there once the options are.
    """

    def __init__(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument('-opt')
        parser.add_argument('--launcher', default='none')
        parser.add_argument('--debug', action='store_true')
        parser.add_argument('--force_yml', nargs='+', default=[])
        try:
            self._known = parser.parse_known_args(words)[0]
        except argparse.ArgumentError:  # BasicSR's parser says so
            self._known = parser.parse_known_args([])[0]
        self.words = words
        self.opt_file: str | None = self._known.opt
        self.has_launcher = self._known.launcher != 'none'
        self.notes: list[str] = []

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The option file with the changes of the command line; empty without one.

        Raises:
            InputError: If it cannot be read.
        """
        if self.opt_file is None:
            return {}
        opt = read_options(self.opt_file, self._known.force_yml)
        if self._known.debug and not str(opt.get('name')).startswith('debug'):
            opt['name'] = f'debug_{opt.get("name")}'
        self.notes = settle(opt)
        return opt

    @functools.cached_property
    def asked(self) -> tuple[str, Any] | None:
        """What the option file asks of this plugin, as ``asked_for`` finds it."""
        return asked_for(self.options)


_current = CommandLine([])


def current() -> CommandLine:
    """The command line of this process."""
    return _current if _current.words == sys.argv[1:] else read()


def read() -> CommandLine:
    """The command line of this process, with the option file as it is now."""
    global _current
    _current = CommandLine(sys.argv[1:])
    return _current


def refuse_if_asked(lacking: str) -> None:
    """Ends the process with one line if the option file asks for what the ``basicsr`` at hand cannot do.

    Args:
        lacking: What the host lacks, as the end of a sentence.

    Raises:
        SystemExit: With the line, on rank 0; with status 1 on the others.
    """
    try:
        asked = CommandLine(sys.argv[1:]).asked
    except InputError:  # the host says so
        return
    if asked is not None:
        raise SystemExit(refusal(*asked, lacking) if os.environ.get('RANK', '0') == '0' else 1)


def refusal(option: str, value: Any, lacking: str) -> str:
    """The line for a host that cannot do what an option asks for."""
    return f'{option}: must be run with BasicSR 1.4.2 or later, got {value}. Here {lacking}.'
