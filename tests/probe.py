"""Archs for tests, one of which remembers what it was fed, and runs with them: inside the test's process or by this script."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.train import train_pipeline
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import ARCH_REGISTRY
from runs import same_bits, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError

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


@contextmanager
def own_log(*argv: str) -> Iterator[None]:
    """BasicSR sets its logger up once in a process; each run has a log and a command line of its own."""
    fresh = mock.patch.dict(initialized_logger, clear=True)
    handlers = mock.patch.object(logging.getLogger('basicsr'), 'handlers', [])
    with mock.patch.object(sys, 'argv', list(argv)), mock.patch.object(sys, 'excepthook'), fresh, handlers:
        try:
            yield
        finally:
            for handler in logging.getLogger('basicsr').handlers:
                handler.close()


def train_here(folder: Path, opt: dict[str, Any], *arguments: str) -> list[tuple[tuple[int, ...], float]]:
    """Runs BasicSR's training loop in this process; returns what the network saw, in order."""
    seen.clear()
    with own_log('train.py', '-opt', str(write(folder, opt)), *arguments):
        train_pipeline(str(folder))
    return list(seen)


def refused(folder: Path, opt: dict[str, Any], line: str, *arguments: str) -> str:
    """Trains with options that end it with one line, before anything is written; returns the line, which has to fit."""
    with pytest.raises(InputError, match=line) as error:
        train_here(folder, opt, *arguments)
    assert '\n' not in str(error.value)
    assert [path.name for path in folder.iterdir()] == ['run.yml']
    return str(error.value)


def refused_by_plan_too(folder: Path, opt: dict[str, Any], line: str, *arguments: str) -> None:
    """As :func:`refused`, and ``plan`` says the same."""
    said = refused(folder, opt, line, *arguments)
    with pytest.raises(SystemExit) as error:
        main(['plan', '-opt', str(folder / 'run.yml')])
    assert str(error.value) == said


def resume_here(folder: Path, opt: dict[str, Any], run_folder: Path, *lost: int) -> list[tuple[tuple[int, ...], float]]:
    """Goes on without some training states; the last weights have to end in the same bits. Returns as above."""
    newest = max(run_folder.glob('models/net_g_*[0-9].pth'), key=lambda path: int(path.stem.rpartition('_')[2]))
    end = torch.load(newest, weights_only=True)
    for number in lost:
        (run_folder / f'training_states/{number}.state').unlink()
    fed = train_here(folder, opt, '--auto_resume')
    assert same_bits(torch.load(newest, weights_only=True), end)
    return fed


@ARCH_REGISTRY.register()
class CentreProbe(ShapeProbe):
    """As a sliding-window arch: gives the frame in the middle, (b, c, 4h, 4w)."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return super().forward(lq)[:, lq.shape[1] // 2]


class Layers(torch.nn.Sequential):
    """Of a class with a forward of its own, as modules of archs are: torch up to 2.10 compiles no others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


@ARCH_REGISTRY.register()
class LoopProbe(torch.nn.Module):
    """As a recurrent arch: modules that are called for every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Layers(torch.nn.Conv2d(6, 8, 3, 1, 1), torch.nn.LeakyReLU(0.1), torch.nn.Conv2d(8, 3, 3, 1, 1))
        self.upsample = torch.nn.ModuleDict({'x4': Layers(torch.nn.Conv2d(3, 48, 1), torch.nn.PixelShuffle(4))})
        self.last = torch.nn.Conv2d(3, 3, 1)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        state, frames = torch.zeros_like(lq[:, 0]), []
        for number, frame in enumerate(lq.unbind(1)):
            state = self.trunk(torch.cat([frame, state], 1))
            frames.append(self.last(self.upsample['x4'](state)))
            state = self.moved(state, lq[:, number])
        return torch.stack(frames, 1)

    def moved(self, state: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        return state


@ARCH_REGISTRY.register()
class FlowLoopProbe(LoopProbe):
    """With a flow network, which ``fix_flow`` holds fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.spynet = Layers(torch.nn.Conv2d(3, 3, 3, 1, 1), torch.nn.ReLU())

    def moved(self, state: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        return state + self.spynet(frame)


@ARCH_REGISTRY.register()
class PickyProbe(ShapeProbe):
    """An arch with a limit of its own."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        if lq.shape[1] == 3 and lq.shape[-1] == 32:
            raise ValueError('no three frames\nof 32 pixels')
        return super().forward(lq)


@ARCH_REGISTRY.register()
class ThinBasicVSR(BasicVSR):
    """BasicVSR's own code with few channels everywhere, so that half precision is bearable on a CPU.

    Its input loses pixels at random, so that the random state matters too.
    """

    def __init__(self) -> None:
        super().__init__(num_feat=4, num_block=1)
        for level in self.spynet.basic_module:
            level.basic_module = torch.nn.Sequential(
                torch.nn.Conv2d(8, 4, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3, 1, 1)
            )
        self.upconv2 = torch.nn.Conv2d(4, 16, 3, 1, 1)
        self.conv_hr = torch.nn.Conv2d(4, 4, 3, 1, 1)
        self.conv_last = torch.nn.Conv2d(4, 3, 3, 1, 1)

    def forward(self, lqs: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(lqs, 0.1, self.training))


@ARCH_REGISTRY.register()
class NoisyProbe(ShapeProbe):
    """Has statistics, draws random numbers, and asks for what a test says: nothing, a value, a random number."""

    asks = ''

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(48)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.dropout(self.norm(self.conv(lq.flatten(0, 1))), 0.1, self.training)
        if self.training and self.asks == 'value' and features.abs().mean() > 1e6:
            raise AssertionError
        if self.training and self.asks == 'random':
            features = features * random.random()
        return torch.pixel_shuffle(features, 4).unflatten(0, lq.shape[:2])


@ARCH_REGISTRY.register()
class SkippingProbe(ShapeProbe):
    """As by stochastic depth: every other iteration leaves a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.nn.Conv2d(3, 3, 1)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        is_in = self.training and len(seen) % 2 == 0
        return super().forward(self.extra(lq.flatten(0, 1)).view_as(lq) if is_in else lq)


@ARCH_REGISTRY.register()
class StuckProbe(ShapeProbe):
    """Never comes back from its third iteration."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        if len(seen) == 2:
            time.sleep(10_000)
        return super().forward(lq)


@ARCH_REGISTRY.register()
class SlowlyValidatedProbe(ShapeProbe):
    """Takes an hour for a clip of its validation."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        if not self.training and len(seen) > 2:  # it is tried before the run
            print('validating', flush=True)
            time.sleep(3600)
        return super().forward(lq)


if __name__ == '__main__':
    main()
