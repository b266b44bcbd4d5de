"""What makes a model of BasicSR follow a schedule, whatever its losses: rates, batches, checkpoints, its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.pixels import to_float_rgb
from multigrid_vsr.data.prefetch import to_device
from multigrid_vsr.models import checkpoint, lr_scheduler, optimizer_state, optimizers
from multigrid_vsr.models.checkpointed import checkpoint_modules
from multigrid_vsr.models.degradation import Degradation, build_degradation, degrade
from multigrid_vsr.models.lr_scheduler import BatchScaling, MultigridCosineLR
from multigrid_vsr.models.run_keeper import RunKeeper
from multigrid_vsr.models.run_watch import RunWatch
from multigrid_vsr.models.stop_signal import Stopped
from multigrid_vsr.models.weights_check import has_average, read_weights
from multigrid_vsr.models.wrapping import wrap
from multigrid_vsr.options.scheduler import cosine_options, rate_of
from multigrid_vsr.options.table import SCHEDULER_TYPE

_Base: Any = BaseModel if TYPE_CHECKING else object  # at run time it stands beside any model of BasicSR


class MultigridMixin(_Base):
    """Lets a model follow the schedule: batches, rates, exact checkpoints and resume, a stop that saves first.

    Put it before a model that has losses and a step of its own, and register the two under a new name::

        @MODEL_REGISTRY.register()
        class MultigridTheirModel(MultigridMixin, TheirModel): ...

    Its step, validation, EMA and networks stay as they are. It has to be a ``BaseModel`` of BasicSR that trains on
    ``self.lq`` and ``self.gt``, as :meth:`feed_data` sets them. A ``scaler`` that it has is part of its state.

    Args:
        opt (dict): Config of the run. Where the training set follows a schedule, ``datasets.train.multigrid`` holds it.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.schedule: Schedule | None = opt['datasets']['train'].get('multigrid') if opt['is_train'] else None
        self._batch_scaling: BatchScaling | None = None
        self._degradation: Degradation | None = None
        super().__init__(opt)
        if not self.is_train:
            return
        self._keeper = RunKeeper(self)
        self.watch = RunWatch(self)
        if opt['train'].get('checkpoint_modules'):
            checkpoint_modules(self.get_bare_model(self.net_g), opt['train']['checkpoint_modules'])
        if opt['train'].get('degradation') is not None:
            if self.schedule is None:
                rule, fix = 'stand beside a `multigrid` block or a Multigrid dataset', 'Add `multigrid: {}`.'
                raise OptionError('train.degradation', rule, opt['train']['degradation'], fix)
            self._degradation = build_degradation(opt['train']['degradation'], self.device)
            self._try_degradation()
        optimizers.begin(self.optimizers)
        # BasicSR calls it once an iteration. Whichever class defines the step, with or without a call of ``super()``,
        # the iteration is whole.
        self.__dict__['optimize_parameters'] = partial(self._iterate, self.optimize_parameters)
        self.watch.say_schedule(self.rate)

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer with a name: the model's own, a registered one, torch's or a library's."""
        if optim_type not in optimizers.OPTIMIZER_REGISTRY:
            with suppress(NotImplementedError):
                return super().get_optimizer(optim_type, params, lr, **kwargs)
        return optimizers.optimizer_class(optim_type)(params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        """Sets up BasicSR's schedulers, or ``MultigridCosineLR``."""
        scheduler_opt = self.opt['train']['scheduler']
        self.rate = rate_of(self.opt['train'], self.schedule) if self.schedule is not None else None
        if scheduler_opt.get('type') != SCHEDULER_TYPE:
            batch_scaling = scheduler_opt.pop('batch_scaling', 'none')
            if self.schedule is not None and batch_scaling != 'none':
                self._batch_scaling = BatchScaling(self.optimizers, self.schedule, batch_scaling)
            return super().setup_schedulers()
        if self.schedule is None:
            raise OptionError(
                'train.scheduler.type',
                'stand beside a Multigrid dataset',
                SCHEDULER_TYPE,
                'Use a scheduler of BasicSR.',
            )
        options = cosine_options(scheduler_opt, self.schedule)
        self.schedulers += [MultigridCosineLR(optimizer, self.schedule, options) for optimizer in self.optimizers]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Sets the rates of an iteration: the scheduler's, BasicSR's own warm-up, the factor of the batch."""
        self._keeper.leave_if_stopped()
        self.watch.before_iteration(current_iter)
        with self._batch_scaling.taken_off(current_iter) if self._batch_scaling is not None else nullcontext():
            super().update_learning_rate(current_iter, warmup_iter)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Moves a batch to the device.

        Args:
            data (dict): ``lq`` (b, t, c, h, w) and ``gt`` (b, t, c, scale*h, scale*w), or without t for one target
                frame, float32 RGB in [0, 1]; or both as uint8 BGR with the channels last, as
                ``MultigridREDSDataset`` gives them.
        """
        data = dict(data)
        for key in ('lq', 'gt'):
            if key in data:
                frames = to_device(data[key], self.device)
                data[key] = to_float_rgb(frames) if frames.dtype == torch.uint8 else frames
        if self._degradation is not None and 'seed' in data:  # a batch of the training set
            data['lq'] = degrade(self._degradation, data['gt'], data['seed'], self.opt['scale'])
            if self.opt['datasets']['train'].get('target') == 'center':
                data['gt'] = data['gt'][:, data['gt'].shape[1] // 2]
        super().feed_data(data)

    def _try_degradation(self) -> None:
        """Says before the first iteration if a degradation does not take a shape of the run."""
        assert self._degradation is not None
        for segment in self.schedule.segments if self.schedule is not None else ():
            shape = segment.shape
            gt = torch.zeros(1, shape.num_frame, 3, shape.gt_size, shape.gt_size, device=self.device)
            degrade(self._degradation, gt, [0], self.opt['scale'])

    def before_iteration(self, current_iter: int) -> None:
        """Called before each step, for what a model has to do by iteration."""

    def _iterate(self, step: Callable[[int], None], current_iter: int) -> None:
        self.before_iteration(current_iter)
        self._keeper.begin_iteration()
        try:
            step(current_iter)
        except RuntimeError:
            self._keeper.end_lost_iteration()
            raise
        self.watch.after_iteration(current_iter, getattr(self, '_losses', None) or getattr(self, 'log_dict', {}))
        self._keeper.after_iteration(current_iter)

    def model_to_device(self, net: torch.nn.Module) -> torch.nn.Module:
        """Moves a network to the device and wraps it for several GPUs; with a launcher, also for several CPUs."""
        if not self.opt['dist']:
            return super().model_to_device(net)
        return wrap(net.to(self.device), self.opt, self.device, self.opt.get('find_unused_parameters', False))

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, and what is watched beside them."""
        return self.watch.logged(self.read_losses)

    def read_losses(self) -> dict[str, float]:
        """The losses of the last iteration, means over all ranks; the device is waited for."""
        return super().get_current_log()

    def validation(self, dataloader: Any, current_iter: int | str, *args: Any, **kwargs: Any) -> None:
        """BasicSR's; one that fails does not end the run, and a signal leaves it."""
        if not self.is_train:
            return super().validation(dataloader, current_iter, *args, **kwargs)
        self._keeper.leave_if_stopped()
        name = dataloader.dataset.opt['name']
        try:
            with self.watch.spending('validation'), optimizers.given(self.optimizers):
                with self.validating():
                    super().validation(dataloader, current_iter, *args, **kwargs)
                self._keeper.after_validation(name, current_iter)
        except Stopped as stopped:
            self._keeper.stop(stopped)
        except Exception as error:  # of a metric, a disk, a frame, a test set
            self.watch.beside.failed(f'Validation of {name}', error)
        else:
            self.watch.beside.worked(f'Validation of {name}')

    def validating(self) -> AbstractContextManager[None]:
        """Entered for a validation: BasicSR's may be left anywhere, but then the ranks do not meet."""
        return self._keeper.stop_signal.can_leave()

    def save(self, epoch: int, current_iter: int) -> None:
        """Saves the weights and then the training state of an iteration; -1 for the end of the run.

        Raises:
            InputError: If the weights at the end of the run cannot be written.
        """
        with self.watch.spending('saving'):
            self._keeper.save(super().save, epoch, current_iter)

    def save_network(
        self, net: torch.nn.Module | list[torch.nn.Module], net_label: str, current_iter: int, param_key: Any = 'params'
    ) -> None:
        """Writes weights, whole or not at all, in BasicSR's format."""
        nets, keys = ([value] if not isinstance(value, list) else value for value in (net, param_key))
        bare = {key: self.get_bare_model(net) for net, key in zip(nets, keys, strict=True)}
        with optimizers.given(self.optimizers):
            self._keeper.save_networks(bare, net_label, current_iter)

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Writes the training state, whole or not at all: BasicSR's, and what an exact resume needs beside it."""
        self._keeper.save_state(epoch, current_iter)

    def load_network(
        self, net: torch.nn.Module, load_path: str, strict: bool = True, param_key: Any = 'params'
    ) -> None:
        """BasicSR's; where a file has no average of its weights, that begins as the weights."""
        if param_key == 'params_ema' and not has_average(read_weights('path.pretrain_network_g', load_path)):
            param_key = self.opt['path'].get('param_key_g', 'params')
        super().load_network(net, load_path, strict, param_key)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Loads the optimizers, with the groups, flags and rates that the option file has now, and the random state.

        Raises:
            InputError: If the state is of another number of optimizers.
        """
        saved = resume_state['optimizers']
        checkpoint.check_optimizers(len(saved), len(self.optimizers), self.opt['path']['resume_state'])
        names = optimizer_state.parameter_names(self)
        saved_names = resume_state.get('parameters') or [None] * len(saved)
        found = list(map(optimizer_state.places, self.optimizers, names, saved, saved_names))
        states, lines = zip(*map(optimizer_state.fitted, self.optimizers, saved, found))
        schedulers, rates = resume_state['schedulers'], None
        if all(type(scheduler) in lr_scheduler.RESTARTABLE for scheduler in self.schedulers):
            schedulers = [scheduler.state_dict() for scheduler in self.schedulers]
            rates = lr_scheduler.rates_of(self.optimizers)
        super().resume_training({**resume_state, 'optimizers': list(states), 'schedulers': schedulers})
        if rates is not None:
            before = self.get_current_learning_rate()
            lr_scheduler.put_rates(self.optimizers, rates)
            self._go_to(resume_state['iter'])
            if (now := self.get_current_learning_rate()) != before:
                shown = [' and '.join(f'{lr:.3g}' for lr in dict.fromkeys(lrs)) for lrs in (now, before)]
                get_root_logger().warning(
                    f'train: the option file has the rate {shown[0]} here, and the state {shown[1]}.'
                )
        for line in dict.fromkeys(line for of_one in lines for line in of_one):
            get_root_logger().info(line)
        for optimizer in self.optimizers:
            optimizer_state.lay_out(optimizer)
        self._keeper.restore(resume_state, found)

    def _go_to(self, current_iter: int) -> None:
        """Brings rates and schedulers to where they are after an iteration of a run with this option file."""
        train_opt = self.opt['train']
        current_iter = min(current_iter, train_opt['total_iter'])
        warmup_iter = train_opt.get('warmup_iter', -1)
        for iteration in lr_scheduler.turning_points(self.schedulers, warmup_iter, current_iter):
            for scheduler in self.schedulers:
                scheduler.last_epoch = max(iteration - 2, 0)
                scheduler._step_count = max(iteration, 2)  # at its first step torch asks for one of the optimizer
            super().update_learning_rate(iteration, warmup_iter)
        for scheduler in self.schedulers:
            scheduler._step_count = current_iter
        if self._batch_scaling is not None:
            with self._batch_scaling.taken_off(current_iter):
                pass
