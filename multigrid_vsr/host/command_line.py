"""What the command line says before BasicSR has parsed it."""

from __future__ import annotations

import argparse
from typing import Any

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
