"""This plugin's datasets and models in BasicSR's registries."""

from __future__ import annotations

import contextlib
import importlib
import sys

from multigrid_vsr.host.patch import patch

_MODULES = ('data.multigrid_dataset', 'models.multigrid_video_model', 'models.degradation')
_waits = False


def register() -> None:
    """Imports what registers itself. Calling it again changes nothing.

    Raises:
        ImportError: If the host, or the environment, lacks what a type needs.
    """
    for module in _MODULES:
        importlib.import_module(f'multigrid_vsr.{module}')


def follows_schedules(model_type: str) -> bool:
    """Whether a model is of this project: by its class, since a user's own has another name."""
    from basicsr.utils.registry import MODEL_REGISTRY

    models = sys.modules.get('multigrid_vsr.models.multigrid_video_model')  # without it no class has it
    return (
        models is not None
        and model_type in MODEL_REGISTRY
        and issubclass(MODEL_REGISTRY.get(model_type), models.MultigridMixin)
    )


@patch(
    '`DATASET_REGISTRY`, `MODEL_REGISTRY`',
    why='option files name types; nothing of BasicSR is changed',
    needed='always',
    goes='never',
)
def registered_types() -> None:
    global _waits
    _waits = True
    register_what_waits()


def register_what_waits() -> None:
    """Registers what is not yet, where a module of this plugin imported BasicSR and had to be done first."""
    global _waits
    if _waits and not _is_under_way():
        with contextlib.suppress(ImportError, AttributeError):  # `parse_options` says why, if a type is asked for
            register()
            _waits = False


def _is_under_way() -> bool:
    """Whether a module of this plugin is what imports BasicSR: as in a spawned worker, whose dataset comes first."""
    specs = [
        getattr(module, '__spec__', None)
        for name, module in sys.modules.items()
        if name.startswith('multigrid_vsr.') and not name.startswith('multigrid_vsr.host')
    ]
    return any(getattr(spec, '_initializing', False) for spec in specs)
