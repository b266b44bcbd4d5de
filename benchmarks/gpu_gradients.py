"""Whether an option trains as without it: its gradients against those of eager float32."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_plan import IN_PARTS, OPTIONS
from benchmarks.gpu_work import LONG, batch_of, clean_up, notes_of_the_log, on_host, stays_eager, train_next
from benchmarks.step import model_of
from multigrid_vsr.core.schedule import BatchShape, Schedule

# How far the gradient of a part of the network may be from eager float32's, as a share of its norm. A part that is
# missing or stale is off by about 1. On a CPU, with BasicVSR (64 features, 4 blocks) and four seeds, other layouts in
# float32 were off by up to 0.0005 (rounding takes a flow to the next pixel), bfloat16 by up to 0.06. Parts are compared
# because 95 % of the norm of the whole gradient is the last convolution, and 1 % a trunk.
_LIMIT, _HALF_LIMIT = 0.005, 0.25
Gradients = list[dict[str, torch.Tensor]]  # at each shape, by the part of the network
_eager_float32: dict[str, Gradients] = {}  # by arch


def try_option(
    root: Path, network: dict[str, Any], shapes: tuple[BatchShape, ...], option: str, count: int
) -> dict[str, Any]:
    """Compares the gradient of an option with eager float32's at each shape, after so many iterations of the shape.

    Returns:
        The verdict, the largest difference of a part of the network as a share of its norm, and what the log says of
        graphs and warns of.
    """
    clean_up()
    arch = network['type']
    if arch not in _eager_float32:
        _eager_float32[arch] = _gradients(root, network, shapes, 'none', count)
    with notes_of_the_log() as heard:
        found = _gradients(root, network, shapes, option, count)
    differences = [
        (gradients.get(part, 0) - gradient).norm() / gradient.norm()
        for gradients, expected in zip(found, _eager_float32[arch], strict=True)
        for part, gradient in expected.items()
    ]
    difference = float(torch.stack(differences).max())  # no number, where one is none
    verdict = 'stays eager' if stays_eager(option, heard, len(shapes)) else 'passes'
    if not difference <= (_HALF_LIMIT if 'amp' in OPTIONS.get(option, {}) else _LIMIT):
        verdict = 'WRONG'
    return {'verdict': verdict, 'difference': difference, 'notes': heard}


def _gradients(
    root: Path, network: dict[str, Any], shapes: tuple[BatchShape, ...], option: str, count: int
) -> Gradients:
    """Gradients for weights and frames that the iterations before did not have: a graph has to read the new ones."""
    torch.manual_seed(0)
    schedule = Schedule.from_shapes([(LONG, shape) for shape in shapes], shapes[-1])
    max_batch = 1 if option == IN_PARTS else None
    model = model_of(root, 'MultigridVideoModel', network, schedule, max_batch, **OPTIONS.get(option, {}))
    named = list(model.get_bare_model(model.net_g).named_parameters())
    generator = torch.Generator().manual_seed(1)
    weights = [p.detach().cpu() + 0.01 * torch.randn(p.shape, generator=generator) for _, p in named]
    found = []
    # Tuning would take most of the time, and with TensorFloat-32 kernels differ by more than by rounding.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        for place, shape in enumerate(shapes):
            batch = batch_of(model, {'lq': _waves(shape, shape.gt_size // 4), 'gt': _waves(shape, shape.gt_size)})
            iterations = itertools.count(place * LONG + 1)
            for _ in range(count):
                train_next(model, batch, iterations)
            for (_, parameter), weight in zip(named, weights):
                parameter.data.copy_(weight)
            train_next(model, {key: on_host(frames.flip(-2)) for key, frames in batch.items()}, iterations)
            parts: dict[str, list[torch.Tensor]] = {}
            for name, parameter in named:
                if parameter.grad is not None:
                    parts.setdefault(name.split('.')[0], []).append(parameter.grad.flatten())
            found.append({part: torch.cat(gradients) for part, gradients in parts.items()})
    if all(torch.equal(parameter.detach().cpu(), weight) for (_, parameter), weight in zip(named, weights)):
        raise ArithmeticError('no weight has changed')
    return found


def _waves(shape: BatchShape, side: int) -> torch.Tensor:
    """Smooth frames that move, uint8 (b, t, h, w, c): with noise, rounding decides the flow network's gradient."""
    sample, frame = torch.arange(shape.batch_size_per_gpu), torch.arange(shape.num_frame)
    place = torch.linspace(0, 9, side)
    phase = 2 * sample.view(-1, 1, 1, 1, 1) + 0.3 * frame.view(-1, 1, 1, 1) + torch.arange(3)
    return ((1 + torch.sin(phase + 0.7 * place.view(-1, 1, 1) + place.view(-1, 1))) * 127.5).byte()
