"""The text of an option file, made to say other options with as few changes as possible.

Comments, blank lines, quotes, tags and line ends of all that stays the same are kept byte for byte: the marks of YAML
say which characters an option covers, and these alone are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import yaml

from multigrid_vsr.core.errors import OptionError

_MOST_EDITS = 100  # far more than a file needs: an edit that has no effect would come for ever

_Edit = tuple[int, int, str]  # start, end, and what replaces the text between


def rewrite(text: str, options: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Edits the text until it says ``options``.

    Args:
        text: YAML of a mapping.
        options: What it has to say, in order. A new option comes right after the one before it, and may hold a block of
            plain options; others that change are plain values or lists of them.
        comments: Comment of each new option, by dotted name. That of a block comes above it, after a blank line.

    Raises:
        OptionError: If an option that changes is not written in one place, but through an anchor, a merge or twice.
    """
    try:
        for _ in range(_MOST_EDITS):
            edit = _next_edit(text, yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text), options, '', comments)
            if edit is None:
                break
            start, end, replacement = edit
            text = text[:start] + replacement + text[end:]
        done = yaml.safe_load(text) == options
    except yaml.YAMLError:  # an edit has taken away an anchor
        done = False
    if not done:
        raise OptionError(
            '-opt', 'say each option in one place', 'anchors, merge keys or repeated options', 'Write them out.'
        )
    return text


def _next_edit(
    text: str, node: Any, old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, comments: Mapping[str, str]
) -> _Edit | None:
    """The first edit that brings a block nearer to its new options; ``None`` where there is none."""
    for place, (key_node, value_node) in enumerate(node.value):
        key = key_node.value
        if key not in old:  # a merge key
            continue
        if key not in new:
            return _removal(text, node, place)
        if old[key] == new[key]:
            continue
        if not isinstance(new[key], Mapping):
            return value_node.start_mark.index, value_node.end_mark.index, str(new[key])
        edit = _next_edit(text, value_node, old[key], new[key], f'{prefix}{key}.', comments)
        if edit is not None:
            return edit
    for before, key in pairwise(new):
        if key not in old:
            pair = next((pair for pair in node.value if pair[0].value == before), None)
            return pair and _insertion(text, node, pair, f'{prefix}{key}', new[key], comments)
    return None


def _removal(text: str, node: Any, place: int) -> _Edit:
    pairs = node.value
    start, end = pairs[place][0].start_mark.index, _end(text, pairs[place])
    if not node.flow_style:
        return text.rfind('\n', 0, start) + 1, _next_line(text, end), ''
    if place > 0:
        return _end(text, pairs[place - 1]), end, ''
    return start, pairs[1][0].start_mark.index if len(pairs) > 1 else end, ''


def _insertion(text: str, node: Any, before: Any, option: str, value: object, comments: Mapping[str, str]) -> _Edit:
    """A new option after the pair of nodes ``before``."""
    key = option.rpartition('.')[2]
    end = _end(text, before)
    if node.flow_style:
        return end, end, f', {key}: {_inline(value)}'
    column = before[0].start_mark.column
    end = _next_line(text, end)
    # A comment that is indented deeper still belongs to the block above.
    belonging = re.compile(rf'(?:\s*\n)?[ ]{{{column + 1},}}#[^\n]*(?:\n|$)')
    while match := belonging.match(text, end):
        end = match.end()
    lines = [f'{key}: {value}  # {comments[option]}']
    if isinstance(value, Mapping):
        options = [f'  {name}: {entry}  # {comments[f"{option}.{name}"]}' for name, entry in value.items()]
        lines = ['', f'# {comments[option]}', f'{key}:', *options]
    newline = '\r\n' if '\r\n' in text else '\n'
    written = ''.join((' ' * column + line).rstrip() + newline for line in lines)
    return end, end, written if text[:end].endswith('\n') else newline + written


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return '{' + ', '.join(f'{key}: {entry}' for key, entry in value.items()) + '}'
    return str(value)


def _end(text: str, pair: Any) -> int:
    """Where the last character of an option is; the mark of a block lies behind the comments that follow it."""
    key_node, node = pair
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        key_node, node = last if isinstance(node, yaml.MappingNode) else (last, last)
    # The node of an alias is that of its anchor, further up.
    return max(key_node.end_mark.index, len(text[: node.end_mark.index].rstrip()))


def _next_line(text: str, index: int) -> int:
    return text.find('\n', index) + 1 or len(text)
