"""The network of a run whose ranks exchange gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrap(network: nn.Module, opt: Mapping[str, Any], device: torch.device, find_unused: bool) -> nn.Module:
    """Lets the ranks exchange the gradients of the parameters that train now; they are fixed when it is wrapped.

    Args:
        network: The bare network, on its device.
        opt: Options of the run; ``use_static_graph`` is that of BasicSR's git master.
        device: A GPU, or the CPU.
        find_unused: Whether parameters that train may be without a gradient.
    """
    return DistributedDataParallel(
        network,
        device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
        find_unused_parameters=find_unused,
        gradient_as_bucket_view=True,
        static_graph=opt.get('use_static_graph', False),
    )


def looks_in_vain(network: nn.Module) -> bool:
    """Whether each iteration walks the graph for parameters without a gradient, and all that train have one."""
    return (
        isinstance(network, DistributedDataParallel)
        and network.find_unused_parameters
        and all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    )
