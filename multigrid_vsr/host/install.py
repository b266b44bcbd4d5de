"""What is done before and after ``import basicsr``. A plain run trains as without this plugin."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from multigrid_vsr.host import arch_patches, entry, launch, resume
from multigrid_vsr.host.patch import patch, replace
from multigrid_vsr.host.registering import try_to_register

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


@patch(
    '`CUDAPrefetcher`',
    why='it asks for the first batch when it is made, and again when the loop begins: the workers start twice',
    needed='its loader is a `MultigridLoader`; it is a subclass, which on another loader is the original',
    goes='when it waits for its `reset`',
)
def first_batch_once() -> None:
    replace('basicsr.data.prefetch_dataloader', 'CUDAPrefetcher', _starting_at_reset)


def _starting_at_reset(original: Any) -> Any:
    class CUDAPrefetcher(original):
        def __init__(self, loader: Any, opt: dict[str, Any]) -> None:
            from multigrid_vsr.data.loader import MultigridLoader

            super().__init__(() if isinstance(loader, MultigridLoader) else loader, opt)
            self.ori_loader = loader

    return CUDAPrefetcher


# In the order in which they are applied.
AFTER_IMPORT = (
    *launch.PATCHES,
    *entry.PATCHES,
    *resume.PATCHES,
    first_batch_once,
    *arch_patches.SPEED_PATCHES,  # before what takes flow_warp from there
    *arch_patches.PATCHES,
)
PATCHES = (functional_tensor, *AFTER_IMPORT)
_is_done = False


def before_import() -> None:
    """Gives back what BasicSR's own import needs; where that fails, BasicSR says what is missing."""
    functional_tensor.apply()


def after_import() -> str | None:
    """Applies the patches and registers the types. Calling it again changes nothing.

    Returns:
        What keeps this host from being patched at all: then nothing is changed.
    """
    global _is_done
    if _is_done:
        return None
    _is_done = True
    lacking = entry.lacking()
    if lacking is None:
        for unit in AFTER_IMPORT:
            unit.apply()
        try_to_register()
    return lacking
