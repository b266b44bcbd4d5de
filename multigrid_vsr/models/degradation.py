"""LQ frames that are made on the device, out of the ground truth (``train.degradation``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from basicsr.utils.registry import Registry

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.sampling import mix
from multigrid_vsr.data.seeded import seeded

# Functions, or classes whose instances are called, with (gt, seeds, scale) as `degrade` says.
DEGRADATION_REGISTRY = Registry('degradation')

Degradation = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]


def name_and_arguments(degradation_opt: str | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What ``train.degradation`` says: a name, or a block of ``type`` and arguments."""
    if isinstance(degradation_opt, str):
        return degradation_opt, {}
    return degradation_opt.get('type'), {key: value for key, value in degradation_opt.items() if key != 'type'}


def build_degradation(degradation_opt: str | Mapping[str, Any], device: torch.device | str) -> Degradation:
    """The registered callable with its arguments; on the device where it is a module."""
    name, arguments = name_and_arguments(degradation_opt)
    registered = DEGRADATION_REGISTRY.get(name)
    degradation: Any = registered(**arguments) if inspect.isclass(registered) else partial(registered, **arguments)
    return degradation.to(device) if isinstance(degradation, torch.nn.Module) else degradation


@torch.no_grad()
def degrade(degradation: Degradation, gt: torch.Tensor, seeds: Sequence[int], scale: int) -> torch.Tensor:
    """Makes the LQ frames of a batch.

    Python's, NumPy's and torch's random states follow from the seeds, on the device too, and are put back afterwards:
    what draws from them is repeatable. Where each sample draws from its own seed, it is also the same in any batch.

    Args:
        degradation: Takes ``gt``, ``seeds`` and ``scale``, and gives what this does.
        gt: float32 (b, t, c, scale*h, scale*w), RGB in [0, 1].
        seeds: Of the request of each sample.
        scale: Ground truth side / LQ side.

    Returns:
        float32 (b, t, c, h, w), RGB in [0, 1].

    Raises:
        OptionError: If it gives another shape.
    """
    with seeded(mix(*seeds), gt.device):
        lq = degradation(gt, seeds, scale)
    expected = (*gt.shape[:-2], gt.shape[-2] // scale, gt.shape[-1] // scale)
    if not torch.is_tensor(lq) or tuple(lq.shape) != expected:
        got = tuple(lq.shape) if torch.is_tensor(lq) else type(lq).__name__
        raise OptionError('train.degradation', f'make {expected} of {tuple(gt.shape)}', got, 'Correct what it gives.')
    return lq.float()
