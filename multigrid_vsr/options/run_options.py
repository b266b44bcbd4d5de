"""What the options of a run ask of each other, its learning rate, its stock run, and the options of a test.

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
from multigrid_vsr.options.checked import TEST_BLOCKS, check_given, check_unread, checked, lookup, row_of
from multigrid_vsr.options.kinds import did_you_mean, is_number, refuse
from multigrid_vsr.options.multigrid_block import check_blocks, largest_part, schedule_from_options
from multigrid_vsr.options.option_file import paths
from multigrid_vsr.options.table import DEFAULT_WARMUP_PART, MOST_WARMUP, OF_TRAINING, SCHEDULER_TYPE

NOT_IN_A_GAN_RUN = {'amp': 'It trains in float32.', 'cuda_graph': "Its two steps are BasicSR's own code."}


def checked_schedule(opt: Mapping[str, Any]) -> Schedule:
    """Checks the options of a run that follows a schedule and lays the schedule out."""
    schedule = schedule_from_options(opt)
    stock_run_of(opt, 1)
    check_blocks(opt, 'network_g', 'train.scheduler')
    for block in ('train', 'datasets.train', 'path'):
        checked(block, lookup(opt, block) or {})
    check_unread(opt)
    _check_dataset(opt['datasets']['train'], schedule)
    train_opt = opt['train']
    names, has_effect = train_opt.get('fix_modules'), train_opt.get('fix_flow') or train_opt.get('flow_lr_mul', 1) != 1
    rule = 'stand beside fix_flow or flow_lr_mul'
    refuse(names and not has_effect, 'train.fix_modules', rule, names, 'Say for how long.')
    rule, fix = 'be left out beside train.compile', 'torch.compile decides itself what it computes again.'
    modules = train_opt.get('checkpoint_modules')
    refuse(modules and train_opt.get('compile'), 'train.checkpoint_modules', rule, modules, fix)
    if opt['model_type'] == 'MultigridVideoGANModel':
        _check_gan(opt, schedule)
    check_scheduler(opt, schedule)
    check_arch(opt, schedule)
    return schedule


def _check_dataset(dataset_opt: Mapping[str, Any], schedule: Schedule) -> None:
    kind = dataset_opt.get('type')
    if is_known_dataset(dataset_opt):
        backend = checked('datasets.train.io_backend', dataset_opt.get('io_backend') or {}).get('type')
        if kind in STOCK_DATASETS and backend == 'packed':
            rule, fix = "be disk or lmdb for BasicSR's datasets", f'Or use {STOCK_DATASETS[kind]}.'
            raise OptionError('datasets.train.io_backend.type', rule, backend, fix)
    if kind == 'MultigridVimeo90KDataset' and dataset_opt.get('flip_sequence'):
        odd = [segment.shape.num_frame for segment in schedule.segments if segment.shape.num_frame % 2]
        rule = 'be even, and so every multigrid.num_frame, beside flip_sequence (half of them mirrored)'
        fix = 'Use [6, 10, 14], or set flip_sequence: false.'
        refuse(odd, 'datasets.train.num_frame', rule, next(iter(odd), None), fix)


def _check_gan(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """BasicSR's GAN iteration is its own code, in float32, on a whole batch of sequences."""
    for key, fix in NOT_IN_A_GAN_RUN.items():
        refuse(opt['train'].get(key), f'train.{key}', 'be left out of a GAN run', opt['train'].get(key), fix)
    shapes, part = [segment.shape for segment in schedule.segments], largest_part(opt)
    if part and any(shape.batch_size_per_gpu > part.samples_of(shape.num_frame, shape.gt_size) for shape in shapes):
        rule = f'be at least the largest batch ({max(shape.batch_size_per_gpu for shape in shapes)}) in a GAN run'
        fix = 'Its gradients are not accumulated: lower the batch.'
        raise OptionError('multigrid.micro_batch_size_per_gpu', rule, part.batch_size_per_gpu, fix)
    rule = 'be MultigridVideoModel for an arch with one target frame'
    refuse(target_of(opt) == 'center', 'model_type', rule, opt['model_type'], 'Change it.')
    check_blocks(opt, 'network_d', 'train.optim_d', 'train.gan_opt')


def cosine_options(scheduler_opt: Mapping[str, Any], schedule: Schedule) -> CosineOptions:
    """Checks ``train.scheduler`` of type ``MultigridCosineLR``."""
    values = checked('train.scheduler', scheduler_opt)
    values.pop('type', None)
    warmup = values.setdefault('warmup_iter', min(schedule.total_iter // DEFAULT_WARMUP_PART, MOST_WARMUP))
    values['warmup_iter'] = max(warmup, 0)  # -1 is BasicSR's word for none
    weights = tuple(values.get('restart_weights', ()))
    if len(schedule.segments) == 1:  # the block has been deleted: the weight of the full shape stays
        weights = weights[-1:]
    elif weights:
        periods = len(period_starts(schedule, values.get('restart', CosineOptions.restart)))
        stages = schedule.segments[-1].stage + 1
        per_stage = f', or {stages}, one for each spatial stage' if stages != periods else ''
        rule, given = f'be {periods} numbers, one for each period{per_stage}', scheduler_opt['restart_weights']
        is_wrong = len(weights) not in (periods, stages)
        refuse(is_wrong, 'train.scheduler.restart_weights', rule, given, 'Add or remove entries.')
    return CosineOptions(**{**values, 'restart_weights': weights})


def check_scheduler(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Checks ``train.scheduler``: all of it where it is this project's, else what a scheduler of BasicSR has beside."""
    scheduler_opt = opt['train'].get('scheduler') or {}
    if scheduler_opt.get('type') == SCHEDULER_TYPE:
        cosine_options(scheduler_opt, schedule)
        return
    scaling = row_of('train.scheduler.batch_scaling')
    if scaling and 'batch_scaling' in scheduler_opt:
        scaling.type.check(scaling.name, scheduler_opt['batch_scaling'])
    periods = scheduler_opt.get('periods')
    if isinstance(periods, Sequence) and sum(periods) < schedule.total_iter:
        rule, fix = f'add up to train.total_iter ({schedule.total_iter})', 'BasicSR would fail after them.'
        raise OptionError('train.scheduler.periods', rule, f'{periods} (sum {sum(periods)})', fix)


def rate_of(train_opt: Mapping[str, Any], schedule: Schedule) -> Rate | None:
    """The learning rate of ``optim_g`` at every iteration, counted from 0, as a pure function.

    Returns:
        ``None`` for a scheduler that is neither this project's nor one of BasicSR's two, or without a rate.
    """
    options = train_opt.get('scheduler') or {}
    kind = options.get('type')
    lr: Any = (train_opt.get('optim_g') or {}).get('lr')
    if not is_number(lr):
        return None
    base_lr, warmup_iter = float(lr), train_opt.get('warmup_iter') or -1
    scaling, weights = options.get('batch_scaling', 'none'), options.get('restart_weights', [1])
    if kind == SCHEDULER_TYPE:
        cosine, scaling = CosineSchedule(schedule, cosine_options(options, schedule)), 'none'  # it scales itself
        rate: Rate = lambda i: cosine.at(i, base_lr)  # noqa: E731
    elif kind == 'CosineAnnealingRestartLR' and 'periods' in options:
        rate = basicsr_cosine(base_lr, options['periods'], weights, options.get('eta_min', 0))
    elif kind in ('MultiStepLR', 'MultiStepRestartLR') and 'milestones' in options:
        gamma, restarts = options.get('gamma', 0.1), options.get('restarts', [0])
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
    """The stock run, with its batch in proportion to the GPUs: a launcher may start more or fewer than ``num_gpu``."""
    block = opt.get('stock_run')
    if block is None:
        return None
    rule = 'be a block of total_iter and batch_size'
    refuse(not isinstance(block, Mapping), 'stock_run', rule, block, 'Correct or delete it.')
    values = checked('stock_run', block)
    for key in ('total_iter', 'batch_size'):
        refuse(key not in values, f'stock_run.{key}', 'be given', None, 'Add it, or delete the block.')
    return StockRun(values['total_iter'], values['batch_size'] * world_size / gpus_of(opt))


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
    train_opt, dataset_opt = opt['train'], opt['datasets']['train']
    is_known = is_known_dataset(dataset_opt)
    _check_values(opt, [block for block in _BLOCKS if is_known or block != 'datasets.train.io_backend'], test_sets(opt))
    is_degraded = dataset_opt['type'] in DATASET_TYPES and train_opt.get('degradation') is not None
    has_lq = is_degraded or dataset_opt.get('dataroot_lq') is not None
    fix = 'Or let train.degradation make LQ frames of the ground truth.'
    refuse(is_known and not has_lq, 'datasets.train.dataroot_lq', 'be given', None, fix)
    freezes_flow = opt['model_type'] == 'MultigridVideoGANModel' and train_opt.get('fix_flow')
    rule, lr_flow = 'be given beside fix_flow in a GAN run', train_opt.get('lr_flow')
    refuse(freezes_flow and lr_flow is None, 'train.lr_flow', rule, None, 'BasicSR needs it.')
    rule, fix = (
        'be left out, or a block, in a run with debug in its name',
        'BasicSR sets val_freq there: remove the line.',
    )
    refuse('debug' in opt['name'] and 'val' in opt and opt['val'] is None, 'val', rule, None, fix)
    check_pieces(opt)
    best_metric(opt)
    for option, fix in (
        ('val.tb_images', 'Set it, or remove tb_images.'),
        ('logger.wandb.project', 'Set it, or set the project to ~.'),
    ):
        is_wrong = lookup(opt, option) and not opt['logger'].get('use_tb_logger')
        refuse(is_wrong, 'logger.use_tb_logger', f'be true beside {option}', False, fix)
    copies_ahead = dataset_opt.get('prefetch_mode') == 'cuda' and not dataset_opt.get('pin_memory')
    rule = 'be true beside prefetch_mode: cuda'
    refuse(copies_ahead, 'datasets.train.pin_memory', rule, None, 'BasicSR needs it.')


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
    known, rule, where = ('val', 'test'), 'be test, or test_2 and so on', 'a test'
    if 'train' in opt['datasets']:
        known, rule, where = ('val', 'val'), 'be train, val, or val_2 and so on', 'training'
    for phase, values in opt['datasets'].items():
        if phase != 'train':
            name, fix = f'datasets.{phase}', f'BasicSR knows no other in {where}.'
            refuse(str(phase).split('_')[0] not in known, name, rule, phase, fix)
            fix = 'Write one option a line below it.'
            refuse(not isinstance(values, Mapping), name, 'be a block of options', values, fix)
            yield name


def check_pieces(opt: Mapping[str, Any]) -> None:
    """Compares the pieces of a validation with each other and with what the arch takes."""
    val_opt, limits, window = opt.get('val') or {}, limits_in(opt) or ArchLimits(), window_of(opt)
    frames_overlap = FRAMES_OVERLAP if window is None else window - 1
    pieces = (
        ('max_frames', 'overlap', frames_overlap, limits.min_num_frame),
        ('tile', 'tile_overlap', TILE_OVERLAP, limits.min_lq_size),
    )
    for size, context, *_ in pieces:
        is_wrong = val_opt.get(context) is not None and val_opt.get(size) is None
        refuse(is_wrong, f'val.{size}', f'be given beside val.{context}', None, f'Give it, or remove {context}.')
    is_wrong = window is not None and val_opt.get('overlap') is not None
    rule = f'be left out for an arch that sees {window} frames, whose windows are exact'
    refuse(is_wrong, 'val.overlap', rule, val_opt.get('overlap'), 'Remove it.')
    max_frames, rule = val_opt.get('max_frames'), 'be left out beside val.center_frame_only'
    refuse(max_frames and val_opt.get('center_frame_only'), 'val.max_frames', rule, max_frames, 'Remove one of them.')
    for size, context, usual, least in pieces:
        value, overlap = val_opt.get(size), usual if val_opt.get(context) is None else int(val_opt[context])
        if value is not None:
            rule = f'be at least {least // 2} for this arch'
            refuse(2 * overlap + 1 < least, f'val.{context}', rule, overlap, 'Raise it.')
            rule = f'be above {2 * overlap}, twice the context of {overlap}'
            fix = 'Raise it.' if window and size == 'max_frames' else f'Raise it, or lower val.{context}.'
            refuse(value <= 2 * overlap, f'val.{size}', rule, value, fix)


def best_metric(opt: Mapping[str, Any]) -> tuple[str, str] | None:
    """The test set and the metric of ``logger.keep_best``; without a set the first one."""
    asked = opt['logger'].get('keep_best')
    if asked is None:
        return None
    block = asked if isinstance(asked, Mapping) else {'metric': asked}
    metrics = (opt.get('val') or {}).get('metrics') or {}
    sets = [values['name'] for phase, values in opt['datasets'].items() if phase != 'train']
    if not sets or block['metric'] not in metrics:
        measured = ', '.join(metrics) if sets and metrics else 'none is measured'
        fix = did_you_mean(block['metric'], metrics, 'Add it to val.metrics, beside a test set in datasets.val.')
        raise OptionError('logger.keep_best', f'be a metric of val.metrics ({measured})', block['metric'], fix)
    dataset, rule = block.get('dataset', sets[0]), f'be the name of a test set ({", ".join(sets)})'
    refuse(dataset not in sets, 'logger.keep_best.dataset', rule, dataset, 'Correct it.')
    return dataset, block['metric']


_TEST_BLOCKS = ('', 'path', 'network_g', 'val', 'dist_params')


def trains(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is that of a training run."""
    return isinstance(lookup(opt, 'datasets.train'), Mapping)


def as_test(opt: Mapping[str, Any], weights: str, param_key: str | None) -> tuple[dict[str, Any], list[str]]:
    """The option file of a test of trained weights.

    Args:
        opt: The options of a test, or of a training run, whose test sets are then measured.
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
    folder = Path(lookup(opt, 'path.experiments_root') or 'experiments', str(opt.get('name')), 'models')
    found = max(folder.glob('net_g_*.pth'), key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)
    rule = 'be given where the run of the file has no checkpoint'
    refuse(found is None, '--weights', rule, f'none in {folder}', 'Or test where its experiments/ lies.')
    return str(found)


def check_test_options(opt: Mapping[str, Any]) -> None:
    """Asks for what BasicSR's test would miss with a traceback: keys and kinds of values."""
    for key in ('datasets', 'val', 'network_g', 'path'):
        refuse(not isinstance(opt.get(key), Mapping), key, 'be a block of options', opt.get(key), 'A test needs it.')
    fix = 'Run: multigrid-vsr test, which takes training files.'
    refuse(trains(opt), 'datasets.train', 'be left out of a test', 'a training set', fix)
    names, fix = list(test_sets(opt)), 'Add datasets.test, or datasets.val to a training file.'
    refuse(not names, 'datasets', 'have a test set', None, fix)
    _check_values(opt, _TEST_BLOCKS, names, OF_TRAINING)
    check_unread(opt, TEST_BLOCKS)
    for option, fix in (
        ('model_type', 'Set model_type: MultigridVideoModel.'),
        ('path.pretrain_network_g', 'A test needs trained weights.'),
    ):
        refuse(lookup(opt, option) is None, option, 'be given', None, fix)
    check_pieces(opt)
