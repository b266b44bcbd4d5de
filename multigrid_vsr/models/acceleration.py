"""Faster iterations by other kernels and memory layouts: the same network within rounding, each off by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

_GRAPHS_A_SHAPE = 4  # of one function: with and without gradients, and as many again for good measure


def to_channels_last(network: nn.Module) -> None:
    """Lays the weights of 2-D convolutions out with the channels last (``train.channels_last``); values stay.

    The output is contiguous again, since losses and discriminators of BasicSR view it.
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    network.register_forward_hook(lambda module, inputs, output: output.contiguous())


def leave_out_checks(network: nn.Module, is_mirrored: bool) -> None:
    """Lets an arch no longer look at values on the device (``train.arch_checks: false``): it waits for each look.

    EDVR's and IconVSR's offsets are not warned of, and BasicVSR++ is told whether its sequences are mirrored.

    Args:
        network: The network; ``checks_values`` is what the host's patched modules go by.
        is_mirrored: Whether each sequence is its own mirror image, as ``flip_sequence`` makes them.
    """
    for module in network.modules():
        for name, value in (('checks_values', False), ('is_mirror_extended', is_mirrored)):
            if hasattr(module, name):
                setattr(module, name, value)


def compile_children(network: nn.Module, mode: str | bool, num_shapes: int) -> None:
    """Compiles the modules below a network, one by one (``train.compile``); names of weights stay.

    A video arch calls the same few modules for every frame. Compiled whole, its loop would be unrolled: compiling takes
    the longer the more frames, and anew for each number of them. A module below sees one frame, so there is one graph
    for each batch and crop.

    Args:
        network: The network, not wrapped.
        mode: ``True``, or a mode of ``torch.compile``.
        num_shapes: Shapes of the run, so that none is refused as one too many.
    """
    modules = list(_callable_children(network))
    limit = max(256, len(modules) * num_shapes * _GRAPHS_A_SHAPE)
    for name in ('cache_size_limit', 'accumulated_cache_size_limit'):  # by the names that torch 2.6 has too
        setattr(torch._dynamo.config, name, max(limit, getattr(torch._dynamo.config, name)))
    for module in modules:
        module.compile(mode=None if mode is True else mode, dynamic=False)
        _leave_eager_while_fixed(module)


def _leave_eager_while_fixed(module: nn.Module) -> None:
    """Runs a module as it was written while none of its weights train: compiled, it would be so twice.

    A graph is compiled for weights that train or for weights that do not. The flow network, which ``fix_flow`` holds
    fixed for a while, trains for nearly all of a run.
    """
    compiled: Any = module._compiled_call_impl
    parameters = list(module.parameters())

    def call(*args: Any, **kwargs: Any) -> Any:
        trains = any(parameter.requires_grad for parameter in parameters)
        return (compiled if trains else module._call_impl)(*args, **kwargs)

    module._compiled_call_impl = call


def _callable_children(network: nn.Module) -> Iterator[nn.Module]:
    """The modules below that have weights, can be called and hold modules; lists and dicts cannot be called.

    A convolution by itself runs the same kernel compiled or not, with what compiled code asks at each call on top.
    """
    for child in network.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _callable_children(child)
        elif any(True for _ in child.children()) and any(True for _ in child.parameters()):
            yield child


def eager() -> AbstractContextManager[None]:
    """Runs what is compiled as it was written."""
    return torch.compiler.set_stance('force_eager')
