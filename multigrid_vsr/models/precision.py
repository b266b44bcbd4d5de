"""Half precision (``train.amp``): what a device has, and what stays in float32 in it.

These are flows, and the image that the output is added to.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from basicsr.ops.dcn import ModulatedDeformConv
from basicsr.utils import get_root_logger
from torch import nn

from multigrid_vsr.models.wrapping import of_all_ranks

AMP_DTYPES = {None: None, 'fp16': torch.float16, 'bf16': torch.bfloat16}  # by how few devices have it
_TENSOR_CORES = (7, 0)  # the compute capability from which on a GPU has them
# Parts of BasicSR's archs, by their names there. A flow in bfloat16 has steps of 1/16 of a pixel from 8 pixels on.
_FLOAT32 = ('spynet', 'dynamic_filter')
# What `out += base` gives has the type of the left side, and bfloat16 has steps of 1/256 between 0.5 and 1.
_LAST = 'conv_last'
_CONTEXT = 'left_autocast'  # among what a module holds: with `DataParallel` each replica has its own


def settle_amp(train_opt: dict[str, Any], network: nn.Module, device: torch.device, gpus: int) -> None:
    """Puts what ``train.amp: auto`` takes into the options, the same on all ranks; the log says what and why.

    The least capable device of the run decides, by what it is and not by a timing: a resumed run takes the same.

    Args:
        train_opt: The ``train`` block of a run.
        network: The bare network.
        device: That of this process.
        gpus: GPUs of this process.
    """
    if train_opt.get('amp') == 'auto':
        choices = of_all_ranks(_choice(network, device, gpus))
        train_opt['amp'], reason = min(choices, key=lambda choice: list(AMP_DTYPES).index(choice[0]))
        get_root_logger().info(f'train.amp: auto takes {train_opt["amp"] or "float32"}, {reason}.')
    elif train_opt.get('amp') == 'bf16' and device.type == 'cpu' and not has_bf16(device):
        get_root_logger().warning(
            'train.amp: this CPU has no bf16 instructions. A small convolution, forward and backward, takes '
            f'{bf16_factor():.1f} times as long in bf16 as in float32 (measured). Leave amp out, or set auto.'
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


def bf16_factor() -> float:
    """Measures how many times as long as in float32 a small convolution takes in bf16 on this CPU, both ways."""
    whole, half = (min(_seconds(dtype) for _ in range(3)) for dtype in (torch.float32, torch.bfloat16))
    return half / whole


def _seconds(dtype: torch.dtype) -> float:
    lq = torch.ones(2, 64, 16, 16, dtype=dtype, requires_grad=True)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
    start = time.perf_counter()
    nn.functional.conv2d(lq, weight, padding=1).sum().backward()
    return time.perf_counter() - start


def keep_float32(network: nn.Module) -> None:
    """Lets the flow network and the last sum of a network compute in float32 under autocast, by hooks.

    Args:
        network: The network, not wrapped and not compiled yet.
    """
    for name, module in network.named_children():
        if name in _FLOAT32:
            module.register_forward_pre_hook(_leave_autocast)
            module.register_forward_hook(_enter_again, always_call=True)
        elif name == _LAST:
            module.register_forward_hook(lambda module, inputs, output: output.float())


@torch.compiler.disable
def _leave_autocast(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    context = torch.autocast(inputs[0].device.type, enabled=False)
    context.__enter__()
    vars(module)[_CONTEXT] = context
    return tuple(value.float() for value in inputs)


@torch.compiler.disable
def _enter_again(module: nn.Module, inputs: Any, output: Any) -> None:
    vars(module)[_CONTEXT].__exit__(None, None, None)
