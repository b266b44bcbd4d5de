"""An arch that remembers what it was fed, for runs inside the test's own process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from basicsr.train import train_pipeline
from basicsr.utils.registry import ARCH_REGISTRY
from runs import write

NETWORK = {'type': 'ShapeProbe'}
seen: list[tuple[tuple[int, ...], float]] = []  # shape of the input (b, t, c, h, w) and a number that it determines


@ARCH_REGISTRY.register()
class ShapeProbe(torch.nn.Module):
    """The smallest x4 network: takes (b, t, c, h, w), gives (b, t, c, 4h, 4w)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 48, 1)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        if self.training:
            weights = torch.linspace(1, 2, lq.numel(), dtype=torch.float64).view_as(lq)
            seen.append((tuple(lq.shape), float((lq.double() * weights).sum())))
        return torch.pixel_shuffle(self.conv(lq.flatten(0, 1)), 4).unflatten(0, lq.shape[:2])


def train_here(folder: Path, opt: dict[str, Any], *arguments: str) -> list[tuple[tuple[int, ...], float]]:
    """Runs BasicSR's training loop in this process; returns what the network saw, in order."""
    seen.clear()
    argv = ['train.py', '-opt', str(write(folder, opt)), *arguments]
    with mock.patch.object(sys, 'argv', argv), mock.patch.object(sys, 'excepthook'):
        train_pipeline(str(folder))
    return list(seen)


@ARCH_REGISTRY.register()
class CentreProbe(ShapeProbe):
    """As a sliding-window arch: gives the frame in the middle, (b, c, 4h, 4w)."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return super().forward(lq)[:, lq.shape[1] // 2]
