"""All checks of a run that need BasicSR, torch or this machine: the same for ``plan`` and ``train``."""

from __future__ import annotations

from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.test_set_check import check_test_set
from multigrid_vsr.host.device_check import check_cpu
from multigrid_vsr.host.own_archs import meet_least_size
from multigrid_vsr.host.registry_check import (
    build_on_meta,
    check_forward,
    check_names_and_arguments,
    check_test_names,
    check_tested_model,
)
from multigrid_vsr.models import checkpoint
from multigrid_vsr.models.checkpointed import matching
from multigrid_vsr.models.held_fixed import check_fixed_names
from multigrid_vsr.models.weights_check import check_own, check_pretrained
from multigrid_vsr.options.host_options import check_host_options, missing_paths, test_sets
from multigrid_vsr.options.known_types import MODEL_TYPES, is_gan
from multigrid_vsr.options.tests import check_test_options


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
    for label in 'gd' if is_gan(opt) else 'g':
        block = f'network_{label}'
        network = build_on_meta(
            block, {key: None if f'{block}.{key}' in absent else value for key, value in opt[block].items()}
        )
        if label == 'g':
            check_cpu(opt, network)
            check_fixed_names(opt['train'].get('fix_modules') or (), network)
            if opt['model_type'] in MODEL_TYPES and not type(network).__module__.startswith('basicsr.archs.'):
                check_forward(opt, network)
            matching(network, opt['train'].get('checkpoint_modules') or ())
        meet_least_size(network)
        if f'path.pretrain_{block}' not in absent:
            check_pretrained(opt, label, network)
    for name in test_sets(opt):
        if not any(option.startswith(f'{name}.') for option in absent):
            check_test_set(name, opt)
    return missing


def check_test(opt: dict[str, Any]) -> None:
    """Tries what a test will look up, build and read. Nothing is written.

    Args:
        opt: The options of a test, settled.

    Raises:
        InputError: If something cannot be used.
    """
    check_test_options(opt)
    missing = missing_paths(opt)
    if missing:
        raise missing[0]
    check_tested_model(opt)
    check_test_names(opt)
    check_pretrained(opt, 'g', build_on_meta('network_g', opt['network_g']))
    for name in test_sets(opt):
        check_test_set(name, opt)


def check_state(
    opt: dict[str, Any], schedule: Schedule | None, world_size: int, models: str, seed: int | None
) -> tuple[dict[str, Any], dict[str, str], dict[str, str | None]]:
    """Reads ``path.resume_state`` and compares it with the run, before anything is written.

    Args:
        opt: The options, settled.
        schedule: Shapes of the run.
        world_size: GPUs that share a batch.
        models: The run's folder of weights.
        seed: ``manual_seed`` of the option file.

    Returns:
        The state, and the file of weights and their key for each network that goes on.

    Raises:
        InputError: If it cannot be read, is of another run or network, or has no weights.
    """
    state = checkpoint.load_state(opt['path']['resume_state'])
    if schedule is not None:
        rows = checkpoint.schedule_rows(schedule, world_size)
        checkpoint.check_same_run(state, rows, seed, bool(opt['path'].get('resume_changed_schedule')))
    if opt['model_type'] in MODEL_TYPES:
        checkpoint.check_optimizers(len(state['optimizers']), 2 if is_gan(opt) else 1, opt['path']['resume_state'])
    weights = checkpoint.find_weights(opt, state['iter'], models)
    keys = {block: check_own(opt, block[-1], path, build_on_meta(block, opt[block])) for block, path in weights.items()}
    return state, weights, keys
