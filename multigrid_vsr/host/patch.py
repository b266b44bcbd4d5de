"""Patches of BasicSR, each with its reason, and types in BasicSR's registries."""

from __future__ import annotations

import ast
import contextlib
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
    """The code that a patch changes is gone, or differs from the code that the patch was written for."""


@dataclass(frozen=True)
class Patch:
    """A change of BasicSR, or of a module that it imports. docs/patches.md lists all.

    Attributes:
        what: The name of the code that is changed.
        why: The reason.
        needed: How the patch is known to be needed.
        goes: When the patch can go, or where it does nothing.
        change: Makes the change.
        vital: Whether every Multigrid run needs the patch.
    """

    what: str
    why: str
    needed: str
    goes: str
    change: Callable[[], None]
    vital: bool = False

    def apply(self) -> bool:
        """Makes the change. If the host has changed, adds the patch and the reason to :data:`left_out` instead."""
        try:
            self.change()
        except (HostChangedError, ImportError, AttributeError, OSError) as error:
            left_out.append((self, one_line(error)))
            return False
        return True


left_out: list[tuple[Patch, str]] = []  # with the reason
_replaced: list[tuple[str, Any, Any]] = []  # name, original, replacement; a later entry may replace a replacement


def patch(what: str, *, why: str, needed: str, goes: str, vital: bool = False) -> Callable[[Callable[[], None]], Patch]:
    """Makes a :class:`Patch` of the function that applies it."""
    return lambda change: Patch(what, why, needed, goes, change, vital)


def replace(module: str, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replaces a function or a class in all modules of BasicSR, which import by name, and in the script.

    ``wrap`` takes the original and gives the replacement.
    """
    original = getattr(importlib.import_module(module), name)
    _replaced.append((name, original, wrap(original)))
    for other, loaded in list(sys.modules.items()):
        if other == '__main__' or other.partition('.')[0] == 'basicsr':
            replace_names(vars(loaded))


def replace_names(names: dict[str, Any]) -> None:
    """Replaces originals among the names of a module."""
    for name, original, replacement in _replaced:
        if names.get(name) is original:
            names[name] = replacement


def replace_copies(names: dict[str, Any]) -> None:
    """Replaces copies of originals too: ``python basicsr/train.py`` defines ``load_resume_state`` a second time."""
    for name, original, replacement in _replaced:
        own = names.get(name)
        if isinstance(own, types.FunctionType) and _code(own) == _code(original):
            names[name] = replacement
    replace_names(names)


def without(function: Any, what: str, is_left_out: Callable[[ast.stmt], bool]) -> Any:
    """Compiles the source of a function without those statements of its body for which ``is_left_out`` is true.

    Raises:
        HostChangedError: If there are none; the message calls them ``what``.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    kept = [statement for statement in definition.body if not is_left_out(statement)]
    if kept == definition.body:
        raise HostChangedError(f'it has no {what} to leave out')
    definition.body = kept
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)  # the right lines in a traceback
    defined: dict[str, Any] = {}
    exec(compile(tree, function.__code__.co_filename, 'exec'), function.__globals__, defined)
    return defined[function.__name__]


def _code(function: Any) -> Any:
    code = getattr(function, '__code__', None)
    return code and (code.co_code, code.co_names)


_REGISTERING = ('data.multigrid_dataset', 'models.multigrid_video_model', 'models.degradation')


def register() -> None:
    """Imports the modules that register datasets, models and degradations; an ImportError if one cannot be imported."""
    for module in _REGISTERING:
        importlib.import_module(f'multigrid_vsr.{module}')


def try_to_register() -> None:
    """Registers the types that can be registered now.

    If a module of this plugin is importing BasicSR, that module is not complete yet. So this is called again for each
    public name and registered type that is asked for. ``parse_options`` reports a type that cannot be registered.
    """
    with contextlib.suppress(ImportError, AttributeError):
        register()


def follows_schedules(model_type: str) -> bool:
    """Whether a model type is a class of this project, or derived from one."""
    from basicsr.utils.registry import MODEL_REGISTRY

    models = sys.modules.get('multigrid_vsr.models.multigrid_video_model')  # not imported: no class is derived from it
    return (
        models is not None
        and model_type in MODEL_REGISTRY
        and issubclass(MODEL_REGISTRY.get(model_type), models.MultigridMixin)
    )
