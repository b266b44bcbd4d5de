"""A flow network trained beforehand on the motion of the training clips: ``spynet_path`` of every run.

Real runs begin with a trained SPyNet. With random weights runs differ by luck, and within minutes SPyNet does not learn
that the product of a change in time and one in space tells motion. So it begins with weights that compute this product,
as Lucas and Kanade do ("An Iterative Image Registration Technique", IJCAI 1981), and is trained from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.models import checkpoints

BATCH, SIDE, RATE = 4, 64, 1e-4
_SMOOTHNESS = 0.002
_GAIN = 1.5  # flow in pixels for a product of 1


def read_clips(root: Path) -> dict[str, np.ndarray]:
    """The clips below a folder: uint8 (t, h, w, 3), BGR."""
    return {
        folder.name: np.array([cv2.imread(str(path)) for path in sorted(folder.iterdir())])
        for folder in sorted(root.iterdir())
    }


def make(path: Path, lq_root: Path, iters: int) -> None:
    """Trains BasicSR's SPyNet to warp each frame of LQ clips onto its neighbour, and writes it for ``spynet_path``."""
    from basicsr.archs.arch_util import flow_warp
    from basicsr.archs.spynet_arch import SpyNet

    clips = [to_float_rgb(torch.from_numpy(frames)) for frames in read_clips(lq_root).values()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SpyNet()
    for module in network.basic_module:
        _begin_with_gradients([layer for layer in module.basic_module if isinstance(layer, torch.nn.Conv2d)])
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, iters, pct_start=0.1)
    for frames, neighbours in tqdm(_pairs(clips, iters), 'Train the flow network', iters, unit='iter'):
        flow = network(frames, neighbours)
        error = frames - flow_warp(neighbours, flow.permute(0, 2, 3, 1), padding_mode='border')
        roughness = flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()
        loss = torch.sqrt(error**2 + 1e-6).mean() + _SMOOTHNESS * roughness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    # BasicSR loads it before the network has its buffers.
    checkpoints.save({'params': dict(network.named_parameters())}, path)


@torch.no_grad()
def _begin_with_gradients(convolutions: Sequence[torch.nn.Conv2d]) -> None:
    """Sets the five layers of a level so that it gives, for x and y alike, the smoothed product of d and g.

    d is the difference of frame and warped neighbour, g their slope. sgn(d g) min(|d|, |g|) stands for d g: it is
    (|d + g| - |d - g|) / 2, which ReLU gives. Other channels stay random and count nothing before they are trained.
    """
    first, second, *passing, last = convolutions
    places = torch.arange(7) - 3.0
    bell = torch.exp(-(places**2) / 2)
    smooth = torch.outer(bell, bell) / bell.sum() ** 2
    slope = smooth * places / (smooth * places**2).sum()
    for layer in convolutions:
        torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for axis, gradient in enumerate((slope, slope.T)):
        for place, (of_difference, of_slope) in enumerate(((1, 1), (-1, -1), (1, -1), (-1, 1))):
            channel = 4 * axis + place
            difference, spatial = of_difference * smooth / 3, of_slope * gradient / 6
            first.weight[channel] = 0
            first.weight[channel, :3] = spatial + difference
            first.weight[channel, 3:6] = spatial - difference
        for sign in (1, -1):  # what is negative does not pass a ReLU
            channel = 2 * axis + (sign < 0)
            second.weight[channel] = 0
            second.weight[channel, 4 * axis : 4 * axis + 4] = sign * torch.tensor((1, 1, -1, -1)).view(4, 1, 1) * smooth
    last.weight.zero_()
    for channel in range(4):
        for layer in passing:
            layer.weight[channel] = 0
            layer.weight[channel, channel] = smooth
        last.weight[channel // 2, channel] = _GAIN * (-1) ** channel * smooth


def warping_error(path: Path, lq_root: Path) -> tuple[float, float]:
    """How far a frame of held-out clips is from its warped neighbour, in 255ths: with the network, and unmoved."""
    from basicsr.archs.arch_util import flow_warp
    from basicsr.archs.spynet_arch import SpyNet

    network, errors = SpyNet(str(path)).eval(), []
    for frames in read_clips(lq_root).values():
        clip = to_float_rgb(torch.from_numpy(frames))
        with torch.no_grad():
            flow = network(clip[:-1], clip[1:]).permute(0, 2, 3, 1)
            warped = [flow_warp(clip[1:], moved, padding_mode='border') for moved in (flow, torch.zeros_like(flow))]
        errors.append([float((clip[:-1] - each).abs().mean()) * 255 for each in warped])
    with_network, unmoved = np.mean(errors, axis=0)
    return float(with_network), float(unmoved)


def _pairs(clips: Sequence[torch.Tensor], iters: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Crops of neighbouring frames, in both directions, flipped at random: two of (b, 3, h, w) each time."""
    generator = np.random.default_rng(0)
    for _ in range(iters):
        pairs = []
        for _ in range(BATCH):
            clip = clips[int(generator.integers(len(clips)))]
            start = generator.integers(len(clip) - 1)
            top, left = (generator.integers(side - SIDE + 1) for side in clip.shape[2:])
            pair = clip[start : start + 2, :, top : top + SIDE, left : left + SIDE]
            flipped = [dim for dim in (0, 2, 3) if generator.integers(2)]
            pairs.append(pair.flip(flipped))
        yield torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
