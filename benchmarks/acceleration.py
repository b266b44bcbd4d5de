"""What each option that makes an iteration faster gains, against the model without it, side by side."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness import run_rounds
from benchmarks.step import SHAPES, batches_of, model_of, run_step
from multigrid_vsr.core.plan import format_table

OPTIONS: dict[str, dict[str, Any]] = {
    'none': {},
    'optim_g.fused': {'optim_g': {'type': 'Adam', 'lr': 1e-4, 'fused': True}},
    'channels_last': {'channels_last': True},
    'amp: bf16': {'amp': 'bf16'},
    'compile': {'compile': True},
    'compile, channels_last': {'compile': True, 'channels_last': True},
    'compile, amp: bf16': {'compile': True, 'amp': 'bf16'},
}


def measure(root: Path, rounds: int) -> None:
    """Prints ms an iteration of the demo's network with each option, and the time without it over the time with it.

    What is compiled was so in the first round, which does not count.

    Args:
        root: Folder for what the models want to know of.
        rounds: Interleaved rounds, of which medians are taken.
    """
    models = {name: model_of(root, 'MultigridVideoModel', **changes) for name, changes in OPTIONS.items()}
    medians: dict[str, list[float]] = {name: [] for name in models}
    for shape in SHAPES:
        batch = batches_of(shape)['MultigridVideoModel']
        times: dict[str, list[float]] = {name: [] for name in models}
        for round_ in range(rounds + 1):
            for name, model in models.items():
                elapsed = [run_step(model, batch) for _ in range(3)]
                if round_ > 0:
                    times[name] += elapsed
        for name, values in times.items():
            medians[name].append(statistics.median(values))
    rows = [
        (name, *(f'{ms:.1f} ({none / ms:.2f}x)' for ms, none in zip(values, medians['none'])))
        for name, values in medians.items()
    ]
    print('ms an iteration, and how many times faster than without the option:')
    print(format_table(('option', *(str(shape) for shape in SHAPES)), rows))


if __name__ == '__main__':
    run_rounds('acceleration', __doc__, measure)
