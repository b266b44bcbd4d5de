"""What is said about an option, and the kinds of values: how each is checked, in words and as JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        words: The end of ``must be ...``.
        schema: The same as JSON Schema.
        check: Takes the option's dotted name and a value, and gives the value in its Python type.
    """

    words: str
    schema: Mapping[str, Any]
    check: Callable[[str, Any], Any]


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Attributes:
        name: Dotted name; the entries of ``multigrid.stages`` are ``multigrid.stages[]``.
        kind: What its value may be.
        sentence: What it does.
        unit: Of its numbers.
        default: The value that holds without it, or words that say it; empty where it has to be given.
        rule: What else is asked of it.
    """

    name: str
    kind: Kind
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
    fix: str = 'Correct the value.',
    convert: Callable[[Any], Any] = lambda value: value,
) -> Kind:
    """A kind of single values."""

    def check(name: str, value: Any) -> Any:
        if not accepts(value):
            is_quoted = isinstance(value, str) and value.strip().isdecimal() and schema['type'] != 'string'
            raise OptionError(name, f'be {words}', value, 'Correct the value: remove the quotes.' if is_quoted else fix)
        return convert(value)

    return Kind(words, schema, check)


def is_number(value: object) -> bool:
    """Whether a value is a finite number; YAML's ``true`` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float('inf')


def whole(least: int, words: str | None = None, fix: str = 'Correct the value.') -> Kind:
    """Whole numbers; ``1e+5``, which YAML reads as a float, is one."""
    schema = {'type': 'integer', 'minimum': least}
    return scalar(
        words or f'a whole number of at least {least}',
        schema,
        lambda value: is_number(value) and value == int(value) and value >= least,
        fix,
        int,
    )


def seed() -> Kind:
    """What NumPy takes for a seed."""
    schema = {'type': 'integer', 'minimum': 0, 'maximum': 2**32 - 1}
    words = 'a whole number from 0 to 4294967295'
    return scalar(
        words, schema, lambda value: is_number(value) and value == int(value) and 0 <= value < 2**32, convert=int
    )


def number(least: float, fix: str = 'Correct the value.') -> Kind:
    schema = {'type': 'number', 'minimum': least}
    return scalar(
        f'a number of at least {least:g}', schema, lambda value: is_number(value) and value >= least, fix, float
    )


def number_above(bound: float, fix: str = 'Correct the value.') -> Kind:
    schema = {'type': 'number', 'exclusiveMinimum': bound}
    return scalar(f'a number above {bound:g}', schema, lambda value: is_number(value) and value > bound, fix)


def share() -> Kind:
    schema = {'type': 'number', 'minimum': 0, 'exclusiveMaximum': 1}
    return scalar('a number from 0 to below 1', schema, lambda value: is_number(value) and 0 <= value < 1)


def choice(
    *values: Any, words: str | None = None, fix: str = 'Choose one of them.', suggests_near_miss: bool = False
) -> Kind:
    """One of a few words, or ``true`` and ``false``."""
    named = [as_yaml(value) for value in values]
    words = words or (' or '.join(named) if len(named) == 2 else ', '.join(named))

    def check(name: str, value: Any) -> Any:
        if not any(value is known or (isinstance(value, str) and value == known) for known in values):
            near = did_you_mean(str(value), named, fix) if suggests_near_miss else fix
            raise OptionError(name, f'be {words}', value, near)
        return value

    return Kind(words, {'enum': list(values)}, check)


def block(words: str = 'a block of options', fix: str = 'Write one option a line below it.') -> Kind:
    return scalar(words, {'type': 'object'}, lambda value: isinstance(value, Mapping), fix)


def list_of(kind: Kind, words: str = 'a list', fix: str = 'Write it as [a, b, c].') -> Kind:
    """Lists of one entry or more, each of the same kind."""

    def check(name: str, value: Any) -> list[Any]:
        if not _is_list(value) or not value:
            raise OptionError(name, f'be {words}', value, fix)
        return [kind.check(f'{name}[{place}]', entry) for place, entry in enumerate(value)]

    return Kind(f'a list, each {kind.words}', {'type': 'array', 'minItems': 1, 'items': kind.schema}, check)


def one_or_list_of(kind: Kind) -> Kind:
    """A value, or a list of them."""
    many = list_of(kind)

    def check(name: str, value: Any) -> Any:
        return (many if _is_list(value) else kind).check(name, value)

    return Kind(f'{kind.words} or a list of them', {'anyOf': [kind.schema, many.schema]}, check)


def or_word(kind: Kind, word: str, words: str, fix: str = 'Remove it.') -> Kind:
    """Another kind, or one word."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, str) and value != word:
            raise OptionError(name, f'be {words}', value, did_you_mean(value, [word], fix))
        return value if value == word else kind.check(name, value)

    return Kind(f'{kind.words}; or `{word}`', {'anyOf': [kind.schema, {'const': word}]}, check)


def text_or_block(needed: str, optional: str) -> Kind:
    """Text, or a block of that text and one option more."""
    words = f'text, or {{{needed}, {optional}}}'
    text = {'type': 'string'}
    properties = {needed: text, optional: text}
    schema = {'type': 'object', 'properties': properties, 'required': [needed], 'additionalProperties': False}

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return TEXT.check(name, value)
        if needed not in value or not value.keys() <= properties.keys():
            raise OptionError(name, f'be {words}', dict(value), 'Correct the keys.')
        return {key: TEXT.check(f'{name}.{key}', entry) for key, entry in value.items()}

    return Kind(words, {'anyOf': [text, schema]}, check)


def or_text(kind: Kind) -> Kind:
    """Another kind, or a name."""

    def check(name: str, value: Any) -> Any:
        return TEXT.check(name, value) if isinstance(value, str) else kind.check(name, value)

    return Kind(f'a name or {kind.words}', {'anyOf': [TEXT.schema, kind.schema]}, check)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = 'Remove it.') -> str:
    """The end of a line about a word that is not known."""
    near = get_close_matches(word, list(known), n=1)
    return f'Did you mean `{near[0]}`?' if near else otherwise


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def as_yaml(value: Any) -> str:
    """A value as it stands in an option file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


WHOLE = whole(1)
SWITCH = choice(True, False, fix='Correct the value.')
TEXT = scalar('text', {'type': 'string'}, lambda value: isinstance(value, str) and value != '', 'Put it in quotes.')
PATH = replace(TEXT, words='a path')
BLOCK = block()
