"""Option files of a test: BasicSR's own, and those of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.checked import TEST_BLOCKS, check_given, check_unread, checked
from multigrid_vsr.options.host_options import test_sets
from multigrid_vsr.options.known_types import STOCK_MODELS
from multigrid_vsr.options.multigrid_block import lookup
from multigrid_vsr.options.table import OF_TRAINING
from multigrid_vsr.options.validation_table import check_pieces

_BLOCKS = ('', 'path', 'network_g', 'val', 'dist_params')


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
    for block, name in [*((block, block) for block in _BLOCKS), *(('datasets.val', name) for name in names)]:
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
