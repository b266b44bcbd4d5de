"""BasicSR's own options, which it looks at only when they are due: of training runs and of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.checked import TEST_BLOCKS, check_given, check_unread, checked, paths
from multigrid_vsr.options.known_types import DATASET_TYPES, STOCK_MODELS, is_known_dataset
from multigrid_vsr.options.multigrid_block import lookup
from multigrid_vsr.options.table import OF_TRAINING, best_metric, check_pieces

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
    """Asks for what BasicSR would miss with a traceback after it has made folders: keys and kinds of values.

    Args:
        opt: The options of a training run, as written.

    Raises:
        OptionError: If an option is missing or not of its kind.
    """
    for block, name in [*((block, block) for block in _BLOCKS), *(('datasets.val', name) for name in test_sets(opt))]:
        values = lookup(opt, name) if name else opt
        if values is not None and (name != 'datasets.train.io_backend' or is_known_dataset(opt['datasets']['train'])):
            checked(block, values, name)
            check_given(block, values, name)
    train_opt, dataset_opt = opt['train'], opt['datasets']['train']
    is_degraded = dataset_opt['type'] in DATASET_TYPES and train_opt.get('degradation') is not None
    if is_known_dataset(dataset_opt) and not is_degraded and dataset_opt.get('dataroot_lq') is None:
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


def test_sets(opt: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of the test sets of a training run, or of a test.

    Raises:
        OptionError: If something else stands among the datasets.
    """
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
    path_opt = {
        **(opt.get('path') or {}),
        'pretrain_network_g': weights,
        'param_key_g': param_key,
        'resume_state': None,
    }
    new = {**opt, 'path': path_opt}
    if isinstance(opt.get('datasets'), Mapping):
        new['datasets'] = {phase: values for phase, values in opt['datasets'].items() if phase != 'train'}
    if isinstance(opt.get('network_g'), Mapping):  # weights of parts, as of the flow network, come with the file
        new['network_g'] = {key: None if key.endswith('_path') else value for key, value in opt['network_g'].items()}
    ours = STOCK_MODELS.get(opt.get('model_type', ''))
    if ours is None:
        return new, []
    return {**new, 'model_type': ours}, [f'model_type: {opt["model_type"]} is tested as {ours}.']


def newest_weights(opt: Mapping[str, Any]) -> str:
    """The newest weights of the run of a training file: of its end, or of its last checkpoint.

    Raises:
        OptionError: If there are none.
    """
    root = lookup(opt, 'path.experiments_root') or 'experiments'
    folder = Path(root, str(opt.get('name')), 'models')
    found = max(folder.glob('net_g_*.pth'), key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)
    if found is None:
        rule = 'be given where the run of the file has no checkpoint'
        raise OptionError('--weights', rule, f'none in {folder}', 'Or test where its experiments/ lies.')
    return str(found)


def check_test_options(opt: Mapping[str, Any]) -> None:
    """Asks for what BasicSR's test would miss with a traceback: keys and kinds of values.

    Args:
        opt: The options of a test, as written.

    Raises:
        OptionError: If an option is missing or not of its kind.
    """
    for key in ('datasets', 'val', 'network_g', 'path'):
        if not isinstance(opt.get(key), Mapping):
            raise OptionError(key, 'be a block of options', opt.get(key), 'A test needs it.')
    if trains(opt):
        fix = 'Run: multigrid-vsr test, which takes training files.'
        raise OptionError('datasets.train', 'be left out of a test', 'a training set', fix)
    names = list(test_sets(opt))
    if not names:
        raise OptionError('datasets', 'have a test set', None, 'Add datasets.test, or datasets.val to a training file.')
    for block, name in [*((block, block) for block in _TEST_BLOCKS), *(('datasets.val', name) for name in names)]:
        values = lookup(opt, name) if name else opt
        if values is not None:
            checked(block, values, name)
            check_given(block, values, name, OF_TRAINING)
    check_unread(opt, TEST_BLOCKS)
    if opt.get('model_type') is None:
        raise OptionError('model_type', 'be given', None, 'Set model_type: MultigridVideoModel.')
    if lookup(opt, 'path.pretrain_network_g') is None:
        raise OptionError('path.pretrain_network_g', 'be given', None, 'A test needs trained weights.')
    check_pieces(opt)
