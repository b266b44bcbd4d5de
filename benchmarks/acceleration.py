"""What each option that makes an iteration faster gains, against the model without it, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import run_rounds
from benchmarks.step import CALLS, OURS, SHAPES, model_of, of_options
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
    """Prints ms an iteration of the demo's network with each option, and how many times faster that is.

    The round that does not count is the one that compiles.
    """
    models = {name: model_of(root, OURS, **changes) for name, changes in OPTIONS.items()}
    found = of_options(models, SHAPES, rounds, CALLS)
    rows = [(name, *(f'{ms[name]:.1f} ({ms["none"] / ms[name]:.2f}x)' for ms in found.values())) for name in models]
    print('ms an iteration, and how many times faster than without the option:')
    print(format_table(('option', *map(str, SHAPES)), rows))


if __name__ == '__main__':
    run_rounds('acceleration', __doc__, measure)
