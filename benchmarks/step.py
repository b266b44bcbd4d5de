"""An iteration, measured against BasicSR's side by side."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import run_rounds
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.measure import build, one_device
from multigrid_vsr.options.archs import ArchLimits, limits_of

SHAPES = (BatchShape(2, 3, 64), BatchShape(2, 7, 64), BatchShape(2, 7, 128))  # those of the demo


def measure(root: Path, rounds: int) -> None:
    """Prints ms an iteration of both models at the same shapes, and what a boundary costs.

    The network is the demo's, with an EMA; batches are tensors in memory, floats for BasicSR's model and bytes for
    this project's, as each gets them.

    Args:
        root: Folder for what the models want to know of.
        rounds: Interleaved rounds, of which medians are taken.
    """
    models = {name: model_of(root, name) for name in ('VideoRecurrentModel', 'MultigridVideoModel')}
    rows = []
    for shape in SHAPES:
        batches = batches_of(shape)
        times: dict[str, list[float]] = {name: [] for name in models}
        for round_ in range(rounds + 1):
            # Who comes first has the caches of the other: they take turns.
            for name, model in list(models.items())[:: 1 if round_ % 2 else -1]:
                elapsed = [run_step(model, batches[name]) for _ in range(3)]
                if round_ > 0:  # the first round warms up
                    times[name] += elapsed
        stock, ours = (statistics.median(values) for values in times.values())
        rows.append((str(shape), f'{stock:.1f}', f'{ours:.1f}', f'{ours / stock:.3f}'))
    print('ms an iteration; the ratio is MultigridVideoModel / VideoRecurrentModel:')
    print(format_table(('batch x frames x gt', *models, 'ratio'), rows))

    small, large = batches_of(SHAPES[1])['MultigridVideoModel'], batches_of(SHAPES[2])['MultigridVideoModel']
    model = models['MultigridVideoModel']
    boundaries, others = [], []
    for _ in range(rounds):
        for _ in range(3):
            run_step(model, small)
        boundaries.append(run_step(model, large))
        others += [run_step(model, large) for _ in range(3)]
    boundary, other = statistics.median(boundaries), statistics.median(others)
    print(f'The first iteration after a boundary takes {boundary / other:.2f} of a median one of its shape.')


def model_of(
    root: Path,
    name: str,
    network: dict[str, Any] | None = None,
    schedule: Schedule | None = None,
    max_batch: int | None = None,
    **train_opt: Any,
) -> Any:
    """A model of BasicSR or of this project on one device.

    Args:
        root: Folder for what the model wants to know of.
        name: ``model_type``.
        network: ``network_g``; that of the demo without it.
        schedule: Shapes of the run; ``None`` for any.
        max_batch: ``multigrid.micro_batch_size_per_gpu``.
        train_opt: Changes of the ``train`` block.
    """
    network = network or {'type': 'BasicVSR', 'num_feat': 16, 'num_block': 2}
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
        'datasets': {
            'train': {
                'multigrid': schedule,
                'target': (limits_of(network) or ArchLimits()).target,
                **({} if schedule is None else asdict(schedule.full_shape)),
            }
        },
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
    floats = {key: to_float_rgb(frames) for key, frames in stored.items()}
    return {'VideoRecurrentModel': floats, 'MultigridVideoModel': stored}


def run_step(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Milliseconds of one iteration, the learning rate and the log of it included."""
    start = time.perf_counter()
    model.update_learning_rate(2)
    model.feed_data(batch)
    model.optimize_parameters(2)
    model.get_current_log()
    if model.device.type == 'cuda':
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


if __name__ == '__main__':
    run_rounds('step', __doc__, measure)
