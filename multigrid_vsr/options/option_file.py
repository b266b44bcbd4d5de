"""Option files: read without running what is in them, and edited with as few changes as possible.

Comments, blank lines, quotes, tags and line ends of all that stays the same are kept byte for byte: the marks of YAML
say which characters an option covers, and only these are replaced.
"""

from __future__ import annotations

import ast
import locale
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.options.checked import ALL_OPTIONS
from multigrid_vsr.options.known_types import MODEL_TYPES

_PYTHON_TAG = 'tag:yaml.org,2002:python/'


def read_options(path: str | Path, force_yml: Sequence[str] = ()) -> dict[str, Any]:
    """Reads an option file as BasicSR does, and applies the changes given on the command line.

    Args:
        path: YAML file.
        force_yml: Changes ``key:key=value``, as BasicSR's ``--force_yml`` takes them.

    Raises:
        InputError: If the file cannot be read, is no YAML, has no options, or has tags that would build Python
            objects (BasicSR's loader would run them).
        OptionError: If a change names no option.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
        for event in yaml.parse(text, yaml.SafeLoader):
            tag = getattr(event, 'tag', None) or ''
            if tag.startswith(_PYTHON_TAG):
                raise InputError(
                    f'{path}: must be plain YAML, got the tag !!python/{tag.removeprefix(_PYTHON_TAG)}. '
                    'Such a tag runs code: remove it.'
                )
        opt = yaml.safe_load(text)
    except OSError as error:
        raise InputError(
            f'-opt: must be a file that can be read, got {path} ({error.strerror}). Correct the path.'
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: must be YAML, got {one_line(error)}. Correct that line.') from error
    if not isinstance(opt, dict):
        raise InputError(f'{path}: must hold options, got {type(opt).__name__}. Write `key: value` lines.')
    if opt.get('multigrid') is not None or opt.get('model_type') in MODEL_TYPES:
        root = check_read_alike(path, text)
        for key in _only_shared(root) - {option.name.partition('.')[0] for option in ALL_OPTIONS}:
            del opt[key]
    for change in force_yml:
        _apply(opt, change)
    return opt


def _is_read_alike(path: str | Path, text: str) -> bool:
    try:
        return bool(yaml.safe_load(Path(path).read_text()) == yaml.safe_load(text))
    except UnicodeDecodeError:
        return False


def check_read_alike(path: str | Path, text: str) -> Any:
    """Refuses what BasicSR's reader of YAML reads otherwise than others, or the last of two without a word.

    Returns:
        The file as nodes.

    Raises:
        InputError: If there is a merge key, a key twice in a block, or a letter that the locale reads otherwise.
    """
    if not text.isascii() and not _is_read_alike(path, text):
        encoding = locale.getpreferredencoding(False)
        raise InputError(
            f'{path}: must be in the encoding of the locale, which BasicSR reads it in, got UTF-8 and not {encoding}. '
            'Set PYTHONUTF8=1.'
        )
    root: Any = yaml.compose(text, yaml.SafeLoader)
    for node in _nodes(root):
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if key.tag == 'tag:yaml.org,2002:merge':
                rule = f'{path}: must be without merge keys, which BasicSR does not merge, got `<<` in line {line}.'
                raise InputError(f'{rule} Write its options out.')
            if key.value in lines:
                both = f'{key.value} in line {lines[key.value]} and line {line}'
                raise InputError(f'{path}: must say an option once in a block, got {both}. Remove one.')
            lines[key.value] = line
    return root


def _nodes(root: Any) -> Iterator[Any]:
    """A node and all below it; what an alias repeats comes again."""
    yield root
    for child in getattr(root, 'value', ()) if isinstance(root, yaml.CollectionNode) else ():
        for node in child if isinstance(child, tuple) else (child,):
            yield from _nodes(node)


def _only_shared(root: Any) -> set[str]:
    """The keys of the top that hold what aliases elsewhere repeat: such blocks are for the file alone."""
    below = {key.value: {id(node) for node in _nodes(value)} for key, value in root.value}
    return {key for key, nodes in below.items() if any(nodes & others for k, others in below.items() if k != key)}


def copy_in_run_folder(folder: Path) -> Path | None:
    """The copy of the option file that BasicSR puts into the folder of a run, the newest one."""
    return max(folder.glob('*.y*ml'), key=lambda path: path.stat().st_mtime, default=None)


def _apply(opt: dict[str, Any], change: str) -> None:
    """Sets one option that is there already, or a new one in a block that is."""
    keys, equals, value = change.partition('=')
    *blocks, last = (key.strip() for key in keys.split(':'))
    target: Any = opt
    for block in blocks:
        target = target.get(block) if isinstance(target, dict) else None
    if not equals or not isinstance(target, dict):
        raise OptionError('--force_yml', 'be key:key=value with keys of the option file', change, 'Correct the keys.')
    target[last] = _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    """The value that BasicSR makes of the text; a list may hold literals alone."""
    constants = {'~': None, 'none': None, 'true': True, 'false': False}
    if text.lower() in constants:
        return constants[text.lower()]
    if text.startswith('!!float'):
        return float(text.removeprefix('!!float'))
    if text.isdigit():
        return int(text)
    if text.replace('.', '', 1).isdigit():
        return float(text)
    if text.startswith('['):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise OptionError('--force_yml', 'have a list of plain values', text, 'Write it as [a,b,c].') from error
    return text


_MOST_EDITS = 100  # far more than a file needs: an edit that has no effect would come for ever

_Edit = tuple[int, int, str]  # start, end, and what replaces the text between


def rewrite(text: str, options: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Edits the text until it says ``options``.

    Args:
        text: YAML of a mapping.
        options: What it has to say, in order. A new option comes right after the one before it, and may hold a block of
            plain options; others that change are plain values or lists of them.
        comments: Comment of each new option, by dotted name. That of a block comes above it, after a blank line. An
            option that goes and has one stays as a comment.

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
            return _removal(text, node, place, comments.get(f'{prefix}{key}'))
        if old[key] == new[key]:
            continue
        edit = _change(text, value_node, old[key], new[key], f'{prefix}{key}', comments)
        if edit is not None:
            return edit
    for before, key in pairwise(new):
        if key not in old:
            pair = next((pair for pair in node.value if pair[0].value == before), None)
            return pair and _insertion(text, node, pair, f'{prefix}{key}', new[key], comments)
    return None


def _change(text: str, node: Any, old: Any, new: Any, option: str, comments: Mapping[str, str]) -> _Edit | None:
    """The first edit that brings a value nearer to its new one; a list of as many entries changes one by one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() & new.keys():
        return _next_edit(text, node, old, new, f'{option}.', comments)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for entry, before, after in zip(node.value, old, new):
            if before != after:
                return _change(text, entry, before, after, f'{option}[]', comments)
    start = node.start_mark.index
    end = (
        max(start, len(text[: node.end_mark.index].rstrip()))
        if isinstance(node, yaml.CollectionNode)
        else node.end_mark.index
    )
    if isinstance(new, Mapping) and not node.flow_style:
        lines = _option_lines(new, option, comments)
        return start, end, ('\n' + ' ' * node.start_mark.column).join(lines)
    is_list_below = isinstance(node, yaml.SequenceNode) and not node.flow_style  # it may be indented as its key is
    return start, end, f'  {plain(new)}' if is_list_below else plain(new)


def _removal(text: str, node: Any, place: int, why: str | None) -> _Edit:
    pairs = node.value
    start, end = pairs[place][0].start_mark.index, _end(text, pairs[place])
    if not node.flow_style:
        line, end = text.rfind('\n', 0, start) + 1, _next_line(text, end)
        if why is None:
            return line, end, ''
        newline = '\r\n' if '\r\n' in text else '\n'
        kept = [old[: start - line] + '# ' + old[start - line :] for old in text[line:end].splitlines(keepends=True)]
        return line, end, f'{text[line:start]}# {why}{newline}{"".join(kept)}'
    if place > 0:
        return _end(text, pairs[place - 1]), end, ''
    return start, pairs[1][0].start_mark.index if len(pairs) > 1 else end, ''


def _insertion(text: str, node: Any, before: Any, option: str, value: object, comments: Mapping[str, str]) -> _Edit:
    """A new option after the pair of nodes ``before``."""
    key = option.rpartition('.')[2]
    end = _end(text, before)
    if node.flow_style:
        return end, end, f', {key}: {plain(value)}'
    column = before[0].start_mark.column
    end = _next_line(text, end)
    # A comment that is indented deeper still belongs to the block above.
    belonging = re.compile(rf'(?:\s*\n)?[ ]{{{column + 1},}}#[^\n]*(?:\n|$)')
    while match := belonging.match(text, end):
        end = match.end()
    if isinstance(value, Mapping):
        options = [f'  {line}' for line in _option_lines(value, option, comments)]
        lines = ['', f'# {comments[option]}', f'{key}:', *options]
    else:
        lines = _option_lines({key: value}, option.rpartition('.')[0], comments)
    newline = '\r\n' if '\r\n' in text else '\n'
    written = ''.join((' ' * column + line).rstrip() + newline for line in lines)
    return end, end, written if text[:end].endswith('\n') else newline + written


def _option_lines(options: Mapping[str, Any], block: str, comments: Mapping[str, str]) -> list[str]:
    """An option a line, with its comment; the entries of a list of blocks below it."""
    lines = []
    for key, value in options.items():
        has_blocks = isinstance(value, list) and isinstance(value[0], Mapping)
        written = '' if has_blocks else f' {plain(value)}'
        lines.append(f'{key}:{written}  # {comments[f"{block}.{key}".removeprefix(".")]}')
        lines += [f'  - {plain(entry)}' for entry in value] if has_blocks else []
    return lines


def plain(value: object) -> str:
    """A value on one line, as YAML reads it; ``str`` would write 8e-05, which is text there."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float('inf')).splitlines()[0]


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
