"""What ``train.checkpoint_modules`` saves and costs: memory that waits for the backward, and time, side by side."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import run_rounds
from benchmarks.step import batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape

NETWORK = {'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30}
SHAPES = (BatchShape(1, 3, 64), BatchShape(1, 7, 64))
PATTERNS: dict[str, list[str]] = {
    'none': [],
    'spynet': ['spynet'],
    '*_trunk': ['*_trunk'],
    '*_trunk, spynet': ['*_trunk', 'spynet'],
    '*_trunk.main.2.*': ['*_trunk.main.2.*'],  # each residual block by itself
}


def measure(root: Path, rounds: int) -> None:
    """Prints MB that are kept from the forward for the backward, and ms an iteration, with each list of modules.

    Args:
        root: Folder for what the models want to know of.
        rounds: Interleaved rounds, of which medians are taken.
    """
    models = {
        name: model_of(root, 'MultigridVideoModel', NETWORK, checkpoint_modules=patterns)
        for name, patterns in PATTERNS.items()
    }
    cells: dict[str, list[str]] = {name: [] for name in models}
    for shape in SHAPES:
        batch = batches_of(shape)['MultigridVideoModel']
        times: dict[str, list[float]] = {name: [] for name in models}
        for round_ in range(rounds + 1):
            for name, model in models.items():
                elapsed = run_step(model, batch)
                if round_ > 0:  # the first round warms up
                    times[name].append(elapsed)
        none = statistics.median(times['none'])
        for name, model in models.items():
            median = statistics.median(times[name])
            cells[name].append(f'{kept_bytes(model) / 1e6:.0f} MB, {median:.0f} ms ({median / none:.2f}x)')
    print('MB kept for the backward, ms an iteration and how many times that without the option:')
    print(format_table(('checkpoint_modules', *map(str, SHAPES)), [(name, *row) for name, row in cells.items()]))


def kept_bytes(model: Any) -> int:
    """Bytes that the forward of the last batch keeps for the backward: each tensor once, and no weights."""
    sizes: dict[int, int] = {}
    alive = []  # no place is given twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.net_g(model.lq)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.net_g.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


if __name__ == '__main__':
    run_rounds('checkpointing', __doc__, measure)
