"""Half precision (``train.amp``), and what stays in float32 in it: flows, and the image that the output is added to."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

AMP_DTYPES = {None: None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# Parts of BasicSR's archs, by their names there. A flow in bfloat16 has steps of 1/16 of a pixel from 8 pixels on.
_FLOAT32 = ('spynet', 'dynamic_filter')
# What `out += base` gives has the type of the left side, and bfloat16 has steps of 1/256 between 0.5 and 1.
_LAST = 'conv_last'
_CONTEXT = 'left_autocast'  # among what a module holds: with `DataParallel` each replica has its own


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
