"""What happens before and after ``import basicsr``. A plain run trains as it does without this plugin."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types

from multigrid_vsr.host import arch_patches, entry, launch, resume
from multigrid_vsr.host.patch import patch, try_to_register

_GONE = 'torchvision.transforms.functional_tensor'


@patch(
    f'`{_GONE}`',
    why='torchvision 0.17 removed it, and `basicsr.data.degradations` asks it for `rgb_to_grayscale`: '
    '`import basicsr` fails; a module with that function stands in',
    needed='torchvision has no such module',
    goes='when BasicSR imports it from `transforms.functional`',
)
def functional_tensor() -> None:
    if _GONE in sys.modules or importlib.util.find_spec(_GONE) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(_GONE, 'Stands in for a module that torchvision removed.')
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[_GONE] = module


# In the order in which they are applied.
AFTER_IMPORT = (
    *launch.PATCHES,
    *entry.PATCHES,
    *resume.PATCHES,
    entry.first_batch_once,
    *arch_patches.SPEED_PATCHES,  # before what takes flow_warp from there
    *arch_patches.PATCHES,
)
PATCHES = (functional_tensor, *AFTER_IMPORT)
_is_done = False


def before_import() -> None:
    """Adds what BasicSR's own import needs. If that fails, BasicSR's import says what is missing."""
    functional_tensor.apply()


def after_import() -> str | None:
    """Applies the patches and registers the types, once.

    Returns:
        Why options cannot be checked in this host, in which case nothing is changed; else ``None``.
    """
    global _is_done
    if _is_done:
        return None
    _is_done = True
    try:
        parse_options = importlib.import_module('basicsr.utils.options').parse_options
    except (ImportError, AttributeError):
        return 'its utils/options.py has no parse_options'
    parameters = list(inspect.signature(parse_options).parameters)
    if parameters != ['root_path', 'is_train']:
        return f'its parse_options takes ({", ".join(parameters)})'
    for unit in AFTER_IMPORT:
        unit.apply()
    try_to_register()
    return None
