"""The run: one object that the model, the loader and the log line share.

BasicSR's loop shows them nothing of each other, but it gives each of them ``datasets.train``. So ``parse_options``
(host/entry.py), where a run begins, makes a :class:`Run` and puts it there. BasicSR copies options, and a copy of a run
is the run itself. A worker process gets ``None``. A model without a schedule makes a run of its own.

The loop calls nothing when an iteration is over. So :meth:`Run.end_iteration` is called by whatever comes next: the log
line, a save, a validation, or the next batch. A model's own step may then be any function.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from torch import distributed
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.core.lr import Rate
from multigrid_vsr.core.plan import comparison, shape_notes, stage_table
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.models.acceleration import has_bf16
from multigrid_vsr.models.checkpoints import KeptCheckpoints, ranks, saved_states
from multigrid_vsr.models.clock import Clock, span
from multigrid_vsr.models.failures import Failures
from multigrid_vsr.models.preflight import preflight, time_shapes
from multigrid_vsr.models.stop_signal import Stopped, StopSignal, end_at_once
from multigrid_vsr.options.launches import known_run_launches
from multigrid_vsr.options.run_options import stock_run_of
from multigrid_vsr.options.table import MOST_NAN

_NORMS = ('grad_norm', 'grad_norm_d')  # of the generator, and of the discriminator of a GAN run


class LossGuard:
    """Counts iterations in a row whose loss is NaN or infinite, on the device."""

    def __init__(self, device: torch.device, is_dist: bool) -> None:
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._is_dist = is_dist

    def add(self, losses: Mapping[str, torch.Tensor | float]) -> None:
        """Counts an iteration; waits for nothing."""
        if losses:
            total = torch.as_tensor(sum(losses.values()), device=self._count.device)
            self._count = (self._count + 1) * ~torch.isfinite(total)

    def count(self, alone: bool = False) -> int:
        """Iterations in a row until now, the most of all ranks, which have to ask together unless one is ``alone``."""
        count = self._count.clone()
        if self._is_dist and not alone:
            distributed.all_reduce(count, distributed.ReduceOp.MAX)
        return int(count)


class GradClip:
    """Scales gradients down to a norm, right before the step of each optimizer, whichever code calls it.

    The norm is that of the whole gradient: all micro-batches, and all ranks.
    """

    def __init__(self, optimizers: Sequence[Optimizer], max_norm: float) -> None:
        self._norms: dict[str, torch.Tensor] = {}
        for name, optimizer in zip(_NORMS, optimizers):
            optimizer.register_step_pre_hook(partial(self._clip, name, max_norm))

    def norms(self) -> dict[str, float]:
        """The norms of the last step, before they were scaled. Waits for the device."""
        return {name: float(norm) for name, norm in self._norms.items()}

    def _clip(self, name: str, max_norm: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._norms[name] = torch.nn.utils.clip_grad_norm_(_parameters([optimizer]), max_norm)


def _parameters(optimizers: Sequence[Optimizer]) -> list[torch.Tensor]:
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group['params']]


def shows_progress(opt: Mapping[str, Any]) -> bool:
    """Whether this process has a bar: on rank 0; with ``auto`` where stderr is a terminal."""
    asked = (opt.get('logger') or {}).get('progress', 'auto')  # a test run has no such block
    return opt['rank'] == 0 and (sys.stderr.isatty() if asked in ('auto', None) else asked)


class _Progress:
    """The bar of a run, on the terminal only, which may close."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self._opt = opt
        self._bar: tqdm | None = None
        self._redirected = ExitStack()

    def show(self, current_iter: int, text: str = '') -> None:
        """Shows that an iteration is done, and a few words behind the bar."""
        if not shows_progress(self._opt):
            return
        with suppress(OSError):
            if self._bar is None:
                self._redirected.enter_context(logging_redirect_tqdm([get_root_logger()]))
                total = self._opt['train']['total_iter']
                self._bar = tqdm(total=total, initial=current_iter - 1, desc=self._opt['name'], unit='iter')
            self._bar.update(current_iter - self._bar.n)
            if text:
                self._bar.set_postfix_str(text)

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
        self._redirected.close()
        self._bar = None


class Run:
    """One training run, with a schedule or without: its clock, its losses, its checkpoints, and how it stops.

    Attributes:
        clock: Times the iterations; ``None`` without a schedule, and until a model trains.
        stop_signal: What a signal asks for.
        failures: What failed beside training.
        is_alone: Whether this rank saves without the others.
    """

    def __init__(self, schedule: Schedule | None) -> None:
        self.schedule = schedule
        self.clock: Clock | None = None
        self._model: Any = None  # one of another plugin never starts, and nothing here acts
        self._ends_with: InputError | SystemExit | None = None
        self._under_way = self._done = self._saved = 0  # iterations, counted from 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return types.NoneType, ()  # in a worker

    def __repr__(self) -> str:
        return 'Run()' if self.schedule is None else f'Run({self.schedule.total_iter} iterations)'

    def start(self, model: Any) -> None:
        """Begins to train a model, which has ``MultigridMixin``."""
        opt = model.opt
        self._model, self._opt = model, opt
        self.clock = Clock(self.schedule, opt, model.device) if self.schedule is not None else None
        self.stop_signal = StopSignal(opt['dist'], model.device)
        self.stop_signal.has_nothing_to_save = True
        self.failures = Failures()
        self._most_nan = opt['train'].get('stop_on_nan', MOST_NAN)
        self._guard = LossGuard(model.device, opt['dist']) if self._most_nan else None
        norm = opt['train'].get('grad_clip_norm')
        self._clip = GradClip(model.optimizers, norm) if norm else None
        self._progress = _Progress(opt)
        self._kept = KeptCheckpoints(opt)
        self._under_way = self._done = self._saved = 0
        self._error: InputError | None = None
        self._ends_with = None
        self._is_stopping = self._has_tried = self.is_alone = False
        if opt['dist']:
            sys.excepthook = partial(self._end_if_others_left, sys.excepthook)

    def log_schedule(self, rate: Rate | None) -> None:
        """Logs the table that ``multigrid-vsr plan`` prints."""
        schedule, opt = self.schedule, self._opt
        if schedule is not None:
            gpus = ranks(opt)
            launches = known_run_launches(opt, schedule) if self._model.device.type == 'cuda' else None
            table = stage_table(schedule, gpus, rate, launches)
            compared = comparison(schedule, gpus, stock_run_of(opt, gpus), launches)
            for text in (f'Multigrid schedule:\n{table}', compared, *shape_notes(schedule, opt.get('scale', 1))):
                get_root_logger().info(text)

    def try_shapes(self, current_iter: int) -> None:
        """Tries the shapes to come, before the first iteration only: what does not fit, and what each takes."""
        if self.clock is not None and self.schedule is not None and not self._has_tried:
            self._has_tried = True
            with self.counted_as('trial'):
                preflight(self._model, self.schedule, current_iter)
                self.clock.tried = time_shapes(self._model, self.schedule, current_iter)
            if not self._opt['train'].get('cuda_graph'):  # what the line advises
                self.clock.log_tried()

    def begin_iteration(self, current_iter: int) -> None:
        """Called first in an iteration. From here on there is something to save."""
        self.end_iteration()
        self.leave_if_stopped()
        self.stop_signal.has_nothing_to_save = False
        self._under_way = current_iter
        if self.clock is not None:
            self.clock.begin(current_iter)

    def end_iteration(self) -> None:
        """Ends the iteration that is under way, if there is one; saves it if the run has to stop.

        The run then ends in :meth:`leave_if_stopped`, after the log line of the iteration.
        """
        if not self._under_way:
            return
        self._done, self._under_way = self._under_way, 0
        if self._guard is not None:
            self._guard.add(getattr(self._model, '_losses', None) or getattr(self._model, 'log_dict', {}))
        if self.clock is not None:
            self.clock.end(self._done)
        self._progress.show(self._done)
        signal = self.stop_signal.after_iteration()
        if signal or self._error:
            self._save_to_stop('The run cannot go on' if self._error else f'Asked to stop by signal {signal}')
            self._ends_with = self._error or SystemExit(128 + signal)

    def end_with(self, error: InputError) -> None:
        """Lets the run end with an error as soon as the iteration is done and saved; all ranks have to call it."""
        self._error = error

    def leave_if_stopped(self) -> None:
        """Ends a run that has to stop.

        Raises:
            InputError: What :meth:`end_with` was told.
            SystemExit: After a signal.
        """
        if self._ends_with is not None:
            self.stop_signal.wait_for_all()
            self._finish()
            raise self._ends_with

    @contextmanager
    def waiting_for_batch(self) -> Iterator[None]:
        """A signal ends the waiting after a while: the iteration of the other ranks cannot go on."""
        if self._model is None:  # of another plugin
            yield
            return
        try:
            with self.stop_signal.can_leave():
                yield
        except Stopped:
            self._leave_alone()

    def counted_as(self, what: str) -> AbstractContextManager[None]:
        """Time that is not an iteration's: see :meth:`Clock.counted_as`."""
        return self.clock.counted_as(what) if self.clock is not None else nullcontext()

    def before_step(self, scaler: torch.amp.GradScaler, optimizer: Any) -> None:
        """Takes the factor of fp16 out of a gradient that is clipped; a fused optimizer does so only in its kernel."""
        if self._clip is not None:
            scaler.unscale_(optimizer)

    def log_values(self, losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The values of a log line; all ranks ask for them, and wait for the device.

        Raises:
            OptionError: If the loss has not been finite for too long.
        """
        self.end_iteration()
        with self.counted_as('step'):
            values = dict(losses())
            if self._guard is not None and (count := self._guard.count()) >= self._most_nan:
                self.give_up(count)
            if self._clip is not None:
                values.update(self._clip.norms())
        if self.clock is not None and self.schedule is not None and self._done:
            shape = self.schedule.at_current_iter(self._done).shape
            self._progress.show(self._done, f'[{shape}], {span(self.clock.seconds_left(self._done))} left')
        return values

    @contextmanager
    def saving(self, current_iter: int) -> Iterator[bool]:
        """A checkpoint of an iteration is written inside, or the last weights for -1; gives whether they are wanted.

        A full disk costs this checkpoint, but neither the older ones nor the run. A run that has blown up is not saved:
        that would push good checkpoints out.

        Raises:
            InputError: If the weights at the end of the run cannot be written, or are not finite.
            SystemExit: If a signal came while all ranks waited for the writing.
        """
        self.end_iteration()
        self.leave_if_stopped()
        is_last = current_iter == -1
        if is_last:
            self._finish()
        with self.counted_as('saving'):
            if not self._may_save(is_last):
                if is_last:
                    self.give_up()
                get_root_logger().error(
                    f'Iteration {current_iter} is not saved: its loss or weights are NaN or infinite.'
                )
                yield False
                return
            try:
                yield True
            except OSError as error:
                if is_last:
                    raise InputError(f'{error}. Make room and run again with --auto_resume.') from None
                get_root_logger().error(f'{error}. The checkpoints before stay, and training goes on: make room.')
            else:
                self._saved = max(current_iter, self._saved)
                if self._opt['rank'] == 0 and not is_last:
                    self._kept.prune(current_iter)
            signal = 0 if self._is_stopping or self.is_alone else self.stop_signal.meet()[0]
        if is_last:
            self.stop_signal.restore()
        if signal:
            self.stop(Stopped(signal))

    @property
    def writes(self) -> bool:
        """Whether this rank writes checkpoints."""
        return self._opt['rank'] == 0 or self.is_alone

    def keep_best(self, dataset: str, current_iter: int | str) -> None:
        """Keeps the weights of the best validation; saves them where they are not saved yet."""
        model = self._model
        if self._opt['rank'] != 0 or not self._kept.is_best(model, dataset, current_iter):
            return
        try:
            if not (Path(self._opt['path']['models']) / f'net_g_{current_iter}.pth').is_file():
                has_average = model.ema_decay > 0
                nets = [model.net_g, *([model.net_g_ema] if has_average else [])]
                keys = ['params', *(['params_ema'] if has_average else [])]
                model.save_network(nets, 'net_g', int(current_iter), keys)
            self._kept.save_best()
        except OSError as error:
            get_root_logger().error(f'{error}. The best weights are not kept: make room.')
        else:
            self._kept.prune(int(current_iter))

    def save_before_failing(self) -> None:
        """Saves the last iteration of a run that a frame ends, on the rank that met it: others wait for its gradient.

        What all ranks share is the same there. Only BatchNorm's statistics, which rank 0 gives to all in the next
        iteration, may differ.
        """
        if self._model is None:
            return
        if self._done > 0:
            get_root_logger().warning('A frame cannot be read: saving first.')
            self.is_alone = True
            self._model.save(0, self._done)
        self.stop_signal.restore()

    def stop(self, stopped: Stopped) -> None:
        """Saves what is not saved yet and ends the run, or this rank where it cannot meet the others."""
        if not stopped.signal and self._opt['dist']:
            self._leave_alone()
        signal = stopped.signal or self.stop_signal.received
        self._save_to_stop(f'Asked to stop by signal {signal}')
        self._ends_with = SystemExit(128 + signal)
        self.leave_if_stopped()

    def _leave_alone(self) -> NoReturn:
        """Ends this rank without the others; the first one to come here saves."""
        signal = self.stop_signal.received
        if self.stop_signal.is_first_to_leave(self._opt['rank']):
            self.is_alone = True
            self._save_to_stop(f'Asked to stop by signal {signal}')
        self._finish()
        end_at_once(128 + signal)  # in good order, it would wait for the batch

    def _save_to_stop(self, why: str) -> None:
        get_root_logger().warning(f'{why}: saving first.')
        self._is_stopping = True
        if self._saved != self._done:
            self._model.save(0, self._done)

    def _end_if_others_left(self, hook: Callable[..., Any], kind: Any, error: Any, traceback: Any) -> None:
        """Ends a rank whose step has failed because other ranks were asked to stop: one of them has saved."""
        if isinstance(error, RuntimeError) and self.stop_signal.has_others_that_left():
            end_at_once(128 + self.stop_signal.received)
        hook(kind, error, traceback)

    def _finish(self) -> None:
        if self.clock is not None:
            self.clock.finish()
        self._progress.close()

    def _may_save(self, is_last: bool) -> bool:
        """Whether the weights are finite, and the last loss too; at the end of a run a single loss says nothing."""
        if self._guard is None:
            return True
        if not is_last and self._guard.count(self.is_alone) > 0:
            return False
        with torch.no_grad():
            sums = [p.sum(dtype=torch.float64) for p in _parameters(self._model.optimizers)]
            return bool(torch.isfinite(torch.stack(sums)).all())

    def give_up(self, count: int = 0) -> NoReturn:
        """Ends a run on all ranks, after ``count`` losses or at its end with weights that are not finite.

        Raises:
            OptionError: On rank 0: what to do.
        """
        self._progress.close()
        if self._opt['rank'] != 0:
            sys.exit(1)
        train_opt, iteration = self._opt['train'], self._done
        shape = '' if self.schedule is None else f'[{self.schedule.at_current_iter(iteration).shape}], '
        rate = self._model.get_current_learning_rate()[0]
        ways = ['Lower train.optim_g.lr', 'lengthen train.scheduler.warmup_iter']
        ways += [] if self._clip else ['set train.grad_clip_norm: 1']
        if train_opt.get('amp') == 'fp16':
            ways.append('use train.amp: bf16' if has_bf16(self._model.device) else 'leave train.amp out')
        states = saved_states(Path(self._opt['path']['training_states']))
        kept = f'--auto_resume goes on from iteration {states[0].stem}' if states else 'there is no checkpoint yet'
        found = f'none for {count}' if count else 'weights that are NaN'
        raise OptionError(
            'train.stop_on_nan',
            f'see a finite loss within {self._most_nan} iterations',
            f'{found} at iteration {iteration} ({shape}learning rate {rate:.1e})',
            f'{", ".join(ways[:-1])}, or {ways[-1]}; {kept}.',
        )
