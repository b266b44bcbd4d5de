"""What keeps a run: it is saved whole, goes on exactly where it was, and is saved before it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from torch import distributed

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.data.loader import MultigridLoader
from multigrid_vsr.models import checkpoints, optimizers
from multigrid_vsr.models.checkpoints import KeptCheckpoints
from multigrid_vsr.models.stop_signal import Stopped, StopSignal, end_at_once


class RunKeeper:
    """Saves, resumes and stops the run of a model.

    Args:
        model: A model with :class:`MultigridMixin`, in training.

    Attributes:
        stop_signal: What a signal asks for.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._opt = model.opt
        self.stop_signal = StopSignal(self._opt['dist'], model.device)
        self.stop_signal.has_nothing_to_save = True
        self._error: InputError | None = None
        self._ends_with: InputError | SystemExit | None = None
        self._last_iter = 0  # done by this process
        self._saved_iter = 0
        self._is_stopping = False
        self._is_failing = False  # this rank saves without the others
        self._kept = KeptCheckpoints(self._opt)
        MultigridLoader.before_failing = self._save_before_failing
        MultigridLoader.waiting = self._waiting

    @property
    def _writes(self) -> bool:
        return self._opt['rank'] == 0 or self._is_failing

    def end_with(self, error: InputError) -> None:
        """Lets the run end with an error as soon as the iteration is done and saved; all ranks have to call it."""
        self._error = error

    def after_iteration(self, current_iter: int) -> None:
        """Saves the iteration if the run has to stop; it ends in :meth:`leave_if_stopped`."""
        self._last_iter = current_iter
        signal = self.stop_signal.after_iteration()
        if signal or self._error:
            self._save_to_stop('The run cannot go on' if self._error else f'Asked to stop by signal {signal}')
            self._ends_with = self._error or SystemExit(128 + signal)

    def begin_iteration(self) -> None:
        """From here on there is something to save."""
        self.stop_signal.has_nothing_to_save = False

    def end_lost_iteration(self) -> None:
        """Ends a rank whose iteration has failed because other ranks have left: one of them has saved."""
        if self.stop_signal.has_others_that_left():
            end_at_once(128 + self.stop_signal.received)

    def stop(self, stopped: Stopped) -> None:
        """Saves what is not saved yet and ends the run, or this rank where it cannot meet the others.

        Raises:
            SystemExit: Always.
        """
        if not stopped.signal and self._opt['dist']:
            self._leave_alone()
        signal = stopped.signal or self.stop_signal.received
        self._save_to_stop(f'Asked to stop by signal {signal}')
        self._ends_with = SystemExit(128 + signal)
        self.leave_if_stopped()

    def _leave_alone(self) -> NoReturn:
        """Ends this rank without the others; the first one to come here saves."""
        rank, signal = self._opt['rank'], self.stop_signal.received
        if self.stop_signal.is_first_to_leave(rank):
            self._is_failing = True
            self._save_to_stop(f'Asked to stop by signal {signal}')
        self._model.watch.end()
        end_at_once(128 + signal)  # in good order, it would wait for the batch

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Waiting for a batch, which a signal ends after a while: the iteration of the other ranks cannot go on."""
        try:
            with self.stop_signal.can_leave():
                yield
        except Stopped:
            self._leave_alone()

    def _save_to_stop(self, why: str) -> None:
        get_root_logger().warning(f'{why}: saving first.')
        self._is_stopping = True
        if self._saved_iter != self._last_iter:
            self._model.save(0, self._last_iter)

    def leave_if_stopped(self) -> None:
        """Ends a run that has to stop: called by what BasicSR does after the line of the iteration is logged.

        Raises:
            InputError: What :meth:`end_with` was told.
            SystemExit: After a signal.
        """
        if self._ends_with is not None:
            self.stop_signal.wait_for_all()
            self._model.watch.end()
            raise self._ends_with

    def _save_before_failing(self) -> None:
        """Saves the last iteration of a run that a frame ends, on the rank that met it: others wait for its gradient.

        What all ranks share is the same there. Only BatchNorm's statistics, which rank 0 gives to all in the next
        iteration, may differ.
        """
        if self._last_iter > 0:
            get_root_logger().warning('A frame cannot be read: saving first.')
            self._is_failing = True
            self._model.save(0, self._last_iter)
        self.stop_signal.restore()

    def save(self, write: Callable[[int, int], None], epoch: int, current_iter: int) -> None:
        """Lets BasicSR's ``save`` write the weights and the state; -1 is the end of the run.

        A disk that is full costs this checkpoint, not those before and not the run. A run that has blown up is not
        saved, so the good checkpoints before stay.

        Raises:
            InputError: If the weights at the end of the run cannot be written, or are no numbers.
            SystemExit: If a signal came while all ranks waited for the writing.
        """
        self.leave_if_stopped()
        if current_iter == -1:
            self._model.watch.end()
        if not self._model.watch.may_save(current_iter == -1, self._is_failing):
            if current_iter == -1:
                self._model.watch.give_up()
            get_root_logger().error(f'Iteration {current_iter} is not saved: its loss or weights are NaN or infinite.')
            return
        try:
            write(epoch, current_iter)
        except OSError as error:
            if current_iter == -1:
                raise InputError(f'{error}. Make room and run again with --auto_resume.') from None
            get_root_logger().error(f'{error}. The checkpoints before stay, and training goes on: make room.')
        else:
            self._saved_iter = max(current_iter, self._saved_iter)
            if self._opt['rank'] == 0 and current_iter != -1:
                self._kept.prune(current_iter)
        signal = 0 if self._is_stopping or self._is_failing else self.stop_signal.meet()[0]
        if current_iter == -1:
            self.stop_signal.restore()
        if signal:
            self.stop(Stopped(signal))

    def after_validation(self, dataset: str, current_iter: int | str) -> None:
        """Keeps the weights of the best validation, saved here where they are not yet."""
        model = self._model
        if self._opt['rank'] != 0 or not self._kept.after_validation(model, dataset, current_iter):
            return
        try:
            if not (Path(self._opt['path']['models']) / f'net_g_{current_iter}.pth').is_file():
                networks = {'params': model.get_bare_model(model.net_g)}
                if model.ema_decay > 0:
                    networks['params_ema'] = model.net_g_ema
                self.save_networks(networks, 'net_g', int(current_iter))
            self._kept.save_best()
        except OSError as error:
            get_root_logger().error(f'{error}. The best weights are not kept: make room.')
        else:
            self._kept.prune(int(current_iter))

    def save_networks(self, networks: Mapping[str, torch.nn.Module], label: str, current_iter: int) -> None:
        """Writes weights, whole or not at all, in BasicSR's format; -1 is ``latest``.

        Args:
            networks: The bare networks by their key, ``params`` or ``params_ema``.
            label: ``net_g`` or ``net_d``.
            current_iter: Iteration.
        """
        if self._writes:
            states = {
                key: {name: weight.cpu() for name, weight in network.state_dict().items()}
                for key, network in networks.items()
            }
            name = f'{label}_{"latest" if current_iter == -1 else current_iter}.pth'
            checkpoints.save(states, Path(self._opt['path']['models']) / name)

    def save_state(self, epoch: int, current_iter: int) -> None:
        """Writes the training state, whole or not at all: BasicSR's, and what an exact resume needs beside it."""
        if current_iter == -1:
            return
        rng = self._random_states()
        if not self._writes:
            return
        model = self._model
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in model.optimizers],
            'parameters': optimizers.parameter_names(model),
            'trained_weights': optimizers.trained_weights(model.optimizers),
            'schedulers': [scheduler.state_dict() for scheduler in model.schedulers],
            'amp': self._opt['train'].get('amp'),
            'scaler': model.scaler.state_dict() if hasattr(model, 'scaler') else {},
            'seed': self._opt['manual_seed'],
            'rng': rng,
        }
        if model.schedule is not None:
            state['schedule'] = checkpoints.schedule_rows(model.schedule, checkpoints.ranks(self._opt))
        checkpoints.save(state, Path(self._opt['path']['training_states']) / f'{current_iter}.state')

    def _random_states(self) -> dict[int, list[torch.Tensor]]:
        """The random state of every rank, at rank 0: CPU, then GPUs; a rank that fails has its own alone."""
        own = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self._model.device.type == 'cuda' else ())]
        if not self._opt['dist'] or self._is_failing:
            return {self._opt['rank']: own}
        states: list[Any] = [None] * self._opt['world_size']
        distributed.gather_object(own, states if self._opt['rank'] == 0 else None)
        return dict(enumerate(states))

    def restore(self, state: Mapping[str, Any], places: Sequence[Sequence[int | None]]) -> None:
        """Brings back what :meth:`save_state` has written beside BasicSR's own.

        A rank whose random state is not there keeps the one that it was seeded with, which no other rank has.

        Args:
            state: The state.
            places: Where it has each parameter of each optimizer.
        """
        optimizers.put_trained_weights(self._model.optimizers, state.get('trained_weights', []), places)
        amp = self._opt['train'].get('amp')
        if (before := state.get('amp', amp)) != amp:
            get_root_logger().warning(f'train.amp is {amp or "float32"} now, and was {before or "float32"}.')
        scaler = getattr(self._model, 'scaler', None)
        if scaler is not None and scaler.is_enabled() and state.get('scaler'):
            scaler.load_state_dict(state['scaler'])
        rng = state.get('rng', {})
        if isinstance(rng, list):  # an older state has rank 0's alone
            rng = {0: rng}
        if self._opt['rank'] not in rng:
            return
        cpu, *gpus = rng[self._opt['rank']]
        torch.set_rng_state(cpu)
        if len(gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(gpus)
