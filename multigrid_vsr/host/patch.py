"""What this plugin does to BasicSR: patches with their reasons, and types in its registries."""

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
        """Makes the change, or notes in :data:`left_out` why the host, which is not as it was, was left alone."""
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

    ``wrap`` gives the replacement of what was there.
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
    """Makes a function of the same source, without the statements of its body that ``is_left_out`` names.

    Raises:
        HostChangedError: If there is none; ``what`` they are is said there.
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


_REGISTERING = ('data.multigrid_dataset', 'models.multigrid_video_model', 'models.degradation')


def register() -> None:
    """Imports the modules that register datasets, models and degradations. Calling it again changes nothing.

    Raises:
        ImportError: If the host, or the environment, lacks what a type needs.
    """
    for module in _REGISTERING:
        importlib.import_module(f'multigrid_vsr.{module}')


def try_to_register() -> None:
    """Registers what can be registered now; ``parse_options`` says what cannot, if a run asks for it.

    A module of this plugin that is being imported, and has brought BasicSR, is not whole yet. Then this is called
    again when a public name or a registered type is asked for.
    """
    with contextlib.suppress(ImportError, AttributeError):
        register()


def follows_schedules(model_type: str) -> bool:
    """Whether a model is of this project: by its class, since a user's own has another name."""
    from basicsr.utils.registry import MODEL_REGISTRY

    models = sys.modules.get('multigrid_vsr.models.multigrid_video_model')  # without it no class is
    return (
        models is not None
        and model_type in MODEL_REGISTRY
        and issubclass(MODEL_REGISTRY.get(model_type), models.MultigridMixin)
    )
