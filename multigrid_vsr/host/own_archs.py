"""Archs of the user's own that take BasicVSR++'s assertion with them."""

from __future__ import annotations

import ast
import functools
from typing import Any

import torch
from basicsr.archs.spynet_arch import SpyNet

from multigrid_vsr.host.patch import HostChangedError, without


def meet_least_size(network: torch.nn.Module) -> None:
    """Lets an arch with BasicSR's SPyNet run below the least size that its ``forward`` asserts.

    Many archs have BasicVSR++'s assertion of 64 pixels, which is there for SPyNet's sake; that takes less through its
    patch. Where the assertion fails, the same source runs without it. Whether the rest of the arch takes the size shows
    in the trial of shapes before iteration 1.

    Args:
        network: The network; its class is changed.
    """
    kind = type(network)
    original = kind.forward
    has_spynet = any(isinstance(module, SpyNet) for module in network.modules())
    if not has_spynet or hasattr(original, 'without_assertion') or original.__closure__:  # `super()` is one
        return
    try:
        unasserted = without(original, 'assertion', _asserts_least_size)
    except (HostChangedError, OSError):
        return

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except AssertionError:
            return unasserted(self, *args, **kwargs)

    forward.without_assertion = unasserted  # type: ignore[attr-defined]
    kind.forward = forward


def _asserts_least_size(statement: ast.stmt) -> bool:
    """Whether it is ``assert x.size(3) >= 64`` or the like."""
    if not isinstance(statement, ast.Assert):
        return False
    words = ast.unparse(statement.test)
    comparisons = [node for node in ast.walk(statement.test) if isinstance(node, ast.Compare)]
    return ('.size(' in words or '.shape' in words) and any(
        isinstance(node.ops[0], (ast.Gt, ast.GtE)) and isinstance(node.comparators[0], ast.Constant)
        for node in comparisons
    )
