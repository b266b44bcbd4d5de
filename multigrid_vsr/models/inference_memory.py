"""How large a window of a clip memory holds: measured on two small ones, not guessed from the arch."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models.inference import Cut

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


def choose_cut(need: Need, memory: float, num_frame: int | None, height: int, width: int, context: Cut) -> Cut:
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
        return Cut(fits, context.overlap)
    frames = min(enough, num_frame or enough)
    tile = need.side(memory, frames) // 32 * 32
    if tile < 2 * context.tile_overlap + 32:
        raise InputError(
            f'--overlap: must be small enough for {memory / 1e9:.1f} GB, got {context.overlap}, of which windows of '
            f'{frames} frames take tiles of {tile} pixels. Lower --overlap, or --tile_overlap.'
        )
    return Cut(frames, context.overlap, tile, context.tile_overlap)


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
