"""The ``train`` block, its scheduler and the ``stock_run`` block: all checks that need neither torch nor the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.lr import (
    CosineOptions,
    CosineSchedule,
    Rate,
    basicsr_cosine,
    basicsr_steps,
    batch_factor,
    period_starts,
    warmed_up,
)
from multigrid_vsr.core.plan import StockRun
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.archs import check_arch, target_of
from multigrid_vsr.options.checked import check_unread, checked, options_of
from multigrid_vsr.options.kinds import is_number
from multigrid_vsr.options.known_types import STOCK_DATASETS, is_known_dataset
from multigrid_vsr.options.multigrid_block import check_blocks, largest_part, lookup, schedule_from_options
from multigrid_vsr.options.table import MOST_WARMUP, SCHEDULER_TYPE, WARMUP_PART


def cosine_options(scheduler_opt: Mapping[str, Any], schedule: Schedule) -> CosineOptions:
    """Checks ``train.scheduler`` of type ``MultigridCosineLR``.

    Raises:
        OptionError: If an option breaks its rule.
    """
    values = checked('train.scheduler', scheduler_opt)
    values.pop('type', None)
    warmup = values.setdefault('warmup_iter', min(schedule.total_iter // WARMUP_PART, MOST_WARMUP))
    values['warmup_iter'] = max(warmup, 0)  # -1 is BasicSR's word for none
    if len(schedule.segments) == 1:  # the block has been deleted: the weight of the full shape stays
        values['restart_weights'] = tuple(values.get('restart_weights', ()))[-1:]
    elif 'restart_weights' in values:
        periods = len(period_starts(schedule, values.get('restart', CosineOptions.restart)))
        _check_weights(scheduler_opt['restart_weights'], periods, schedule.segments[-1].stage + 1)
        values['restart_weights'] = tuple(values['restart_weights'])
    return CosineOptions(**values)


def _check_weights(weights: Sequence[float], periods: int, stages: int) -> None:
    if len(weights) not in (periods, stages):
        rule = f'be {periods} numbers, one for each period'
        if stages != periods:
            rule += f', or {stages}, one for each spatial stage'
        raise OptionError('train.scheduler.restart_weights', rule, weights, 'Add or remove entries.')


def check_scheduler(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Checks ``train.scheduler``: all of it where it is this project's, else what a scheduler of BasicSR has beside.

    Raises:
        OptionError: If an option breaks its rule.
    """
    scheduler_opt = opt['train'].get('scheduler') or {}
    if scheduler_opt.get('type') == SCHEDULER_TYPE:
        cosine_options(scheduler_opt, schedule)
    else:
        scaling = options_of('train.scheduler')['batch_scaling']
        if 'batch_scaling' in scheduler_opt:
            scaling.kind.check(scaling.name, scheduler_opt['batch_scaling'])
        periods = scheduler_opt.get('periods')
        if isinstance(periods, Sequence) and sum(periods) < schedule.total_iter:
            raise OptionError(
                'train.scheduler.periods',
                f'add up to train.total_iter ({schedule.total_iter})',
                f'{periods} (sum {sum(periods)})',
                'BasicSR would fail after them.',
            )


def rate_of(train_opt: Mapping[str, Any], schedule: Schedule) -> Rate | None:
    """The learning rate of ``optim_g`` at every iteration, counted from 0, as a pure function.

    Args:
        train_opt: The ``train`` block, checked.
        schedule: Shapes of the run.

    Returns:
        It, or ``None`` for a scheduler that is neither this project's nor one of BasicSR's two, or without a rate.
    """
    options = train_opt.get('scheduler') or {}
    lr: Any = (train_opt.get('optim_g') or {}).get('lr')
    if not is_number(lr):
        return None
    base_lr = float(lr)
    scaling, warmup_iter = 'none', train_opt.get('warmup_iter') or -1
    if options.get('type') == SCHEDULER_TYPE:
        cosine = CosineSchedule(schedule, cosine_options(options, schedule))
        rate: Rate = lambda i: cosine.at(i, base_lr)  # noqa: E731
    else:
        scaling = options.get('batch_scaling', 'none')
        if options.get('type') == 'CosineAnnealingRestartLR' and 'periods' in options:
            weights = options.get('restart_weights', [1])
            rate = basicsr_cosine(base_lr, options['periods'], weights, options.get('eta_min', 0))
        elif options.get('type') in ('MultiStepLR', 'MultiStepRestartLR') and 'milestones' in options:
            restarts, weights = options.get('restarts', [0]), options.get('restart_weights', [1])
            gamma = options.get('gamma', 0.1)
            rate = basicsr_steps(base_lr, options['milestones'], gamma, restarts, weights, warmup_iter)
        else:
            return None
    warm = warmed_up(rate, base_lr, warmup_iter)
    return lambda i: warm(i) * batch_factor(schedule, i, scaling)


COMMENTS = {
    'stock_run': 'the run that this file was made from: plan, log and report compare with it',
    'stock_run.total_iter': 'its iterations',
    'stock_run.batch_size': 'its samples an iteration, on all GPUs',
}


def gpus_of(opt: Mapping[str, Any]) -> int:
    """``num_gpu`` of the file; 1 where it is ``auto``, or 0 for the CPU."""
    num_gpu = opt.get('num_gpu')
    return (num_gpu if isinstance(num_gpu, int) else 1) or 1


def stock_run_of(opt: Mapping[str, Any], world_size: int) -> StockRun | None:
    """The stock run on as many GPUs for each of its own as this run has for each of the file's.

    Args:
        opt: The options.
        world_size: GPUs that the run is on; a launcher may start more or fewer than ``num_gpu``.

    Raises:
        OptionError: If the block does not hold both numbers.
    """
    block = opt.get('stock_run')
    if block is None:
        return None
    if not isinstance(block, Mapping):
        raise OptionError('stock_run', 'be a block of total_iter and batch_size', block, 'Correct or delete it.')
    values = checked('stock_run', block)
    for key in ('total_iter', 'batch_size'):
        if key not in values:
            raise OptionError(f'stock_run.{key}', 'be given', None, 'Add it, or delete the block.')
    return StockRun(values['total_iter'], values['batch_size'] * world_size / gpus_of(opt))


def with_stock_run(opt: Mapping[str, Any], total_iter: int, batch_size: int) -> dict[str, Any]:
    """The options with the block behind the training set and its shapes; one that is there already stays."""
    if opt.get('stock_run') is not None:
        return dict(opt)
    items = [item for item in opt.items() if item[0] != 'stock_run']
    keys = [key for key, _ in items]
    place = keys.index('multigrid' if 'multigrid' in keys else 'datasets') + 1
    block = {'total_iter': total_iter, 'batch_size': batch_size}
    return dict([*items[:place], ('stock_run', block), *items[place:]])


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
