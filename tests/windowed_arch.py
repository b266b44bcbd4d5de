"""An arch of PSRT's kind, small: recurrent, second order, with attention in windows of three aligned frames.

It takes the arguments of the real one, under its name, so that the real option file trains it.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


class WindowAttention(nn.Module):
    """Attention of all places of a window (t, h, w) to each other; every second one is shifted by half a window.

    What a shift brings together from two sides of the image must not see each other: that mask is made for one size.
    """

    def __init__(self, dim: int, heads: int, window: list[int], size: int, is_shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window[1] // 2 if is_shifted else 0
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        places = torch.zeros(1, window[0], size, size, 1)
        places[:, :, size - self.shift :] += 1
        places[:, :, :, size - self.shift :] += 2
        places = self.windows(places)[..., 0]
        self.register_buffer('mask', (places[:, None] != places[:, :, None])[:, None], persistent=False)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """(b, t, h, w, c) as (b * windows, places, c)."""
        b, t, h, w, c = x.shape
        side = self.window[1]
        x = x.view(b, t, h // side, side, w // side, side, c).permute(0, 2, 4, 1, 3, 5, 6)
        return x.reshape(-1, t * side * side, c)

    def whole(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        b, t, h, w, c = shape
        side = self.window[1]
        x = x.view(b, h // side, w // side, t, side, side, c).permute(0, 3, 1, 4, 2, 5, 6)
        return x.reshape(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted = torch.roll(x, (-self.shift, -self.shift), (2, 3))
        windows = self.windows(self.norm(shifted))
        q, k, v = self.qkv(windows).view(*windows.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = ~self.mask.repeat(len(x), 1, 1, 1)  # fails at another size
        windows = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = x + torch.roll(self.whole(self.proj(windows), x.shape), (self.shift, self.shift), (2, 3))
        return x + self.mlp(self.mlp_norm(x))


class Propagation(nn.Module):
    """Three aligned features (n, t=3, c, h, w) to one."""

    def __init__(self, dim: int, depths: list[int], heads: list[int], window: list[int], size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            WindowAttention(dim, count, window, size, is_shifted=bool(place % 2))
            for depth, count in zip(depths, heads)
            for place in range(depth)
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
        self.patch_align = nn.ModuleDict(
            {
                direction: Propagation(embed_dim, depths, num_heads, window_size, img_size)
                for direction in ('backward_1', 'forward_1')
            }
        )
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
        return (self.upsample(torch.cat(features)).unflatten(0, (t, n)).transpose(0, 1)) + base.view(
            n, t, c, 4 * h, 4 * w
        )
