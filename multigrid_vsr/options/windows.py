"""What the arguments of an arch of attention windows say of the crops that it takes, where nothing else is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multigrid_vsr.options.arch_limits import LIMITS, ArchLimits, limits_in


def has_built_in_size(opt: Mapping[str, Any]) -> bool:
    """Whether an arch is built for one size, ``img_size`` as in SwinIR, and the file states no limits instead."""
    stated = opt.get('multigrid') or {}
    network_opt = opt['network_g']
    is_stated = stated.get('lq_multiple') is not None or stated.get('lq_least') is not None
    return network_opt.get('type') not in LIMITS and network_opt.get('img_size') is not None and not is_stated


def limits_with_windows(opt: Mapping[str, Any]) -> ArchLimits:
    """The limits that are known or stated; else the LQ side is a multiple of ``window_size``, (t, h, w) or a side."""
    limits, network_opt = limits_in(opt) or ArchLimits(), opt['network_g']
    window = network_opt.get('window_size')
    sides = window[-2:] if isinstance(window, list) else [window]
    is_known = network_opt.get('type') in LIMITS or (opt.get('multigrid') or {}).get('lq_multiple') is not None
    if is_known or not all(isinstance(side, int) and side > 0 for side in sides):
        return limits
    return replace(limits, lq_multiple=math.lcm(*sides))
