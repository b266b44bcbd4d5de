"""``train.grad_clip_norm``: a bound on the norm of the gradient, wherever the optimizer takes its step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

_NAMES = ('grad_norm', 'grad_norm_d')  # of the generator, and of the discriminator of a GAN run


class GradClip:
    """Scales gradients down to a norm, right before the step of each optimizer, whichever code calls it.

    The norm is that of the whole gradient: all parts of a batch, and all ranks.

    Args:
        optimizers: Those of the run, the generator's first.
        max_norm: The bound.
    """

    def __init__(self, optimizers: Sequence[Optimizer], max_norm: float) -> None:
        self._norms: dict[str, torch.Tensor] = {}
        for name, optimizer in zip(_NAMES, optimizers):
            optimizer.register_step_pre_hook(partial(self._clip, name, max_norm))

    def norms(self) -> dict[str, float]:
        """The norms of the last step, before they were scaled; the device is waited for."""
        return {name: float(norm) for name, norm in self._norms.items()}

    def _clip(self, name: str, max_norm: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        self._norms[name] = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
