"""Whole clips through a network, cut into windows of frames, and tiles of a frame, where memory is short.

A recurrent arch carries features over the whole clip and from both of its ends, so a window is not exact: frames beyond
the window have less influence with each frame of overlap. benchmarks/README.md has how much. A sliding-window arch sees
only a few frames at a time, so its windows are exact.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.data.data_util import generate_frame_indices
from torch.nn.functional import pad

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.overlap import windows
from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.models.checkpoints import read_weights
from multigrid_vsr.options.archs import ArchLimits, limits_in, window_of

Frame = np.ndarray | torch.Tensor  # (h, w, 3): uint8 BGR, or float32 RGB in [0, 1]


@dataclass(frozen=True)
class Tiling:
    """The windows and tiles that a clip is cut into; context is computed and left out."""

    num_frame: int  # of a window
    overlap: int  # frames of context on each side of a window
    tile: int | None = None  # LQ side of a tile in pixels; `None` for whole frames
    tile_overlap: int = 0  # LQ pixels of context on each side of a tile


@dataclass(frozen=True)
class Restorer:
    """A network, prepared for clips of any size.

    It takes (b, t, c, h, w), float32 RGB in [0, 1], and gives every frame, or only the middle one, without t.
    """

    network: Callable[[torch.Tensor], torch.Tensor]
    window: int | None = None  # frames around the one that a sliding-window arch gives; `None` for a recurrent arch
    multiple: int = 1  # of which the sides of its input are multiples: others are padded, and the output cropped
    least_frames: int = 1  # that it takes
    stride: int = 1  # windows start at multiples of it: IconVSR counts its keyframes from the first frame
    device: torch.device | str = 'cpu'
    padding: str = 'reflection_circle'  # how a sliding window goes on past the ends of a clip, as BasicSR names it

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor, kept: range | None = None) -> torch.Tensor:
        """Restores frames together.

        Args:
            frames: (t, h, w, 3), uint8 BGR or float32 RGB in [0, 1], on the CPU.
            kept: The places to give; without it all.

        Returns:
            float32 (t, 3, scale*h, scale*w), RGB, on the network's device, not clamped; one frame where the network
            gives only the middle one.
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
        """Frames of context on each side of a window: a sliding-window arch needs exactly those that it sees."""
        return overlap if self.window is None else self.window - 1

    def aligned(self, tiling: Tiling) -> Tiling:
        """The same tiling, with windows that start where the arch needs them to."""
        step = (tiling.num_frame - 2 * tiling.overlap) // self.stride * self.stride
        return replace(tiling, num_frame=2 * tiling.overlap + max(step, self.stride))


def to_bgr_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Turns float (t, 3, h, w) RGB into uint8 (t, h, w, 3) BGR on the CPU, rounded as BasicSR's ``tensor2img`` does."""
    # One frame at a time: a whole window would be on the device several times.
    images = [(frame.clamp(0, 1) * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0).cpu() for frame in frames]
    return torch.stack(images)


def super_resolve(
    restore: Callable[[torch.Tensor, range], torch.Tensor],
    frames: Iterable[Frame],
    tiling: Tiling,
    finish: Callable[[torch.Tensor], torch.Tensor] = to_bgr_bytes,
) -> Iterator[torch.Tensor]:
    """Restores a clip frame by frame, in order, reading no further than a window ahead.

    ``restore`` is a :class:`Restorer`. ``finish`` turns the kept part of a tile, (t, 3, h, w), into (t, h, w, 3).
    """
    tile_overlap = tiling.tile_overlap if tiling.tile else 0
    for window, kept in windows(frames, tiling.num_frame, tiling.overlap):
        lq = torch.stack([torch.as_tensor(frame) for frame in window])
        height, width = lq.shape[1:3]
        strips = []
        for rows, kept_rows in windows(range(height), tiling.tile or height, tile_overlap):
            parts = []
            for columns, kept_columns in windows(range(width), tiling.tile or width, tile_overlap):
                part = restore(lq[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], kept)
                scale = part.shape[-1] // len(columns)
                y, x = (slice(some.start * scale, some.stop * scale) for some in (kept_rows, kept_columns))
                parts.append(finish(part[..., y, x]))
            strips.append(torch.cat(parts, 2))
        yield from torch.cat(strips, 1)


def differences(restore: Restorer, frames: Sequence[Frame], tilings: Sequence[Tiling]) -> list[float]:
    """For each tiling, the largest difference of any value between a short clip in parts and as a whole.

    The differences are in 255ths; below 0.5 hardly a byte of the result changes.
    """

    def as_float(output: torch.Tensor) -> torch.Tensor:
        return output.permute(0, 2, 3, 1).cpu()

    whole = list(super_resolve(restore, frames, Tiling(len(frames), 0), as_float))
    found = (zip(super_resolve(restore, frames, tiling, as_float), whole, strict=True) for tiling in tilings)
    return [max(float((part - frame).abs().max()) * 255 for part, frame in pairs) for pairs in found]


SIDE = 64  # LQ pixels of the frames that are tried
_GPU_SHARE, _CPU_SHARE = 0.6, 0.5  # what a window may take, of the free memory of a GPU, and of all that a machine has
_CPU_NEED = 1600.0  # bytes for each LQ pixel and frame: what BasicVSR++ takes, three times as much as BasicVSR


class Need(NamedTuple):
    """The line of memory that a window takes: bytes for each LQ pixel of a frame, and for each frame more."""

    fixed: float
    a_frame: float

    def bytes(self, frames: int, pixels: int) -> float:
        """What a window of so many frames takes."""
        return pixels * (self.fixed + self.a_frame * frames)


def peak(call: Callable[[], object], device: torch.device) -> float:
    """Bytes of a GPU that a call takes at its peak, beside those that were taken before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def measure_need(restore: Callable[[torch.Tensor], object], device: torch.device, least_frames: int) -> Need:
    """Restores two short clips of noise on a GPU and looks at the peaks of memory."""
    counts = (least_frames + 1, 3 * least_frames + 3)
    clip = torch.randint(0, 256, (counts[-1], SIDE, SIDE, 3), dtype=torch.uint8)
    # The first call allocates what later ones find.
    _, few, many = (peak(partial(restore, clip[:count]), device) / SIDE**2 for count in (counts[0], *counts))
    a_frame = max((many - few) / (counts[1] - counts[0]), 1.0)
    return Need(max(few - a_frame * counts[0], 0.0), a_frame)


def need_and_memory(restorer: Restorer) -> tuple[Need, float]:
    """What a window takes, and how many bytes it may take: measured on a GPU, a guess on a CPU."""
    device = torch.device(restorer.device)
    if device.type == 'cuda':
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + held
        return measure_need(restorer, device, restorer.least_frames), _GPU_SHARE * free
    return Need(0.0, _CPU_NEED), _CPU_SHARE * os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def choose_tiling(need: Need, memory: float, num_frame: int | None, height: int, width: int, context: Tiling) -> Tiling:
    """The largest windows that fit into bytes of memory: whole clips, else whole frames, else tiles.

    ``num_frame`` is that of the clip, where it is known, and ``context`` has the overlaps.

    Raises:
        InputError: If not even a tile fits.
    """
    fits = int((memory / (height * width) - need.fixed) / need.a_frame)
    enough = 4 * context.overlap + 1  # below, more than half of the work is context
    frames = min(enough, num_frame or enough)
    if fits >= frames:
        return Tiling(fits, context.overlap)
    tile = math.isqrt(int(memory / need.bytes(frames, 1))) // 32 * 32
    if tile < 2 * context.tile_overlap + 32:
        raise InputError(
            f'--overlap: must be small enough for {memory / 1e9:.1f} GB, got {context.overlap}, of which windows of '
            f'{frames} frames take tiles of {tile} pixels. Lower --overlap, or --tile_overlap.'
        )
    return Tiling(frames, context.overlap, tile, context.tile_overlap)


def load_restorer(opt: Mapping[str, Any], weights: Path, param_key: str | None, device: torch.device) -> Restorer:
    """Builds ``network_g`` of a run and loads weights from a file of BasicSR, read as plain data.

    ``param_key`` is ``params`` or ``params_ema``; without it the EMA is taken where the file has one.

    Raises:
        InputError: If the network cannot be built, or the weights do not fit it.
    """
    network_opt = opt.get('network_g')
    if not isinstance(network_opt, Mapping):
        raise OptionError('network_g', 'be a block of options', network_opt, 'Give the option file of the run.')
    # The weights of parts, such as the flow network, come with the file.
    network_opt = {key: None if key.endswith('_path') else value for key, value in network_opt.items()}
    try:
        network = build_network(network_opt)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f'network_g: must be options of an arch of BasicSR, got {error}. Correct it.') from None
    stored = read_weights('--weights', str(weights))
    keys = param_keys(stored)
    if not keys:
        raise OptionError('--weights', 'be a weight file of BasicSR', f'{weights}, something else', 'Give net_g_*.pth.')
    if param_key not in (None, *keys):
        value, fix = f'{weights} (it has {keys[0]})', f'Give --param_key {keys[0]}.'
        raise OptionError('--weights', f'be a weight file with {param_key}', value, fix)
    state = {name.removeprefix('module.'): value for name, value in stored[param_key or keys[0]].items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        value = f'{weights} ({one_line(error)})'
        rule = 'be of the network of the option file'
        raise OptionError('--weights', rule, value, 'Give -opt of its run.') from None
    return restorer_of(opt, network.to(device).eval(), device)


def param_keys(stored: Any) -> list[str]:
    """The keys under which a file of BasicSR has weights, the average first."""
    return [key for key in ('params_ema', 'params') if isinstance(stored, dict) and key in stored]


def restorer_of(
    opt: Mapping[str, Any],
    network: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
    padding: str = 'reflection_circle',
) -> Restorer:
    """A restorer for the arch of an option file; ``network`` is ``network_g`` itself, or what runs it."""
    limits, network_opt = limits_in(opt) or ArchLimits(), opt['network_g']
    window = window_of(opt)
    stride = network_opt.get('keyframe_stride', 5) if network_opt.get('type') == 'IconVSR' else 1
    return Restorer(network, window, limits.lq_divisor, window or limits.min_num_frame, stride, device, padding)
