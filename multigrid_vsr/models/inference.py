"""Whole clips through a network, in windows of frames and tiles of a frame where memory asks for them.

A recurrent arch carries features over the whole clip and from both of its ends, so a window of it is not exact: what
lies beyond the window reaches its frames less with each frame of overlap. How much is measured in benchmarks/README.md.
A sliding-window arch looks at its own few frames, and its windows are exact.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.data.data_util import generate_frame_indices
from torch.nn.functional import pad

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.overlap import windows
from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.models import checkpoints
from multigrid_vsr.options.archs import ArchLimits, limits_in, window_of

Frame = np.ndarray | torch.Tensor  # (h, w, 3): uint8 BGR, or float32 RGB in [0, 1]


@dataclass(frozen=True)
class Tiling:
    """The windows and tiles that a clip is cut into.

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

    def aligned(self, tiling: Tiling) -> Tiling:
        """The same with windows that start where the arch asks for."""
        step = (tiling.num_frame - 2 * tiling.overlap) // self.stride * self.stride
        return replace(tiling, num_frame=2 * tiling.overlap + max(step, self.stride))


def to_bgr_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Turns float (t, 3, h, w) RGB into uint8 (t, h, w, 3) BGR on the CPU, rounded as BasicSR's ``tensor2img`` does."""
    # One at a time: the whole of a window would be on the device several times.
    images = [(frame.clamp(0, 1) * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0).cpu() for frame in frames]
    return torch.stack(images)


def super_resolve(
    restore: Callable[[torch.Tensor, range], torch.Tensor],
    frames: Iterable[Frame],
    tiling: Tiling,
    finish: Callable[[torch.Tensor], torch.Tensor] = to_bgr_bytes,
) -> Iterator[torch.Tensor]:
    """Restores a clip frame by frame, in order, reading no further than a window ahead.

    Args:
        restore: A :class:`Restorer`.
        frames: The clip.
        tiling: Its windows and tiles.
        finish: Turns what a tile keeps, (t, 3, h, w), into (t, h, w, 3).
    """
    for window, kept in windows(frames, tiling.num_frame, tiling.overlap):
        lq = torch.stack([torch.as_tensor(frame) for frame in window])
        strips = []
        for rows, keep_rows in _tiles(lq.shape[1], tiling):
            parts = []
            for columns, keep_columns in _tiles(lq.shape[2], tiling):
                part = restore(lq[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], kept)
                y, x = (_scaled(keep, part.shape[-1] // len(columns)) for keep in (keep_rows, keep_columns))
                parts.append(finish(part[..., y, x]))
            strips.append(torch.cat(parts, 2))
        yield from torch.cat(strips, 1)


def _tiles(length: int, tiling: Tiling) -> Iterator[tuple[list[int], range]]:
    return windows(range(length), tiling.tile or length, tiling.tile_overlap if tiling.tile else 0)


def _scaled(places: range, scale: int) -> slice:
    return slice(places.start * scale, places.stop * scale)


def differences(restore: Restorer, frames: Sequence[Frame], tilings: Sequence[Tiling]) -> list[float]:
    """The largest difference of any value of any frame between a clip restored in parts and as a whole.

    Args:
        restore: The network.
        frames: The clip, short enough to be restored as a whole.
        tilings: The ways to cut it.

    Returns:
        For each, in 255ths: below 0.5 hardly a byte of the result is another.
    """

    def as_float(output: torch.Tensor) -> torch.Tensor:
        return output.permute(0, 2, 3, 1).cpu()

    whole = as_float(restore(torch.stack([torch.as_tensor(frame) for frame in frames])))
    return [
        max(
            float((part - frame).abs().max()) * 255
            for part, frame in zip(super_resolve(restore, frames, tiling, as_float), whole, strict=True)
        )
        for tiling in tilings
    ]


SIDE = 64  # of the frames that are tried, LQ pixels
_SHARE = 0.6  # of free memory that a window may take: the rest is for what is decoded and written meanwhile
_M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass(frozen=True)
class Need:
    """Bytes of a window: ``pixels * (fixed + a_frame * frames)``, pixels of an LQ frame."""

    fixed: float
    a_frame: float

    def bytes(self, frames: int, pixels: int) -> float:
        """What frames of a size take together."""
        return pixels * (self.fixed + self.a_frame * frames)

    def frames(self, memory: float, pixels: int) -> int:
        """The most frames of a size that fit."""
        return int((memory / pixels - self.fixed) / self.a_frame)

    def side(self, memory: float, frames: int) -> int:
        """The largest side of a square that fits with so many frames."""
        return math.isqrt(int(memory / (self.fixed + self.a_frame * frames)))


def measure_need(restore: Callable[[torch.Tensor], torch.Tensor], device: torch.device, least_frames: int) -> Need:
    """Restores two short clips of noise, and looks at the peak of memory.

    Args:
        restore: A network as :class:`~multigrid_vsr.models.inference.Restorer` makes it ready.
        device: Where it runs.
        least_frames: The fewest frames that it takes.
    """
    counts = (least_frames + 1, 3 * least_frames + 3)
    clip = torch.randint(0, 256, (counts[-1], SIDE, SIDE, 3), dtype=torch.uint8)
    # The first call makes what is kept.
    _, few, many = (peak(partial(restore, clip[:count]), device) / SIDE**2 for count in (counts[0], *counts))
    a_frame = max((many - few) / (counts[1] - counts[0]), 1.0)
    return Need(max(few - a_frame * counts[0], 0.0), a_frame)


def free_memory(device: torch.device) -> float:
    """Bytes that a window may take."""
    if device.type == 'cuda':
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _SHARE * (torch.cuda.mem_get_info(device)[0] + held)
    return _SHARE * _kibibytes('/proc/meminfo', 'MemAvailable') * 1024


def choose_tiling(need: Need, memory: float, num_frame: int | None, height: int, width: int, context: Tiling) -> Tiling:
    """The largest windows that fit: whole clips, else whole frames, else tiles.

    Args:
        need: What a window takes.
        memory: What it may take, in bytes.
        num_frame: Frames of the clip, where they are known.
        height, width: LQ frame.
        context: The overlaps.

    Raises:
        InputError: If not even a tile fits.
    """
    fits = need.frames(memory, height * width)
    enough = 4 * context.overlap + 1  # below, more than half of the work is context
    if fits >= min(enough, num_frame or enough):
        return Tiling(fits, context.overlap)
    frames = min(enough, num_frame or enough)
    tile = need.side(memory, frames) // 32 * 32
    if tile < 2 * context.tile_overlap + 32:
        raise InputError(
            f'--overlap: must be small enough for {memory / 1e9:.1f} GB, got {context.overlap}, of which windows of '
            f'{frames} frames take tiles of {tile} pixels. Lower --overlap, or --tile_overlap.'
        )
    return Tiling(frames, context.overlap, tile, context.tile_overlap)


def peak(call: Callable[[], object], device: torch.device) -> float:
    """Bytes that a call takes at its peak, beside those that were taken before.

    Raises:
        InputError: If the system does not tell.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)  # tensors go back to the system, or their holes would be counted
        libc.malloc_trim(0)  # what glibc has kept would be taken first, and not be seen
        Path('/proc/self/clear_refs').write_text('5')  # the peak of this process starts again
    except (AttributeError, OSError) as error:
        raise InputError(
            f'--num_frame: must be given where the system does not tell the peak of memory ({error}), got nothing. '
            'Give the frames of a window.'
        ) from None
    before = _kibibytes('/proc/self/status', 'VmRSS')
    call()
    found = _kibibytes('/proc/self/status', 'VmHWM') - before
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # where glibc's own rule ends: a quarter less time than 128 KiB
    return found * 1024


def _kibibytes(path: str, name: str) -> int:
    found = re.search(rf'^{name}:\s+(\d+) kB', Path(path).read_text(), re.MULTILINE)
    assert found is not None, (path, name)
    return int(found[1])


def load_restorer(opt: Mapping[str, Any], weights: Path, param_key: str | None, device: torch.device) -> Restorer:
    """Builds ``network_g`` and loads its weights, read as data alone.

    Args:
        opt: Options of the run.
        weights: Weight file of BasicSR.
        param_key: ``params`` or ``params_ema``; without it the average of the weights where the file has one.
        device: Where it runs.

    Raises:
        InputError: If the network cannot be built, or the weights are not its own.
    """
    network_opt = opt.get('network_g')
    if not isinstance(network_opt, Mapping):
        raise OptionError('network_g', 'be a block of options', network_opt, 'Give the option file of the run.')
    # Weights of parts, as of the flow network, come with the file.
    network_opt = {key: None if key.endswith('_path') else value for key, value in network_opt.items()}
    try:
        network = build_network(dict(network_opt))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f'network_g: must be options of an arch of BasicSR, got {error}. Correct it.') from None
    state = _read(weights, param_key)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f'--weights: must be of the network of the option file, got {weights} ({one_line(error)}). Give -opt of '
            'its run.'
        ) from None
    return restorer_of(opt, network.to(device).eval(), device)


def restorer_of(
    opt: Mapping[str, Any],
    network: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
    padding: str = 'reflection_circle',
) -> Restorer:
    """What knows of the arch of an option file how clips go through it.

    Args:
        opt: Options of a run.
        network: ``network_g`` itself, or what runs it.
        device: Where it runs.
        padding: Of the window of a sliding-window arch.
    """
    limits, network_opt = limits_in(opt) or ArchLimits(), opt['network_g']
    window = window_of(opt)
    stride = network_opt.get('keyframe_stride', 5) if network_opt.get('type') == 'IconVSR' else 1
    return Restorer(network, window, limits.lq_divisor, window or limits.min_num_frame, stride, device, padding)


def _read(path: Path, param_key: str | None) -> dict[str, torch.Tensor]:
    try:
        found = checkpoints.read(path)
    except ValueError as error:
        raise InputError(
            f'--weights: must be a whole weight file of plain data, got {path} ({error}). Give another.'
        ) from None
    keys = [key for key in ('params_ema', 'params') if isinstance(found, dict) and key in found]
    if not keys:
        raise InputError(f'--weights: must be a weight file of BasicSR, got {path}, something else. Give net_g_*.pth.')
    if param_key not in (None, *keys):
        raise InputError(
            f'--weights: must be a weight file with {param_key}, got {path} (it has {keys[0]}). '
            f'Give --param_key {keys[0]}.'
        )
    return {name.removeprefix('module.'): value for name, value in found[param_key or keys[0]].items()}
