"""Faster iterations: layouts and kernels, half precision, and memory for time. Each is off by default.

Gradient checkpointing (Chen et al., arXiv 1604.06174) works with any arch, by the names of its modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from basicsr.ops.dcn import ModulatedDeformConv
from basicsr.utils import get_root_logger
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models.wrapping import of_all_ranks
from multigrid_vsr.options.kinds import did_you_mean

_GRAPHS_A_SHAPE = 4  # of one function: with and without gradients, and as many again for good measure


def to_channels_last(network: nn.Module) -> None:
    """Lays the weights of 2-D convolutions out with the channels last (``train.channels_last``).

    The output is contiguous again, since BasicSR's losses and discriminators call ``view`` on it.
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    network.register_forward_hook(lambda module, inputs, output: output.contiguous())


def leave_out_checks(network: nn.Module, is_mirrored: bool) -> None:
    """Stops an arch from looking at values on the device, which waits for each look (``train.arch_checks: false``).

    EDVR and IconVSR do not warn of large offsets, and BasicVSR++ is told whether each sequence is its own mirror image,
    as ``flip_sequence`` makes it.
    """
    for module in network.modules():
        for name, value in (('checks_values', False), ('is_mirror_extended', is_mirrored)):
            if hasattr(module, name):
                setattr(module, name, value)


def compile_children(network: nn.Module, mode: str | bool, num_shapes: int) -> None:
    """Compiles the modules below a bare network, one by one (``train.compile``); names of weights stay.

    A video arch calls the same few modules for every frame. Compiled as a whole, its loop would be unrolled, anew for
    each number of frames. A module below sees one frame, so there is one graph for each batch and crop. A single
    convolution stays as it is: it runs the same kernel compiled or not, and compiled code adds its guards to each call.

    ``mode`` is ``True``, or one of ``torch.compile``. Torch's limit of graphs has to allow ``num_shapes`` of each.
    """
    entries = (entry for _, child in network.named_children() for _, entry in _entries('', child))
    modules = [module for module in entries if any(True for _ in module.children())]
    limit = max(256, len(modules) * num_shapes * _GRAPHS_A_SHAPE)
    for name in ('cache_size_limit', 'accumulated_cache_size_limit'):  # by the names that torch 2.6 has too
        setattr(torch._dynamo.config, name, max(limit, getattr(torch._dynamo.config, name)))
    for module in modules:
        module.compile(mode=None if mode is True else mode, dynamic=False)
        _leave_eager_while_frozen(module)


def _leave_eager_while_frozen(module: nn.Module) -> None:
    """Runs a frozen module eagerly. Its graph would be a second one to compile, for the short time of ``fix_flow``."""
    compiled: Any = module._compiled_call_impl
    parameters = list(module.parameters())

    def call(*args: Any, **kwargs: Any) -> Any:
        trains = any(parameter.requires_grad for parameter in parameters)
        return (compiled if trains else module._call_impl)(*args, **kwargs)

    module._compiled_call_impl = call


def _entries(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module with weights, or the entries of a list or dict of them, which is not called itself."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for key, child in module.named_children():
            yield from _entries(f'{name}.{key}', child)
    elif any(True for _ in module.parameters()):
        yield name, module


def eager() -> AbstractContextManager[None]:
    """Runs what is compiled as it was written."""
    return torch.compiler.set_stance('force_eager')


AMP_DTYPES = {None: None, 'fp16': torch.float16, 'bf16': torch.bfloat16}  # by how few devices have it
_TENSOR_CORES = (7, 0)  # the compute capability from which on a GPU has them
# Parts of BasicSR's archs, by their names there. A flow in bfloat16 has steps of 1/16 of a pixel from 8 pixels on.
_FLOAT32 = ('spynet', 'dynamic_filter')
# What `out += base` gives has the type of the left side, and bfloat16 has steps of 1/256 between 0.5 and 1.
_LAST = 'conv_last'


def settle_amp(train_opt: dict[str, Any], network: nn.Module, device: torch.device, gpus: int) -> None:
    """Replaces ``train.amp: auto`` in the ``train`` block by what all ranks can do; the log says what and why.

    The least capable device of the run decides, and no timing: a resumed run takes the same. ``gpus`` is the number of
    GPUs of this process.
    """
    if train_opt.get('amp') == 'auto':
        choices = of_all_ranks(_choice(network, device, gpus))
        train_opt['amp'], reason = min(choices, key=lambda choice: list(AMP_DTYPES).index(choice[0]))
        get_root_logger().info(f'train.amp: auto takes {train_opt["amp"] or "float32"}, {reason}.')
    elif train_opt.get('amp') == 'bf16' and device.type == 'cpu' and not has_bf16(device):
        whole, half = (min(_seconds(dtype) for _ in range(3)) for dtype in (torch.float32, torch.bfloat16))
        get_root_logger().warning(
            'train.amp: this CPU has no bf16 instructions. A small convolution, forward and backward, takes '
            f'{half / whole:.1f} times as long in bf16 as in float32 (measured). Leave amp out, or set auto.'
        )


def _choice(network: nn.Module, device: torch.device, gpus: int) -> tuple[str | None, str]:
    """What ``train.amp: auto`` takes on the device of this process, and why."""
    if device.type == 'cpu':
        if has_deformable(network):
            return None, 'as deformable convolutions are in float32 on a CPU'
        return ('bf16', 'which the CPU has') if has_bf16(device) else (None, 'as the CPU has no bf16 instructions')
    name = torch.cuda.get_device_name()
    if has_bf16(device) and gpus == 1:
        return 'bf16', f'which {name} has'
    if torch.cuda.get_device_capability() < _TENSOR_CORES:
        return None, f'as {name} has no bf16 and no tensor cores for fp16'
    return 'fp16', f'as {name} has no bf16' if gpus == 1 else 'as one process with several GPUs has no bf16'


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16; a CPU has them with AVX512_BF16, as all with AMX do.

    oneDNN, which computes there, may be held to older ones (``ONEDNN_MAX_CPU_ISA``).
    """
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    is_there = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return is_there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_deformable(network: nn.Module) -> bool:
    """Whether a network has deformable convolutions, which torchvision has in float32 only on a CPU."""
    return any(isinstance(module, ModulatedDeformConv) for module in network.modules())


def _seconds(dtype: torch.dtype) -> float:
    """The time of a small convolution, forward and backward."""
    lq = torch.ones(2, 64, 16, 16, dtype=dtype, requires_grad=True)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
    start = time.perf_counter()
    nn.functional.conv2d(lq, weight, padding=1).sum().backward()
    return time.perf_counter() - start


def keep_float32(network: nn.Module) -> None:
    """Keeps the flow network and the last sum of a bare network in float32 under autocast."""
    for name, module in network.named_children():
        if name in _FLOAT32:
            _replace_forward(module, _without_autocast)
        elif name == _LAST:
            module.register_forward_hook(lambda module, inputs, output: output.float())


def _replace_forward(module: nn.Module, wrap: Callable[[Any], Any]) -> None:
    # By the class and not the instance: a replica of DataParallel has a copy of the instance.
    kind = type(module)
    members = {'forward': wrap(kind.forward), '__module__': kind.__module__, '__doc__': kind.__doc__}
    module.__class__ = type(kind.__name__, (kind,), members)


def _without_autocast(forward: Any) -> Any:
    def in_float32(self: nn.Module, *inputs: torch.Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return forward(self, *(value.float() for value in inputs))

    return in_float32


def checkpoint_modules(network: nn.Module, patterns: Sequence[str]) -> None:
    """Lets modules keep only their input in training, and compute the rest again when the gradient needs it.

    On a CPU in float32 the gradient is the same to the last bit: the random state, autocast and the statistics of norms
    are those of the first time. Names of weights stay. The patterns are those of :func:`matching`.
    """
    found = matching(network, patterns)
    for module in found:
        _replace_forward(module, _checkpointed)
    get_root_logger().info(f'Compute {len(found)} modules again for the gradient: {", ".join(patterns)}.')


def matching(network: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules of a network whose dotted names fit a pattern of the shell; of nested ones only the outermost.

    A list or a dict of modules, which is not called itself, stands for its entries. Modules without weights are left
    out: they compute little, and often in place.

    Raises:
        OptionError: If a pattern fits none.
    """
    names = {name: module for name, module in network.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for place, pattern in enumerate(patterns):
        named = ((name, module) for name, module in names.items() if fnmatchcase(name, pattern))
        fitting = dict(entry for name, module in named for entry in _entries(name, module))
        if not fitting:
            rule = f'fit the name of a module with weights of {type(network).__name__}'
            raise OptionError(f'train.checkpoint_modules[{place}]', rule, pattern, did_you_mean(pattern, names))
        found |= fitting
    return [module for name, module in found.items() if not any(name.startswith(f'{other}.') for other in found)]


def _checkpointed(forward: Any) -> Any:
    def twice(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return forward(self, *args, **kwargs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _same_statistics(self)

        return checkpoint(forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return twice


@contextmanager
def _same_statistics(module: nn.Module) -> Iterator[None]:
    """Puts the running statistics back: a batch counts once."""
    buffers = [buffer for norm in module.modules() if isinstance(norm, _NormBase) for buffer in norm.buffers()]
    values = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, values):
                buffer.copy_(value)
