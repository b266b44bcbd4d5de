"""Kernel launches of an iteration, and its waits for the device, counted without a GPU.

On a fast GPU a small crop costs what its launches cost. Fake tensors, which have a shape and no values, go through the
real code, and a dispatch mode counts what a GPU would be asked for. Fake tensors on a GPU have no backward. So the
operations of a backward are counted on the CPU, where a forward has as many as on a GPU.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.acceleration import leave_out_checks
from multigrid_vsr.options.launches import frame_counts

OLDEST_TORCH = '2.10'  # older ones ask the driver for the device of a fake tensor, and count other operations
_NO_KERNEL = ('empty', 'empty_like', 'empty_strided', 'new_empty', 'detach', 'lift_fresh', '_local_scalar_dense')
_WAITS = ('_local_scalar_dense', 'nonzero', 'equal', 'is_nonzero')  # the host needs a value of the device


@dataclass
class Counts(TorchDispatchMode):
    """Counts what is done on a kind of device while it is active."""

    device: str = 'cuda'
    launches: int = 0  # kernels and copies that would be queued on it
    waits: int = 0  # calls at which the host would wait for it

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # A value of the device, which a fake tensor does not have: any number will do.
        out = 0 if name == '_local_scalar_dense' else func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)}
        if func.namespace != 'prim' and self.device in devices:
            is_copy = name in ('_to_copy', 'copy_') and len(devices - {'meta'}) > 1
            non_blocking = bool((kwargs or {}).get('non_blocking')) or (name == 'copy_' and bool(args[2:3] and args[2]))
            self.waits += name in _WAITS or (is_copy and not non_blocking)
            self.launches += not func.is_view and name not in _NO_KERNEL
            self.launches += name == 'convolution' and args[2] is not None  # its bias is added by a kernel of its own
            self.launches += sum(args[10]) - 1 if name == 'convolution_backward' else 0  # one for each gradient
        return out


@contextmanager
def counted(device: str = 'cuda') -> Iterator[Counts]:
    """Counts what is done to tensors that are made inside on a device."""
    from basicsr.archs.arch_util import flow_warp

    def type_as(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # which goes by a fake tensor's real device
        return tensor.to(other.device, other.dtype)

    patched = mock.patch.object(torch.Tensor, 'type_as', type_as)
    fake = FakeTensorMode(shape_env=ShapeEnv())  # so that a size may be a value of the device
    without_cudnn = torch.backends.cudnn.flags(enabled=False)
    forget_grids = getattr(flow_warp, 'forget_grids', lambda: None)  # grids of fake tensors are of no use to others
    forget_grids()
    with warnings.catch_warnings(), patched, without_cudnn, fake, Counts(device) as counts:
        warnings.simplefilter('ignore')  # what the archs and torch say to each other
        yield counts
    forget_grids()


@contextmanager
def as_basicsr_has_them() -> Iterator[None]:
    """The archs without this project's changes to what they launch and wait for."""
    from basicsr.archs.arch_util import DCNv2Pack, ResidualBlockNoBN, flow_warp
    from basicsr.archs.basicvsr_arch import IconVSR
    from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus

    changed: list[tuple[Any, str]] = [
        (ResidualBlockNoBN, 'forward'),
        (DCNv2Pack, 'forward'),
        (IconVSR, 'get_keyframe_feature'),
        (BasicVSRPlusPlus, 'check_if_mirror_extended'),
    ]
    changed += [(module, 'flow_warp') for module in sys.modules.values() if vars(module).get('flow_warp') is flow_warp]
    with ExitStack() as stack:
        for place, name in changed:
            stack.enter_context(mock.patch.object(place, name, getattr(place, name).__wrapped__))
        yield


def count_forward(build: Callable[[], torch.nn.Module], lq_shape: tuple[int, ...], arch_checks: bool = False) -> Counts:
    """Counts a forward of a network that trains, on LQ frames (b, t, c, h, w)."""
    with counted() as counts:
        network = _on_device(build, 'cuda')
        if not arch_checks:
            leave_out_checks(network, is_mirrored=False)
        lq = torch.empty(lq_shape, device='cuda')
        counts.launches = counts.waits = 0
        network(lq)
    return counts


def count_backward(build: Callable[[], torch.nn.Module], lq_shape: tuple[int, ...]) -> Counts:
    """Counts a backward from the sum of the output, by its operations on the CPU."""
    with counted('cpu') as counts:
        network = _on_device(build, 'cpu')
        leave_out_checks(network, is_mirrored=False)  # they have no gradient
        loss = network(torch.empty(lq_shape)).sum()
        counts.launches = counts.waits = 0
        loss.backward()
    return counts


def _on_device(build: Callable[[], torch.nn.Module], device: str) -> torch.nn.Module:
    with torch.device(device):
        network = build()
    for module in network.modules():  # some make their tensors without asking for a device
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None and value.device.type != device:
                    moved = value.detach().to(device)
                    is_parameter = isinstance(value, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(moved) if is_parameter else moved  # type: ignore[assignment]
    return network


def count_run(opt: Mapping[str, Any], schedule: Schedule) -> dict[int, tuple[int, int]]:
    """Launches of an iteration of BasicSR's arch and of the patched one, by number of frames.

    Raises:
        InputError: If torch is too old to count.
    """
    check_torch()
    lq_size = schedule.full_shape.gt_size // opt.get('scale', 1)
    shapes = [(frames, lq_size) for frames in sorted(frame_counts(schedule))]
    return {frames: (row[3], row[6]) for (frames, _), row in zip(shapes, compare(opt['network_g'], shapes))}


def check_torch() -> None:
    if torch.__version__ < OLDEST_TORCH:
        raise InputError(
            f'torch: must be {OLDEST_TORCH} or newer to count launches, got {torch.__version__}. '
            'Run it in an environment of its own, on any machine.'
        )


def compare(network_opt: Mapping[str, Any], shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    """Gives a row of the table for each (frames, LQ side): of BasicSR's arch and of the patched one."""
    build = builder(network_opt)
    for num_frame, lq_size in shapes:
        lq_shape = (1, num_frame, 3, lq_size, lq_size)
        row = [network_opt['type'], f'{num_frame} x {lq_size}']
        for is_stock in (True, False):
            with as_basicsr_has_them() if is_stock else nullcontext():
                forward = count_forward(build, lq_shape, arch_checks=is_stock)
                backward = count_backward(build, lq_shape)
            row += [forward.launches, forward.launches + backward.launches, forward.waits]
        yield tuple(row)


def builder(network_opt: Mapping[str, Any]) -> Callable[[], torch.nn.Module]:
    """Builds a network from its options without the weights that it would read: they change no kernel."""
    arguments = {key: value for key, value in network_opt.items() if key != 'type' and not key.endswith('_path')}
    return partial(ARCH_REGISTRY.get(network_opt['type']), **arguments)
