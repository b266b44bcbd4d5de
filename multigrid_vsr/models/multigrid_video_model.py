"""BasicSR's recurrent video model, fed with batches whose shape follows the schedule."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from basicsr.models.edvr_model import EDVRModel
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn.parallel import DistributedDataParallel

from multigrid_vsr.models import acceleration
from multigrid_vsr.models.cuda_graph import IterationGraph, graph_of
from multigrid_vsr.models.held_fixed import fixed_names, hold_fixed, rate_groups
from multigrid_vsr.models.multigrid_mixin import MultigridMixin
from multigrid_vsr.models.precision import AMP_DTYPES, keep_float32, settle_amp
from multigrid_vsr.models.validation import validate
from multigrid_vsr.models.weights_check import not_one_tensor
from multigrid_vsr.models.wrapping import without_vain_search, wrap
from multigrid_vsr.options.multigrid_block import largest_part

_FIXING_OPTIONS = ('fix_flow', 'tsa_iter')


@MODEL_REGISTRY.register()
class MultigridVideoModel(MultigridMixin, VideoRecurrentModel):
    """Trains recurrent and sliding-window archs at the shape of each iteration.

    The model neither knows how batches are made nor is rebuilt at a boundary: a video arch takes any shape.

    Args:
        opt (dict): Config of the run, as for ``VideoRecurrentModel``. Where the training set follows a schedule,
            ``datasets.train.multigrid`` holds it.
    """

    net_g: torch.nn.Module

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        if not self.is_train:
            return
        self._held_fixed = (False, False)
        self._is_preflighted = False
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
        groups = rate_groups(self.get_bare_model(self.net_g), names, train_opt['optim_g']['lr'], factor)
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
        """Tries the shapes before the first one; says what ``train.fix_flow`` and ``train.tsa_iter`` hold fixed."""
        if self.schedule is not None:
            shape = self.schedule.at_current_iter(current_iter).shape
            assert self.lq.shape[1] == shape.num_frame, (self.lq.shape, current_iter, shape)
            assert self.gt.shape[-1] == shape.gt_size, (self.gt.shape, current_iter, shape)
            # A subclass with a step of its own may feed its network otherwise.
            has_our_step = type(self).optimize_parameters is MultigridVideoModel.optimize_parameters
            if has_our_step and not self._is_preflighted:
                self.watch.try_shapes(current_iter)
            self._is_preflighted = True
        train_opt = self.opt['train']
        self._hold_fixed(*(current_iter < (train_opt.get(key) or 0) for key in _FIXING_OPTIONS))

    def optimize_parameters(self, current_iter: int) -> None:
        """One step; a subclass may have another, with :meth:`update` or without."""
        self.update(current_iter)

    def validating(self) -> AbstractContextManager[None]:
        """Nothing: :func:`validate` knows what may be left, and all ranks leave it together."""
        return nullcontext()

    def validation(self, *args: Any, **kwargs: Any) -> None:
        """BasicSR's, with the memory of a captured iteration free."""
        if self.is_train and self._graph is not None:
            self._graph.drop()
        super().validation(*args, **kwargs)

    def update(self, current_iter: int) -> None:
        """The gradient of ``self.lq`` and ``self.gt``, the optimizer's step and the average of the weights."""
        if self._graph is not None:
            self._losses = self._graph(current_iter)
        else:
            self.optimizer_g.zero_grad()
            self._losses = self.backward(self.lq, self.gt)
        if any(self.opt['train'].get(key) for key in _FIXING_OPTIONS):  # else the arch itself leaves parameters out
            self.net_g = without_vain_search(self.net_g, self.opt, self.device)
        self.watch.before_step(self.scaler, self.optimizer_g)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        if self._graph is not None:
            error = self._graph.after_step()
            if error is not None:
                self._keeper.end_with(error)

    def backward(self, lq: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adds the gradient of a batch, in parts of no more pixels than ``max_batch_size_per_gpu`` full samples have.

        A part counts by its share of the batch, or in full where a loss is a sum, so the gradient is that of the whole;
        ranks exchange it once.

        Args:
            lq: float32 (b, t, c, h, w).
            gt: float32 (b, t, c, scale*h, scale*w), or without t for one target frame.

        Returns:
            The losses of the batch, on the device.
        """
        at_a_time = self.samples_at_a_time(len(lq), lq.shape[1], gt.shape[-1])
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
                    part_losses = self._shares_of(part_losses, len(lq_part) / len(lq))
                self.scaler.scale(torch.stack(list(part_losses.values())).sum()).backward()
            for name, loss in part_losses.items():
                losses[name] = losses.get(name, 0) + loss.detach()
        return losses

    def samples_at_a_time(self, samples: int, num_frame: int, gt_size: int) -> int:
        """How many of a batch of all the process's GPUs go through the network at a time."""
        part = self._largest_part
        return samples if part is None else min(samples, part.samples_of(num_frame, gt_size) * self.gpus)

    def _shares_of(self, losses: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
        """What the losses of a part add to those of the batch, of which the part is a share."""
        is_sum = {'l_pix': getattr(self.cri_pix, 'reduction', 'mean') == 'sum'}
        return {name: loss if is_sum.get(name) else loss * share for name, loss in losses.items()}

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
        """The losses of the last iteration, the mean over all ranks; only here is the device waited for."""
        if self._losses:
            self.log_dict.update(self.reduce_loss_dict(self._losses))
        return self.log_dict

    def model_ema(self, decay: float = 0.999) -> None:
        """Averages the parameters, all in one call, and copies the buffers: BatchNorm's statistics among them."""
        averaged, parameters, buffers = self._averages
        with torch.no_grad():
            torch._foreach_mul_(averaged, decay)
            torch._foreach_add_(averaged, parameters, alpha=1 - decay)
            for target, source, name in buffers:
                target[name].copy_(source[name])

    @cached_property
    def _averages(self) -> tuple[list[Any], list[Any], list[tuple[Any, Any, str]]]:
        """The EMA's parameters and the network's, and where their buffers are: a module may exchange those."""
        net, ema = self.get_bare_model(self.net_g), self.net_g_ema
        buffers = [
            (target._buffers, source._buffers, name)
            for target, source in zip(ema.modules(), net.modules(), strict=True)
            for name, buffer in source._buffers.items()
            if buffer is not None
        ]
        return list(ema.parameters()), list(net.parameters()), buffers

    def _hold_fixed(self, fixes_flow: bool, trains_fusion_alone: bool) -> None:
        """Says which parameters train; BasicSR does so at iteration 1 only, which a resumed run never sees."""
        if (fixes_flow, trains_fusion_alone) == self._held_fixed:
            return
        names = fixed_names(self.opt['train']) if fixes_flow else ()
        hold_fixed(self.get_bare_model(self.net_g), names, trains_fusion_alone)
        self._held_fixed = (fixes_flow, trains_fusion_alone)
        if isinstance(self.net_g, DistributedDataParallel):
            self.net_g = wrap(self.net_g.module, self.opt, self.device, self.net_g.find_unused_parameters)

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
