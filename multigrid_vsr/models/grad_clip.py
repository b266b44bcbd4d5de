"""``train.grad_clip_norm``: a bound on the norm of the gradient, wherever the optimizer takes its step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer


class GradClip:
    """Scales gradients down to a norm, right before the step of each optimizer, in a GAN run too.

    The norm is that of the whole gradient: all parts of a batch, and all ranks.

    Args:
        optimizers: By the name under which the log has the norm of their gradient, before it is scaled.
        max_norm: The bound.
        scaler: That of fp16: gradients are divided by its factor before they are measured.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], max_norm: float, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self._norms: dict[str, torch.Tensor] = {}
        for name, optimizer in optimizers.items():
            optimizer.register_step_pre_hook(partial(self._clip, name, max_norm))

    def unscale(self, optimizer: Optimizer) -> None:
        """Before the scaler's step: a fused optimizer would divide in its kernel, after the gradient is measured."""
        self._scaler.unscale_(optimizer)

    def norms(self) -> dict[str, float]:
        """The norms of the last step; the device is waited for."""
        return {name: float(norm) for name, norm in self._norms.items()}

    def _clip(self, name: str, max_norm: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        self._norms[name] = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
