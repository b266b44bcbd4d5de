"""What ``train.checkpoint_modules`` saves and costs: memory that waits for the backward, and time, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import run_rounds
from benchmarks.step import OURS, batches_of, model_of, of_options
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
    """Prints the MB that the forward keeps for the backward, and ms an iteration, with each list of modules."""
    models = {name: model_of(root, OURS, NETWORK, checkpoint_modules=these) for name, these in PATTERNS.items()}
    found = of_options(models, SHAPES, rounds, calls=1)
    cells: dict[str, list[str]] = {name: [] for name in models}
    for shape, ms in found.items():
        for name, model in models.items():
            model.feed_data(batches_of(shape)[OURS])
            cells[name].append(f'{kept_bytes(model) / 1e6:.0f} MB, {ms[name]:.0f} ms ({ms[name] / ms["none"]:.2f}x)')
    print('MB kept for the backward, ms an iteration and how many times that without the option:')
    print(format_table(('checkpoint_modules', *map(str, SHAPES)), [(name, *row) for name, row in cells.items()]))


def kept_bytes(model: Any) -> int:
    """Bytes that the forward of the last batch keeps for the backward: each tensor once, and no weights."""
    sizes: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.net_g(model.lq)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.net_g.parameters()}
    return sum(size for address, size in sizes.items() if address not in weights)


if __name__ == '__main__':
    run_rounds('checkpointing', __doc__, measure)
