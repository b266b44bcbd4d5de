"""BasicSR's own options, which it looks at only when they are due."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.checked import check_given, checked
from multigrid_vsr.options.keeping import best_metric
from multigrid_vsr.options.known_types import DATASET_TYPES, is_known_dataset
from multigrid_vsr.options.multigrid_block import lookup
from multigrid_vsr.options.settle import paths
from multigrid_vsr.options.validation_table import check_pieces

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
