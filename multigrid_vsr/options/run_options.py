"""The options of a run checked against each other, its learning rate, its stock run, and the options of a test.

All checks here need neither torch nor the data.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
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
from multigrid_vsr.core.overlap import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.core.plan import StockRun
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.options.archs import (
    DATASET_TYPES,
    STOCK_DATASETS,
    STOCK_MODELS,
    ArchLimits,
    check_arch,
    is_known_dataset,
    limits_in,
    target_of,
    window_of,
)
from multigrid_vsr.options.checked import TEST_BLOCKS, check_given, check_unread, checked, lookup, options_of
from multigrid_vsr.options.kinds import did_you_mean, is_number
from multigrid_vsr.options.multigrid_block import check_blocks, largest_part, schedule_from_options
from multigrid_vsr.options.option_file import paths
from multigrid_vsr.options.table import DEFAULT_WARMUP_PART, MOST_WARMUP, OF_TRAINING, SCHEDULER_TYPE


def cosine_options(scheduler_opt: Mapping[str, Any], schedule: Schedule) -> CosineOptions:
    """Checks ``train.scheduler`` of type ``MultigridCosineLR``."""
    values = checked('train.scheduler', scheduler_opt)
    values.pop('type', None)
    warmup = values.setdefault('warmup_iter', min(schedule.total_iter // DEFAULT_WARMUP_PART, MOST_WARMUP))
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
    """Checks ``train.scheduler``: all of it where it is this project's, else what a scheduler of BasicSR has beside."""
    scheduler_opt = opt['train'].get('scheduler') or {}
    if scheduler_opt.get('type') == SCHEDULER_TYPE:
        cosine_options(scheduler_opt, schedule)
    else:
        scaling = options_of('train.scheduler')['batch_scaling']
        if 'batch_scaling' in scheduler_opt:
            scaling.type.check(scaling.name, scheduler_opt['batch_scaling'])
        periods = scheduler_opt.get('periods')
        if isinstance(periods, Sequence) and sum(periods) < schedule.total_iter:
            rule, fix = f'add up to train.total_iter ({schedule.total_iter})', 'BasicSR would fail after them.'
            raise OptionError('train.scheduler.periods', rule, f'{periods} (sum {sum(periods)})', fix)


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


def gpus_of(opt: Mapping[str, Any]) -> int:
    """``num_gpu`` of the file; 1 where it is ``auto``, or 0 for the CPU."""
    num_gpu = opt.get('num_gpu')
    return (num_gpu if isinstance(num_gpu, int) else 1) or 1


def stock_run_of(opt: Mapping[str, Any], world_size: int) -> StockRun | None:
    """The stock run on as many GPUs for each of its own as this run has for each of the file's.

    Args:
        opt: The options.
        world_size: GPUs that the run is on; a launcher may start more or fewer than ``num_gpu``.
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


NOT_IN_A_GAN_RUN = {'amp': 'It trains in float32.', 'cuda_graph': "Its two steps are BasicSR's own code."}


def checked_schedule(opt: Mapping[str, Any]) -> Schedule:
    """Checks the options of a run that follows a schedule and lays the schedule out."""
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
            rule = 'be even, and so every multigrid.num_frame, beside flip_sequence (half of them mirrored)'
            fix = 'Use [6, 10, 14], or set flip_sequence: false.'
            raise OptionError('datasets.train.num_frame', rule, segment.shape.num_frame, fix)


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
        rule = f'be at least the largest batch ({max(shape.batch_size_per_gpu for shape in shapes)}) in a GAN run'
        fix = 'Its gradients are not accumulated: lower the batch.'
        raise OptionError('multigrid.micro_batch_size_per_gpu', rule, part.batch_size_per_gpu, fix)
    if target_of(opt) == 'center':
        raise OptionError(
            'model_type', 'be MultigridVideoModel for an arch with one target frame', opt['model_type'], 'Change it.'
        )
    check_blocks(opt, 'network_d', 'train.optim_d', 'train.gan_opt')


_BLOCKS = (
    *('', 'path', 'datasets.train', 'datasets.train.io_backend', 'network_g'),
    *('train', 'train.optim_g', 'train.optim_d', 'logger', 'logger.wandb', 'val', 'dist_params'),
)
_WRITTEN_TO = ('path.experiments_root', 'path.results_root')


def missing_paths(opt: MutableMapping[str, Any]) -> list[OptionError]:
    """A line for each file or folder that a run reads, beside its training set, and that is not on this machine."""
    return [
        OptionError(name, 'be a path that exists', path, 'Correct the path, or set it to ~.')
        for name, path in paths(opt)
        if name not in _WRITTEN_TO and not name.startswith('datasets.train.') and not os.path.exists(str(path))
    ]


def check_host_options(opt: Mapping[str, Any]) -> None:
    """Asks for what BasicSR would miss with a traceback after it has made folders: keys and kinds of values."""
    is_known = is_known_dataset(opt['datasets']['train'])
    _check_values(opt, [block for block in _BLOCKS if is_known or block != 'datasets.train.io_backend'], test_sets(opt))
    train_opt, dataset_opt = opt['train'], opt['datasets']['train']
    is_degraded = dataset_opt['type'] in DATASET_TYPES and train_opt.get('degradation') is not None
    if is_known and not is_degraded and dataset_opt.get('dataroot_lq') is None:
        fix = 'Or let train.degradation make LQ frames of the ground truth.'
        raise OptionError('datasets.train.dataroot_lq', 'be given', None, fix)
    if opt['model_type'] == 'MultigridVideoGANModel' and train_opt.get('fix_flow') and train_opt.get('lr_flow') is None:
        raise OptionError('train.lr_flow', 'be given beside fix_flow in a GAN run', None, 'BasicSR needs it.')
    if 'debug' in opt['name'] and 'val' in opt and opt['val'] is None:
        rule = 'be left out, or a block, in a run with debug in its name'
        raise OptionError('val', rule, None, 'BasicSR sets val_freq there: remove the line.')
    check_pieces(opt)
    best_metric(opt)
    if lookup(opt, 'val.tb_images') and not opt['logger'].get('use_tb_logger'):
        raise OptionError('logger.use_tb_logger', 'be true beside val.tb_images', False, 'Set it, or remove tb_images.')
    if opt['datasets']['train'].get('prefetch_mode') == 'cuda' and not opt['datasets']['train'].get('pin_memory'):
        raise OptionError('datasets.train.pin_memory', 'be true beside prefetch_mode: cuda', None, 'BasicSR needs it.')
    if lookup(opt, 'logger.wandb.project') is not None and not opt['logger'].get('use_tb_logger'):
        raise OptionError(
            'logger.use_tb_logger', 'be true beside logger.wandb.project', False, 'Set it, or set the project to ~.'
        )


def _check_values(
    opt: Mapping[str, Any], blocks: Iterable[str], sets: Iterable[str], but: Collection[str] = ()
) -> None:
    """Checks each option of some blocks and test sets, and that none is missing."""
    for block, name in [*((block, block) for block in blocks), *(('datasets.val', name) for name in sets)]:
        values = lookup(opt, name) if name else opt
        if values is not None:
            checked(block, values, name)
            check_given(block, values, name, but)


def test_sets(opt: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of the test sets of a training run, or of a test."""
    trains = 'train' in opt['datasets']
    for phase, values in opt['datasets'].items():
        if phase == 'train':
            continue
        name = f'datasets.{phase}'
        if str(phase).split('_')[0] not in (('val',) if trains else ('val', 'test')):
            rule = 'be train, val, or val_2 and so on' if trains else 'be test, or test_2 and so on'
            raise OptionError(name, rule, phase, f'BasicSR knows no other in {"training" if trains else "a test"}.')
        if not isinstance(values, Mapping):
            raise OptionError(name, 'be a block of options', values, 'Write one option a line below it.')
        yield name


_TEST_BLOCKS = ('', 'path', 'network_g', 'val', 'dist_params')


def trains(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is that of a training run."""
    return isinstance(lookup(opt, 'datasets.train'), Mapping)


def as_test(opt: Mapping[str, Any], weights: str, param_key: str | None) -> tuple[dict[str, Any], list[str]]:
    """The option file of a test of trained weights.

    Args:
        opt: The options of a test or of a training run, whose test sets are measured then.
        weights: The weight file.
        param_key: Its key; ``None`` for weights without one.

    Returns:
        The options, and a line for each that is another than written.
    """
    path_opt = {'pretrain_network_g': weights, 'param_key_g': param_key, 'resume_state': None}
    new = {**opt, 'path': {**(opt.get('path') or {}), **path_opt}}
    if isinstance(opt.get('datasets'), Mapping):
        new['datasets'] = {phase: values for phase, values in opt['datasets'].items() if phase != 'train'}
    if isinstance(opt.get('network_g'), Mapping):  # weights of parts, as of the flow network, come with the file
        new['network_g'] = {key: None if key.endswith('_path') else value for key, value in opt['network_g'].items()}
    ours = STOCK_MODELS.get(opt.get('model_type', ''))
    if ours is None:
        return new, []
    return {**new, 'model_type': ours}, [f'model_type: {opt["model_type"]} is tested as {ours}.']


def newest_weights(opt: Mapping[str, Any]) -> str:
    """The newest weights of the run of a training file: of its end, or of its last checkpoint."""
    root = lookup(opt, 'path.experiments_root') or 'experiments'
    folder = Path(root, str(opt.get('name')), 'models')
    found = max(folder.glob('net_g_*.pth'), key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)
    if found is None:
        rule = 'be given where the run of the file has no checkpoint'
        raise OptionError('--weights', rule, f'none in {folder}', 'Or test where its experiments/ lies.')
    return str(found)


def check_test_options(opt: Mapping[str, Any]) -> None:
    """Asks for what BasicSR's test would miss with a traceback: keys and kinds of values."""
    for key in ('datasets', 'val', 'network_g', 'path'):
        if not isinstance(opt.get(key), Mapping):
            raise OptionError(key, 'be a block of options', opt.get(key), 'A test needs it.')
    if trains(opt):
        fix = 'Run: multigrid-vsr test, which takes training files.'
        raise OptionError('datasets.train', 'be left out of a test', 'a training set', fix)
    names = list(test_sets(opt))
    if not names:
        raise OptionError('datasets', 'have a test set', None, 'Add datasets.test, or datasets.val to a training file.')
    _check_values(opt, _TEST_BLOCKS, names, OF_TRAINING)
    check_unread(opt, TEST_BLOCKS)
    if opt.get('model_type') is None:
        raise OptionError('model_type', 'be given', None, 'Set model_type: MultigridVideoModel.')
    if lookup(opt, 'path.pretrain_network_g') is None:
        raise OptionError('path.pretrain_network_g', 'be given', None, 'A test needs trained weights.')
    check_pieces(opt)


def best_metric(opt: Mapping[str, Any]) -> tuple[str, str] | None:
    """The test set and the metric of ``logger.keep_best``; without a set the first one."""
    asked = opt['logger'].get('keep_best')
    if asked is None:
        return None
    block = asked if isinstance(asked, Mapping) else {'metric': asked}
    name = 'logger.keep_best'
    metrics = (opt.get('val') or {}).get('metrics') or {}
    sets = [values['name'] for phase, values in opt['datasets'].items() if phase != 'train']
    if not sets or block['metric'] not in metrics:
        measured = ', '.join(metrics) if sets and metrics else 'none is measured'
        fix = did_you_mean(block['metric'], metrics, 'Add it to val.metrics, beside a test set in datasets.val.')
        raise OptionError(name, f'be a metric of val.metrics ({measured})', block['metric'], fix)
    dataset = block.get('dataset', sets[0])
    if dataset not in sets:
        raise OptionError(f'{name}.dataset', f'be the name of a test set ({", ".join(sets)})', dataset, 'Correct it.')
    return dataset, block['metric']


def check_pieces(opt: Mapping[str, Any]) -> None:
    """Compares the pieces of a validation with each other and with what the arch takes."""
    val_opt, limits, window = opt.get('val') or {}, limits_in(opt) or ArchLimits(), window_of(opt)
    for context, size in (('overlap', 'max_frames'), ('tile_overlap', 'tile')):
        if val_opt.get(context) is not None and val_opt.get(size) is None:
            raise OptionError(f'val.{size}', f'be given beside val.{context}', None, f'Give it, or remove {context}.')
    if window is not None and val_opt.get('overlap') is not None:
        rule = f'be left out for an arch that sees {window} frames, whose windows are exact'
        raise OptionError('val.overlap', rule, val_opt['overlap'], 'Remove it.')
    if val_opt.get('max_frames') is not None:
        if val_opt.get('center_frame_only'):
            rule = 'be left out beside val.center_frame_only'
            raise OptionError('val.max_frames', rule, val_opt['max_frames'], 'Remove one of them.')
        overlap = _given(val_opt, 'overlap', FRAMES_OVERLAP) if window is None else window - 1
        if 2 * overlap + 1 < limits.min_num_frame:
            raise OptionError(
                'val.overlap', f'be at least {limits.min_num_frame // 2} for this arch', overlap, 'Raise it.'
            )
        _check_keeps_some('max_frames', val_opt['max_frames'], overlap, 'overlap' if window is None else None)
    if val_opt.get('tile') is not None:
        overlap = _given(val_opt, 'tile_overlap', TILE_OVERLAP)
        if 2 * overlap + 1 < limits.min_lq_size:
            raise OptionError(
                'val.tile_overlap', f'be at least {limits.min_lq_size // 2} for this arch', overlap, 'Raise it.'
            )
        _check_keeps_some('tile', val_opt['tile'], overlap, 'tile_overlap')


def _given(val_opt: Mapping[str, Any], key: str, otherwise: int) -> int:
    return otherwise if val_opt.get(key) is None else int(val_opt[key])


def _check_keeps_some(key: str, value: int, overlap: int, context: str | None) -> None:
    if value <= 2 * overlap:
        fix = 'Raise it.' if context is None else f'Raise it, or lower val.{context}.'
        raise OptionError(f'val.{key}', f'be above {2 * overlap}, twice the context of {overlap}', value, fix)
