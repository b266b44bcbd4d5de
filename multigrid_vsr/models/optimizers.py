"""Optimizers by name, and those that train on other weights than they give (schedule-free ones)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.utils.registry import Registry
from torch.optim import Optimizer

OPTIMIZER_REGISTRY = Registry('optimizer')  # classes, of the user's own

_UNFIT = ('LBFGS', 'SparseAdam')  # a step evaluates the loss several times; sparse gradients alone


def torch_names() -> list[str]:
    """Optimizers of this torch that take one gradient a step."""
    of_torch = {name: value for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    return sorted(
        name
        for name, value in of_torch.items()
        if issubclass(value, Optimizer) and value is not Optimizer and name not in _UNFIT
    )


def known_names() -> list[str]:
    """What an option file may name beside a class of a library."""
    return [*torch_names(), *OPTIMIZER_REGISTRY.keys()]


def optimizer_class(name: str) -> Any:
    """The optimizer with a name: a registered one, torch's, or ``module.Class`` of an installed library.

    Raises:
        LookupError: If there is none; the text is what could not be found, or empty.
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
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise LookupError(f'{found!r} is no optimizer')
    return found


def begin(optimizers: Iterable[Optimizer]) -> None:
    """Brings the weights of schedule-free optimizers (arXiv 2405.15682) to where gradients are taken."""
    for optimizer in _with_two_modes(optimizers):
        optimizer.train()


@contextmanager
def given(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Has the weights that schedule-free optimizers give, for validation and saving; then those of before, to the bit.

    Nothing happens with other optimizers.
    """
    own = _with_two_modes(optimizers)
    before = trained_weights(own)
    for optimizer in own:
        optimizer.eval()
    try:
        yield
    finally:
        begin(own)
        put_trained_weights(own, before)


def trained_weights(optimizers: Iterable[Optimizer]) -> list[list[torch.Tensor]]:
    """Where each schedule-free optimizer takes gradients: a weight file has other weights, and a resume needs these."""
    return [[parameter.detach().clone() for parameter in _parameters(own)] for own in _with_two_modes(optimizers)]


def put_trained_weights(
    optimizers: Iterable[Optimizer],
    weights: Sequence[Sequence[torch.Tensor]],
    places: Sequence[Sequence[int | None]] | None = None,
) -> None:
    """Puts what :func:`trained_weights` gave back, in this order or by the place of each parameter there."""
    optimizers = list(optimizers)
    of_own = [of_one for optimizer, of_one in zip(optimizers, places or ()) if _with_two_modes([optimizer])]
    with torch.no_grad():
        for number, (optimizer, values) in enumerate(zip(_with_two_modes(optimizers), weights)):
            order = of_own[number] if places else range(len(values))
            for parameter, place in zip(_parameters(optimizer), order, strict=True):
                if place is not None:
                    parameter.copy_(values[place])


def _with_two_modes(optimizers: Iterable[Optimizer]) -> list[Any]:
    return [optimizer for optimizer in optimizers if hasattr(optimizer, 'train') and hasattr(optimizer, 'eval')]


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group['params']]
