"""An arch of PSRT's kind, small: recurrent, second order, with attention in three aligned frames.

It takes the arguments of the real one, under its name, so that the real option file trains it.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


class Attention(nn.Module):
    """Attention of all places of a frame to each other, under a mask that is made for one size."""

    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer('mask', torch.ones(size**2, size**2, dtype=torch.bool).tril(size), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes and gives (b, t, h, w, c)."""
        values = self.qkv(self.norm(x.flatten(2, 3))).unflatten(-1, (3, self.heads, -1))
        q, k, v = values.permute(3, 0, 1, 4, 2, 5)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, self.mask)  # fails at another size
        return x + self.proj(seen.transpose(2, 3).flatten(3)).view_as(x)


class Propagation(nn.Module):
    """Three aligned features (n, t=3, c, h, w) to one."""

    def __init__(self, dim: int, depths: list[int], heads: list[int], size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Attention(dim, count, size) for depth, count in zip(depths, heads) for _ in range(depth)
        )
        self.conv = nn.Conv2d(3 * dim, dim, 3, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features.permute(0, 1, 3, 4, 2)
        for layer in self.layers:
            x = layer(x)
        return features[:, 1] + self.conv(x.permute(0, 1, 4, 2, 3).flatten(1, 2))


@ARCH_REGISTRY.register()
class BasicRecurrentSwin(nn.Module):
    """Takes (n, t, 3, h, w) of ``img_size``, gives (n, t, 3, 4h, 4w)."""

    def __init__(
        self,
        mid_channels=64,
        embed_dim=120,
        depths=(6, 6, 6),
        num_heads=(6, 6, 6),
        window_size=(3, 8, 8),
        num_frames=3,
        img_size=64,
        patch_size=1,
        cpu_cache_length=100,
        is_low_res_input=True,
        spynet_path=None,
    ):
        super().__init__()
        assert (num_frames, patch_size, is_low_res_input) == (window_size[0], 1, True)
        self.spynet = SpyNet(spynet_path)
        self.conv_first = nn.Conv2d(3, embed_dim, 3, 1, 1)
        directions = ('backward_1', 'forward_1')
        aligned = {direction: Propagation(embed_dim, depths, num_heads, img_size) for direction in directions}
        self.patch_align = nn.ModuleDict(aligned)
        self.upsample = nn.Sequential(
            nn.Conv2d(embed_dim, mid_channels, 3, 1, 1), nn.Conv2d(mid_channels, 48, 3, 1, 1), nn.PixelShuffle(4)
        )

    def propagate(self, features, flows, module):
        """features: t of (n, c, h, w), in the order of the walk; flows: t - 1 from each to the one before."""
        done = []
        for place, current in enumerate(features):
            before = current
            if place:
                before = flow_warp(done[-1], flows[:, place - 1].permute(0, 2, 3, 1))
            second = done[-2] if place > 1 else before
            done.append(module(torch.stack([before, current, second], 1)))
        return done

    def forward(self, lqs):
        n, t, c, h, w = lqs.shape
        here, there = (frames.reshape(-1, c, h, w) for frames in (lqs[:, :-1], lqs[:, 1:]))
        backward = self.spynet(here, there).view(n, t - 1, 2, h, w)
        forward = self.spynet(there, here).view(n, t - 1, 2, h, w)
        features = list(self.conv_first(lqs.view(-1, c, h, w)).view(n, t, -1, h, w).unbind(1))
        features = self.propagate(features[::-1], backward.flip(1), self.patch_align['backward_1'])[::-1]
        features = self.propagate(features, forward, self.patch_align['forward_1'])
        base = nn.functional.interpolate(lqs.reshape(-1, c, h, w), scale_factor=4, mode='bilinear')
        return self.upsample(torch.cat(features)).unflatten(0, (t, n)).transpose(0, 1) + base.unflatten(0, (n, t))
