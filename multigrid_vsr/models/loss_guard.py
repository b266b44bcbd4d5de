"""``train.stop_on_nan``: losses that are no numbers are counted on the device, and end the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import distributed
from torch.optim import Optimizer


class LossGuard:
    """Counts iterations in a row whose loss is NaN or infinite.

    Args:
        device: Where the losses are. Counting waits for nothing there.
        is_dist: Whether other ranks have losses of their own.
    """

    def __init__(self, device: torch.device, is_dist: bool) -> None:
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._is_dist = is_dist

    def add(self, losses: Mapping[str, torch.Tensor | float]) -> None:
        """Counts an iteration."""
        if losses:
            total = torch.as_tensor(sum(losses.values()), device=self._count.device)
            self._count = (self._count + 1) * ~torch.isfinite(total)

    def count(self, alone: bool = False) -> int:
        """Iterations in a row until now, the most of all ranks: each of them has to ask. The device is waited for.

        Args:
            alone: Whether no other rank asks.
        """
        count = self._count.clone()
        if self._is_dist and not alone:
            distributed.all_reduce(count, distributed.ReduceOp.MAX)
        return int(count)


def are_finite(optimizers: Iterable[Optimizer]) -> bool:
    """Whether all that is trained is finite: the gradient of a loss that is NaN makes all of it NaN."""
    with torch.no_grad():
        sums = [p.sum(dtype=torch.float64) for o in optimizers for group in o.param_groups for p in group['params']]
        return bool(torch.isfinite(torch.stack(sums)).all())
