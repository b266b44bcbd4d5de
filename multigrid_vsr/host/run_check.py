"""All checks of a run that need BasicSR, torch or this machine: the same for ``plan`` and ``train``."""

from __future__ import annotations

import os
from typing import Any

import torch

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.test_set_check import check_test_set
from multigrid_vsr.host.registry_check import build_on_meta, check_names_and_arguments
from multigrid_vsr.models import checkpoint
from multigrid_vsr.models.weights_check import check_pretrained
from multigrid_vsr.options.arch_limits import GAN_MODEL_TYPES
from multigrid_vsr.options.host_options import check_host_options, missing_paths, test_sets


def check_run(opt: dict[str, Any], may_miss: bool = False) -> list[OptionError]:
    """Tries what a run will look up, build and read, but for its training set. Nothing is written.

    Args:
        opt: The options of a training run that follows a schedule, checked and settled.
        may_miss: Whether files and folders may be absent.

    Returns:
        A line for each file or folder that is not on this machine; what needs it has not been checked.

    Raises:
        InputError: If something cannot be used.
    """
    missing = missing_paths(opt)
    if missing and not may_miss:
        raise missing[0]
    check_host_options(opt)
    check_names_and_arguments(opt)
    absent = {error.option for error in missing}
    for label in 'gd' if opt['model_type'] in GAN_MODEL_TYPES else 'g':
        block = f'network_{label}'
        network = build_on_meta(
            block, {key: None if f'{block}.{key}' in absent else value for key, value in opt[block].items()}
        )
        if f'path.pretrain_{block}' not in absent:
            check_pretrained(opt, label, network)
    for name in test_sets(opt):
        if not any(option.startswith(f'{name}.') for option in absent):
            check_test_set(name, opt)
    return missing


def check_state(opt: dict[str, Any], schedule: Schedule, world_size: int, root: str) -> None:
    """Reads ``path.resume_state`` and compares it with the run, as a run does when it starts.

    Args:
        opt: The options as written, settled.
        schedule: Shapes of the run.
        world_size: GPUs that share a batch.
        root: The folder below which the run writes.

    Raises:
        InputError: If it cannot be read, is of another run, or has no weights.
    """
    state = checkpoint.load_state(opt['path']['resume_state'])
    rows = checkpoint.schedule_rows(schedule, world_size)
    may_differ = bool(opt['path'].get('resume_changed_schedule'))
    checkpoint.check_same_run(state, rows, opt.get('manual_seed'), may_differ)
    checkpoint.find_weights(opt, state['iter'], os.path.join(root, 'models'))


def check_one_gpu(opt: dict[str, Any]) -> None:
    """Refuses what torch's ``DataParallel`` would train wrongly: its copies of what is compiled run GPU 0's.

    Args:
        opt: The options as BasicSR has parsed them, which knows the launcher and the GPUs.

    Raises:
        OptionError: If one process has several GPUs.
    """
    if opt['dist'] or opt['num_gpu'] < 2:
        return
    for key in ('compile', 'cuda_graph'):
        if opt['train'].get(key):
            rule = f'be left out where one process has several GPUs ({opt["num_gpu"]})'
            fix = f'Start one for each: torchrun --nproc_per_node={opt["num_gpu"]} ... --launcher pytorch.'
            raise OptionError(f'train.{key}', rule, opt['train'][key], fix)


def check_num_gpu(opt: dict[str, Any]) -> None:
    """Compares ``num_gpu`` with this machine.

    Raises:
        OptionError: If it has fewer.
    """
    num_gpu, found = opt['num_gpu'], torch.cuda.device_count()
    if num_gpu != 'auto' and num_gpu > found:
        raise OptionError('num_gpu', f'be at most the {found} GPUs of this machine', num_gpu, 'Set num_gpu: auto.')
