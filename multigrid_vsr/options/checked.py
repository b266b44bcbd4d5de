"""Options checked one by one, by what the two tables say of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.basicsr_table import BASICSR_OPTIONS
from multigrid_vsr.options.kinds import Option, did_you_mean
from multigrid_vsr.options.known_types import STOCK_TEST_SETS, TEST_SET_TYPES, is_known_dataset
from multigrid_vsr.options.module_table import MODULE_OPTIONS
from multigrid_vsr.options.table import LOADER_KEYS, OPTIONS, STRICT, TEST_SET_KEYS
from multigrid_vsr.options.validation_table import VALIDATION_OPTIONS
from multigrid_vsr.options.watch_table import WATCH_OPTIONS

OWN_OPTIONS = (*OPTIONS, *WATCH_OPTIONS, *MODULE_OPTIONS, *VALIDATION_OPTIONS)
ALL_OPTIONS = (*OPTIONS, *WATCH_OPTIONS, *MODULE_OPTIONS, *BASICSR_OPTIONS, *VALIDATION_OPTIONS)
_TEST_SET = re.compile(r'^datasets\.(val_\w+|test(_\w+)?)(?=\.|$)')
_LIKENESS = 0.8  # of a key that is taken for a slip where others may stand beside ours


def options_of(block: str) -> dict[str, Option]:
    """The options of a block, by key; of the top for the empty name."""
    prefix = f'{block}.' if block else ''
    return {option.key: option for option in ALL_OPTIONS if option.name == f'{prefix}{option.key}'}


def row_of(name: str) -> Option | None:
    """What the tables say of an option, by its dotted name in an option file."""
    name = _TEST_SET.sub('datasets.val', name)
    return next((option for option in ALL_OPTIONS if option.name == name), None)


def checked(block: str, values: Mapping[str, Any], name: str = '') -> dict[str, Any]:
    """Checks the options of a block one by one.

    Args:
        block: Dotted name of a block of the tables.
        values: What the option file has there.
        name: How to call it in a line, where that is not the block's own name.

    Returns:
        The options of the tables that are given, in their Python types.

    Raises:
        OptionError: If a key is not known in a block that holds nothing else, is nearly one of BasicSR's in another, or
            a value is not of its kind.
    """
    name, (known, is_strict) = name or block, _known(block, values)
    prefix = f'{name}.' if name else ''
    for key in values:
        if key not in known and (is_strict or _is_slip(str(key), values, known)):
            fix = did_you_mean(str(key), known)
            raise OptionError(f'{prefix}{key}', f'be one of {", ".join(known)}', key, fix)
    return {
        key: option.kind.check(f'{prefix}{key}', values[key])
        for key, option in known.items()
        if values.get(key) is not None
    }


def check_given(block: str, values: Mapping[str, Any], name: str = '', but: Collection[str] = ()) -> None:
    """Asks for the options that a block cannot do without.

    Args:
        block: Dotted name of a block of the tables.
        values: What the option file has there.
        name: How to call it in a line, where that is not the block's own name.
        but: Keys that need not be there.

    Raises:
        OptionError: If one is missing.
    """
    name = name or block
    for key, option in _known(block, values)[0].items():
        if option.default == '' and key not in but and values.get(key) is None:
            is_late = block in ('logger', 'val')
            fix = 'BasicSR asks for it when it is due.' if is_late else 'BasicSR needs it.'
            raise OptionError(f'{name}.{key}' if name else key, 'be given', None, fix)


def _known(block: str, values: Mapping[str, Any]) -> tuple[dict[str, Option], bool]:
    """The options of a block that holds these values, and whether it may hold nothing else.

    Of a training set of the user's own, those of the loader alone are known, of a test set name and type.
    """
    known = options_of(block)
    if block == 'datasets.train' and not is_known_dataset(values):
        return {key: known[key] for key in LOADER_KEYS}, False
    if block == 'datasets.val' and values.get('type') in TEST_SET_TYPES:
        return {key: row if key in TEST_SET_KEYS else replace(row, default='none') for key, row in known.items()}, False
    if block == 'datasets.val' and values.get('type') not in STOCK_TEST_SETS:
        return {key: known[key] for key in ('name', 'type')}, False
    return known, block in STRICT


def _is_slip(key: str, values: Mapping[str, Any], known: Mapping[str, Option]) -> bool:
    near = get_close_matches(key, known, n=1, cutoff=_LIKENESS)
    return bool(near) and near[0] not in values
