"""Options checked one by one against the table, after the values that YAML misreads are put right."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from multigrid_vsr.core.errors import OptionError, one_line
from multigrid_vsr.options.archs import (
    MODEL_TYPES,
    STOCK_TEST_SETS,
    TEST_SET_TYPES,
    is_gan,
    is_known_dataset,
    limits_of,
)
from multigrid_vsr.options.kinds import Option, did_you_mean, refuse
from multigrid_vsr.options.table import ALL_OPTIONS, LOADER_KEYS, STRICT, TEST_SET_KEYS

_TEST_SET = re.compile(r'^datasets\.(val_\w+|test(_\w+)?)(?=\.|$)')
_LIKENESS = 0.8  # of a key that is taken for a slip where others may stand beside ours


def options_of(block: str) -> dict[str, Option]:
    """The options of a block, by key; of the top for the empty name."""
    prefix = f'{block}.' if block else ''
    return {option.key: option for option in ALL_OPTIONS if option.name == f'{prefix}{option.key}'}


def row_of(name: str) -> Option | None:
    """What the tables say of an option, by its dotted name in an option file."""
    name = _TEST_SET.sub('datasets.val', name)
    return next((option for option in ALL_OPTIONS if option.name == name), None)


def checked(block: str, values: Mapping[str, Any], name: str = '') -> dict[str, Any]:
    """Checks the options of a block of the table one by one.

    Args:
        block: Dotted name of the block.
        values: What the option file has there.
        name: What an error calls it, where that is not the block's own name.

    Returns:
        The options of the table that are given, in their Python types.
    """
    name, (known, is_strict) = name or block, _known(block, values)
    prefix = f'{name}.' if name else ''
    for key in [key for key in values if key not in known]:
        near = get_close_matches(str(key), known, n=1, cutoff=_LIKENESS)
        is_wrong = is_strict or (near and near[0] not in values)
        refuse(is_wrong, f'{prefix}{key}', f'be one of {", ".join(known)}', key, _instead(block, str(key), known))
    return {
        key: option.type.check(f'{prefix}{key}', values[key])
        for key, option in known.items()
        if values.get(key) is not None
    }


def check_given(block: str, values: Mapping[str, Any], name: str = '', but: Collection[str] = ()) -> None:
    """Asks for the options that a block cannot do without, but for some keys."""
    prefix = f'{name or block}.' if name or block else ''
    fix = 'BasicSR asks for it when it is due.' if block in ('logger', 'val') else 'BasicSR needs it.'
    for key, option in _known(block, values)[0].items():
        is_missing = option.default == '' and key not in but and values.get(key) is None
        refuse(is_missing, f'{prefix}{key}', 'be given', None, fix)


def _known(block: str, values: Mapping[str, Any]) -> tuple[dict[str, Option], bool]:
    """The options of a block that holds these values, and whether it may hold nothing else."""
    known = options_of(block)
    if block == 'datasets.train' and not is_known_dataset(values):
        return {key: known[key] for key in LOADER_KEYS}, False
    if block == 'datasets.val' and values.get('type') in TEST_SET_TYPES:
        return {key: row if key in TEST_SET_KEYS else replace(row, default='none') for key, row in known.items()}, False
    if block == 'datasets.val' and values.get('type') not in STOCK_TEST_SETS:
        return {key: known[key] for key in ('name', 'type')}, False
    return known, block in STRICT


_TRAINING_BLOCKS = ('', 'path', 'train', 'logger', 'logger.wandb', 'val', 'dist_params')
TEST_BLOCKS = ('', 'path', 'val', 'dist_params')
_OF_ANY_LOADER = ('prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers')
_OF_A_GAN = (
    *('network_d', 'path.pretrain_network_d', 'path.param_key_d', 'path.strict_load_d', 'train.optim_d'),
    *('train.gan_opt', 'train.net_d_iters', 'train.net_d_init_iters', 'train.lr_flow'),
)
_NOT_OF_A_GAN = ('train.flow_lr_mul', 'train.dcn_lr_mul')
_OF_OTHERS = {  # keys of other trainers, and what does it here
    'train.grad_clip_norm': 'use_grad_clip grad_clip clip_grad clip_grad_norm max_grad_norm grad_clip_value',
    'train.amp': 'use_amp mixed_precision fp16 bf16 half amp_bf16 amp_dtype use_fp16',
    'multigrid.micro_batch_size_per_gpu': 'accum_iter accumulate accumulation_steps gradient_accumulation_steps accum',
    'train.ema_decay': 'ema ema_rate use_ema',
    'manual_seed': 'seed random_seed',
    'train.fix_flow': 'fix_iter',
    'train.fix_modules': 'fix_keys',
    'train.checkpoint_modules': 'grad_checkpoint use_checkpoint gradient_checkpointing',
    'train.compile': 'torch_compile use_compile',
    'train.dcn_lr_mul': 'dcn_lr',
    'train.scheduler': 'scheduler_g lr_scheduler',
    'train.optim_g': 'optimizer optim optim_G',
    'train.total_iter': 'niter total_iters max_iter num_iter',
    'path.pretrain_network_g': 'pretrain_model_g pretrained load_path_G pretrain_network pretrained_netG',
    'path.pretrain_network_d': 'pretrain_model_d pretrained_netD load_path_D',
    'path.resume_state': 'resume resume_from',
}
_INSTEAD = {key: option for option, keys in _OF_OTHERS.items() for key in keys.split()}
_PATHS = {option.name for option in ALL_OPTIONS if option.name.startswith('path.')}
_NO_FOLDER = ('strict_load', 'pretrain_network', 'resume', 'param_key')  # BasicSR makes folders of all others
_FOLDER = 'BasicSR would make a folder of it. Write it in network_g or train.'
_OWN = 'Remove it, or put MultigridMixin before a model that reads it: docs/your_own_parts.md.'


def check_unread(opt: Mapping[str, Any], blocks: Collection[str] = _TRAINING_BLOCKS) -> None:
    """Refuses a key that nothing reads: what it asks for would not happen."""
    for name, value, fix in unread(opt, blocks):
        shown = value if isinstance(value, (int, float)) else one_line(value, 60)
        raise OptionError(name, 'be an option that something reads', shown, fix)


def unread(opt: Mapping[str, Any], blocks: Collection[str] = _TRAINING_BLOCKS) -> Iterator[tuple[str, object, str]]:
    """Each key that neither BasicSR nor this project reads, its value, and what to do instead.

    A model or a test set of the user's own may have options of its own. In ``path`` it may have only those that
    BasicSR makes no folder of.
    """
    if opt.get('model_type') not in MODEL_TYPES:
        for key, value in _at(opt, 'path').items():
            if f'path.{key}' not in _PATHS and not any(word in str(key) for word in _NO_FOLDER):
                yield f'path.{key}', value, _FOLDER
        return
    at = {block: _at(opt, block) for block in blocks}
    datasets = _at(opt, 'datasets')
    at |= {f'datasets.{phase}': _at(datasets, phase) for phase in datasets if phase != 'train'}
    for name, values in at.items():
        block = 'datasets.val' if name.startswith('datasets.') else name
        prefix = f'{block}.' if block else ''
        rows = [option.name.removeprefix(prefix) for option in ALL_OPTIONS if option.name.startswith(prefix)]
        known = [*dict.fromkeys(row.partition('.')[0] for row in rows)]
        if block == 'datasets.val':
            is_known = values.get('type') in (*STOCK_TEST_SETS, *TEST_SET_TYPES)
            known = [*known, *_OF_ANY_LOADER] if is_known else [*values]
        missing = [key for key in known if key not in values]
        for key in values:
            if key not in known:
                yield f'{name}.{key}' if name else str(key), values[key], _instead(block, str(key), missing)
    has_gan = is_gan(opt)
    if 'train' in blocks:
        fix = 'Set model_type: MultigridVideoGANModel, or remove it.'
        fix = 'Its flow network has the rate lr_flow.' if has_gan else fix
        for name in _NOT_OF_A_GAN if has_gan else _OF_A_GAN:
            block, _, key = name.rpartition('.')
            value = _at(opt, block).get(key)
            if value is not None and not (has_gan and value == 1):
                yield name, value, fix
    network = _at(opt, 'network_g')
    if 'ema_decay' in network and limits_of(network) is not None:
        yield 'network_g.ema_decay', network['ema_decay'], 'An average of the weights is train.ema_decay.'


def _at(opt: Mapping[str, Any], block: str) -> Mapping[str, Any]:
    """A block of options; empty where there is none, or something else in its place."""
    values = lookup(opt, block) if block else opt
    return values if isinstance(values, Mapping) else {}


def _instead(block: str, key: str, known: Collection[str]) -> str:
    """The end of a line about a key that is not known: what does the same, or is meant."""
    near = did_you_mean(key, known, '')
    if near and (key not in _INSTEAD or block not in _TRAINING_BLOCKS):
        return near
    same = (option.name for option in ALL_OPTIONS if option.key == key and not block.startswith('datasets.'))
    elsewhere = _INSTEAD.get(key) or next(same, None)
    if elsewhere is not None:
        return f'Here it is {elsewhere}.'
    if block not in _TRAINING_BLOCKS:
        return 'Remove it.'
    if block == 'train' and key.endswith(('_opt', '_opt2')):
        return 'A loss more is a model of your own with MultigridMixin: docs/your_own_parts.md.'
    return _OWN


def lookup(opt: Mapping[str, Any], option: str) -> Any:
    """The value of an option by its dotted name; ``None`` where it is not there."""
    value: Any = opt
    for key in option.split('.'):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
