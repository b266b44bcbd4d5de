"""LQ frames that are made on the device, out of the ground truth (``train.degradation``)."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from basicsr.data.degradations import generate_gaussian_noise_pt, random_mixed_kernels
from basicsr.utils.diffjpeg import DiffJPEG
from basicsr.utils.img_process_util import filter2D
from basicsr.utils.registry import Registry
from torch.nn.functional import interpolate

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.sampling import mix
from multigrid_vsr.data.batches import seeded
from multigrid_vsr.options.kinds import is_number

# Functions, or classes whose instances are called, with (gt, seeds, scale) as `degrade` says.
DEGRADATION_REGISTRY = Registry('degradation')

Degradation = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]


def name_and_arguments(degradation_opt: str | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The name and the arguments in ``train.degradation``, which is a name, or a block with its ``type``."""
    if isinstance(degradation_opt, str):
        return degradation_opt, {}
    return degradation_opt.get('type'), {key: value for key, value in degradation_opt.items() if key != 'type'}


def build_degradation(degradation_opt: str | Mapping[str, Any], device: torch.device | str) -> Degradation:
    """The registered callable with its arguments; a module is on the device."""
    name, arguments = name_and_arguments(degradation_opt)
    registered = DEGRADATION_REGISTRY.get(name)
    degradation: Any = registered(**arguments) if inspect.isclass(registered) else partial(registered, **arguments)
    return degradation.to(device) if isinstance(degradation, torch.nn.Module) else degradation


@torch.no_grad()
def degrade(degradation: Degradation, gt: torch.Tensor, seeds: Sequence[int], scale: int) -> torch.Tensor:
    """Makes the LQ frames (b, t, c, h, w) of a batch from ``gt`` (b, t, c, scale*h, scale*w), float32 RGB in [0, 1].

    ``seeds`` are those of the samples. Python's, NumPy's and torch's random states are seeded, on the device too, and
    restored afterwards: a degradation that draws from them is repeatable. One that seeds each sample by itself also
    gives the same in any batch.

    Raises:
        OptionError: If the degradation gives another shape.
    """
    with seeded(mix(*seeds), gt.device):
        lq = degradation(gt, seeds, scale)
    expected = (*gt.shape[:-2], gt.shape[-2] // scale, gt.shape[-1] // scale)
    if not torch.is_tensor(lq) or tuple(lq.shape) != expected:
        got = tuple(lq.shape) if torch.is_tensor(lq) else type(lq).__name__
        raise OptionError('train.degradation', f'make {expected} of {tuple(gt.shape)}', got, 'Correct what it gives.')
    return lq.float()


_SHRINKING = ('area', 'bilinear', 'bicubic')
_GRAY = 0.4  # share of samples whose noise is grey


@DEGRADATION_REGISTRY.register()
class BlurNoiseJPEG(torch.nn.Module):
    """The first order of Real-ESRGAN (Wang et al., arXiv 2107.10833, section 3.1), one draw for all frames of a sample.

    Each frame has noise of its own, with the same deviation, grey in all frames or in none. Single draws are made on
    the host, so that nothing waits for the device.

    Args:
        blur_sigma: Bounds of the deviations of an isotropic or anisotropic Gaussian kernel, in ground truth pixels.
        noise_sigma: Bounds of the deviation of Gaussian noise, in 255ths.
        jpeg_quality: Bounds of the JPEG quality, below 100, where BasicSR's code divides by 0.
        kernel_size: Side of the kernel, odd, in pixels.

    Raises:
        OptionError: If an argument is out of bounds.
    """

    def __init__(
        self,
        blur_sigma: Sequence[float] = (0.2, 3),
        noise_sigma: Sequence[float] = (1, 30),
        jpeg_quality: Sequence[float] = (30, 95),
        kernel_size: int = 21,
    ) -> None:
        super().__init__()
        for name, bounds, rule, holds in (
            ('blur_sigma', blur_sigma, 'two rising numbers above 0', lambda a, b: 0 < a < b),
            ('noise_sigma', noise_sigma, 'two numbers of at least 0, the smaller first', lambda a, b: 0 <= a <= b),
            (
                'jpeg_quality',
                jpeg_quality,
                'two numbers above 0 and below 100, the smaller first',
                lambda a, b: 0 < a <= b < 100,
            ),
        ):
            is_pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(map(is_number, bounds))
            if not is_pair or not holds(*bounds):
                raise OptionError(f'train.degradation.{name}', f'be {rule}', bounds, 'Write it as [a, b].')
        if type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0:
            rule, fix = 'be an odd number above 0', 'Correct the value.'
            raise OptionError('train.degradation.kernel_size', rule, kernel_size, fix)
        self._blur_sigma, self._noise_sigma, self._jpeg_quality = blur_sigma, noise_sigma, jpeg_quality
        self._kernel_size = kernel_size
        self._jpeg = DiffJPEG(differentiable=False)

    def forward(self, gt: torch.Tensor, seeds: Sequence[int], scale: int) -> torch.Tensor:
        """See :func:`degrade`; a sample depends only on its own seed."""
        return torch.stack([self._degrade(clip, seed, scale) for clip, seed in zip(gt, seeds, strict=True)])

    def _degrade(self, clip: torch.Tensor, seed: int, scale: int) -> torch.Tensor:
        """Takes (t, c, scale*h, scale*w), gives (t, c, h, w)."""
        with seeded(seed, clip.device):
            sigma = self._blur_sigma
            kernel = random_mixed_kernels(
                ['iso', 'aniso'], [0.7, 0.3], self._kernel_size, sigma, sigma, noise_range=None
            )
            # As float32 from pinned memory: the host does not wait for the copy.
            on_host = torch.empty(kernel.shape, pin_memory=clip.is_cuda).copy_(torch.from_numpy(kernel))
            blurred = filter2D(clip, on_host.to(clip.device, non_blocking=True)[None])
            sizes = (clip.shape[-2] // scale, clip.shape[-1] // scale)
            frames = interpolate(blurred, sizes, mode=random.choice(_SHRINKING))
            is_gray = np.random.uniform() < _GRAY
            noisy = frames[:, :1] if is_gray else frames
            frames = (frames + generate_gaussian_noise_pt(noisy, random.uniform(*self._noise_sigma))).clamp(0, 1)
            frames = self._jpeg(frames, random.uniform(*self._jpeg_quality))
        return (frames.clamp(0, 1) * 255).round() / 255
