"""Option files: read without running what is in them, and put right where YAML misreads a value."""

from __future__ import annotations

import ast
import locale
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.core.errors import OptionError, one_line
from multigrid_vsr.options.archs import MODEL_TYPES
from multigrid_vsr.options.checked import row_of
from multigrid_vsr.options.kinds import PATH, PATHS, TEXT, refuse
from multigrid_vsr.options.table import ALL_OPTIONS

_PYTHON_TAG = 'tag:yaml.org,2002:python/'


def read_options(path: str | Path, force_yml: Sequence[str] = ()) -> dict[str, Any]:
    """Reads an option file as BasicSR does, and applies changes ``key:key=value``, as its ``--force_yml`` takes them.

    Raises:
        OptionError: If the file cannot be read, is no YAML, has no options, or has tags that would build Python
            objects, since BasicSR's loader would run them; or if a change names no option.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
        for event in yaml.parse(text, yaml.SafeLoader):
            tag = getattr(event, 'tag', None) or ''
            got, fix = f'the tag !!python/{tag.removeprefix(_PYTHON_TAG)}', 'Such a tag runs code: remove it.'
            refuse(tag.startswith(_PYTHON_TAG), str(path), 'be plain YAML', got, fix)
        opt = yaml.safe_load(text)
    except OSError as error:
        got = f'{path} ({error.strerror})'
        raise OptionError('-opt', 'be a file that can be read', got, 'Correct the path.') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(str(path), 'be YAML', one_line(error), 'Correct that line.') from error
    fix = 'Write `key: value` lines.'
    refuse(not isinstance(opt, dict), str(path), 'hold options', type(opt).__name__, fix)
    if opt.get('multigrid') is not None or opt.get('model_type') in MODEL_TYPES:
        root = check_read_alike(path, text)
        for key in _only_shared(root) - {option.name.partition('.')[0] for option in ALL_OPTIONS}:
            del opt[key]
    for change in force_yml:
        _apply(opt, change)
    return opt


def check_read_alike(path: str | Path, text: str) -> Any:
    """Refuses what BasicSR reads otherwise: merge keys, a key twice in a block, letters by the locale.

    Returns:
        The file as nodes.
    """
    try:
        is_alike = text.isascii() or yaml.safe_load(Path(path).read_text()) == yaml.safe_load(text)
    except UnicodeDecodeError:
        is_alike = False
    rule = 'be in the encoding of the locale, which BasicSR reads it in'
    got = f'UTF-8 and not {locale.getpreferredencoding(False)}'
    refuse(not is_alike, str(path), rule, got, 'Set PYTHONUTF8=1.')
    root: Any = yaml.compose(text, yaml.SafeLoader)
    for node in _nodes(root):
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            rule = 'be without merge keys, which BasicSR does not merge'
            is_merge = key.tag == 'tag:yaml.org,2002:merge'
            refuse(is_merge, str(path), rule, f'`<<` in line {line}', 'Write its options out.')
            both = f'{key.value} in line {lines.get(key.value)} and line {line}'
            refuse(key.value in lines, str(path), 'say an option once in a block', both, 'Remove one.')
            lines[key.value] = line
    return root


def _nodes(root: Any) -> Iterator[Any]:
    """A node and all below it; what an alias repeats comes again."""
    yield root
    for child in getattr(root, 'value', ()) if isinstance(root, yaml.CollectionNode) else ():
        for node in child if isinstance(child, tuple) else (child,):
            yield from _nodes(node)


def _only_shared(root: Any) -> set[str]:
    """The keys of the top that hold what aliases elsewhere repeat: only the file itself uses such blocks."""
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
    rule = 'be key:key=value with keys of the option file'
    refuse(not equals or not isinstance(target, dict), '--force_yml', rule, change, 'Correct the keys.')
    target[last] = _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    """The value that BasicSR makes of the text; a list may hold only literals."""
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


_NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+')
NEW_NAMES = {  # of options; the old ones are taken until the next release
    'multigrid.lq_multiple': 'multigrid.lq_divisor',
    'multigrid.lq_least': 'multigrid.min_lq_size',
    'multigrid.num_frame_least': 'multigrid.min_num_frame',
    'multigrid.max_batch_size_per_gpu': 'multigrid.micro_batch_size_per_gpu',  # which it still is beside `volume`
}


def take_new_names(opt: MutableMapping[str, Any]) -> list[str]:
    """Gives options that have an old name their new one, in place; returns a line for each."""
    notes = []
    for old, new in NEW_NAMES.items():
        name, _, old_key = old.rpartition('.')
        block, new_key = opt.get(name), new.rpartition('.')[2]
        if not isinstance(block, MutableMapping) or old_key not in block or new_key in block:
            continue
        if old_key == 'max_batch_size_per_gpu' and block.get('batch_size_per_gpu') == 'volume':
            continue
        items = [(new_key if key == old_key else key, value) for key, value in block.items()]
        block.clear()
        block.update(items)
        notes.append(f'{old}: is called {new} now. The old name is taken until the next release.')
    return notes


def settle(opt: Any) -> list[str]:
    """Replaces old names, text that is a number, and ``~`` in paths, in place; returns lines for the first two."""
    notes = take_new_names(opt)
    for name, container, key in list(leaves(opt, '')):
        if isinstance(container[key], str) and is_path(name):
            container[key] = os.path.expanduser(container[key])
    return notes + take_numbers(opt)


def unshared(opt: Any) -> Any:
    """The options with a block of its own wherever an alias repeats one: BasicSR takes keys out of its blocks."""
    if isinstance(opt, MutableMapping):
        return OrderedDict((key, unshared(value)) for key, value in opt.items())
    return [unshared(value) for value in opt] if isinstance(opt, list) else opt


def take_numbers(opt: Any) -> list[str]:
    """Makes a number of each text that is one, such as ``1e-4``, in place; returns a line for each.

    YAML 1.1, which PyYAML reads, asks for a point and a sign.
    """
    notes = []
    for name, container, key in list(leaves(opt, '')):
        value, row = container[key], row_of(name)
        is_text = is_path(name) or (row is not None and row.type is TEXT)
        if isinstance(value, str) and _NUMBER.fullmatch(value) and not is_text:
            number = float(value)
            container[key] = int(number) if number.is_integer() else number
            notes.append(f'{name}: {value} is text in YAML, taken as the number {number:g}. Write !!float {value}')
    return notes


def is_path(name: str) -> bool:
    """Whether an option names a file or a folder, by its dotted name."""
    name = re.sub(r'\[\d+\]$', '', name)
    block, _, key = name.rpartition('.')
    row = row_of(name)
    if row is not None:
        return row.type in (PATH, PATHS)
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
