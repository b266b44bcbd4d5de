"""This plugin's datasets, models and degradations in their registries."""

from __future__ import annotations

import contextlib
import importlib
import sys

_MODULES = ('data.multigrid_dataset', 'models.multigrid_video_model', 'models.degradation')


def register() -> None:
    """Imports what registers itself. Calling it again changes nothing.

    Raises:
        ImportError: If the host, or the environment, lacks what a type needs.
    """
    for module in _MODULES:
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
