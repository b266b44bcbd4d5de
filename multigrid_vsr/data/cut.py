"""Where a training sample is cut from its clip: the frames, the crop, the flips."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np

from multigrid_vsr.frames.clip import Clip


@dataclass(frozen=True)
class Cut:
    """The crop of a sample.

    Attributes:
        top, left: Corner of the crop in the LQ frame, in pixels.
        hflip, vflip, rot90: Flips along width and height, and the exchange of the two, done in this order.
    """

    top: int
    left: int
    hflip: bool
    vflip: bool
    rot90: bool

    def turn(self, crops: np.ndarray, out: np.ndarray) -> None:
        """Flips crops along their width and turns them, all frames at once; their rows are in order already.

        Args:
            crops: uint8 (t, n, n, 3); flipped in place.
            out: The same, for the result; ``crops`` itself unless ``rot90``.
        """
        if self.hflip:
            stacked = crops.reshape(-1, *crops.shape[2:])
            cv2.flip(stacked, 1, dst=stacked)
        if self.rot90:
            for crop, turned in zip(crops, out):
                cv2.transpose(crop, dst=turned)


@dataclass(frozen=True)
class Augmentation:
    """The options of BasicSR's REDS datasets that say how samples vary."""

    interval_list: Sequence[int] = (1,)
    random_reverse: bool = False
    use_hflip: bool = True
    use_rot: bool = True


def draw_sequence(
    rng: random.Random | ModuleType, clip: Clip, frame: int, num_frame: int, augmentation: Augmentation
) -> list[int]:
    """Draws the frames of a sequence that starts at ``frame``, or elsewhere where the clip ends too soon.

    The draws and their order are those of BasicSR's ``REDSRecurrentDataset``, with the clip's own length for its 100.

    Args:
        rng: ``random``, or a generator of its kind.
        clip: The clip.
        frame: First frame asked for.
        num_frame: Frames t of the sequence.
        augmentation: Intervals and reversal.
    """
    interval = rng.choice(augmentation.interval_list)
    last_start = max(clip.num_frame - num_frame * interval, 0)
    if frame > last_start:
        frame = rng.randint(0, last_start)
    frames = list(range(frame, frame + num_frame * interval, interval))
    if augmentation.random_reverse and rng.random() < 0.5:
        frames.reverse()
    return frames


def draw_window(
    rng: random.Random | ModuleType, clip: Clip, frame: int, num_frame: int, augmentation: Augmentation
) -> tuple[list[int], int]:
    """Draws the frames around ``frame``, or around another where the clip ends too soon.

    The draws and their order are those of BasicSR's ``REDSDataset``, with the clip's own length for its 100.

    Args:
        rng: ``random``, or a generator of its kind.
        clip: The clip, long enough for the largest interval.
        frame: Frame in the middle asked for.
        num_frame: Frames t of the window, odd.
        augmentation: Intervals and reversal.

    Returns:
        The frames, and the one in the middle.
    """
    interval = rng.choice(augmentation.interval_list)
    reach = num_frame // 2 * interval
    while frame - reach < 0 or frame + reach > clip.num_frame - 1:
        frame = rng.randint(0, clip.num_frame - 1)
    frames = list(range(frame - reach, frame + reach + 1, interval))
    if augmentation.random_reverse and rng.random() < 0.5:
        frames.reverse()
    return frames, frame


def draw_cut(
    rng: random.Random | ModuleType, lq_height: int, lq_width: int, lq_size: int, augmentation: Augmentation
) -> Cut:
    """Draws the crop and the flips: BasicSR's ``paired_random_crop`` and ``augment``, in their order.

    Args:
        rng: ``random``, or a generator of its kind.
        lq_height, lq_width: Size of the LQ frame, in pixels.
        lq_size: Side of the LQ crop, in pixels.
        augmentation: Which flips are allowed.
    """
    top = rng.randint(0, lq_height - lq_size)
    left = rng.randint(0, lq_width - lq_size)
    hflip = augmentation.use_hflip and rng.random() < 0.5
    vflip = augmentation.use_rot and rng.random() < 0.5
    rot90 = augmentation.use_rot and rng.random() < 0.5
    return Cut(top, left, hflip, vflip, rot90)
