"""A degradation out of BasicSR's own parts: blur, shrinking, noise and JPEG, drawn anew for each sample."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from basicsr.data.degradations import random_add_gaussian_noise_pt, random_mixed_kernels
from basicsr.utils.diffjpeg import DiffJPEG
from basicsr.utils.img_process_util import filter2D
from torch.nn.functional import interpolate

from multigrid_vsr.data.seeded import seeded
from multigrid_vsr.models.degradation import DEGRADATION_REGISTRY

_SHRINKING = ('area', 'bilinear', 'bicubic')


@DEGRADATION_REGISTRY.register()
class BlurNoiseJPEG(torch.nn.Module):
    """The first order of Real-ESRGAN (Wang et al., arXiv 2107.10833, section 3.1), one draw for all frames of a sample.

    Args:
        blur_sigma: Bounds of the deviations of an isotropic or anisotropic Gaussian kernel, in ground truth pixels.
        noise_sigma: Bounds of the deviation of Gaussian noise, in 255ths.
        jpeg_quality: Bounds of the quality of JPEG.
        kernel_size: Side of the kernel, odd, in pixels.
    """

    def __init__(
        self,
        blur_sigma: Sequence[float] = (0.2, 3),
        noise_sigma: Sequence[float] = (1, 30),
        jpeg_quality: Sequence[float] = (30, 95),
        kernel_size: int = 21,
    ) -> None:
        super().__init__()
        self._blur_sigma = list(blur_sigma)
        self._noise_sigma = noise_sigma
        self._jpeg_quality = jpeg_quality
        self._kernel_size = kernel_size
        self._jpeg = DiffJPEG(differentiable=False)

    def forward(self, gt: torch.Tensor, seeds: Sequence[int], scale: int) -> torch.Tensor:
        """See :func:`multigrid_vsr.models.degradation.degrade`; a sample depends on its own seed alone."""
        return torch.stack([self._degrade(clip, seed, scale) for clip, seed in zip(gt, seeds, strict=True)])

    def _degrade(self, clip: torch.Tensor, seed: int, scale: int) -> torch.Tensor:
        """Takes (t, c, scale*h, scale*w), gives (t, c, h, w)."""
        with seeded(seed, clip.device):
            kernel = random_mixed_kernels(
                ['iso', 'aniso'], [0.7, 0.3], self._kernel_size, self._blur_sigma, self._blur_sigma, noise_range=None
            )
            sizes = (clip.shape[-2] // scale, clip.shape[-1] // scale)
            frames = interpolate(
                filter2D(clip, torch.from_numpy(kernel).to(clip)[None]), sizes, mode=random.choice(_SHRINKING)
            )
            sigma = random.uniform(*self._noise_sigma)
            frames = random_add_gaussian_noise_pt(frames, sigma_range=(sigma, sigma), gray_prob=0.4)
            quality = frames.new_full((len(frames),), random.uniform(*self._jpeg_quality))
            frames = self._jpeg(frames, quality)
        return (frames.clamp(0, 1) * 255).round() / 255
