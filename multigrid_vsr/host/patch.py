"""A patch of the host: a change with its reasons beside it, which is left out where the host is not as it was."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multigrid_vsr.core.errors import one_line


class HostChangedError(Exception):
    """The code that a patch would change is gone, or is no longer what the patch was written for."""


@dataclass(frozen=True)
class Patch:
    """One change of BasicSR, or of what it imports, from outside.

    Attributes:
        what: What is changed, as docs/patches.md names it.
        why: Why it is there.
        needed: How it is known to be needed.
        goes: When it goes, or where it does nothing.
        change: Makes the change.
        vital: Whether no Multigrid run can do without it.
    """

    what: str
    why: str
    needed: str
    goes: str
    change: Callable[[], None]
    vital: bool = False

    def apply(self) -> bool:
        """Makes the change, or notes in :data:`left_out` why the host was left as it is."""
        try:
            self.change()
        except (HostChangedError, ImportError, AttributeError, OSError) as error:
            left_out.append((self, one_line(error)))
            return False
        return True


left_out: list[tuple[Patch, str]] = []  # with the reason
_replaced: list[tuple[str, Any, Any]] = []  # name, what it was, what it is now; a later one may replace it again


def patch(what: str, *, why: str, needed: str, goes: str, vital: bool = False) -> Callable[[Callable[[], None]], Patch]:
    """Makes a :class:`Patch` of the function that applies it."""
    return lambda change: Patch(what, why, needed, goes, change, vital)


def replace(module: str, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replaces a function or a class wherever BasicSR and the script have it: its modules import by name.

    Args:
        module: Module of BasicSR that defines it.
        name: Its name there.
        wrap: Gives the replacement of what was there.
    """
    original = getattr(importlib.import_module(module), name)
    _replaced.append((name, original, wrap(original)))
    for other, loaded in list(sys.modules.items()):
        if other == '__main__' or other.partition('.')[0] == 'basicsr':
            replace_names(vars(loaded))


def replace_names(names: dict[str, Any]) -> None:
    """Puts the replacements into a module's names."""
    for name, original, replacement in _replaced:
        if names.get(name) is original:
            names[name] = replacement


def replace_copies(names: dict[str, Any]) -> None:
    """Reaches what ``python basicsr/train.py`` defines after importing BasicSR: a second ``load_resume_state``."""
    for name, original, replacement in _replaced:
        own = names.get(name)
        if isinstance(own, types.FunctionType) and _code(own) == _code(original):
            names[name] = replacement
    replace_names(names)


def without(function: Any, what: str, is_left_out: Callable[[ast.stmt], bool]) -> Any:
    """Makes a function of the same source, without some of its statements.

    Args:
        function: A function of the host.
        what: What is left out, for the error.
        is_left_out: Whether a statement of its body is.

    Raises:
        HostChangedError: If there is none to leave out.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    kept = [statement for statement in definition.body if not is_left_out(statement)]
    if kept == definition.body:
        raise HostChangedError(f'it has no {what} to leave out')
    definition.body = kept
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)  # so that a traceback shows the right lines
    defined: dict[str, Any] = {}
    exec(compile(tree, function.__code__.co_filename, 'exec'), function.__globals__, defined)
    return defined[function.__name__]


def _code(function: Any) -> Any:
    code = getattr(function, '__code__', None)
    return code and (code.co_code, code.co_names)
