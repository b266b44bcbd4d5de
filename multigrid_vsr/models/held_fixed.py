"""Which parameters train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils import get_root_logger

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.kinds import did_you_mean

_FLOW_MODULES = ('spynet', 'edvr')  # what BasicSR's `fix_flow` holds fixed


def fixed_names(train_opt: Mapping[str, Any]) -> Sequence[str]:
    """What is in the names of the parameters that ``train.fix_flow`` holds fixed."""
    return train_opt.get('fix_modules') or _FLOW_MODULES


def check_fixed_names(names: Sequence[str], network: torch.nn.Module) -> None:
    """Looks for ``train.fix_modules`` among the parameters of the network, which may be on the meta device.

    Raises:
        OptionError: If none has a name with one of them in it.
    """
    parameters = [name for name, _ in network.named_parameters()]
    for place, part in enumerate(names):
        if not any(part in name for name in parameters):
            rule = f'be part of the name of a parameter of {type(network).__name__}'
            fix = did_you_mean(part, dict.fromkeys(word for name in parameters for word in name.split('.')))
            raise OptionError(f'train.fix_modules[{place}]', rule, part, fix)


def hold_fixed(network: torch.nn.Module, names: Sequence[str], trains_fusion_alone: bool) -> None:
    """Lets all parameters train but those with one of the names, or all but those of ``tsa_iter``, and logs it."""
    for name, parameter in network.named_parameters():
        is_fixed = any(part in name for part in names) or (trains_fusion_alone and 'fusion' not in name)
        parameter.requires_grad_(not is_fixed)
    fixed = 'all but the TSA module' if not names else 'the flow network and feature extractor'
    if names and names != _FLOW_MODULES:
        fixed = ', '.join(names)
    get_root_logger().info(f'Hold {fixed} fixed.' if names or trains_fusion_alone else 'Train all the parameters.')


def rate_groups(network: torch.nn.Module, names: Sequence[str], lr: float, factor: float) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer: those without one of the names first, as BasicSR has them.

    Args:
        network: The network.
        names: What is in the names of the others.
        lr: Rate of the first.
        factor: Rate of the others against it.
    """
    groups: list[dict[str, Any]] = [{'params': [], 'lr': lr}, {'params': [], 'lr': lr * factor}]
    for name, parameter in network.named_parameters():
        groups[any(part in name for part in names)]['params'].append(parameter)
    return groups
