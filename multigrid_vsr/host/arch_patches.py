"""Patches of BasicSR's archs: frames of any size, no GPU needed, fewer kernels, and no waits for the device.

Results in float32 keep their bits. The gain of fewer kernels and waits is not measured on a GPU yet.
"""

from __future__ import annotations

import ast
import functools
from typing import Any
from unittest import mock

from multigrid_vsr.host.patch import HostChangedError, patch, replace, without


@patch(
    '`SpyNet.process`',
    why='for LQ frames of 32 pixels and below the start flow, half of the coarsest level, has size 0',
    needed='a side is below 64 after padding. The coarsest level then starts from zeros, as the upsampled start flow '
    'of BasicSR is zero too: the same bits where BasicSR works',
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
    why='without a GPU BasicSR leaves the alignment out, with only a warning, and trains another network; the '
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
        with mock.patch.object(torch.cuda, 'is_available', return_value=True):  # its only question about CUDA
            original(self, *args, **kwargs)

    BasicVSRPlusPlus.__init__ = __init__


@patch(
    '`BasicVSRPlusPlus.forward`',
    why='it asserts 64 pixels, which only SPyNet needs, and with its patch not even that',
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


@patch(
    '`flow_warp`',
    why='it makes its grid on the CPU at each call, and the host waits for the copy to the device',
    needed='it calls `type_as`; here the grid is made on the device and kept by size and device, in float32: '
    "in bf16 BasicSR's is off by a pixel from 257 on",
    goes='when BasicSR makes it on the device',
)
def grid_on_device() -> None:
    import torch
    from torch.nn.functional import grid_sample

    def new_grid(height: int, width: int, device: torch.device) -> torch.Tensor:
        rows, columns = (torch.arange(side, dtype=torch.float32, device=device) for side in (height, width))
        return torch.stack(torch.meshgrid(rows, columns, indexing='ij')[::-1], 2)  # x, y

    # A network uses seven grids: one for its frames, and one for each level of its flow network. A CUDA graph reads the
    # grids of its capture, so none may be evicted before the graph is dropped. Only other shapes and validations make
    # new grids, and `IterationGraph.drop` comes before both.
    kept_grid = functools.lru_cache(maxsize=32)(new_grid)

    def warping(original: Any) -> Any:
        if 'type_as' not in original.__code__.co_names:
            raise HostChangedError('it makes no grid of the type of a tensor')

        @functools.wraps(original)
        def flow_warp(
            x: Any, flow: Any, interp_mode: str = 'bilinear', padding_mode: str = 'zeros', align_corners: bool = True
        ) -> torch.Tensor:
            assert x.size()[-2:] == flow.size()[1:3]
            height, width = x.shape[-2:]
            # In compiled code a grid needs no kernel of its own.
            grid_of = new_grid if torch.compiler.is_compiling() else kept_grid
            place = grid_of(height, width, x.device) + flow
            across = 2.0 * place[:, :, :, 0] / max(width - 1, 1) - 1.0
            down = 2.0 * place[:, :, :, 1] / max(height - 1, 1) - 1.0
            scaled = torch.stack((across, down), dim=3)
            return grid_sample(x, scaled, mode=interp_mode, padding_mode=padding_mode, align_corners=align_corners)

        flow_warp.forget_grids = kept_grid.cache_clear  # type: ignore[attr-defined]
        return flow_warp

    replace('basicsr.archs.arch_util', 'flow_warp', warping)


@patch(
    '`ResidualBlockNoBN.forward`',
    why='it multiplies by a scale that is 1: one kernel of twelve, forward and backward',
    needed='`res_scale` is 1',
    goes="with another scale BasicSR's code runs",
)
def unscaled_blocks() -> None:
    import torch
    from basicsr.archs.arch_util import ResidualBlockNoBN

    original = ResidualBlockNoBN.forward
    if original.__code__.co_names != ('conv2', 'relu', 'conv1', 'res_scale'):
        raise HostChangedError('it is another block')

    @functools.wraps(original)
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.relu(self.conv1(x))) if self.res_scale == 1 else original(self, x)

    ResidualBlockNoBN.forward = forward


@patch(
    '`DCNv2Pack.forward`, `BasicVSRPlusPlus.check_if_mirror_extended`',
    why='each reads values from the device, and the host waits: the first reads its offsets, only for a warning, 20 '
    'times an iteration of EDVR; the second compares the halves of each even sequence',
    needed='`train.arch_checks: false`, or `train.cuda_graph`: then `flip_sequence` says what is mirrored',
    goes="without these BasicSR's code runs",
)
def unchecked_values() -> None:
    import torch
    from basicsr.archs.arch_util import DCNv2Pack
    from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus

    warning, comparing = DCNv2Pack.forward, BasicVSRPlusPlus.check_if_mirror_extended
    unchecked = without(warning, 'check of offset_absmean', lambda line: 'offset_absmean' in ast.unparse(line))

    @functools.wraps(warning)
    def forward(self: Any, x: torch.Tensor, feat: torch.Tensor) -> torch.Tensor:
        return (warning if self.checks_values else unchecked)(self, x, feat)

    @functools.wraps(comparing)
    def check_if_mirror_extended(self: Any, lqs: torch.Tensor) -> None:
        if self.checks_values and not self.is_mirror_extended:  # once true, it stays true
            comparing(self, lqs)

    DCNv2Pack.forward, DCNv2Pack.checks_values = forward, True
    BasicVSRPlusPlus.check_if_mirror_extended, BasicVSRPlusPlus.checks_values = check_if_mirror_extended, True


@patch(
    '`IconVSR.get_keyframe_feature`',
    why='it indexes the frames of its padding by lists, and the host waits until these are on the device',
    needed='it has `temporal_padding`; the same frames are taken as views',
    goes='when BasicSR picks them by slices',
)
def sliced_padding() -> None:
    import torch
    from basicsr.archs.basicvsr_arch import IconVSR

    original = IconVSR.get_keyframe_feature
    if {'temporal_padding', 'cat', 'edvr'} - set(original.__code__.co_names):
        raise HostChangedError('it is another padding')

    @functools.wraps(original)
    def get_keyframe_feature(self: Any, x: torch.Tensor, keyframe_idx: list[int]) -> dict[int, torch.Tensor]:
        before, after = {2: ((4, 3), (-4, -5)), 3: ((6, 5, 4), (-5, -6, -7))}.get(self.temporal_padding, ((), ()))
        frames = x.unbind(1)
        padded = torch.stack([*(frames[i] for i in before), *frames, *(frames[i] for i in after)], 1)
        num_frame = 2 * self.temporal_padding + 1
        return {i: self.edvr(padded[:, i : i + num_frame].contiguous()) for i in keyframe_idx}

    IconVSR.get_keyframe_feature = get_keyframe_feature


SPEED_PATCHES = (grid_on_device, unscaled_blocks, unchecked_values, sliced_padding)
