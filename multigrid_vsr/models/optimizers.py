"""Optimizers by name, their state on resume, and the learning rate of the schedule bound to torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.utils.registry import Registry
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from multigrid_vsr.core.lr import CosineOptions, CosineSchedule, batch_factor
from multigrid_vsr.core.schedule import Schedule

OPTIMIZER_REGISTRY = Registry('optimizer')  # classes, of the user's own

_UNFIT = ('LBFGS', 'SparseAdam')  # one evaluates the loss several times a step, the other takes sparse gradients


def torch_names() -> list[str]:
    """Optimizers of this torch that take one gradient a step."""
    names = (name for name, value in vars(torch.optim).items() if _is_optimizer(value) and value is not Optimizer)
    return sorted(name for name in names if name not in _UNFIT)


def _is_optimizer(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Optimizer)


def known_names() -> list[str]:
    """What an option file may name beside a class of a library."""
    return [*torch_names(), *OPTIMIZER_REGISTRY.keys()]


def optimizer_class(name: str) -> Any:
    """The optimizer of a name: a registered one, torch's, or ``module.Class`` of an installed library.

    Raises:
        LookupError: If there is none; the text says what could not be found, or is empty.
    """
    if name in OPTIMIZER_REGISTRY:
        return OPTIMIZER_REGISTRY.get(name)
    module, _, kind = name.rpartition('.')
    if not module:
        if name in torch_names():
            return getattr(torch.optim, name)
        raise LookupError
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(str(error)) from error
    if not _is_optimizer(found):
        raise LookupError(f'{found!r} is no optimizer')
    return found


def to_train_mode(optimizers: Iterable[Optimizer]) -> None:
    """Puts schedule-free optimizers (arXiv 2405.15682) into training mode: gradients are taken at other weights."""
    for optimizer in filter(_has_modes, optimizers):
        optimizer.train()  # type: ignore[attr-defined]


@contextmanager
def eval_weights(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Swaps in the averaged weights of schedule-free optimizers, for validation and saving, then restores the bits.

    Other optimizers change nothing.
    """
    before = trained_weights(optimizers)
    for optimizer in filter(_has_modes, optimizers):
        optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        to_train_mode(optimizers)
        set_trained_weights(optimizers, before)


def trained_weights(optimizers: Iterable[Optimizer]) -> list[list[torch.Tensor]]:
    """The weights at which each schedule-free optimizer takes gradients.

    A weight file has other weights, and a resume needs these.
    """
    return [[weight.detach().clone() for weight in _parameters_of(own)] for own in filter(_has_modes, optimizers)]


def set_trained_weights(
    optimizers: Iterable[Optimizer],
    weights: Sequence[Sequence[torch.Tensor]],
    places: Sequence[Sequence[int | None]] | None = None,
) -> None:
    """Puts what :func:`trained_weights` gave back, in this order or by the place of each parameter there."""
    optimizers = list(optimizers)
    orders = places or [list(range(len(_parameters_of(optimizer)))) for optimizer in optimizers]
    own = [(optimizer, order) for optimizer, order in zip(optimizers, orders) if _has_modes(optimizer)]
    with torch.no_grad():
        for (optimizer, order), values in zip(own, weights):
            for parameter, place in zip(_parameters_of(optimizer), order, strict=True):
                if place is not None:
                    parameter.copy_(values[place])


def _has_modes(optimizer: Optimizer) -> bool:
    return hasattr(optimizer, 'train') and hasattr(optimizer, 'eval')


_KEPT = ('lr', 'amsgrad')  # the scheduler's, and what the saved moments are made for


def parameter_names(model: Any) -> list[list[str]]:
    """The name of each parameter of each optimizer, in its order: ``net_g.conv.weight``."""
    names = {
        id(parameter): f'{label}.{name}'
        for label, network in vars(model).items()
        if isinstance(network, torch.nn.Module) and label != 'net_g_ema'
        for name, parameter in model.get_bare_model(network).named_parameters()
    }
    return [[names.get(id(parameter), '') for parameter in _parameters_of(own)] for own in model.optimizers]


def _parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group['params']]


def places(optimizer: Optimizer, names: Sequence[str], saved: Mapping[str, Any], saved_names: Any) -> list[int | None]:
    """The place of each parameter in a saved state; ``None`` where it is not known.

    The state may have other groups. ``saved_names`` is ``None`` in a state without names of parameters.
    """
    groups, own = saved['param_groups'], optimizer.param_groups
    order = [place for group in groups for place in group['params']]
    if saved_names and all(names):
        place_of = dict(zip(saved_names, order))
        return [place_of.get(name) for name in names]
    is_same = [len(group['params']) for group in groups] == [len(group['params']) for group in own]
    return order if is_same else [None] * len(names)


def fitted(
    optimizer: Optimizer, saved: dict[str, Any], saved_places: Sequence[int | None]
) -> tuple[dict[str, Any], list[str]]:
    """A saved state with the groups and flags (``fused``, ``betas``, ``weight_decay``...) of the option file.

    torch would silently take the flags of the state. It would fail on other groups, and at the next step on the moments
    of another optimizer. ``saved_places`` are the :func:`places` of the parameters in the state.

    Returns:
        The state, and a line for each flag that changes and for moments that begin anew.
    """
    own, groups, lines = optimizer.state_dict(), saved['param_groups'], []
    has_same_groups = len(groups) == len(own['param_groups'])
    merged = []
    for number, group in enumerate(own['param_groups']):
        before = groups[number] if has_same_groups else {**groups[0], 'lr': group['lr']}
        merged.append({**group, **before, 'params': group['params']})
    flags = {flag: value for flag, value in _flags(optimizer).items() if flag not in _KEPT}
    for flag, value in flags.items():
        shown = {_shown(group[flag]) for group in groups if flag in group}
        if shown and shown != {_shown(value)}:
            lines.append(f'train.optim: {flag} is {_shown(value)} now, and was {" and ".join(sorted(shown))}.')
    for group in merged:
        group.update(flags)
    parameters = _parameters_of(optimizer)
    state, needed = {}, {shape: _kept_values(optimizer, shape) for shape in {p.shape for p in parameters}}
    for number, (place, parameter) in enumerate(zip(saved_places, parameters)):
        values = saved['state'].get(place)
        if values and needed[parameter.shape].items() <= _shapes(values).items():
            state[number] = values
    if lost := len(saved['state']) - len(state):
        lines.append(
            f'train.optim: the moments of {lost} of {len(saved["state"])} parameters begin anew. Those of the '
            'state are of another optimizer or of other parameters.'
        )
    return {'state': state, 'param_groups': merged}, lines


def _flags(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer was made with; some keep counts among their defaults too."""
    arguments = inspect.signature(type(optimizer)).parameters
    return {flag: value for flag, value in optimizer.defaults.items() if flag in arguments}


def _kept_values(optimizer: Optimizer, shape: torch.Size) -> dict[str, Any]:
    """The shapes of what this optimizer keeps of a parameter of a shape; nothing if it cannot be tried."""
    parameter = torch.nn.Parameter(torch.zeros(shape, device=_parameters_of(optimizer)[0].device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        tried = type(optimizer)([parameter], **_flags(optimizer))
        tried.step()
    except Exception:  # an optimizer of the user's own may ask for more
        return {}
    return {name: value for name, value in _shapes(tried.state[parameter]).items() if name != 'max_exp_avg_sq'}


def _shapes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each value that is kept of a parameter; a number may be a tensor or not."""
    return {name: tuple(getattr(value, 'shape', ())) for name, value in values.items() if value is not None}


def _shown(value: object) -> str:
    return str(tuple(value) if isinstance(value, list) else value)  # older versions of torch keep a list


def lay_out(optimizer: Optimizer) -> None:
    """Lays the moments out as their parameters, since ``train.channels_last`` may differ from the saved run.

    A fused optimizer walks both in the order of memory.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class MultigridCosineLR(LRScheduler):
    """Learning rate that follows the stages; the formula is in :mod:`multigrid_vsr.core.lr`.

    Nothing accumulates: the rate is computed from the iteration and each group's ``initial_lr``, so a resumed run needs
    only ``last_epoch``. The groups of the optimizer keep their ratios, ``flow_lr_mul`` among them.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, options: CosineOptions) -> None:
        self._rates = CosineSchedule(schedule, options)
        self._last_iteration = schedule.total_iter - 1
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        iteration = min(self.last_epoch, self._last_iteration)
        return [self._rates.at(iteration, float(base_lr)) for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, int]:
        """Only the iteration."""
        return {'last_epoch': self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resumes after ``last_epoch``; other values of a foreign scheduler are ignored."""
        last_epoch = state_dict['last_epoch']
        # At its first step torch warns if the optimizer has not stepped in this process. It has, before it was saved.
        super().load_state_dict({'last_epoch': last_epoch, '_step_count': max(last_epoch, 1) + 1})


class BatchScaling:
    """Multiplies the rates of a scheduler of BasicSR by the factor of the batch: ``none``, ``sqrt`` or ``linear``.

    BasicSR's ``MultiStepRestartLR`` computes a rate from the one before. So the factor is removed while the scheduler
    works: it neither compounds nor drifts. The unscaled rate is kept in the parameter group, and so in the optimizer's
    state.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedule: Schedule, batch_scaling: str) -> None:
        self._optimizers = optimizers
        self._schedule = schedule
        self._batch_scaling = batch_scaling

    @contextmanager
    def unscaled(self, current_iter: int) -> Iterator[None]:
        """Gives the scheduler its unscaled rates, then scales the new ones for ``current_iter``."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group in groups:
            group['lr'] = group.get('unscaled_lr', group['lr'])
        yield
        factor = batch_factor(self._schedule, current_iter - 1, self._batch_scaling)
        for group in groups:
            group['unscaled_lr'] = group['lr']
            group['lr'] *= factor


RESTARTABLE = (MultiStepRestartLR, CosineAnnealingRestartLR, MultigridCosineLR)  # rates follow from the option file


def rates_of(optimizers: Iterable[Optimizer]) -> list[tuple[float, float]]:
    """The rate of each parameter group, and its initial rate."""
    return [(group['lr'], group['initial_lr']) for optimizer in optimizers for group in optimizer.param_groups]


def set_rates(optimizers: Iterable[Optimizer], rates: Iterable[tuple[float, float]]) -> None:
    """Puts back what :func:`rates_of` gave."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    for group, (lr, initial_lr) in zip(groups, rates, strict=True):
        group.pop('unscaled_lr', None)
        group.update(lr=lr, initial_lr=initial_lr)


def turning_points(schedulers: Iterable[Any], warmup_iter: int, last: int) -> list[int]:
    """The iterations up to ``last`` that a scheduler of BasicSR has to see: between them its rate stays.

    A rate of its ``MultiStepRestartLR``, and of its warm-up, follows from the one before. The other schedulers are
    closed forms, and see only the last iteration.
    """
    points = {warmup_iter - 1, last}
    for scheduler in schedulers:
        if isinstance(scheduler, MultiStepRestartLR):
            points |= {epoch + 1 for epoch in (*scheduler.milestones, *scheduler.restarts)}
    return sorted(point for point in points if 1 <= point <= last)
