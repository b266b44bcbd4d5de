"""Which parameters train."""

from __future__ import annotations

import torch
from basicsr.utils import get_root_logger

_FLOW_MODULES = ('spynet', 'edvr')  # what BasicSR's `fix_flow` holds fixed


def hold_fixed(network: torch.nn.Module, fixes_flow: bool, trains_fusion_alone: bool) -> None:
    """Lets all parameters train but those that BasicSR's ``fix_flow`` or ``tsa_iter`` hold fixed, and logs it."""
    for name, parameter in network.named_parameters():
        in_flow = any(module in name for module in _FLOW_MODULES)
        parameter.requires_grad_(not ((fixes_flow and in_flow) or (trains_fusion_alone and 'fusion' not in name)))
    fixed = 'the flow network and feature extractor' if fixes_flow else 'all but the TSA module'
    get_root_logger().info(f'Hold {fixed} fixed.' if fixes_flow or trains_fusion_alone else 'Train all the parameters.')
