"""Models to be measured: on one device, as a run has them, but with nothing to save."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import torch

from multigrid_vsr.host.registering import register


def one_device() -> int:
    """``num_gpu`` of a measurement: one GPU, or the CPU."""
    return min(torch.cuda.device_count(), 1)


def model_of_windows(network_opt: Mapping[str, Any]) -> str:
    """``model_type`` of BasicSR's for a network that gives the frame in the middle of a window."""
    return 'EDVRModel' if network_opt['type'] == 'EDVR' else 'VideoBaseModel'


def build(opt: dict[str, Any]) -> Any:
    """The model of a run, with cuDNN as in BasicSR's training script; signals end the process at once."""
    register()  # nothing is, where a module of this plugin has imported BasicSR
    from basicsr.models import build_model

    torch.backends.cudnn.benchmark = True
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    model = build_model(opt)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return model
