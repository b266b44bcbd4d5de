"""Weight files, compared with the network that is to load them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models.checkpoints import read
from multigrid_vsr.options.archs import MODEL_TYPES

_MOST_NAMED = 3


def read_weights(option: str, path: str) -> Any:
    """Reads weights as data alone.

    Raises:
        OptionError: If the file holds none.
    """
    try:
        return read(path, mmap=zipfile.is_zipfile(path))
    except ValueError as error:
        raise OptionError(
            option, 'be weights that torch reads as data', f'{path} ({error})', 'Get it again.'
        ) from error


OWN_STEP = 'Wrap the arch, or derive a model with a step of its own: docs/your_own_parts.md.'


def not_one_tensor(arch: str, output: object) -> OptionError:
    """The line for an arch that gives something else than frames."""
    return OptionError('network_g.type', 'give its frames as one tensor', f'{arch} ({type(output).__name__})', OWN_STEP)


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
    if label == 'g' and ((opt.get('train') or {}).get('ema_decay') or 0) > 0 and has_average(stored):
        keys.append('params_ema')
    for key in keys:
        differences, fits = _compared(_under(option, label, path, stored, key), network)
        if not fits or (differences and path_opt.get(f'strict_load_{label}', True)):
            fix = f'Correct {"the path" if not fits else f"network_{label}"}'
            if fits:
                fix += f', or set path.strict_load_{label}: false to load what fits'
            raise _misfit(option, label, path, differences, network, f'{fix}.')


def has_average(stored: Any) -> bool:
    """Whether a weight file has the average of the weights too; else it begins as the weights."""
    return isinstance(stored, Mapping) and 'params_ema' in stored


def check_own(opt: Mapping[str, Any], label: str, path: str, network: torch.nn.Module) -> str | None:
    """Compares the weights of a run's own checkpoint with its network.

    Args:
        opt: The options of the run.
        label: ``g`` or ``d``.
        path: The weights.
        network: The network; it may be on the meta device.

    Returns:
        The key that they are under, whatever the file says of the first weights.

    Raises:
        OptionError: If the network has other arguments now. A model of the user's own may load what fits.
    """
    option, stored = 'path.resume_state', read_weights('path.resume_state', path)
    key = 'params' if isinstance(stored, Mapping) and 'params' in stored else opt['path'].get(f'param_key_{label}')
    differences, _ = _compared(_under(option, label, path, stored, key), network)
    if differences and (opt['model_type'] in MODEL_TYPES or opt['path'].get(f'strict_load_{label}', True)):
        fix = f'Correct network_{label}, or start a run of another name from path.pretrain_network_{label}.'
        raise _misfit(option, label, path, differences, network, fix)
    return key


def _under(option: str, label: str, path: str, stored: Any, key: str | None) -> dict[str, Any]:
    """The weights under a key, as BasicSR finds them."""
    if key is not None:
        found = stored if isinstance(stored, Mapping) else {}
        if key not in found and 'params' not in found:
            raise OptionError(
                f'path.param_key_{label}',
                f'be a key of {path} ({", ".join(map(str, list(found)[:_MOST_NAMED])) or "it has none"}, ...)',
                key,
                'Set it to ~ for weights without a key.' if key == 'params' else 'Correct the key.',
            )
        stored = found.get(key, found.get('params'))
    if not isinstance(stored, Mapping) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise OptionError(option, 'hold weights by name', f'{path} with others under {key}', 'Correct the key.')
    return {name.removeprefix('module.'): value for name, value in stored.items()}


def _compared(weights: Mapping[str, torch.Tensor], network: torch.nn.Module) -> tuple[list[str], bool]:
    """What differs between weights and a network, and whether any of them fits."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    differences = [
        *(f'without {name}' for name in own if name not in given),
        *(f'{name} more' for name in given if name not in own),
        *(f'{name} of {given[name]}, not {own[name]}' for name in own if name in given and own[name] != given[name]),
    ]
    return differences, any(given.get(name) == own[name] for name in own)


def _misfit(
    option: str, label: str, path: str, differences: list[str], network: torch.nn.Module, fix: str
) -> OptionError:
    more = f' and {len(differences) - _MOST_NAMED} more' if len(differences) > _MOST_NAMED else ''
    rule = f'fit {type(network).__name__} with the arguments of network_{label}'
    return OptionError(option, rule, f'{path} ({"; ".join(differences[:_MOST_NAMED])}{more})', fix)
