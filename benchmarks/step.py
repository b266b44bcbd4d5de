"""An iteration, measured against BasicSR's side by side."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import medians, run_rounds
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.measure import build, one_device
from multigrid_vsr.models.clock import time_step
from multigrid_vsr.options.archs import ArchLimits, limits_of

STOCK, OURS = 'VideoRecurrentModel', 'MultigridVideoModel'
SHAPES = (BatchShape(2, 3, 64), BatchShape(2, 7, 64), BatchShape(2, 7, 128))  # of the base run
CALLS = 3  # of each in a round


def measure(root: Path, rounds: int) -> None:
    """Prints ms an iteration of both models at the same shapes, and what a boundary between shapes costs.

    The network is the base run's, with an EMA. Batches are in memory, floats for BasicSR's model, bytes for ours.
    """
    models = {name: model_of(root, name) for name in (STOCK, OURS)}
    rows = []
    for shape in SHAPES:
        batches = batches_of(shape)
        ms = medians({name: partial(run_step, models[name], batches[name]) for name in models}, rounds, CALLS)
        rows.append((str(shape), f'{ms[STOCK]:.1f}', f'{ms[OURS]:.1f}', f'{ms[OURS] / ms[STOCK]:.3f}'))
    print(f'ms an iteration; the ratio is {OURS} / {STOCK}:')
    print(format_table(('batch x frames x gt', *models, 'ratio'), rows))

    small, large = (partial(run_step, models[OURS], batches_of(shape)[OURS]) for shape in SHAPES[1:])
    boundaries, others = [], []
    for _ in range(rounds):
        for _ in range(CALLS):
            small()
        boundaries.append(large())
        others += [large() for _ in range(CALLS)]
    ratio = statistics.median(boundaries) / statistics.median(others)
    print(f'The first iteration after a boundary takes {ratio:.2f} of a median one of its shape.')


def of_options(
    models: Mapping[str, Any], shapes: Sequence[BatchShape], rounds: int, calls: int
) -> dict[BatchShape, dict[str, float]]:
    """ms an iteration of this project's models at each shape, measured in turns."""
    found = {}
    for shape in shapes:
        batch = batches_of(shape)[OURS]
        found[shape] = medians({name: partial(run_step, models[name], batch) for name in models}, rounds, calls)
    return found


def model_of(
    root: Path,
    name: str,
    network: dict[str, Any] | None = None,
    schedule: Schedule | None = None,
    max_batch: int | None = None,
    **train_opt: Any,
) -> Any:
    """A model of BasicSR or of this project on one device, of the base run's network unless another one is given.

    Without a schedule any shape can come. ``max_batch`` is ``multigrid.micro_batch_size_per_gpu``, and ``train_opt``
    changes the ``train`` block.
    """
    network = network or {'type': 'BasicVSR', 'num_feat': 16, 'num_block': 2}
    target = (limits_of(network) or ArchLimits()).target
    shape = {} if schedule is None else asdict(schedule.full_shape)
    opt = {
        'name': 'bench',
        'model_type': name,
        'scale': 4,
        'num_gpu': one_device(),
        'manual_seed': 0,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'is_train': True,
        'datasets': {'train': {'multigrid': schedule, 'target': target, **shape}},
        'multigrid': {'micro_batch_size_per_gpu': max_batch},
        'network_g': dict(network),
        'logger': {'save_checkpoint_freq': 10**9},
        'path': {'models': str(root), 'training_states': str(root)},
        'train': {
            'ema_decay': 0.999,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {
                'type': 'CosineAnnealingRestartLR',
                'periods': [1000 if schedule is None else schedule.total_iter],
                'restart_weights': [1],
            },
            'pixel_opt': {'type': 'CharbonnierLoss'},
            **train_opt,
        },
    }
    with contextlib.redirect_stderr(io.StringIO()):
        return build(opt)


def batches_of(shape: BatchShape) -> dict[str, dict[str, torch.Tensor]]:
    """The same batch as each model gets it."""
    from multigrid_vsr.data.batches import to_float_rgb

    lead = (shape.batch_size_per_gpu, shape.num_frame)
    generator = torch.Generator().manual_seed(0)
    stored = {
        key: torch.randint(256, (*lead, side, side, 3), dtype=torch.uint8, generator=generator)
        for key, side in (('lq', shape.gt_size // 4), ('gt', shape.gt_size))
    }
    return {STOCK: {key: to_float_rgb(frames) for key, frames in stored.items()}, OURS: stored}


def run_step(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Milliseconds of one iteration, its learning rate and its log included."""

    def iteration() -> None:
        model.update_learning_rate(2)
        model.feed_data(batch)
        model.optimize_parameters(2)
        model.get_current_log()

    return time_step(model.device, iteration).seconds * 1e3


if __name__ == '__main__':
    run_rounds('step', __doc__, measure)
