"""What is looked at while a run trains: its time, its losses, the norm of its gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.core.run_lines import span
from multigrid_vsr.models import checkpoint
from multigrid_vsr.models.beside import Beside
from multigrid_vsr.models.grad_clip import GradClip
from multigrid_vsr.models.loss_guard import LossGuard, are_finite
from multigrid_vsr.models.precision import has_bf16
from multigrid_vsr.models.preflight import preflight
from multigrid_vsr.models.progress import Progress, shows_progress
from multigrid_vsr.models.run_clock import RunClock
from multigrid_vsr.models.shape_times import time_shapes
from multigrid_vsr.options.launches import known_run_launches
from multigrid_vsr.options.stock_run import stock_run_of
from multigrid_vsr.options.watch_table import MOST_NAN


class RunWatch:
    """Watches the run of a model.

    Args:
        model: A model with ``MultigridMixin``, in training.

    Attributes:
        beside: What of it fails.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        opt = model.opt
        self.clock = RunClock(model.schedule, opt, model.device) if model.schedule is not None else None
        RunClock.current = self.clock
        self._most_nan = opt['train'].get('stop_on_nan', MOST_NAN)
        self._guard = LossGuard(model.device, opt['dist']) if self._most_nan else None
        self._clip: GradClip | None = None
        if opt['train'].get('grad_clip_norm'):
            self._clip = GradClip(model.optimizers, opt['train']['grad_clip_norm'])
        self._progress = Progress(opt)
        self.beside = Beside()
        self._current_iter = 0

    def say_schedule(self, rate: Rate | None) -> None:
        """The table that ``multigrid-vsr plan`` prints."""
        schedule, opt = self._model.schedule, self._model.opt
        if schedule is not None:
            ranks = checkpoint.ranks(opt)
            launches = known_run_launches(opt, schedule) if self._model.device.type == 'cuda' else None
            table = stage_table(schedule, ranks, rate, launches)
            get_root_logger().info(f'Multigrid schedule:\n{table}')
            get_root_logger().info(comparison(schedule, ranks, stock_run_of(opt, ranks), launches))
            for note in shape_notes(schedule, opt.get('scale', 1)):
                get_root_logger().info(note)

    def before_iteration(self, current_iter: int) -> None:
        if self.clock is not None:
            self.clock.begin(current_iter)

    def try_shapes(self, current_iter: int) -> None:
        """Tries the shapes to come before the first iteration here: what does not fit, and what each takes.

        Raises:
            InputError: As :func:`preflight`.
        """
        if self.clock is not None:
            with self.clock.spending('trial'):
                preflight(self._model, self._model.schedule, current_iter)
                self.clock.tried = time_shapes(self._model, self._model.schedule, current_iter)
            if not self._model.opt['train'].get('cuda_graph'):  # what the line advises
                self.clock.say_tried()

    def before_step(self, scaler: torch.amp.GradScaler, optimizer: Any) -> None:
        """Called with the whole gradient, before the scaler's step: it is measured without the factor of fp16.

        A fused optimizer would divide by it in its kernel, after that.
        """
        if self._clip is not None:
            scaler.unscale_(optimizer)

    def after_iteration(self, current_iter: int, losses: dict[str, Any]) -> None:
        self._current_iter = current_iter
        if self._guard is not None:
            self._guard.add(losses)
        if self.clock is not None:
            self.clock.end(current_iter)
        self._progress.after_iteration(current_iter)

    def spending(self, on: str) -> AbstractContextManager[None]:
        """Time that is no step: see :meth:`RunClock.spending`."""
        return self.clock.spending(on) if self.clock is not None else nullcontext()

    def logged(self, losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The values of a log line; all ranks ask for them.

        Args:
            losses: Gives the means over ranks; waits for the device.

        Raises:
            OptionError: If the loss has been no number for too long.
        """
        with self.spending('step'):
            values = dict(losses())
            if self._guard is not None:
                self._stop_if_nan(self._guard.count())
            if self._clip is not None:
                values.update(self._clip.norms())
        if self.clock is not None and shows_progress(self._model.opt):
            left = span(self.clock.seconds_left(self._current_iter))
            self._progress.say(f'[{self._model.schedule.at_current_iter(self._current_iter).shape}], {left} left')
        return values

    def may_save(self, is_last: bool, alone: bool) -> bool:
        """Whether the weights are worth a checkpoint: a run that has blown up would push good ones out.

        Args:
            is_last: Whether the run ends here: a single loss that is no number says nothing of the weights.
            alone: Whether this rank saves alone.
        """
        if self._guard is None:
            return True
        return (is_last or self._guard.count(alone) == 0) and are_finite(self._model.optimizers)

    def end(self) -> None:
        """At the end of training."""
        if self.clock is not None:
            self.clock.finish()
        self._progress.close()

    def give_up(self, count: int = 0) -> NoReturn:
        """Ends a run whose loss is no number, on all ranks; rank 0 says what to do.

        Args:
            count: Iterations in a row until now; 0 for weights that are no numbers at the end of the run.

        Raises:
            OptionError: On rank 0.
        """
        self._progress.close()
        if self._model.opt['rank'] != 0:
            sys.exit(1)
        train_opt = self._model.opt['train']
        iteration = self._current_iter
        shape = '' if self._model.schedule is None else f'[{self._model.schedule.at_current_iter(iteration).shape}], '
        rate = self._model.get_current_learning_rate()[0]
        ways = ['Lower train.optim_g.lr', 'lengthen train.scheduler.warmup_iter']
        ways += [] if self._clip else ['set train.grad_clip_norm: 1']
        if train_opt.get('amp') == 'fp16':
            ways.append('use train.amp: bf16' if has_bf16(self._model.device) else 'leave train.amp out')
        states = checkpoint.saved_states(Path(self._model.opt['path']['training_states']))
        kept = f'--auto_resume goes on from iteration {states[0].stem}' if states else 'no checkpoint was there yet'
        found = f'none for {count}' if count else 'weights that are NaN'
        raise OptionError(
            'train.stop_on_nan',
            f'see a finite loss within {self._most_nan} iterations',
            f'{found} at iteration {iteration} ({shape}learning rate {rate:.1e})',
            f'{", ".join(ways[:-1])}, or {ways[-1]}; {kept}.',
        )

    def _stop_if_nan(self, count: int) -> None:
        if count >= self._most_nan:
            self.give_up(count)
