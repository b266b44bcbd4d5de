"""The network of a run whose ranks exchange gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import distributed, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel


def wrap(network: nn.Module, opt: Mapping[str, Any], device: torch.device, find_unused: bool) -> nn.Module:
    """Wraps a bare network, so that ranks exchange the gradients of the parameters that train now.

    Parameters that are frozen or thawed later need a new wrapper. ``find_unused`` allows that some get no gradient.
    ``use_static_graph`` is an option of BasicSR's git master.
    """
    return DistributedDataParallel(
        network,
        device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
        find_unused_parameters=find_unused,
        gradient_as_bucket_view=True,
        static_graph=opt.get('use_static_graph', False),
    )


def stop_finding_unused(network: nn.Module, opt: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Wraps a network anew if it looks for parameters without a gradient, and only frozen ones have none."""
    if not (
        isinstance(network, DistributedDataParallel)
        and network.find_unused_parameters
        and all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    ):
        return network
    get_root_logger().info('All that trains has a gradient: find_unused_parameters is off from here.')
    return wrap(network.module, opt, device, find_unused=False)


def broadcast(tensors: list[torch.Tensor]) -> None:
    """Broadcasts tensors of rank 0, as torch's wrapper does: weights at the start, buffers before a forward."""
    if tensors:
        distributed._broadcast_coalesced(distributed.distributed_c10d._get_default_group(), tensors, 2**28, 0)


def buffers_may_differ(network: nn.Module) -> bool:
    """Whether the ranks' buffers may differ after an iteration: BasicSR's archs only write to BatchNorm's."""
    is_basicsrs = type(network).__module__.startswith('basicsr.archs.')
    return not is_basicsrs or any(isinstance(module, _NormBase) for module in network.modules())


def of_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, each of which calls it; without a launcher the value of this process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def average_gradients(gradients: Iterable[torch.Tensor | None]) -> None:
    """Replaces gradients by their mean over all ranks, in one call for each dtype."""
    there = [gradient for gradient in gradients if gradient is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in there):
        same = [gradient for gradient in there if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in same])
        flat.mul_(1 / distributed.get_world_size())  # first, as DistributedDataParallel does: sums stay in range
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in same])
        torch._foreach_copy_(same, [part.view(gradient.shape) for part, gradient in zip(parts, same)])
