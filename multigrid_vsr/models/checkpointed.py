"""Modules that are computed again for the gradient, and keep their input alone (``train.checkpoint_modules``).

Gradient checkpointing (Chen et al., arXiv 1604.06174) of any arch, by the names of its modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.kinds import did_you_mean


def checkpoint_modules(network: nn.Module, patterns: Sequence[str]) -> None:
    """Lets modules keep their input alone in training, and compute the rest again when the gradient needs it.

    The gradient is the same to the last bit, on a CPU in float32: the random state, autocast and the statistics of
    norms are those of the first time.

    Args:
        network: The bare network; names of weights stay.
        patterns: See :func:`matching`.
    """
    found = matching(network, patterns)
    for module in found:
        # The class and not the instance: a replica of DataParallel has a copy of the instance.
        kind = type(module)
        members = {'forward': _checkpointed(kind.forward), '__module__': kind.__module__, '__doc__': kind.__doc__}
        module.__class__ = type(kind.__name__, (kind,), members)
    get_root_logger().info(f'Compute {len(found)} modules again for the gradient: {", ".join(patterns)}.')


def matching(network: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules of a network whose dotted names fit a pattern of the shell, the outermost of those in each other.

    A list or a dict of modules, which is not called itself, stands for its entries. Modules without weights are left
    out: what they compute is little, and often in place.

    Raises:
        OptionError: If a pattern fits none.
    """
    names = {name: module for name, module in network.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for place, pattern in enumerate(patterns):
        fitting = dict(
            called for name, module in names.items() if fnmatchcase(name, pattern) for called in _called(name, module)
        )
        if not fitting:
            rule = f'fit the name of a module with weights of {type(network).__name__}'
            raise OptionError(f'train.checkpoint_modules[{place}]', rule, pattern, did_you_mean(pattern, names))
        found |= fitting
    return [module for name, module in found.items() if not any(name.startswith(f'{other}.') for other in found)]


def _called(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for key, child in module.named_children():
            yield from _called(f'{name}.{key}', child)
    elif any(True for _ in module.parameters()):
        yield name, module


def _checkpointed(forward: Any) -> Any:
    def twice(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return forward(self, *args, **kwargs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _same_statistics(self)

        return checkpoint(forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return twice


@contextmanager
def _same_statistics(module: nn.Module) -> Iterator[None]:
    """Puts the running statistics back: a batch counts once."""
    buffers = [buffer for norm in module.modules() if isinstance(norm, _NormBase) for buffer in norm.buffers()]
    values = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, values):
                buffer.copy_(value)
