"""The one place where stored pixels become a network's input."""

from __future__ import annotations

import torch


def to_float_rgb(frames: torch.Tensor) -> torch.Tensor:
    """Turns uint8 BGR (..., h, w, 3) into float32 RGB (..., 3, h, w) in [0, 1], on the tensor's device.

    The values are bit-identical to BasicSR's, ``image.astype(float32) / 255.``: a tensor divides a tensor, since
    CUDA would multiply by the rounded reciprocal of a Python number.
    """
    *lead, height, width, channels = frames.shape
    images = torch.empty(*lead, channels, height, width, device=frames.device)
    largest = torch.full((), 255.0, device=frames.device)  # made there: a copy from the host would wait for the device
    for place in range(channels):
        torch.div(frames[..., channels - 1 - place], largest, out=images[..., place, :, :])
    return images
