"""The largest shape of a run, once before iteration 1: running out of memory shows now and not days later."""

from __future__ import annotations

import copy
from typing import Any

import torch

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.schedule import Schedule


def preflight(model: Any, schedule: Schedule) -> None:
    """Runs the largest shape forward and backward; weights, buffers, optimizer and random state stay as they are.

    Args:
        model: A ``MultigridVideoModel`` that holds its first batch.
        schedule: Shapes of the run.

    Raises:
        InputError: If the memory of the device does not hold it.
    """
    shape = max((segment.shape for segment in schedule.segments), key=lambda s: s.pixels)
    lq_size = shape.gt_size // model.opt.get('scale', 1)
    batch = shape.batch_size_per_gpu
    lq = torch.zeros(batch, shape.num_frame, 3, lq_size, lq_size, device=model.device)
    lead = (batch,) if model.gt.dim() == 4 else (batch, shape.num_frame)  # one target frame, or all
    gt = torch.zeros(*lead, 3, shape.gt_size, shape.gt_size, device=model.device)

    buffers = {name: buffer.clone() for name, buffer in model.net_g.named_buffers()}
    scaler = copy.deepcopy(model._scaler.state_dict())
    with torch.random.fork_rng(devices=[model.device] if model.device.type == 'cuda' else []):
        try:
            model.backward(lq, gt)
        except torch.OutOfMemoryError:
            need = torch.cuda.max_memory_allocated() / 2**30 if model.device.type == 'cuda' else 0.0
            raise InputError(
                f'multigrid.batch_size_per_gpu: must fit the memory of the GPU, got {batch} samples of '
                f'{shape.num_frame} frames and gt_size {shape.gt_size}, which need more than {need:.1f} GiB. '
                'Lower it, or set multigrid.max_batch_size_per_gpu to cut it into parts.'
            ) from None
    model.optimizer_g.zero_grad()
    with torch.no_grad():
        for name, buffer in model.net_g.named_buffers():
            buffer.copy_(buffers[name])
    if scaler:
        model._scaler.load_state_dict(scaler)
    if model.device.type == 'cuda':
        torch.cuda.empty_cache()
