"""Random states that follow from a seed, for code that draws from the global ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = 'cpu') -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's random states, and that of a GPU; afterwards they are as they were.

    Args:
        seed: Any whole number; NumPy gets its lower 32 bits.
        device: Where torch draws, beside the CPU.
    """
    device = torch.device(device)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.random.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed every GPU too
        if device.type == 'cuda':
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
