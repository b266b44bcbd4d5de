"""Errors that mean that the memory of a device is full, by whatever name."""

from __future__ import annotations

import torch

# A library that is refused its workspace says so in its own words, as an error of its own or of CUDA.
_WORDS = ('out of memory', 'alloc_failed', 'cudnn_status_not_supported', 'not enough memory', "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or of a library below it says that memory is full."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
