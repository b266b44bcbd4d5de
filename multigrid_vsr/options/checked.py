"""Options checked one by one, by what the table says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.kinds import Option, did_you_mean
from multigrid_vsr.options.table import OPTIONS, STRICT


def options_of(block: str) -> dict[str, Option]:
    """The options of a block, by key."""
    return {option.key: option for option in OPTIONS if option.name == f'{block}.{option.key}'}


def checked(block: str, values: Mapping[str, Any], name: str = '') -> dict[str, Any]:
    """Checks the options of a block one by one.

    Args:
        block: Dotted name of a block of the table.
        values: What the option file has there.
        name: How to call it in a line, where that is not the block's own name.

    Returns:
        The options of the table that are given, in their Python types.

    Raises:
        OptionError: If a key is not known in a block that holds nothing else, or a value is not of its kind.
    """
    name, known = name or block, options_of(block)
    if block in STRICT:
        check_keys(name, values, known)
    return {
        key: option.kind.check(f'{name}.{key}', values[key])
        for key, option in known.items()
        if values.get(key) is not None
    }


def check_keys(name: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuses keys that are not known.

    Raises:
        OptionError: If there is one.
    """
    for key in values:
        if key not in known:
            fix = did_you_mean(str(key), known)
            raise OptionError(f'{name}.{key}', f'be one of {", ".join(known)}', key, fix)
