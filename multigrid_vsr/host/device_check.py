"""Whether the devices of this machine can do what a run asks of them."""

from __future__ import annotations

import os
from typing import Any

import torch

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models.precision import has_bf16, has_deformable
from multigrid_vsr.models.wrapping import of_all_ranks

_SEVERAL = (
    'num_gpu: {0} GPUs in one process, several times slower than a process for each: torchrun --nproc_per_node={0} '
    '... --launcher pytorch'
)


def counted(opt: dict[str, Any]) -> dict[str, Any]:
    """The options with the GPUs of this machine for ``num_gpu: auto``."""
    return {**opt, 'num_gpu': torch.cuda.device_count()} if opt.get('num_gpu') == 'auto' else opt


def check_num_gpu(opt: dict[str, Any], has_launcher: bool = False) -> None:
    """Compares ``num_gpu`` with this machine; with a launcher each process takes one GPU, whatever it says.

    Raises:
        OptionError: If there are fewer.
    """
    num_gpu, found = opt['num_gpu'], torch.cuda.device_count()
    if num_gpu != 'auto' and num_gpu > found and not (has_launcher and found):
        raise OptionError('num_gpu', f'be at most the {found} GPUs of this machine', num_gpu, 'Set num_gpu: auto.')


def check_seed(opt: dict[str, Any]) -> None:
    """Leaves room for the seeds of all ranks: BasicSR adds the rank, and NumPy takes 32 bits.

    Raises:
        OptionError: If there is none.
    """
    ranks = int(os.environ.get('WORLD_SIZE') or os.environ.get('SLURM_NTASKS') or 1)
    if (opt.get('manual_seed') or 0) + ranks > 2**32:
        raise OptionError(
            'manual_seed', f'be at most {2**32 - ranks} with {ranks} ranks', opt['manual_seed'], 'Lower it.'
        )


def check_several_gpus(opt: dict[str, Any], has_launcher: bool) -> list[str]:
    """Looks at what is slow or wrong where one process has several GPUs, as torch's ``DataParallel``.

    Args:
        opt: The options of a training run, :func:`counted`.
        has_launcher: Whether each process has a GPU of its own.

    Returns:
        A line where there are several.

    Raises:
        OptionError: If it would train with other gradients than it says.
    """
    gpus = opt['num_gpu']
    if has_launcher or gpus < 2:
        return []
    wrong = {key: opt['train'].get(key) for key in ('compile', 'cuda_graph')}  # the copies would run GPU 0's weights
    if opt['train'].get('amp') == 'bf16':  # the threads of the other GPUs take fp16 for it, without a scaler
        wrong['amp'] = 'bf16'
    for key, value in wrong.items():
        if value:
            fix = f'Start a process for each: torchrun --nproc_per_node={gpus} ... --launcher pytorch.'
            raise OptionError(f'train.{key}', f'be left out where one process has {gpus} GPUs', value, fix)
    return [_SEVERAL.format(gpus)]


def check_bf16(opt: dict[str, Any]) -> None:
    """Refuses bf16 where a GPU of the run only emulates it; all ranks ask.

    Args:
        opt: The options of a training run, as ``parse_options`` gives them: each rank has its GPU.

    Raises:
        OptionError: On all ranks, if there is such a GPU.
    """
    if opt['train'].get('amp') != 'bf16' or opt['num_gpu'] == 0 or not torch.cuda.is_available():
        return
    lacking = None if has_bf16(torch.device('cuda')) else torch.cuda.get_device_name()
    names = [name for name in of_all_ranks(lacking) if name is not None]
    if names:
        rule = f'be fp16 or left out on {names[0]}, which has no bf16'
        raise OptionError('train.amp', rule, 'bf16', 'Or set auto, which takes what the GPU has.')


def check_cpu(opt: dict[str, Any], network: torch.nn.Module) -> None:
    """Refuses what needs a GPU in a run on a CPU.

    Args:
        opt: The options of a training run.
        network: ``network_g``, on any device.

    Raises:
        OptionError: If it would copy ahead, or has deformable convolutions in half precision: torchvision has them in
            float32 alone there.
    """
    if opt['num_gpu'] != 0:
        return
    if opt['datasets']['train'].get('prefetch_mode') == 'cuda':
        raise OptionError('datasets.train.prefetch_mode', 'be cpu or left out on a CPU', 'cuda', 'Change it.')
    amp = opt['train'].get('amp')
    if amp not in (None, 'auto') and has_deformable(network):
        arch = opt['network_g']['type']
        rule = f'be left out on a CPU for {arch}, whose deformable convolutions are in float32 alone there'
        raise OptionError('train.amp', rule, amp, 'Leave it out, or train on a GPU.')
