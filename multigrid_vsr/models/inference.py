"""Whole clips through a network, in windows of frames and tiles of a frame where memory asks for them.

A recurrent arch carries features over the whole clip and from both of its ends, so a window of it is not exact: what
lies beyond the window reaches its frames less with each frame of overlap. How much is measured in benchmarks/README.md.
A sliding-window arch looks at its own few frames, and its windows are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from basicsr.data.data_util import generate_frame_indices
from torch.nn.functional import pad

from multigrid_vsr.core.windows import windows
from multigrid_vsr.data.pixels import to_float_rgb

Frame = np.ndarray | torch.Tensor  # (h, w, 3): uint8 BGR, or float32 RGB in [0, 1]


@dataclass(frozen=True)
class Cut:
    """How a clip is cut.

    Attributes:
        num_frame: Frames of a window.
        overlap: Frames of context on each side, computed and left out.
        tile: LQ side of a tile in pixels; ``None`` for whole frames.
        tile_overlap: LQ pixels of context on each side of a tile.
    """

    num_frame: int
    overlap: int
    tile: int | None = None
    tile_overlap: int = 0


@dataclass(frozen=True)
class Restorer:
    """A network made ready for clips of any size.

    Attributes:
        network: Takes (b, t, c, h, w), float32 RGB in [0, 1]; gives every frame, or the one in the middle, without t.
        window: Frames that a sliding-window arch takes for the one in their middle; ``None`` for a recurrent arch.
        multiple: What the sides of its input are multiples of; others are padded, and the padding cut off.
        least_frames: The fewest frames that it takes.
        stride: What windows start at multiples of: IconVSR's keyframes count from the first frame.
        device: Where it runs.
        padding: How the window goes on past the ends of a clip, as BasicSR names it.
    """

    network: Callable[[torch.Tensor], torch.Tensor]
    window: int | None = None
    multiple: int = 1
    least_frames: int = 1
    stride: int = 1
    device: torch.device | str = 'cpu'
    padding: str = 'reflection_circle'

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor, kept: range | None = None) -> torch.Tensor:
        """Restores frames together.

        Args:
            frames: (t, h, w, 3), uint8 BGR or float32 RGB in [0, 1], on the CPU.
            kept: Which of them to give; without it all.

        Returns:
            float32 (t, 3, scale*h, scale*w), RGB, on the network's device, not clamped; one frame where the network
            gives the one in the middle.
        """
        kept = range(len(frames)) if kept is None else kept
        height, width = frames.shape[1:3]
        frames = frames.to(self.device)
        lq = to_float_rgb(frames) if frames.dtype == torch.uint8 else frames.permute(0, 3, 1, 2)
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            lq = pad(lq, (0, right, 0, down), mode='replicate')
        if self.window is None:
            output = self.network(lq[None])
            output = output[0, kept.start : kept.stop] if output.dim() == 5 else output
        else:
            indices = [generate_frame_indices(place, len(lq), self.window, self.padding) for place in kept]
            output = torch.cat([self.network(lq[index][None]) for index in indices])
        scale = output.shape[-1] // lq.shape[-1]
        return output[..., : height * scale, : width * scale]

    def context(self, overlap: int) -> int:
        """The frames of context on each side of a window: of a sliding-window arch those that it sees, so exact."""
        return overlap if self.window is None else self.window - 1

    def aligned(self, cut: Cut) -> Cut:
        """The same with windows that start where the arch asks for."""
        step = (cut.num_frame - 2 * cut.overlap) // self.stride * self.stride
        return replace(cut, num_frame=2 * cut.overlap + max(step, self.stride))


def to_bgr_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Turns float (t, 3, h, w) RGB into uint8 (t, h, w, 3) BGR on the CPU, rounded as BasicSR's ``tensor2img`` does."""
    # One at a time: the whole of a window would be on the device several times.
    images = [(frame.clamp(0, 1) * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0).cpu() for frame in frames]
    return torch.stack(images)


def super_resolve(
    restore: Callable[[torch.Tensor, range], torch.Tensor],
    frames: Iterable[Frame],
    cut: Cut,
    finish: Callable[[torch.Tensor], torch.Tensor] = to_bgr_bytes,
) -> Iterator[torch.Tensor]:
    """Restores a clip frame by frame, in order, reading no further than a window ahead.

    Args:
        restore: A :class:`Restorer`.
        frames: The clip.
        cut: Its windows and tiles.
        finish: Turns what a tile keeps, (t, 3, h, w), into (t, h, w, 3).
    """
    for window, kept in windows(frames, cut.num_frame, cut.overlap):
        lq = torch.stack([torch.as_tensor(frame) for frame in window])
        strips = []
        for rows, keep_rows in _tiles(lq.shape[1], cut):
            parts = []
            for columns, keep_columns in _tiles(lq.shape[2], cut):
                part = restore(lq[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], kept)
                y, x = (_scaled(keep, part.shape[-1] // len(columns)) for keep in (keep_rows, keep_columns))
                parts.append(finish(part[..., y, x]))
            strips.append(torch.cat(parts, 2))
        yield from torch.cat(strips, 1)


def _tiles(length: int, cut: Cut) -> Iterator[tuple[list[int], range]]:
    return windows(range(length), cut.tile or length, cut.tile_overlap if cut.tile else 0)


def _scaled(places: range, scale: int) -> slice:
    return slice(places.start * scale, places.stop * scale)


def differences(restore: Restorer, frames: Sequence[Frame], cuts: Sequence[Cut]) -> list[float]:
    """The largest difference of any value of any frame between a clip restored in parts and as a whole.

    Args:
        restore: The network.
        frames: The clip, short enough to be restored as a whole.
        cuts: The ways to cut it.

    Returns:
        For each, in 255ths: below 0.5 hardly a byte of the result is another.
    """

    def as_float(output: torch.Tensor) -> torch.Tensor:
        return output.permute(0, 2, 3, 1).cpu()

    whole = as_float(restore(torch.stack([torch.as_tensor(frame) for frame in frames])))
    return [
        max(
            float((part - frame).abs().max()) * 255
            for part, frame in zip(super_resolve(restore, frames, cut, as_float), whole, strict=True)
        )
        for cut in cuts
    ]
