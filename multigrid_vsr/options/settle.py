"""What the text of an option file says otherwise than it is meant: numbers that YAML reads as text, and ``~``."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any

from multigrid_vsr.options.checked import row_of
from multigrid_vsr.options.kinds import PATH, TEXT

_NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+')


def settle(opt: Any) -> list[str]:
    """Makes a number of each text that is one, and expands ``~`` in each path; in place.

    Args:
        opt: The options, as read from YAML, by BasicSR too.

    Returns:
        A line for each number.
    """
    for name, container, key in list(leaves(opt, '')):
        if isinstance(container[key], str) and is_path(name):
            container[key] = os.path.expanduser(container[key])
    return take_numbers(opt)


def unshared(opt: Any) -> Any:
    """The options with a block of its own wherever an alias repeats one: BasicSR takes keys out of its blocks."""
    if isinstance(opt, MutableMapping):
        return OrderedDict((key, unshared(value)) for key, value in opt.items())
    return [unshared(value) for value in opt] if isinstance(opt, list) else opt


def take_numbers(opt: Any) -> list[str]:
    """Makes a number of each text that is one, such as ``1e-4``, in place.

    Args:
        opt: The options, as read from YAML.

    Returns:
        A line for each number: YAML 1.1, which PyYAML reads, asks for a point and a sign.
    """
    notes = []
    for name, container, key in list(leaves(opt, '')):
        value, row = container[key], row_of(name)
        is_text = is_path(name) or (row is not None and row.kind is TEXT)
        if isinstance(value, str) and _NUMBER.fullmatch(value) and not is_text:
            number = float(value)
            container[key] = int(number) if number.is_integer() else number
            notes.append(f'{name}: {value} is text in YAML, taken as the number {number:g}. Write !!float {value}')
    return notes


def is_path(name: str) -> bool:
    """Whether an option names a file or a folder, by its dotted name."""
    block, _, key = name.rpartition('.')
    row = row_of(name)
    if row is not None:
        return row.kind is PATH
    return (
        (block.startswith('network_') and key.endswith('_path'))
        or (block.startswith('datasets.') and key.startswith('dataroot'))
        or (block == 'path' and key.startswith('pretrain_network'))
    )


def paths(opt: MutableMapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options that name a file or a folder, with what they name."""
    for name, container, key in leaves(opt, ''):
        if is_path(name) and container[key] is not None:
            yield name, container[key]


def leaves(container: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Each option that is no block: its dotted name, what holds it, and its key there."""
    for key, value in container.items() if isinstance(container, MutableMapping) else enumerate(container):
        name = f'{prefix}[{key}]' if isinstance(container, list) else f'{prefix}{"." if prefix else ""}{key}'
        if isinstance(value, (MutableMapping, list)):
            yield from leaves(value, name)
        else:
            yield name, container, key
