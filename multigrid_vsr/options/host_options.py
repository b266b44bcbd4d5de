"""BasicSR's own options, which it looks at only when they are due."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError


def check_host_options(opt: Mapping[str, Any], found: int) -> None:
    """Asks for what BasicSR would miss with a traceback after it has made folders.

    Args:
        opt: The options of a training run, as written.
        found: Number of GPUs of this machine.

    Raises:
        OptionError: If an option is missing, names a path that does not exist, or asks for GPUs that are not there.
    """
    for option in ('name', 'num_gpu', 'path', 'logger', 'network_g', 'model_type'):
        if option not in opt:
            raise OptionError(option, 'be given', None, 'BasicSR needs it.')
    for block, keys in (('logger', ('print_freq', 'save_checkpoint_freq')), ('val', ('val_freq', 'save_img'))):
        if not isinstance(opt.get(block, {}), Mapping):
            raise OptionError(block, 'be a block of options', opt[block], 'Write one option a line below it.')
        for key in keys:
            if block in opt and key not in opt[block]:
                raise OptionError(f'{block}.{key}', 'be given', None, 'BasicSR asks for it when it is due.')
    num_gpu = opt['num_gpu']
    if num_gpu != 'auto' and (isinstance(num_gpu, bool) or not isinstance(num_gpu, int) or num_gpu < 0):
        raise OptionError('num_gpu', 'be a whole number or auto', num_gpu, 'Set num_gpu: auto.')
    if num_gpu != 'auto' and num_gpu > found:
        raise OptionError('num_gpu', f'be at most the {found} GPUs of this machine', num_gpu, 'Set num_gpu: auto.')
    for option, path in _paths(opt):
        if path is not None and not os.path.exists(os.path.expanduser(str(path))):
            raise OptionError(option, 'be a path that exists', path, 'Correct the path, or set it to ~.')


def _paths(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options that name what the run will read, besides the training set."""
    for key, value in (opt.get('path') or {}).items():
        if key == 'resume_state' or key.startswith('pretrain_network'):
            yield f'path.{key}', value
    for block, options in opt.items():
        if block.startswith('network') and isinstance(options, Mapping):
            yield from ((f'{block}.{key}', value) for key, value in options.items() if key.endswith('_path'))
    for phase, options in opt['datasets'].items():
        if phase.startswith('val') and isinstance(options, Mapping):
            yield from (
                (f'datasets.{phase}.{key}', value)
                for key, value in options.items()
                if key.startswith('dataroot') or key == 'meta_info_file'
            )
