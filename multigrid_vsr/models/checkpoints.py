"""Checkpoints: written whole or not at all, compared with the run that reads them, removed when newer ones exist.

A checkpoint is a pair of one iteration: the weights, ``models/net_g_N.pth``, written first, and the training state,
``training_states/N.state``. Both are read as data only, so a file cannot run code.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import distributed

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.models import optimizers
from multigrid_vsr.options.archs import MODEL_TYPES, is_gan
from multigrid_vsr.options.run_options import best_metric

_STATE_KEYS = {'epoch', 'iter', 'optimizers', 'schedulers'}
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)
_MOST_NAMED = 3


def save(value: Any, path: str | Path) -> None:
    """Writes a file that gets its name when it is whole.

    Raises:
        OSError: If it cannot be written; an older file of that name stays.
    """
    try:
        with whole_file(Path(path)) as file:
            torch.save(value, file)
    except (OSError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):  # torch raises its own while one is handled
            reason = reason.__context__
        raise OSError(f'{path} cannot be written ({reason or error})') from error


def read(path: str | Path, mmap: bool = False) -> Any:
    """Reads what :func:`save` wrote, onto the CPU, as data only. With ``mmap`` tensors stay in the file, unchecked.

    Raises:
        ValueError: If it is damaged, holds code, or cannot be read; the text is one line.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        raise ValueError(one_line(error, 120)) from error


def save_training_state(model: Any, epoch: int, current_iter: int) -> None:
    """Writes BasicSR's training state, and what an exact resume needs beside it; all ranks call it."""
    opt, run = model.opt, model.run
    rng = _random_states(opt, model.device, run.is_alone)
    if not run.writes:
        return
    state = {
        'epoch': epoch,
        'iter': current_iter,
        'optimizers': [optimizer.state_dict() for optimizer in model.optimizers],
        'parameters': optimizers.parameter_names(model),
        'trained_weights': optimizers.trained_weights(model.optimizers),
        'schedulers': [scheduler.state_dict() for scheduler in model.schedulers],
        'amp': opt['train'].get('amp'),
        'scaler': model.scaler.state_dict() if hasattr(model, 'scaler') else {},
        'seed': opt['manual_seed'],
        'rng': rng,
    }
    if model.schedule is not None:
        state['schedule'] = schedule_rows(model.schedule, ranks(opt))
    save(state, Path(opt['path']['training_states']) / f'{current_iter}.state')


def _random_states(opt: Mapping[str, Any], device: torch.device, alone: bool) -> dict[int, list[torch.Tensor]]:
    """The random state of every rank, at rank 0: CPU, then GPUs. A rank that saves alone has only its own."""
    own = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == 'cuda' else ())]
    if not opt['dist'] or alone:
        return {opt['rank']: own}
    states: list[Any] = [None] * opt['world_size']
    distributed.gather_object(own, states if opt['rank'] == 0 else None)
    return dict(enumerate(states))


def restore(model: Any, state: Mapping[str, Any], places: Sequence[Sequence[int | None]]) -> None:
    """Brings back what :func:`save_training_state` has written beside BasicSR's own.

    A rank whose random state is not there keeps the one that it was seeded with, which no other rank has. ``places``
    says where the state has each parameter of each optimizer.
    """
    optimizers.set_trained_weights(model.optimizers, state.get('trained_weights', []), places)
    amp = model.opt['train'].get('amp')
    if (before := state.get('amp', amp)) != amp:
        get_root_logger().warning(f'train.amp is {amp or "float32"} now, and was {before or "float32"}.')
    scaler = getattr(model, 'scaler', None)
    if scaler is not None and scaler.is_enabled() and state.get('scaler'):
        scaler.load_state_dict(state['scaler'])
    rng = state.get('rng', {})
    if isinstance(rng, list):  # an older state has only rank 0's
        rng = {0: rng}
    if model.opt['rank'] in rng:
        cpu, *gpus = rng[model.opt['rank']]
        torch.set_rng_state(cpu)
        if len(gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(gpus)


def load_state(path: str | Path) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        InputError: If it is damaged, holds code, or is no training state.
    """
    try:
        state = read(path)
    except ValueError as error:
        raise InputError(
            f'path.resume_state: must be a whole training state of plain data, got {path} ({error}). Give another, or '
            'use --auto_resume.'
        ) from None
    if not isinstance(state, dict) or not state.keys() >= _STATE_KEYS:
        raise InputError(f'path.resume_state: must be a training state, got {path}, something else. Give another.')
    return state


def newest_good(
    opt: Mapping[str, Any], iteration: int | None = None
) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Finds the newest checkpoint of a run that is whole, of one iteration or of all.

    Returns:
        The state's path, the state, and a line for each newer one that is damaged; no path if there is no state.

    Raises:
        InputError: If all of them are damaged.
    """
    warnings = []
    for path in saved_states(Path(opt['path']['training_states'])):
        if iteration is not None and int(path.stem) != iteration:
            continue
        try:
            state = load_state(path)
            if state['iter'] != int(path.stem):
                raise InputError(f'{path}: must be of iteration {path.stem}, got {state["iter"]}.')
            for name in _weight_names(opt, state['iter']):
                read(Path(opt['path']['models']) / name)
        except (InputError, ValueError) as error:
            warnings.append(f'Passed over {path}: {one_line(error)}')
        else:
            return path, state, warnings
    if warnings:
        raise InputError(
            f'--auto_resume: must find a whole checkpoint in {opt["path"]["training_states"]}, got {len(warnings)} '
            f'damaged ones. Move that folder away to start anew. {warnings[0]}'
        )
    return None, None, []


def saved_states(folder: Path) -> list[Path]:
    """The training states in a folder, newest first."""
    paths = [path for path in folder.glob('*.state') if path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem), reverse=True)


def _weight_names(opt: Mapping[str, Any], iteration: int) -> list[str]:
    return [f'net_{label}_{iteration}.pth' for label in ('gd' if is_gan(opt) else 'g')]


def find_weights(opt: Mapping[str, Any], iteration: int, models: str | Path) -> dict[str, str]:
    """Finds the weights of ``path.resume_state``: in the run's own folder of weights, or else beside the state.

    Returns:
        The file of each network, by ``network_g`` or ``network_d``, without ``path.ignore_resume_networks``.

    Raises:
        InputError: If there are none of that iteration: a state never goes on with weights of another.
    """
    found = {}
    beside = Path(opt['path']['resume_state']).parent.parent / 'models'
    for name in _weight_names(opt, iteration):
        network = f'network_{name.split("_")[1]}'
        if network in (opt['path'].get('ignore_resume_networks') or []):
            continue
        paths = [folder / name for folder in (Path(models), beside) if (folder / name).is_file()]
        if not paths:
            raise InputError(
                f'path.resume_state: must have its weights {name} in {models} or {beside}, got '
                'nothing there. Give a state whose weights are kept.'
            )
        found[network] = str(paths[0])
    return found


def ranks(opt: Mapping[str, Any]) -> int:
    """GPUs that share a global batch: the ranks, or those of ``DataParallel``."""
    return opt['world_size'] * (1 if opt['dist'] else max(opt['num_gpu'], 1))


def schedule_rows(schedule: Schedule, world_size: int) -> list[list[int]]:
    """The schedule as plain data: [last iteration, samples of all ranks, num_frame, gt_size] of each segment."""
    return [
        [s.end, s.shape.batch_size_per_gpu * world_size, s.shape.num_frame, s.shape.gt_size] for s in schedule.segments
    ]


def check_optimizers(saved: int, asked: int, path: str | Path) -> None:
    """Refuses a state that has another number of optimizers than the run: a GAN run has two."""
    if saved != asked:
        raise InputError(
            f'path.resume_state: must have {asked} optimizers as this run has, got {path} with {saved}. '
            'Start from its weights: path.pretrain_network_g.'
        )


def check_same_run(state: Mapping[str, Any], rows: list[list[int]], seed: int | None, may_differ: bool) -> None:
    """Refuses a state of another seed, or of another schedule from the next iteration on.

    ``rows`` are the :func:`schedule_rows` of the run. A state without a schedule is not compared.
    """
    if may_differ or 'schedule' not in state:
        return
    done = state['iter']
    saved, asked = ({tuple(row) for row in table if row[0] > done} for table in (state['schedule'], rows))
    only = {'saved': saved - asked, 'now': asked - saved}
    differences = [f'{name} {sorted(found)}' for name, found in only.items() if found]
    if seed is not None and seed != state['seed']:
        differences.append(f'saved seed {state["seed"]}, now {seed}')
    if differences:
        raise InputError(
            'path.resume_changed_schedule: must be true to go on with another schedule than the state was saved with, '
            f'got (last iteration, samples, num_frame, gt_size) {"; ".join(differences)}. Restore them, or set it.'
        )


def read_weights(option: str, path: str) -> Any:
    """Reads a weight file as data only.

    Raises:
        OptionError: If the file holds none.
    """
    try:
        return read(path, mmap=zipfile.is_zipfile(path))
    except ValueError as error:
        rule = 'be weights that torch reads as data'
        raise OptionError(option, rule, f'{path} ({error})', 'Get it again.') from error


def has_average(stored: Any) -> bool:
    """Whether a weight file has the average of the weights too; else it begins as the weights."""
    return isinstance(stored, Mapping) and 'params_ema' in stored


def check_pretrained(opt: Mapping[str, Any], label: str, network: torch.nn.Module) -> None:
    """Compares ``path.pretrain_network_<label>`` with its network, on any device: the key asked for, names and shapes.

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


def check_own(opt: Mapping[str, Any], label: str, path: str, network: torch.nn.Module) -> str | None:
    """Compares the weights of a run's own checkpoint with its network, as :func:`check_pretrained`.

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


_NUMBERED = re.compile(r'net_\w+_(\d+)\.pth|(\d+)\.state')


class KeptCheckpoints:
    """Knows the best checkpoint of a run, and removes those that nothing needs; called on rank 0.

    Attributes:
        best: ``iter`` and ``value`` of the best validation of ``keep_best``, also from before a resume.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self._opt = opt
        self._models, self._states = Path(opt['path']['models']), Path(opt['path']['training_states'])
        self._asked = best_metric(opt)
        self._file = self._models / 'best.json'
        self.best: dict[str, Any] | None = None
        if self._asked is not None and self._file.is_file():
            best = json.loads(self._file.read_text())
            is_number = math.isfinite(best['value'])  # an older one may be infinite: the PSNR of equal frames
            self.best = best if is_number and (best['dataset'], best['metric']) == self._asked else None

    def is_best(self, model: Any, dataset: str, current_iter: int | str) -> bool:
        """Whether a validation, which is just over, is the best of the run.

        BasicSR keeps ``val``, ``iter`` and ``better`` of the best one in this process, by test set and metric.
        """
        if self._asked is None or dataset != self._asked[0]:
            return False
        found = getattr(model, 'best_metric_results', {}).get(dataset, {}).get(self._asked[1])
        if found is None:  # a model with a validation of its own
            return False
        sign = -1 if found['better'] == 'lower' else 1
        if found['iter'] != current_iter or (self.best and sign * found['val'] < sign * self.best['value']):
            return False
        self.best = {'dataset': dataset, 'metric': self._asked[1], 'value': found['val'], 'iter': current_iter}
        return True

    def save_best(self) -> None:
        """Writes which one is the best; its weights are written already."""
        with whole_file(self._file) as file:
            file.write(f'{json.dumps(self.best)}\n'.encode())

    def prune(self, current_iter: int) -> None:
        """Removes what is not kept, the state first: without its weights it would look damaged.

        Kept are the newest ``keep_checkpoints`` that are whole, the best, and what the option file starts from.
        Checkpoints newer than ``current_iter`` belong to an earlier attempt and are never removed.
        """
        keep = self._opt['logger'].get('keep_checkpoints')
        if keep is None:
            return
        files: dict[int, list[Path]] = {}
        for path in (*self._states.glob('*.state'), *self._models.glob('net_*.pth')):
            found = _NUMBERED.fullmatch(path.name)
            if found and int(found[1] or found[2]) <= current_iter:
                files.setdefault(int(found[1] or found[2]), []).append(path)
        names = {i: {f'{i}.state', *_weight_names(self._opt, i)} for i in files}
        last = sorted(i for i, paths in files.items() if names[i] <= {path.name for path in paths})[-keep:]
        kept = {*last, *([self.best['iter']] if self.best else [])}
        try:
            for iteration in sorted(files.keys() - kept) if last else ():
                if not any(self._is_asked_for(path) for path in files[iteration]):
                    for path in files[iteration]:
                        path.unlink(missing_ok=True)
        except OSError as error:
            get_root_logger().warning(f'A checkpoint that is not kept cannot be removed ({error}).')

    def _is_asked_for(self, path: Path) -> bool:
        """Whether the option file starts from it; ``--auto_resume`` puts what it found into the options too."""
        if self._opt['auto_resume']:
            return False
        named = [value for key, value in self._opt['path'].items() if key.startswith(('pretrain_', 'resume_state'))]
        return any(isinstance(value, str) and os.path.abspath(value) == os.path.abspath(path) for value in named)
