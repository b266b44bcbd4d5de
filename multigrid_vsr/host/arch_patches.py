"""BasicSR's archs on frames of any size, and on a machine without a GPU."""

from __future__ import annotations

import ast
import functools
from typing import Any
from unittest import mock

from multigrid_vsr.host.patch import HostChangedError, patch, without


@patch(
    '`SpyNet.process`',
    why='LQ frames of 32 pixels and below have a start flow of size 0: half of the coarsest level',
    needed='a side below 64 after padding; that flow is zero everywhere, and so is its upsampling, so starting the '
    'coarsest level from zeros gives the same bits where BasicSR works, and works below',
    goes="from 64 pixels (after padding) BasicSR's code runs",
)
def small_flows() -> None:
    import torch
    from basicsr.archs.arch_util import flow_warp
    from basicsr.archs.spynet_arch import SpyNet
    from torch.nn.functional import avg_pool2d, interpolate

    original = SpyNet.process
    halve = functools.partial(avg_pool2d, kernel_size=2, count_include_pad=False)

    @functools.wraps(original)
    def process(self: Any, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        if min(ref.shape[-2:]) >= 64:
            return original(self, ref, supp)
        levels = [(self.preprocess(ref), self.preprocess(supp))]  # coarsest first
        for _ in self.basic_module[1:]:
            ref, supp = levels[0]
            levels.insert(0, (halve(ref), halve(supp)))
        flow = torch.zeros_like(levels[0][0][:, :2])
        for number, (ref, supp) in enumerate(levels):
            if number > 0:
                flow = interpolate(flow, scale_factor=2, mode='bilinear', align_corners=True) * 2.0
            warped = flow_warp(supp, flow.permute(0, 2, 3, 1), interp_mode='bilinear', padding_mode='border')
            flow = self.basic_module[number](torch.cat([ref, warped, flow], 1)) + flow
        return flow

    SpyNet.process = process


@patch(
    '`BasicVSRPlusPlus.__init__`',
    why='without a GPU BasicSR leaves its alignment out, with a warning alone, and trains another network; its '
    "deformable convolution is torchvision's, which runs on a CPU",
    needed='it asks `torch.cuda.is_available`',
    goes='with a GPU nothing is changed',
)
def alignment_without_gpu() -> None:
    import torch
    from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus

    original = BasicVSRPlusPlus.__init__
    if 'is_available' not in original.__code__.co_names:
        raise HostChangedError('it does not ask for a GPU')

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(torch.cuda, 'is_available', return_value=True):  # all that it asks of CUDA
            original(self, *args, **kwargs)

    BasicVSRPlusPlus.__init__ = __init__


@patch(
    '`BasicVSRPlusPlus.forward`',
    why="asserts 64 pixels for SPyNet's sake, which takes less through its patch; nothing else in it needs a size",
    needed='there is an `assert` in its source; below 64 pixels the same source runs without it',
    goes="from 64 pixels on BasicSR's code runs",
)
def small_frames() -> None:
    import torch
    from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus

    original = BasicVSRPlusPlus.forward
    unasserted = without(original, 'assertion', lambda statement: isinstance(statement, ast.Assert))

    @functools.wraps(original)
    def forward(self: Any, lqs: torch.Tensor) -> torch.Tensor:
        least = 64 if self.is_low_res_input else 256
        return (original if min(lqs.shape[-2:]) >= least else unasserted)(self, lqs)

    forward.without_assertion = unasserted  # type: ignore[attr-defined]
    BasicVSRPlusPlus.forward = forward


PATCHES = (small_flows, alignment_without_gpu, small_frames)
