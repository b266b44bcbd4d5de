"""Types of option values: how each is checked, in words and as JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError

_CORRECT = 'Correct the value.'


def refuse(when: object, option: str, rule: str, got: object, fix: str) -> None:
    """Raises ``<option>: must <rule>, got <got>. <fix>`` when the rule is broken."""
    if when:
        raise OptionError(option, rule, got, fix)


@dataclass(frozen=True)
class OptionType:
    """What the value of an option may be: in words after ``must be``, as JSON Schema, and as a function.

    ``check`` takes the option's dotted name and a value, and gives the value in its Python type.
    """

    words: str
    schema: Mapping[str, Any]
    check: Callable[[str, Any], Any]


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Attributes:
        name: Dotted name; the entries of ``multigrid.stages`` are ``multigrid.stages[]``.
        default: The value that holds without it, or words that say it; empty where it has to be given.
        rule: What is asked of it beside its type.
    """

    name: str
    type: OptionType
    sentence: str
    unit: str = ''
    default: Any = ''
    rule: str = ''

    @property
    def key(self) -> str:
        """The last part of the name."""
        return self.name.rpartition('.')[2]


def scalar(
    words: str,
    schema: Mapping[str, Any],
    accepts: Callable[[Any], bool],
    fix: str = _CORRECT,
    convert: Callable[[Any], Any] = lambda value: value,
) -> OptionType:
    """A single value that ``accepts`` takes."""

    def check(name: str, value: Any) -> Any:
        is_quoted = isinstance(value, str) and value.strip().isdecimal() and schema['type'] != 'string'
        quotes = 'Correct the value: remove the quotes.'
        refuse(not accepts(value), name, f'be {words}', value, quotes if is_quoted else fix)
        return convert(value)

    return OptionType(words, schema, check)


def is_number(value: object) -> bool:
    """Whether a value is a finite number; YAML's ``true`` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float('inf')


def whole(least: int, words: str | None = None, fix: str = _CORRECT, most: float = float('inf')) -> OptionType:
    """Whole numbers; ``1e+5``, which YAML reads as a float, is one."""
    words = words or f'a whole number of at least {least}'
    schema = {'type': 'integer', 'minimum': least} | ({'maximum': most} if most < float('inf') else {})
    return scalar(words, schema, lambda value: is_number(value) and least <= value == int(value) <= most, fix, int)


def number(least: float, fix: str = _CORRECT) -> OptionType:
    """Numbers from ``least`` on."""
    words, schema = f'a number of at least {least:g}', {'type': 'number', 'minimum': least}
    return scalar(words, schema, lambda value: is_number(value) and value >= least, fix, float)


def number_above(bound: float, fix: str = _CORRECT) -> OptionType:
    """Numbers above ``bound``."""
    schema = {'type': 'number', 'exclusiveMinimum': bound}
    return scalar(f'a number above {bound:g}', schema, lambda value: is_number(value) and value > bound, fix)


def choice(
    *values: Any, words: str | None = None, fix: str = 'Choose one of them.', suggests_near_miss: bool = False
) -> OptionType:
    """One of a few words, or ``true`` and ``false``."""
    named = [as_yaml(value) for value in values]
    words = words or (' or '.join(named) if len(named) == 2 else ', '.join(named))

    def check(name: str, value: Any) -> Any:
        is_known = any(value is known or (isinstance(value, str) and value == known) for known in values)
        near = did_you_mean(str(value), named, fix) if suggests_near_miss else fix
        refuse(not is_known, name, f'be {words}', value, near)
        return value

    return OptionType(words, {'enum': list(values)}, check)


def block(words: str = 'a block of options', fix: str = 'Write one option a line below it.') -> OptionType:
    """A mapping."""
    return scalar(words, {'type': 'object'}, lambda value: isinstance(value, Mapping), fix)


def list_of(entries: OptionType, words: str = 'a list', fix: str = 'Write it as [a, b, c].') -> OptionType:
    """Lists of one entry or more, all of one type."""

    def check(name: str, value: Any) -> list[Any]:
        refuse(not _is_list(value) or not value, name, f'be {words}', value, fix)
        return [entries.check(f'{name}[{place}]', entry) for place, entry in enumerate(value)]

    schema = {'type': 'array', 'minItems': 1, 'items': entries.schema}
    return OptionType(f'a list, each {entries.words}', schema, check)


def either(one: OptionType, other: OptionType, is_other: Callable[[Any], bool], words: str) -> OptionType:
    """One of two types; ``is_other`` says by which one a value is checked."""

    def check(name: str, value: Any) -> Any:
        return (other if is_other(value) else one).check(name, value)

    return OptionType(words, {'anyOf': [one.schema, other.schema]}, check)


def one_or_list_of(entries: OptionType) -> OptionType:
    """A value, or a list of them."""
    return either(entries, list_of(entries), _is_list, f'{entries.words} or a list of them')


def or_word(type_: OptionType, word: str, words: str, fix: str = 'Remove it.') -> OptionType:
    """Another type, or one word."""

    def check(name: str, value: str) -> str:
        refuse(value != word, name, f'be {words}', value, did_you_mean(value, [word], fix))
        return value

    return either(type_, OptionType(words, {'const': word}, check), _is_text, f'{type_.words}; or `{word}`')


def text_or_block(needed: str, optional: str) -> OptionType:
    """Text, or a block of that text and one option more."""
    words = f'text, or {{{needed}, {optional}}}'
    properties = {needed: TEXT.schema, optional: TEXT.schema}
    schema = {'type': 'object', 'properties': properties, 'required': [needed], 'additionalProperties': False}

    def check(name: str, value: Mapping[str, Any]) -> Any:
        is_other = needed not in value or not value.keys() <= properties.keys()
        refuse(is_other, name, f'be {words}', dict(value), 'Correct the keys.')
        return {key: TEXT.check(f'{name}.{key}', entry) for key, entry in value.items()}

    return either(TEXT, OptionType(words, schema, check), lambda value: isinstance(value, Mapping), words)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = 'Remove it.') -> str:
    """The end of a line about a word that is not known."""
    near = get_close_matches(word, list(known), n=1)
    return f'Did you mean `{near[0]}`?' if near else otherwise


def as_yaml(value: Any) -> str:
    """A value as it stands in an option file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


WHOLE = whole(1)
SEED = whole(0, 'a whole number from 0 to 4294967295', most=2**32 - 1)  # what NumPy takes
FRACTION = scalar(
    'a number from 0 to below 1',
    {'type': 'number', 'minimum': 0, 'exclusiveMaximum': 1},
    lambda value: is_number(value) and 0 <= value < 1,
)
SWITCH = choice(True, False, fix=_CORRECT)
TEXT = scalar('text', {'type': 'string'}, lambda value: isinstance(value, str) and value != '', 'Put it in quotes.')
PATH = replace(TEXT, words='a path')
PATHS = one_or_list_of(PATH)
BLOCK = block()
NAME_OR_BLOCK = either(TEXT, BLOCK, lambda value: not _is_text(value), f'a name or {BLOCK.words}')
