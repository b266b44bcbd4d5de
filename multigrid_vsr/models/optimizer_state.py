"""The state of an optimizer, brought into a run whose option file may have changed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

_KEPT = ('lr', 'amsgrad')  # the scheduler's, and what the saved moments are made for


def parameter_names(model: Any) -> list[list[str]]:
    """The name of each parameter of each optimizer, in its order: ``net_g.conv.weight``."""
    names = {
        id(parameter): f'{label}.{name}'
        for label, network in vars(model).items()
        if isinstance(network, torch.nn.Module) and label != 'net_g_ema'
        for name, parameter in model.get_bare_model(network).named_parameters()
    }
    return [[names.get(id(parameter), '') for parameter in parameters_of(optimizer)] for optimizer in model.optimizers]


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """All parameters of an optimizer, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group['params']]


def places(optimizer: Optimizer, names: Sequence[str], saved: Mapping[str, Any], saved_names: Any) -> list[int | None]:
    """Where a saved state has each parameter; ``None`` where that is not known.

    Args:
        optimizer: As the option file has it.
        names: Of its parameters.
        saved: Its ``state_dict`` of before, whose groups may be others.
        saved_names: Of the parameters there; ``None`` in a state that does not say them.
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

    torch would take the flags of the state, and the option file would change nothing without a word. It would fail on
    other groups, and at the next step on the moments of another optimizer.

    Args:
        optimizer: As the option file has it.
        saved: Its ``state_dict`` of before.
        saved_places: :func:`places` of its parameters there.

    Returns:
        The state, and a line for each flag that changes and for moments that begin anew.
    """
    own, groups, lines = optimizer.state_dict(), saved['param_groups'], []
    has_same_groups = len(groups) == len(own['param_groups'])
    merged = []
    for number, group in enumerate(own['param_groups']):
        before = groups[number] if has_same_groups else {**groups[0], 'lr': group['lr']}
        merged.append({**group, **before, 'params': group['params']})
    arguments = inspect.signature(type(optimizer)).parameters  # some keep counts among their defaults
    for flag, value in optimizer.defaults.items():
        if flag in _KEPT or flag not in arguments:
            continue
        shown = {_shown(group[flag]) for group in groups if flag in group}
        for group in merged:
            group[flag] = value
        if shown and shown != {_shown(value)}:
            lines.append(f'train.optim: {flag} is {_shown(value)} now, and was {" and ".join(sorted(shown))}.')
    state, needed = {}, {shape: _kept_values(optimizer, shape) for shape in {p.shape for p in parameters_of(optimizer)}}
    for number, (place, parameter) in enumerate(zip(saved_places, parameters_of(optimizer))):
        values = saved['state'].get(place)
        if values and needed[parameter.shape].items() <= _shapes(values).items():
            state[number] = values
    if lost := len(saved['state']) - len(state):
        lines.append(
            f'train.optim: the moments of {lost} of {len(saved["state"])} parameters begin anew. Those of the '
            'state are of another optimizer or of other parameters.'
        )
    return {'state': state, 'param_groups': merged}, lines


def _kept_values(optimizer: Optimizer, shape: torch.Size) -> dict[str, Any]:
    """What this kind of optimizer keeps of a parameter of a shape; nothing where that cannot be tried."""
    arguments = inspect.signature(type(optimizer)).parameters
    flags = {flag: value for flag, value in optimizer.defaults.items() if flag in arguments}
    parameter = torch.nn.Parameter(torch.zeros(shape, device=parameters_of(optimizer)[0].device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        tried = type(optimizer)([parameter], **flags)
        tried.step()
    except Exception:  # an optimizer of the user's own may ask for more
        return {}
    return {name: value for name, value in _shapes(tried.state[parameter]).items() if name != 'max_exp_avg_sq'}


def _shapes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each value that is kept of a parameter; one number may be a tensor or not."""
    kept = {name: value for name, value in values.items() if value is not None}
    return {name: tuple(value.shape) if torch.is_tensor(value) else () for name, value in kept.items()}


def _shown(value: object) -> str:
    return str(tuple(value) if isinstance(value, list) else value)  # older versions of torch keep a list


def lay_out(optimizer: Optimizer) -> None:
    """Lays the moments out as their parameters are: ``train.channels_last`` may have changed since they were saved.

    A fused optimizer walks both in the order of memory.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
