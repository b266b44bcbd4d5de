"""The state of an optimizer, brought into a run whose option file may have changed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer

_KEPT = ('lr', 'amsgrad')  # the scheduler's, and what the saved moments are made for


def take_flags(optimizer: Optimizer, saved: dict[str, Any]) -> Iterator[str]:
    """Puts the optimizer's own flags (``fused``, ``betas``, ``weight_decay``...) into a saved state, to be loaded then.

    torch would take those of the state, and the option file would change nothing without a word.

    Args:
        optimizer: As the option file has it.
        saved: Its ``state_dict`` of before; changed in place.

    Yields:
        A line for each flag that changes.
    """
    arguments = inspect.signature(type(optimizer)).parameters  # some keep counts among their defaults
    for flag, value in optimizer.defaults.items():
        if flag in _KEPT or flag not in arguments:
            continue
        before = {_shown(group.get(flag)) for group in saved['param_groups']}
        for group in saved['param_groups']:
            group[flag] = value
        if before != {_shown(value)}:
            yield f'train.optim: {flag} is {_shown(value)} now, and was {" and ".join(sorted(before))}.'


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
