"""Muon for networks of convolutions, tried against Adam by ``python -m benchmarks.train``.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (kellerjordan.github.io/posts/muon): the
momentum of a weight matrix, made orthogonal by five Newton-Schulz steps. ``torch.optim.Muon`` takes matrices only, so
this one flattens convolutions to out x (in k k). The factor 0.2 sqrt(max(out, in k k)) gives a step the size of
Adam's, so that rates compare (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, equation 4).
"""

from __future__ import annotations

import math
from typing import Any

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.
_STEPS = 5
_LEAST_OUTPUTS = 4  # the last layers, of 3 colours or 2 of flow, have Adam, as Jordan et al. advise


class ConvMuon(torch.optim.Adam):
    """Adam, but Muon for weights of convolutions and of linear layers with 4 outputs or more.

    Args:
        params: Parameters or groups.
        lr: Rate of both.
        momentum: Of Muon.
        **adam: Options of :class:`torch.optim.Adam`, which the other parameters have.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, **adam: Any) -> None:
        super().__init__(params, lr=lr, **adam)
        for group in self.param_groups:
            group['momentum'] = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        gradients = {}
        for group in self.param_groups:
            for weight in filter(_is_matrix, group['params']):
                if weight.grad is not None:
                    self._step_matrix(weight, group['lr'], group['momentum'])
                    gradients[weight] = weight.grad
                    weight.grad = None  # Adam passes over it
        result = super().step(closure)
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return result

    def _step_matrix(self, weight: torch.Tensor, lr: float, momentum: float) -> None:
        state = self.state[weight]
        if not state:
            state['momentum'] = torch.zeros_like(weight)
        gradient: torch.Tensor = weight.grad  # type: ignore[assignment]
        state['momentum'].lerp_(gradient, 1 - momentum)
        wished = torch.lerp(gradient, state['momentum'], momentum)  # Nesterov's
        matrix = wished.flatten(1)
        update = orthogonal(matrix) * 0.2 * math.sqrt(max(matrix.shape))
        weight.sub_(update.view(weight.shape), alpha=lr)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (m, n) with its singular values brought near 1, between 0.7 and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _is_matrix(weight: torch.Tensor) -> bool:
    return weight.ndim > 1 and weight.shape[0] >= _LEAST_OUTPUTS
