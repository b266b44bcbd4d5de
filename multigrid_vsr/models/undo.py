"""What an iteration changes beside gradients, brought back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def remember(model: Any) -> Callable[[], None]:
    """Remembers the buffers of a model's networks and the random state of its devices.

    Args:
        model: A ``MultigridVideoModel``.

    Returns:
        What brings them back.
    """
    networks = [getattr(model, name) for name in ('net_g', 'net_d') if hasattr(model, name)]
    buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    on_cpu = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(model.device) if model.device.type == 'cuda' else None

    def bring_back() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, model.device)

    return bring_back
