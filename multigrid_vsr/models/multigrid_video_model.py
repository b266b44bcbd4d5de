"""BasicSR's recurrent video models, with and without a GAN, fed with batches whose shape follows the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.edvr_model import EDVRModel
from basicsr.models.video_recurrent_gan_model import VideoRecurrentGANModel
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn.parallel import DistributedDataParallel

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.data.batches import to_device, to_float_rgb
from multigrid_vsr.models import acceleration, checkpoints, optimizers
from multigrid_vsr.models.acceleration import AMP_DTYPES, checkpoint_modules, keep_float32, settle_amp
from multigrid_vsr.models.cuda_graph import IterationGraph, graph_of
from multigrid_vsr.models.degradation import Degradation, build_degradation, degrade
from multigrid_vsr.models.optimizers import BatchScaling, MultigridCosineLR
from multigrid_vsr.models.run import Run
from multigrid_vsr.models.stop_signal import Stopped
from multigrid_vsr.models.validation import validate
from multigrid_vsr.models.wrapping import stop_finding_unused, wrap
from multigrid_vsr.options.kinds import did_you_mean
from multigrid_vsr.options.multigrid_block import largest_part
from multigrid_vsr.options.run_options import cosine_options, rate_of
from multigrid_vsr.options.table import SCHEDULER_TYPE

OWN_STEP = 'Wrap the arch, or derive a model with a step of its own: docs/your_own_parts.md.'
_FLOW_MODULES = ('spynet', 'edvr')  # what BasicSR's `fix_flow` freezes
_FREEZING_OPTIONS = ('fix_flow', 'tsa_iter')


def check_frozen_names(names: Sequence[str], network: torch.nn.Module) -> None:
    """Refuses names in ``train.fix_modules`` that no parameter has; the network may be on the meta device."""
    parameters = [name for name, _ in network.named_parameters()]
    for place, part in enumerate(names):
        if not any(part in name for name in parameters):
            rule = f'be part of the name of a parameter of {type(network).__name__}'
            fix = did_you_mean(part, dict.fromkeys(word for name in parameters for word in name.split('.')))
            raise OptionError(f'train.fix_modules[{place}]', rule, part, fix)


def not_one_tensor(arch: str, output: object) -> OptionError:
    """The line for an arch that gives something else than frames."""
    return OptionError('network_g.type', 'give its frames as one tensor', f'{arch} ({type(output).__name__})', OWN_STEP)


_Base: Any = BaseModel if TYPE_CHECKING else object  # at run time it stands beside any model of BasicSR


class MultigridMixin(_Base):
    """Lets a model follow the schedule: batches, rates, exact checkpoints and resume, a stop that saves first.

    Put it before a model that has its own losses and step, and register both under a new name::

        @MODEL_REGISTRY.register()
        class MultigridTheirModel(MultigridMixin, TheirModel): ...

    The step, validation, EMA and networks of that model stay as they are. It has to be a ``BaseModel`` of BasicSR that
    trains on ``self.lq`` and ``self.gt``, as :meth:`feed_data` sets them. Its ``scaler``, if it has one, is part of the
    state. Where the training set follows a schedule, ``opt['datasets']['train']['multigrid']`` holds it.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.schedule = opt['datasets']['train'].get('multigrid') if opt['is_train'] else None
        self._batch_scaling: BatchScaling | None = None
        self._degradation: Degradation | None = None
        super().__init__(opt)
        if not self.is_train:
            return
        self.run: Run = opt['datasets']['train'].get('run') or Run(self.schedule)
        self.run.start(self)
        if opt['train'].get('checkpoint_modules'):
            checkpoint_modules(self.get_bare_model(self.net_g), opt['train']['checkpoint_modules'])
        if opt['train'].get('degradation') is not None:
            if self.schedule is None:
                rule, fix = 'stand beside a `multigrid` block or a Multigrid dataset', 'Add `multigrid: {}`.'
                raise OptionError('train.degradation', rule, opt['train']['degradation'], fix)
            self._degradation = build_degradation(opt['train']['degradation'], self.device)
            for shape in (segment.shape for segment in self.schedule.segments):  # one that it does not take raises now
                gt = torch.zeros(1, shape.num_frame, 3, shape.gt_size, shape.gt_size, device=self.device)
                degrade(self._degradation, gt, [0], opt['scale'])
        optimizers.to_train_mode(self.optimizers)
        self.run.log_schedule(self.rate)

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
            rule, fix = 'stand beside a Multigrid dataset', 'Use a scheduler of BasicSR.'
            raise OptionError('train.scheduler.type', rule, SCHEDULER_TYPE, fix)
        options = cosine_options(scheduler_opt, self.schedule)
        self.schedulers += [MultigridCosineLR(optimizer, self.schedule, options) for optimizer in self.optimizers]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begins an iteration, since BasicSR calls it first, and sets the rates: scheduler, warm-up, batch scaling."""
        self.run.begin_iteration(current_iter)
        self.before_iteration(current_iter)
        with self._batch_scaling.unscaled(current_iter) if self._batch_scaling is not None else nullcontext():
            super().update_learning_rate(current_iter, warmup_iter)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Moves a batch to the device.

        Args:
            data: ``lq`` (b, t, c, h, w) and ``gt`` (b, t, c, scale*h, scale*w), or without t for one target frame,
                float32 RGB in [0, 1]; or both as uint8 BGR with the channels last, as ``MultigridREDSDataset`` gives
                them.
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

    def before_iteration(self, current_iter: int) -> None:
        """Called before each iteration, for what a model has to do by iteration."""

    def model_to_device(self, net: torch.nn.Module) -> torch.nn.Module:
        """Moves a network to the device and wraps it for several GPUs; with a launcher, also for several CPUs."""
        if not self.opt['dist']:
            return super().model_to_device(net)
        return wrap(net.to(self.device), self.opt, self.device, self.opt.get('find_unused_parameters', False))

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, and the norms of its gradient if they are clipped."""
        return self.run.log_values(self.read_losses)

    def read_losses(self) -> dict[str, float]:
        """The losses of the last iteration, means over all ranks. Waits for the device."""
        return super().get_current_log()

    def validation(self, dataloader: Any, current_iter: int | str, *args: Any, **kwargs: Any) -> None:
        """BasicSR's; one that fails does not end the run, and a signal interrupts it."""
        if not self.is_train:
            return super().validation(dataloader, current_iter, *args, **kwargs)
        self.run.end_iteration()
        self.run.leave_if_stopped()
        name = dataloader.dataset.opt['name']
        try:
            with self.run.counted_as('validation'):
                with optimizers.eval_weights(self.optimizers), self.validating():
                    super().validation(dataloader, current_iter, *args, **kwargs)
                self.run.keep_best(name, current_iter)
        except Stopped as stopped:
            self.run.stop(stopped)
        except Exception as error:  # of a metric, a disk, a frame, a test set
            self.run.failures.failed(f'Validation of {name}', error)
        else:
            self.run.failures.worked(f'Validation of {name}')

    def validating(self) -> AbstractContextManager[None]:
        """Entered for a validation: a signal may interrupt BasicSR's anywhere, but then the ranks do not agree."""
        return self.run.stop_signal.can_leave()

    def save(self, epoch: int, current_iter: int) -> None:
        """Saves the weights and then the training state of an iteration; -1 for the end of the run.

        Raises:
            InputError: If the weights at the end of the run cannot be written.
        """
        with self.run.saving(current_iter) as is_wanted:
            if is_wanted:
                super().save(epoch, current_iter)

    def save_network(
        self, net: torch.nn.Module | list[torch.nn.Module], net_label: str, current_iter: int, param_key: Any = 'params'
    ) -> None:
        """Writes weights in BasicSR's format, whole or not at all."""
        if not self.run.writes:
            return
        nets, keys = ([value] if not isinstance(value, list) else value for value in (net, param_key))
        with optimizers.eval_weights(self.optimizers):
            weights = {
                key: {name: weight.cpu() for name, weight in self.get_bare_model(net).state_dict().items()}
                for key, net in zip(keys, nets, strict=True)
            }
            name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
            checkpoints.save(weights, Path(self.opt['path']['models']) / name)

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Writes the training state, whole or not at all: BasicSR's, and what an exact resume needs beside it."""
        if current_iter != -1:
            checkpoints.save_training_state(self, epoch, current_iter)

    def load_network(
        self, net: torch.nn.Module, load_path: str, strict: bool = True, param_key: Any = 'params'
    ) -> None:
        """Loads weights; if a file has no average of them, the average begins as the weights."""
        if param_key == 'params_ema':
            stored = checkpoints.read_weights('path.pretrain_network_g', load_path)
            if not checkpoints.has_average(stored):
                param_key = self.opt['path'].get('param_key_g', 'params')
        super().load_network(net, load_path, strict, param_key)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Loads the optimizers, with the groups, flags and rates that the option file has now, and the random state.

        Raises:
            InputError: If the state is of another number of optimizers.
        """
        saved = resume_state['optimizers']
        checkpoints.check_optimizers(len(saved), len(self.optimizers), self.opt['path']['resume_state'])
        names = optimizers.parameter_names(self)
        saved_names = resume_state.get('parameters') or [None] * len(saved)
        found = list(map(optimizers.places, self.optimizers, names, saved, saved_names))
        states, lines = zip(*map(optimizers.fitted, self.optimizers, saved, found))
        schedulers, rates = resume_state['schedulers'], None
        if all(type(scheduler) in optimizers.RESTARTABLE for scheduler in self.schedulers):
            schedulers = [scheduler.state_dict() for scheduler in self.schedulers]
            rates = optimizers.rates_of(self.optimizers)
        super().resume_training({**resume_state, 'optimizers': list(states), 'schedulers': schedulers})
        if rates is not None:
            before = self.get_current_learning_rate()
            optimizers.set_rates(self.optimizers, rates)
            self._go_to(resume_state['iter'])
            if (now := self.get_current_learning_rate()) != before:
                shown = [' and '.join(f'{lr:.3g}' for lr in dict.fromkeys(lrs)) for lrs in (now, before)]
                get_root_logger().warning(
                    f'train: the option file has the rate {shown[0]} here, and the state {shown[1]}.'
                )
        for line in dict.fromkeys(line for of_one in lines for line in of_one):
            get_root_logger().info(line)
        for optimizer in self.optimizers:
            optimizers.lay_out(optimizer)
        checkpoints.restore(self, resume_state, found)

    def _go_to(self, current_iter: int) -> None:
        """Brings rates and schedulers to where they are after an iteration of a run with this option file."""
        train_opt = self.opt['train']
        current_iter = min(current_iter, train_opt['total_iter'])
        warmup_iter = train_opt.get('warmup_iter', -1)
        for iteration in optimizers.turning_points(self.schedulers, warmup_iter, current_iter):
            for scheduler in self.schedulers:
                scheduler.last_epoch = max(iteration - 2, 0)
                scheduler._step_count = max(iteration, 2)  # at its first step torch asks for one of the optimizer
            super().update_learning_rate(iteration, warmup_iter)
        for scheduler in self.schedulers:
            scheduler._step_count = current_iter
        if self._batch_scaling is not None:
            with self._batch_scaling.unscaled(current_iter):
                pass


@MODEL_REGISTRY.register()
class MultigridVideoModel(MultigridMixin, VideoRecurrentModel):
    """Trains recurrent and sliding-window archs at the shape of each iteration.

    The model neither knows how batches are made nor is rebuilt at a boundary: a video arch takes any shape. Its options
    are those of ``VideoRecurrentModel``.
    """

    net_g: torch.nn.Module

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        if not self.is_train:
            return
        self._frozen = [False, False]
        self.gpus = 1 if opt['dist'] else max(opt['num_gpu'], 1)  # `DataParallel` has the batches of all its GPUs
        settle_amp(opt['train'], self.get_bare_model(self.net_g), self.device, self.gpus)
        self._amp_dtype = AMP_DTYPES[opt['train'].get('amp')]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp_dtype is torch.float16)
        self._largest_part = largest_part(opt)
        self._losses: dict[str, torch.Tensor] = {}
        self.log_dict: dict[str, float] = {}  # a step of a subclass may set it, or add to it
        if opt['train'].get('channels_last') and self.ema_decay > 0:
            acceleration.to_channels_last(self.net_g_ema)
        if self._amp_dtype is not None:
            keep_float32(self.get_bare_model(self.net_g))
        if opt['train'].get('compile'):
            shapes = {s.shape for s in self.schedule.segments} if self.schedule is not None else ()
            acceleration.compile_children(self.get_bare_model(self.net_g), opt['train']['compile'], len(shapes))
        if self._graph is not None or not opt['train'].get('arch_checks', True):
            is_mirrored = bool(opt['datasets']['train'].get('flip_sequence'))
            acceleration.leave_out_checks(self.get_bare_model(self.net_g), is_mirrored)

    @cached_property
    def _graph(self) -> IterationGraph | None:
        return graph_of(self, MultigridVideoModel)

    def setup_optimizers(self) -> None:
        """Sets up the optimizer with ``flow_lr_mul``, or with EDVR's ``dcn_lr_mul``, as BasicSR's models do.

        ``flow_lr_mul`` is for ``fix_modules`` where these are given.
        """
        train_opt = self.opt['train']
        if 'dcn_lr_mul' in train_opt:
            return EDVRModel.setup_optimizers(self)
        names, factor = train_opt.get('fix_modules'), train_opt.get('flow_lr_mul', 1)
        if not names or factor == 1:
            return VideoRecurrentModel.setup_optimizers(self)
        lr = train_opt['optim_g']['lr']
        groups: list[dict[str, Any]] = [{'params': [], 'lr': lr}, {'params': [], 'lr': lr * factor}]
        for name, parameter in self.get_bare_model(self.net_g).named_parameters():
            groups[any(part in name for part in names)]['params'].append(parameter)
        self.optimizer_g = self.get_optimizer(train_opt['optim_g'].pop('type'), groups, **train_opt['optim_g'])
        self.optimizers.append(self.optimizer_g)

    def model_to_device(self, net: torch.nn.Module) -> torch.nn.Module:
        """Moves a network to the device and wraps it for several GPUs; with a launcher, also for several CPUs."""
        if self.is_train and self.opt['train'].get('channels_last') and net is self.net_g:
            acceleration.to_channels_last(net)
        if not self.opt['dist'] or not self.is_train or self._graph is None:
            return super().model_to_device(net)
        net = net.to(self.device)
        self._graph.begin()  # it exchanges gradients itself
        return net

    def before_iteration(self, current_iter: int) -> None:
        """Tries the shapes before the first one, and freezes what ``train.fix_flow`` and ``train.tsa_iter`` say.

        BasicSR freezes in iteration 1, which a resumed run never sees.
        """
        if type(self).optimize_parameters is MultigridVideoModel.optimize_parameters:  # others may feed it otherwise
            self.run.try_shapes(current_iter)
        train_opt = self.opt['train']
        frozen = [current_iter < (train_opt.get(key) or 0) for key in _FREEZING_OPTIONS]
        if frozen == self._frozen:
            return
        self._frozen = frozen
        fixes_flow, trains_only_fusion = frozen
        names = (train_opt.get('fix_modules') or _FLOW_MODULES) if fixes_flow else ()
        for name, parameter in self.get_bare_model(self.net_g).named_parameters():
            is_frozen = any(part in name for part in names) or (trains_only_fusion and 'fusion' not in name)
            parameter.requires_grad_(not is_frozen)
        words = ', '.join(names) if names else 'all but the TSA module'
        get_root_logger().info(f'Frozen: {words}.' if any(frozen) else 'Train all the parameters.')
        if isinstance(self.net_g, DistributedDataParallel):
            self.net_g = wrap(self.net_g.module, self.opt, self.device, self.net_g.find_unused_parameters)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step; a subclass may have another, with :meth:`update` or without."""
        if self.schedule is not None:
            shape = self.schedule.at_current_iter(current_iter).shape
            assert self.lq.shape[1] == shape.num_frame, (self.lq.shape, current_iter, shape)
            assert self.gt.shape[-1] == shape.gt_size, (self.gt.shape, current_iter, shape)
        self.update(current_iter)

    def validating(self) -> AbstractContextManager[None]:
        """Frees the memory of a captured iteration; :func:`validate` is interrupted on all ranks together."""
        if self._graph is not None:
            self._graph.drop()
        return nullcontext()

    def update(self, current_iter: int) -> None:
        """The gradient of ``self.lq`` and ``self.gt``, the optimizer's step and the average of the weights."""
        if self._graph is not None:
            self._losses = self._graph(current_iter)
        else:
            self.optimizer_g.zero_grad()
            self._losses = self.backward(self.lq, self.gt)
        if any(self.opt['train'].get(key) for key in _FREEZING_OPTIONS):  # else the arch itself leaves parameters out
            self.net_g = stop_finding_unused(self.net_g, self.opt, self.device)
        self.run.before_step(self.scaler, self.optimizer_g)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        if self._graph is not None:
            error = self._graph.after_step()
            if error is not None:
                self.run.end_with(error)

    def backward(self, lq: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adds the gradient of a batch, in micro-batches of the pixels of ``micro_batch_size_per_gpu`` samples.

        The loss of a micro-batch counts by its share of the batch, or in full where a loss is a sum, so the gradient is
        that of the whole batch. Ranks exchange it once.

        Args:
            lq: float32 (b, t, c, h, w).
            gt: float32 (b, t, c, scale*h, scale*w), or without t for one target frame.

        Returns:
            The losses of the batch, on the device.
        """
        at_a_time = self.samples_at_a_time(len(lq), lq.shape[1], gt.shape[-1])
        sums = ('l_pix',) if getattr(self.cri_pix, 'reduction', 'mean') == 'sum' else ()
        parts = list(zip(lq.split(at_a_time), gt.split(at_a_time)))
        losses: dict[str, torch.Tensor] = {}
        for number, (lq_part, gt_part) in enumerate(parts, 1):
            waits = number < len(parts) and isinstance(self.net_g, DistributedDataParallel)
            with self.net_g.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, self._amp_dtype, enabled=self._amp_dtype is not None):
                    self.output = self.net_g(lq_part)
                if not isinstance(self.output, torch.Tensor):
                    raise not_one_tensor(self.opt['network_g']['type'], self.output)
                part_losses = self._part_losses(self.output.float(), gt_part)
                if len(parts) > 1:
                    share = len(lq_part) / len(lq)
                    part_losses = {name: x if name in sums else x * share for name, x in part_losses.items()}
                self.scaler.scale(torch.stack(list(part_losses.values())).sum()).backward()
            for name, loss in part_losses.items():
                losses[name] = losses.get(name, 0) + loss.detach()
        return losses

    def samples_at_a_time(self, samples: int, num_frame: int, gt_size: int) -> int:
        """How many of a batch of all the process's GPUs go through the network at a time."""
        part = self._largest_part
        return samples if part is None else min(samples, part.samples_of(num_frame, gt_size) * self.gpus)

    def _part_losses(self, output: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = {}
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(output, gt)
        if self.cri_perceptual:
            # It takes images: every frame is one.
            images = (output.flatten(0, 1), gt.flatten(0, 1)) if output.dim() == 5 else (output, gt)
            percep, style = self.cri_perceptual(*images)
            losses.update({name: loss for name, loss in (('l_percep', percep), ('l_style', style)) if loss is not None})
        return losses

    def read_losses(self) -> dict[str, float]:
        """The losses of the last iteration, means over all ranks. Only here the model waits for the device."""
        if self._losses:
            self.log_dict.update(self.reduce_loss_dict(self._losses))
        return self.log_dict

    def model_ema(self, decay: float = 0.999) -> None:
        """Averages the parameters, all in one call, and copies the buffers, such as BatchNorm's statistics."""
        averaged, parameters, buffers = self._averages
        with torch.no_grad():
            torch._foreach_mul_(averaged, decay)
            torch._foreach_add_(averaged, parameters, alpha=1 - decay)
            for target, source, name in buffers:
                target[name].copy_(source[name])

    @cached_property
    def _averages(self) -> tuple[list[Any], list[Any], list[tuple[Any, Any, str]]]:
        """The EMA's parameters and the network's, and where their buffers are: a module may replace a buffer."""
        net, ema = self.get_bare_model(self.net_g), self.net_g_ema
        buffers = [
            (target._buffers, source._buffers, name)
            for target, source in zip(ema.modules(), net.modules(), strict=True)
            for name, buffer in source._buffers.items()
            if buffer is not None
        ]
        return list(ema.parameters()), list(net.parameters()), buffers

    def test(self) -> None:
        """Runs the EMA network where there is one, else the trained one, on ``self.lq`` (b, t, c, h, w)."""
        trained = self.net_g
        self.net_g = getattr(self, 'net_g_ema', self.get_bare_model(trained))
        try:
            with acceleration.eager():  # frames of any size: nothing is compiled for them
                super().test()
        finally:
            self.net_g.train(self.net_g is not getattr(self, 'net_g_ema', None))
            self.net_g = trained

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Validates on this rank's share of the clips; rank 0 logs the figures of all."""
        validate(self, dataloader.dataset, current_iter, tb_logger, save_img)

    nondist_validation = dist_validation


@MODEL_REGISTRY.register()
class MultigridVideoGANModel(MultigridVideoModel, VideoRecurrentGANModel):
    """Trains a recurrent arch against a discriminator at the shape of each iteration.

    The losses and both updates are BasicSR's own code, with the options of ``VideoRecurrentGANModel``. Schedule,
    validation, checkpoints and stopping are those of :class:`MultigridVideoModel`.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.fix_flow_iter = None  # frozen by `before_iteration`: BasicSR does so in iteration 1 only

    def setup_optimizers(self) -> None:
        """Sets up both optimizers; beside ``fix_flow``, the rate of the flow network is ``lr_flow``."""
        self.opt['train'].setdefault('fix_flow', None)  # BasicSR asks for the key
        VideoRecurrentGANModel.setup_optimizers(self)

    def update(self, current_iter: int) -> None:
        """BasicSR's two steps on ``self.lq`` and ``self.gt``, and the average of the generator's weights."""
        VideoRecurrentGANModel.optimize_parameters(self, current_iter)

    def backward(self, lq: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adds the gradient of the generator's losses, for the trial of shapes only."""
        self.output = self.net_g(lq)
        losses = self._part_losses(self.output, gt)
        losses['l_g_gan'] = self.cri_gan(self.net_d(self.output.flatten(0, 1)), True, is_disc=False)
        torch.stack(list(losses.values())).sum().backward()
        return losses
