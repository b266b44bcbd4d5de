"""Weights and states that a run starts from, compared with what it asks of them before it is built."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models import checkpoint

_MOST_NAMED = 3


def read_weights(option: str, path: str) -> Any:
    """Reads weights as data alone.

    Raises:
        OptionError: If the file holds none.
    """
    try:
        return checkpoint.read(path, mmap=zipfile.is_zipfile(path))
    except ValueError as error:
        raise OptionError(
            option, 'be weights that torch reads as data', f'{path} ({error})', 'Get it again.'
        ) from error


def check_pretrained(opt: Mapping[str, Any], label: str, network: torch.nn.Module) -> None:
    """Compares ``path.pretrain_network_<label>`` with its network: the key asked for, names and shapes.

    Args:
        opt: The options of a training run, or of a test.
        label: ``g`` or ``d``.
        network: The network; it may be on the meta device.

    Raises:
        OptionError: If BasicSR would fail on them, or none of them fits.
    """
    option, path_opt = f'path.pretrain_network_{label}', opt['path']
    path = path_opt.get(option.removeprefix('path.'))
    if path is None:
        return
    stored = read_weights(option, path)
    keys = [path_opt.get(f'param_key_{label}', 'params')]
    if label == 'g' and ((opt.get('train') or {}).get('ema_decay') or 0) > 0:
        keys.append('params_ema')
    for key in keys:
        _compare(option, path, _under(option, path, stored, key), network, path_opt.get(f'strict_load_{label}', True))


def _under(option: str, path: str, stored: Any, key: str | None) -> dict[str, Any]:
    """The weights under a key, as BasicSR finds them."""
    if key is not None:
        found = stored if isinstance(stored, Mapping) else {}
        if key not in found and 'params' not in found:
            raise OptionError(
                f'path.param_key_{option[-1]}',
                f'be a key of {path} ({", ".join(map(str, list(found)[:_MOST_NAMED])) or "it has none"}, ...)',
                key,
                'Set it to ~ for weights without a key.' if key == 'params' else 'Correct the key.',
            )
        stored = found.get(key, found.get('params'))
    if not isinstance(stored, Mapping) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise OptionError(option, 'hold weights by name', f'{path} with others under {key}', 'Correct the key.')
    return {name.removeprefix('module.'): value for name, value in stored.items()}


def _compare(
    option: str, path: str, weights: Mapping[str, torch.Tensor], network: torch.nn.Module, is_strict: bool
) -> None:
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    differences = [
        *(f'without {name}' for name in own if name not in given),
        *(f'{name} more' for name in given if name not in own),
        *(f'{name} of {given[name]}, not {own[name]}' for name in own if name in given and own[name] != given[name]),
    ]
    fits = [name for name in own if given.get(name) == own[name]]
    if fits and (not differences or not is_strict):
        return
    more = f' and {len(differences) - _MOST_NAMED} more' if len(differences) > _MOST_NAMED else ''
    fix = f'Correct {"the path" if not fits else f"network_{option[-1]}"}'
    if fits:
        fix += f', or set path.strict_load_{option[-1]}: false to load what fits'
    raise OptionError(
        option,
        f'fit {type(network).__name__} with the arguments of network_{option[-1]}',
        f'{path} ({"; ".join(differences[:_MOST_NAMED])}{more})',
        f'{fix}.',
    )
