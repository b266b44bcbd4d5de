"""PSNR and SSIM on the held-out clips, by the same code for every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.demo.training import SCALE

Frames = dict[str, np.ndarray]  # clip: uint8 (t, h, w, 3), BGR


def read_clips(root: Path) -> Frames:
    """Reads every clip below a folder."""
    return {
        folder.name: np.array([cv2.imread(str(path)) for path in sorted(folder.iterdir())])
        for folder in sorted(root.iterdir())
    }


def bicubic(lq: Frames) -> Frames:
    """Enlarges by BasicSR's bicubic ``imresize``: what every method has to beat."""
    from basicsr.utils.matlab_functions import imresize

    return {
        clip: np.stack([(imresize(f / 255.0, SCALE) * 255).round().clip(0, 255).astype(np.uint8) for f in frames])
        for clip, frames in lq.items()
    }


def super_resolve(weights: Path, lq: Frames) -> Frames:
    """Runs the demo's network with the weights of a checkpoint over whole clips."""
    from basicsr.archs.basicvsr_arch import BasicVSR
    from basicsr.utils import tensor2img

    network = BasicVSR(num_feat=16, num_block=2).eval()
    network.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True)['params'])
    with torch.no_grad():
        outputs = {clip: network(to_float_rgb(torch.from_numpy(frames))[None])[0] for clip, frames in lq.items()}
    return {clip: np.stack([tensor2img([frame]) for frame in output]) for clip, output in outputs.items()}


def psnr(results: Frames, gt: Frames) -> float:
    """BasicSR's PSNR in dB, RGB, no border left out: the mean over clips of the mean over frames."""
    from basicsr.metrics import calculate_psnr

    return _mean(calculate_psnr, results, gt)


def ssim(results: Frames, gt: Frames) -> float:
    """BasicSR's SSIM, RGB, no border left out: the mean over clips of the mean over frames."""
    from basicsr.metrics import calculate_ssim

    return _mean(calculate_ssim, results, gt)


def _mean(metric: Callable[..., float], results: Frames, gt: Frames) -> float:
    return float(np.mean([np.mean([metric(*pair, crop_border=0) for pair in zip(results[c], gt[c])]) for c in gt]))
