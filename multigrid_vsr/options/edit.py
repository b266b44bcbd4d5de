"""Option files are edited with as few changes as possible: what changes, why, and the text that says it.

Comments, blank lines, quotes, tags and line ends of all that stays the same are kept byte for byte. The marks of YAML
say which characters an option covers, and only these are replaced.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import yaml

from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.kinds import refuse
from multigrid_vsr.options.option_file import NEW_NAMES

# Counts of iterations that have to fit `train.total_iter`, or hold for a part of the training.
SCHEDULE_COUNTS = (
    *('train.total_iter', 'train.scheduler.periods', 'train.scheduler.milestones'),
    *('train.fix_flow', 'train.tsa_iter', 'train.net_d_init_iters'),
)
ALL_COUNTS = (*SCHEDULE_COUNTS, 'val.val_freq', 'logger.print_freq', 'logger.save_checkpoint_freq')
_CUMULATED = ('train.scheduler.periods',)  # lengths that have to add up


class Edit:
    """A copy of a run's options that is being changed.

    Attributes:
        options: All options, in order; a new one stands where it belongs.
        comments: What the file says beside each new option, by dotted name; for one that goes, why.
        reasons: A line for each decision.
        schedule: The shapes of the new run, once it is done.
    """

    schedule: Schedule

    def __init__(self, options: Mapping[str, Any]):
        self.options: dict[str, Any] = copy.deepcopy(dict(options))
        self.comments: dict[str, str] = {}
        self.reasons: list[str] = []

    def set(self, option: str, value: Any, why: str | None = '', comment: str = '', after: str = '') -> None:
        """Changes an option, or adds it to a block that is there.

        Args:
            option: Dotted name.
            value: The new value.
            why: End of the line that says so; ``None`` for no line.
            comment: What the file says beside a new option.
            after: The key that a new option follows; it comes last by default.
        """
        name, _, key = option.rpartition('.')
        block = lookup(self.options, name) if name else self.options
        was = f' for {_plain(block[key])}' if key in block else ''
        if after and key not in block:
            items = list(block.items())
            place = list(block).index(after) + 1
            block.clear()
            block.update([*items[:place], (key, value), *items[place:]])
        block[key] = value
        if comment:
            self.comments[option] = comment
        if why is not None:
            self.reasons.append(f'{option}: {value}{was}' + (f', {why}' if why else ''))

    def comment_out(self, option: str, why: str) -> None:
        """Takes an option away; the file keeps its line as a comment."""
        name, _, key = option.rpartition('.')
        (lookup(self.options, name) if name else self.options).pop(key)
        self.comments[option] = why
        self.reasons.append(f'{option}: commented out, since {why}')

    def add_shapes(self, new: Mapping[str, Any], comments: Mapping[str, str]) -> None:
        """Adds options to the ``multigrid`` block, which comes behind the training set if it is new."""
        self.comments.setdefault('multigrid', 'the shapes of the run')
        self.comments |= {f'multigrid.{key}': comments[key] for key in new if key in comments}
        if isinstance(self.options.get('multigrid'), Mapping):
            self.options['multigrid'].update(new)
        else:
            self.options.pop('multigrid', None)
            self.set('multigrid', dict(new), None, after='datasets')

    def add_stock_run(self, total_iter: int, batch_size: int) -> None:
        """Says which run this one was made from, unless the file does already."""
        if self.options.get('stock_run') is not None:
            return
        self.options.pop('stock_run', None)
        block = {'total_iter': total_iter, 'batch_size': batch_size}
        self.set('stock_run', block, None, after='multigrid' if 'multigrid' in self.options else 'datasets')
        self.comments |= {
            'stock_run': 'the run that this file was made from: plan, log and report compare with it',
            'stock_run.total_iter': 'its iterations',
            'stock_run.batch_size': 'its samples an iteration, on all GPUs',
        }

    def scale(self, factor: Fraction, counts: Sequence[str]) -> None:
        """Multiplies counts of iterations and rounds them to 1 at least; those that are not there or off stay."""
        for option in counts:
            old = lookup(self.options, option)
            if isinstance(old, list):
                new: Any = lengths(old, factor) if option in _CUMULATED else [_count(value, factor) for value in old]
            elif isinstance(old, (int, float)) and old > 0:
                new = _count(old, factor)
            else:
                continue
            if new != old:
                self.set(option, new)

    def applied_to(self, text: str) -> str:
        """The text of the option file, edited."""
        return rewrite(text, self.options, self.comments)


def lengths(old: Sequence[float], factor: Fraction) -> list[int]:
    """Lengths that follow each other, their boundaries multiplied and rounded."""
    boundaries = [round(int(end) * factor) for end in accumulate(old, initial=0)]
    return [max(1, end - start) for start, end in pairwise(boundaries)]


def _count(value: float, factor: Fraction) -> int:
    return max(1, round(int(value) * factor))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_MOST_EDITS = 100  # far more than a file needs: an edit that has no effect would come for ever
_Edit = tuple[int, int, str]  # start, end, and what replaces the text between


def rewrite(text: str, options: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Edits YAML of a mapping until it says ``options``, in their order.

    A new option comes right after the one before it, and may hold a block of plain options. Others that change are
    plain values or lists of them. ``comments`` has the comment of each new option, by dotted name. That of a block
    comes above it, after a blank line. An option that goes and has a comment stays as a comment.
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
    got = 'anchors, merge keys or repeated options'
    refuse(not done, '-opt', 'say each option in one place', got, 'Write them out.')
    return text


def _next_edit(
    text: str, node: Any, old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, comments: Mapping[str, str]
) -> _Edit | None:
    """The first edit that brings a block nearer to its new options; ``None`` where there is none."""
    for place, (key_node, value_node) in enumerate(node.value):
        key = key_node.value
        if key not in old:  # a merge key
            continue
        new_name = NEW_NAMES.get(f'{prefix}{key}', '').rpartition('.')[2]
        if key not in new and new_name in new and new_name not in old:
            return key_node.start_mark.index, key_node.end_mark.index, new_name
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
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = {NEW_NAMES.get(f'{option}.{key}', '').rpartition('.')[2] for key in old}
        if new.keys() & {*old, *names}:
            return _next_edit(text, node, old, new, f'{option}.', comments)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for entry, before, after in zip(node.value, old, new):
            if before != after:
                return _change(text, entry, before, after, f'{option}[]', comments)
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode):
        end = max(start, len(text[:end].rstrip()))
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
