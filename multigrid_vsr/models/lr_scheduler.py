"""Binds the closed form of the learning rate to torch."""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from multigrid_vsr.core.lr import CosineOptions, CosineSchedule
from multigrid_vsr.core.schedule import Schedule


class MultigridCosineLR(LRScheduler):
    """Learning rate that follows the stages; the formula is in :mod:`multigrid_vsr.core.lr`.

    Nothing accumulates: the rate is computed from the iteration and each group's ``initial_lr``, so a resumed run needs
    ``last_epoch`` alone.

    Args:
        optimizer: Optimizer whose groups keep their ratios, ``flow_lr_mul`` among them.
        schedule: Shapes of the run.
        options: ``train.scheduler``.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, options: CosineOptions) -> None:
        self._rates = CosineSchedule(schedule, options)
        self._last_iteration = schedule.total_iter - 1
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        iteration = min(self.last_epoch, self._last_iteration)
        return [self._rates.at(iteration, float(base_lr)) for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, int]:
        """The iteration alone."""
        return {'last_epoch': self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on after ``last_epoch``; other values of a foreign scheduler are left out."""
        self.last_epoch = state_dict['last_epoch']
