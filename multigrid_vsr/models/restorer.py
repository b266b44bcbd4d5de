"""A trained network out of its weight file and the option file of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.models import checkpoint
from multigrid_vsr.models.inference import Restorer
from multigrid_vsr.options.arch_limits import ArchLimits, limits_in, window_of


def load_restorer(opt: Mapping[str, Any], weights: Path, param_key: str | None, device: torch.device) -> Restorer:
    """Builds ``network_g`` and loads its weights, read as data alone.

    Args:
        opt: Options of the run.
        weights: Weight file of BasicSR.
        param_key: ``params`` or ``params_ema``; without it the average of the weights where the file has one.
        device: Where it runs.

    Raises:
        InputError: If the network cannot be built, or the weights are not its own.
    """
    network_opt = opt.get('network_g')
    if not isinstance(network_opt, Mapping):
        raise OptionError('network_g', 'be a block of options', network_opt, 'Give the option file of the run.')
    # Weights of parts, as of the flow network, come with the file.
    network_opt = {key: None if key.endswith('_path') else value for key, value in network_opt.items()}
    try:
        network = build_network(dict(network_opt))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f'network_g: must be options of an arch of BasicSR, got {error}. Correct it.') from None
    state = _read(weights, param_key)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f'--weights: must be of the network of the option file, got {weights} ({one_line(error)}). Give -opt of '
            'its run.'
        ) from None
    return restorer_of(opt, network.to(device).eval(), device)


def restorer_of(
    opt: Mapping[str, Any],
    network: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
    padding: str = 'reflection_circle',
) -> Restorer:
    """What knows of the arch of an option file how clips go through it.

    Args:
        opt: Options of a run.
        network: ``network_g`` itself, or what runs it.
        device: Where it runs.
        padding: Of the window of a sliding-window arch.
    """
    limits, network_opt = limits_in(opt) or ArchLimits(), opt['network_g']
    window = window_of(opt)
    stride = network_opt.get('keyframe_stride', 5) if network_opt.get('type') == 'IconVSR' else 1
    return Restorer(network, window, limits.lq_multiple, window or limits.least_frames, stride, device, padding)


def _read(path: Path, param_key: str | None) -> dict[str, torch.Tensor]:
    try:
        found = checkpoint.read(path)
    except ValueError as error:
        raise InputError(
            f'--weights: must be a whole weight file of plain data, got {path} ({error}). Give another.'
        ) from None
    keys = [key for key in ('params_ema', 'params') if isinstance(found, dict) and key in found]
    if not keys:
        raise InputError(f'--weights: must be a weight file of BasicSR, got {path}, something else. Give net_g_*.pth.')
    if param_key not in (None, *keys):
        raise InputError(
            f'--weights: must be a weight file with {param_key}, got {path} (it has {keys[0]}). '
            f'Give --param_key {keys[0]}.'
        )
    return {name.removeprefix('module.'): value for name, value in found[param_key or keys[0]].items()}
