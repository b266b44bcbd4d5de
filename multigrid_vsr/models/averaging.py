"""The mean of checkpoints, as one weight file of BasicSR (Izmailov et al., arXiv 1803.05407, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.models import checkpoints

Weights = dict[str, dict[str, torch.Tensor]]  # 'params', 'params_ema': a state of the network


def last_checkpoints(folder: Path, count: int) -> list[Path]:
    """The weight files of the last iterations that a run has kept, oldest first.

    Args:
        folder: Folder of the run.
        count: How many.

    Raises:
        OptionError: If there are fewer.
    """
    found = [path for path in folder.glob('models/net_g_*.pth') if path.stem.removeprefix('net_g_').isdigit()]
    if len(found) < count:
        rule = f'be at most the {len(found)} checkpoints net_g_*.pth in {folder / "models"}'
        raise OptionError('--last', rule, count, 'Lower it, or give the folder of another run.')
    return sorted(found, key=lambda path: int(path.stem.removeprefix('net_g_')))[-count:]


def average(paths: Sequence[Path]) -> Weights:
    """The mean of each parameter over weight files, summed in float64. Whole numbers are those of the last file.

    Args:
        paths: Weight files of one network, the last one last.

    Returns:
        For each of ``params`` and ``params_ema`` that all files have, the state of a network.

    Raises:
        InputError: If a file cannot be read, is of another network, or holds BatchNorm's running statistics. The
            statistics of an averaged network are not the mean of those of the networks.
    """
    sums: Weights = {}
    last: Weights = {}
    for path in paths:
        last = _read(path)
        sums = {key: sums.get(key, {}) for key in last if key in sums or path == paths[0]}
        for key, total in sums.items():
            if total and _shapes(total) != _shapes(last[key]):
                raise InputError(f'{path}: must be of the same network as {paths[0]}, got other weights. Leave it out.')
            for name, value in last[key].items():
                total[name] = total.get(name, 0) + value.double()
    return {
        key: {
            name: (total[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
            for name, value in last[key].items()
        }
        for key, total in sums.items()
    }


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _read(path: Path) -> Weights:
    try:
        weights = checkpoints.read(path)
    except ValueError as error:
        raise InputError(f'{path}: must be a whole weight file of plain data, got {error}. Leave it out.') from None
    if not isinstance(weights, Mapping) or not all(_is_state(value) for value in weights.values()):
        raise InputError(f'{path}: must be a weight file of BasicSR, got something else. Leave it out.')
    if any(name.endswith('running_var') for state in weights.values() for name in state):
        raise OptionError(
            'EXPERIMENT', 'be a run of an arch without BatchNorm', path, 'Use net_g_latest.pth, or train with an EMA.'
        )
    return dict(weights)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(weight, torch.Tensor) for weight in value.values())
