"""The largest memory that this process has had at a time: the GPU's, or without one the process's own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_memory(device: torch.device) -> float:
    """Gigabytes (1e9 bytes) at most since :func:`reset_peak_memory`: tensors on a GPU, or resident pages."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024 / 1e9


def reset_peak_memory(device: torch.device) -> None:
    """Starts to look for the largest anew; where a container does not allow it, the peak is that of the whole run."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text('5')
