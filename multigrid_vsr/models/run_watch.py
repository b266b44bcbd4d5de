"""What is watched while a run trains: its time, its losses, the norm of its gradient, and what fails beside it."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from torch import distributed
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.core.timing import span
from multigrid_vsr.models import checkpoints
from multigrid_vsr.models.acceleration import has_bf16
from multigrid_vsr.models.preflight import preflight
from multigrid_vsr.models.run_clock import RunClock, time_shapes
from multigrid_vsr.options.launches import known_run_launches
from multigrid_vsr.options.run_options import stock_run_of
from multigrid_vsr.options.table import MOST_NAN


class Beside:
    """Counts what fails."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        for handler in get_root_logger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = partial(_say_once, handler, set())  # type: ignore[method-assign]

    def failed(self, what: str, why: object) -> int:
        """Says that something failed; returns how often in a row it did."""
        self._in_a_row[what] += 1
        count = self._in_a_row[what]
        times = f', {count} times in a row' if count > 1 else ''
        kind = f'{type(why).__name__}: ' if isinstance(why, Exception) and not isinstance(why, InputError) else ''
        reason = one_line(f'{kind}{why}', 400).rstrip('.')
        get_root_logger().error(f'{what} failed{times}: {reason}. Training goes on.')
        return count

    def worked(self, what: str) -> None:
        """Forgets the failures before."""
        self._in_a_row.pop(what, None)


class TensorBoardLogger:
    """A ``SummaryWriter`` whose failures are said; it is made anew for the next iteration that is written.

    Args:
        make: Makes the writer.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._writer: Any = None
        self._failed_at: Any = None  # the iteration
        self._beside = Beside()
        threading.excepthook = _quiet_about_tensorboard

    def __getattr__(self, name: str) -> Callable[..., None]:
        def write(*args: Any, **kwargs: Any) -> None:
            step = args[2] if len(args) > 2 else kwargs.get('global_step')
            if self._failed_at is not None and step in (None, self._failed_at):
                return
            try:
                if self._writer is None:
                    self._writer = self._make()
                getattr(self._writer, name)(*args, **kwargs)
            except Exception as error:  # of any writer: of the disk, of wandb
                self._failed_at = 'its end' if step is None else step
                self._writer = None  # its thread has ended
                self._beside.failed('TensorBoard', error)
            else:
                if self._failed_at is not None:
                    self._failed_at = None
                    self._beside.worked('TensorBoard')

        return write


def _say_once(handler: logging.FileHandler, said: set[str], record: logging.LogRecord) -> None:
    """What Python's logging does where a line cannot be written, but once and without a traceback."""
    why = one_line(sys.exc_info()[1])
    if why not in said:
        said.add(why)
        print(f'The log file {handler.baseFilename} cannot be written ({why}). Training goes on.', file=sys.stderr)


def _quiet_about_tensorboard(args: threading.ExceptHookArgs) -> None:
    """Leaves out the traceback of a writer's thread, whose error comes again where it is written to."""
    if args.thread is None or not type(args.thread).__module__.startswith('tensorboard.'):
        threading.__excepthook__(args)


def shows_progress(opt: Mapping[str, Any]) -> bool:
    """Whether this process has a bar: on rank 0; with ``auto`` where stderr is a terminal."""
    asked = (opt.get('logger') or {}).get('progress', 'auto')  # a test run has no such block
    return opt['rank'] == 0 and (sys.stderr.isatty() if asked in ('auto', None) else asked)


class Progress:
    """The bar of a run; log files have none of it.

    Args:
        opt: Options of the run.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self._opt = opt
        self._bar: tqdm | None = None
        self._redirected = ExitStack()

    def after_iteration(self, current_iter: int) -> None:
        """Shows that an iteration is done."""
        if not shows_progress(self._opt):
            return
        with suppress(OSError):  # of a terminal that has closed
            if self._bar is None:
                self._redirected.enter_context(logging_redirect_tqdm([get_root_logger()]))
                total = self._opt['train']['total_iter']
                self._bar = tqdm(total=total, initial=current_iter - 1, desc=self._opt['name'], unit='iter')
            self._bar.update(current_iter - self._bar.n)

    def say(self, text: str) -> None:
        """Shows a few words behind the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Ends the bar; lines go where they went before."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
        self._redirected.close()
        self._bar = None


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


_NAMES = ('grad_norm', 'grad_norm_d')  # of the generator, and of the discriminator of a GAN run


class GradClip:
    """Scales gradients down to a norm, right before the step of each optimizer, whichever code calls it.

    The norm is that of the whole gradient: all parts of a batch, and all ranks.

    Args:
        optimizers: Those of the run, the generator's first.
        max_norm: The bound.
    """

    def __init__(self, optimizers: Sequence[Optimizer], max_norm: float) -> None:
        self._norms: dict[str, torch.Tensor] = {}
        for name, optimizer in zip(_NAMES, optimizers):
            optimizer.register_step_pre_hook(partial(self._clip, name, max_norm))

    def norms(self) -> dict[str, float]:
        """The norms of the last step, before they were scaled; the device is waited for."""
        return {name: float(norm) for name, norm in self._norms.items()}

    def _clip(self, name: str, max_norm: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        self._norms[name] = torch.nn.utils.clip_grad_norm_(parameters, max_norm)


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
            ranks = checkpoints.ranks(opt)
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
        states = checkpoints.saved_states(Path(self._model.opt['path']['training_states']))
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
