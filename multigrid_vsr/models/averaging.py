"""The mean of checkpoints, as one weight file of BasicSR (Izmailov et al., arXiv 1803.05407, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.models import checkpoints

Weights = dict[str, dict[str, torch.Tensor]]  # 'params', 'params_ema': a state of the network


def last_checkpoints(folder: Path, count: int) -> list[Path]:
    """The weights of the last iterations that a run has kept, oldest first.

    Args:
        folder: Folder of the run.
        count: How many.

    Raises:
        OptionError: If there are fewer.
    """
    found = [path for path in folder.glob('models/net_g_*.pth') if path.stem.removeprefix('net_g_').isdigit()]
    if len(found) < count:
        raise OptionError(
            '--last',
            f'be at most the {len(found)} checkpoints net_g_*.pth in {folder / "models"}',
            count,
            'Lower it, or give the folder of another run.',
        )
    return sorted(found, key=lambda path: int(path.stem.removeprefix('net_g_')))[-count:]


def average(paths: Sequence[Path]) -> Weights:
    """The mean of each parameter over weight files, summed in float64.

    What counts (BatchNorm's ``num_batches_tracked``) is that of the last file. BatchNorm's running statistics come out
    as their mean too, which is not what the averaged network has: see :func:`update_batch_norm`.

    Args:
        paths: Weight files of one network, the last one last.

    Returns:
        For each of ``params`` and ``params_ema`` that all files have, the state of a network.

    Raises:
        InputError: If a file cannot be read, or is of another network.
    """
    sums: Weights = {}
    last: Weights = {}
    for path in paths:
        last = _read(path)
        sums = {key: sums[key] for key in last if key in sums} if sums else {key: {} for key in last}
        for key, total in sums.items():
            shapes = {name: value.shape for name, value in last[key].items()}
            if total and shapes != {name: value.shape for name, value in total.items()}:
                raise InputError(f'{path}: must be of the same network as {paths[0]}, got other weights. Leave it out.')
            for name, value in last[key].items():
                total[name] = total.get(name, 0) + value.double()
    return {
        key: {
            name: (value / len(paths)).to(last[key][name].dtype)
            if last[key][name].is_floating_point()
            else last[key][name]
            for name, value in total.items()
        }
        for key, total in sums.items()
    }


def has_batch_norm(weights: Weights) -> bool:
    """Whether a network keeps running statistics."""
    return any(name.endswith('running_var') for state in weights.values() for name in state)


def update_batch_norm(weights: Weights, network: torch.nn.Module, inputs: Callable[[], Iterable[torch.Tensor]]) -> None:
    """Puts the statistics of the averaged network in place of the mean of the statistics.

    The activations of a mean of networks are not the mean of their activations, so mean and variance are measured
    anew, as plain means over the given batches (the paper's section 3.2).

    Args:
        weights: What :func:`average` gave; changed.
        network: The network that they are for.
        inputs: Gives batches as the network takes them; called once for each state.
    """
    for state in weights.values():
        network.load_state_dict(state)
        update_bn(inputs(), network)
        counts = {name: value for name, value in state.items() if not value.is_floating_point()}
        state.update({name: value.detach().cpu().clone() for name, value in network.state_dict().items()} | counts)


def _read(path: Path) -> Weights:
    try:
        weights = checkpoints.read(path)
    except ValueError as error:
        raise InputError(f'{path}: must be a whole weight file of plain data, got {error}. Leave it out.') from None
    if not isinstance(weights, Mapping) or not all(_is_state(value) for value in weights.values()):
        raise InputError(f'{path}: must be a weight file of BasicSR, got something else. Leave it out.')
    return dict(weights)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(weight, torch.Tensor) for weight in value.values())
