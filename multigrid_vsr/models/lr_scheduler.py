"""Binds the closed form of the learning rate to torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from multigrid_vsr.core.lr import CosineOptions, CosineSchedule, batch_factor
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
        last_epoch = state_dict['last_epoch']
        # At its first step torch warns if the optimizer has not stepped in this process; here it has, before the state.
        super().load_state_dict({'last_epoch': last_epoch, '_step_count': max(last_epoch, 1) + 1})


class BatchScaling:
    """Multiplies the rates of a scheduler of BasicSR by the factor of the batch.

    BasicSR's ``MultiStepRestartLR`` computes a rate from the one before, so the factor is taken off while the
    scheduler works: it neither compounds nor drifts. The rate without it is kept in the parameter group, and so in the
    optimizer's state.

    Args:
        optimizers: Optimizers whose rates are scaled.
        schedule: Shapes of the run.
        batch_scaling: ``none``, ``sqrt`` or ``linear``.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedule: Schedule, batch_scaling: str) -> None:
        self._optimizers = optimizers
        self._schedule = schedule
        self._batch_scaling = batch_scaling

    @contextmanager
    def taken_off(self, current_iter: int) -> Iterator[None]:
        """Gives the scheduler its own rates, then scales what it has made of them for ``current_iter``."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group in groups:
            group['lr'] = group.get('unscaled_lr', group['lr'])
        yield
        factor = batch_factor(self._schedule, current_iter - 1, self._batch_scaling)
        for group in groups:
            group['unscaled_lr'] = group['lr']
            group['lr'] *= factor


RESTARTABLE = (
    MultiStepRestartLR,
    CosineAnnealingRestartLR,
    MultigridCosineLR,
)  # whose rates follow from the option file


def rates_of(optimizers: Iterable[Optimizer]) -> list[tuple[float, float]]:
    """The rate of each parameter group, and the one that it began with."""
    return [(group['lr'], group['initial_lr']) for optimizer in optimizers for group in optimizer.param_groups]


def put_rates(optimizers: Iterable[Optimizer], rates: Iterable[tuple[float, float]]) -> None:
    """Puts back what :func:`rates_of` gave."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    for group, (lr, initial_lr) in zip(groups, rates, strict=True):
        group.pop('unscaled_lr', None)
        group.update(lr=lr, initial_lr=initial_lr)


def turning_points(schedulers: Iterable[Any], warmup_iter: int, last: int) -> list[int]:
    """The iterations up to ``last`` that a scheduler of BasicSR has to see: between them its rate stays.

    Those of its ``MultiStepRestartLR`` follow from the rate before, BasicSR's warm-up among them; the others are closed
    forms, and see the last iteration only.
    """
    points = {warmup_iter - 1, last}
    for scheduler in schedulers:
        if isinstance(scheduler, MultiStepRestartLR):
            points |= {epoch + 1 for epoch in (*scheduler.milestones, *scheduler.restarts)}
    return sorted(point for point in points if 1 <= point <= last)
