"""All checks of a training run's options that need neither torch nor the data; and those of the ``train`` block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.arch_limits import check_arch, target_of
from multigrid_vsr.options.checked import check_unread, checked
from multigrid_vsr.options.known_types import STOCK_DATASETS, is_known_dataset
from multigrid_vsr.options.multigrid_block import check_blocks, largest_part, lookup, schedule_from_options
from multigrid_vsr.options.scheduler import check_scheduler
from multigrid_vsr.options.stock_run import stock_run_of

NOT_IN_A_GAN_RUN = {'amp': 'It trains in float32.', 'cuda_graph': "Its two steps are BasicSR's own code."}


def checked_schedule(opt: Mapping[str, Any]) -> Schedule:
    """Checks the options of a run that follows a schedule and lays the schedule out.

    Args:
        opt: The options, as read from YAML.

    Raises:
        OptionError: If an option breaks its rule.
    """
    schedule = schedule_from_options(opt)
    stock_run_of(opt, 1)
    check_blocks(opt, 'network_g', 'train.scheduler')
    for block in ('train', 'datasets.train', 'path'):
        checked(block, lookup(opt, block) or {})
    check_unread(opt)
    _check_backend(opt['datasets']['train'])
    _check_mirrored(opt['datasets']['train'], schedule)
    _check_modules(opt['train'])
    if opt['model_type'] == 'MultigridVideoGANModel':
        _check_gan(opt, schedule)
    check_scheduler(opt, schedule)
    check_arch(opt, schedule)
    return schedule


def _check_backend(dataset_opt: Mapping[str, Any]) -> None:
    """Where a training set of known options has its frames from."""
    if not is_known_dataset(dataset_opt):
        return
    checked('datasets.train.io_backend', dataset_opt.get('io_backend') or {})
    backend = (dataset_opt.get('io_backend') or {}).get('type')
    if dataset_opt['type'] in STOCK_DATASETS and backend == 'packed':
        ours = STOCK_DATASETS[dataset_opt['type']]
        raise OptionError(
            'datasets.train.io_backend.type', "be disk or lmdb for BasicSR's datasets", backend, f'Or use {ours}.'
        )


def _check_mirrored(dataset_opt: Mapping[str, Any], schedule: Schedule) -> None:
    """With ``flip_sequence`` the second half of a sample is the first one backwards."""
    if dataset_opt.get('type') != 'MultigridVimeo90KDataset' or not dataset_opt.get('flip_sequence'):
        return
    for segment in schedule.segments:
        if segment.shape.num_frame % 2:
            raise OptionError(
                'datasets.train.num_frame',
                'be even, and so every multigrid.num_frame, beside flip_sequence (half of them mirrored)',
                segment.shape.num_frame,
                'Use [6, 10, 14], or set flip_sequence: false.',
            )


def _check_modules(train_opt: Mapping[str, Any]) -> None:
    """What stands beside options that name modules."""
    names = train_opt.get('fix_modules')
    if names and not train_opt.get('fix_flow') and train_opt.get('flow_lr_mul', 1) == 1:
        raise OptionError('train.fix_modules', 'stand beside fix_flow or flow_lr_mul', names, 'Say for how long.')
    if train_opt.get('checkpoint_modules') and train_opt.get('compile'):
        rule, fix = 'be left out beside train.compile', 'What is compiled chooses what it computes again.'
        raise OptionError('train.checkpoint_modules', rule, train_opt['checkpoint_modules'], fix)


def _check_gan(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """What BasicSR's GAN iteration cannot do: it is its own code, in float32, on a whole batch of sequences."""
    shapes, part = [segment.shape for segment in schedule.segments], largest_part(opt)
    for key, fix in NOT_IN_A_GAN_RUN.items():
        if opt['train'].get(key):
            raise OptionError(f'train.{key}', 'be left out of a GAN run', opt['train'][key], fix)
    if part and any(shape.batch_size_per_gpu > part.samples_of(shape.num_frame, shape.gt_size) for shape in shapes):
        raise OptionError(
            'multigrid.max_batch_size_per_gpu',
            f'be at least the largest batch ({max(shape.batch_size_per_gpu for shape in shapes)}) in a GAN run',
            part.batch_size_per_gpu,
            'Its gradients are not accumulated: lower the batch.',
        )
    if target_of(opt) == 'center':
        raise OptionError(
            'model_type', 'be MultigridVideoModel for an arch with one target frame', opt['model_type'], 'Change it.'
        )
    check_blocks(opt, 'network_d', 'train.optim_d', 'train.gan_opt')
