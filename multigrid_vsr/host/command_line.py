"""What the command line and the option file say before BasicSR parses them, and whether they ask for this plugin."""

from __future__ import annotations

import argparse
import os
from typing import Any

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.options.multigrid_block import asked_for
from multigrid_vsr.options.option_file import read_options


def written() -> dict[str, Any] | None:
    """The option file with its changes; ``None`` without one: BasicSR says how it is used."""
    known = _known()
    if known.opt is None:
        return None
    opt = read_options(known.opt, known.force_yml)
    if known.debug and not str(opt.get('name')).startswith('debug'):
        opt['name'] = f'debug_{opt.get("name")}'
    return opt


def file() -> str | None:
    """The path of the option file."""
    return _known().opt


def has_launcher() -> bool:
    """Whether each process is one rank, with a device of its own."""
    return _known().launcher != 'none'


def _known() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('-opt')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--debug', action='store_true')
    parser.add_argument('--force_yml', nargs='+', default=[])
    return parser.parse_known_args()[0]


def refuse_if_asked(opt_file: str, lacking: str) -> None:
    """Ends the process with one line where an option file asks for what the ``basicsr`` at hand cannot do.

    Args:
        opt_file: Option file of the command line; one that cannot be read is left to the host.
        lacking: What the host lacks, as the end of a sentence.

    Raises:
        SystemExit: With the line, on rank 0; with status 1 on the others.
    """
    try:
        asked = asked_for(read_options(opt_file))
    except InputError:
        return
    if asked is not None:
        line = refusal(*asked, lacking)
        raise SystemExit(line if os.environ.get('RANK', '0') == '0' else 1)


def refusal(option: str, value: Any, lacking: str) -> str:
    """The line for a host that cannot do what an option asks for."""
    return f'{option}: must be run with BasicSR 1.4.2 or later, got {value}. Here {lacking}.'
