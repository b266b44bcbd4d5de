"""The network that the runs of an arch begin with, trained until it has left bilinear behind.

BasicSR's networks add to a bilinear enlargement, and a small one gives nothing but that for its first 150 iterations,
whatever the rate. When a run gets past it is a matter of luck, and in a run of minutes, unlike one of days, decides how
far the run comes by more than what the bench is to tell apart.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.train.one_run import trained
from benchmarks.train.options import Run, options, start_of
from multigrid_vsr.demo import training
from multigrid_vsr.measure import one_device

ITERS = 240
LONGER = {'edvr': 720}  # what gives bilinear still after so many


def make(root: Path, arch: str, iters: int | None) -> None:
    """Trains it at 128 pixels and 7 frames under the paper's rule, and writes it for ``pretrain_network_g``.

    Args:
        root: Folder of the bench, with its data and the flow network; weights that are there are kept.
        arch: Name of the network.
        iters: Iterations; ``None`` for as many as leave bilinear behind.

    Raises:
        InputError: If the run fails.
    """
    target = root / start_of(arch)
    if target.exists():
        return
    iters = iters or LONGER.get(arch, ITERS)
    run = Run('untrained_full', arch, gt_size=128, num_frame=7, rate=2e-3, iters=iters, seed=0)
    opt = {**options(run, one_device()), 'name': target.stem}
    with trained(root, opt, f'Train the start of {arch}', None) as folder:
        training.weights_of(folder, iters)[-1][1].rename(target)
