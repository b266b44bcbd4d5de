"""Checkpoints that are whole or absent, and the newest good one to go on from.

A checkpoint is a pair of one iteration: the weights, ``models/net_g_N.pth``, written first, and the training state,
``training_states/N.state``. Both are read as data alone, so a file cannot run code.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from multigrid_vsr.core.errors import InputError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.options.known_types import is_gan

_STATE_KEYS = {'epoch', 'iter', 'optimizers', 'schedulers'}
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


def save(value: Any, path: str | Path) -> None:
    """Writes a file that appears under its name only when it is on the disk as a whole.

    Args:
        value: What ``torch.load`` can read with ``weights_only``.
        path: File to write.

    Raises:
        OSError: If it cannot be written; what was under the name before stays.
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
    """Reads what :func:`save` wrote, onto the CPU, as data alone.

    Args:
        path: File to read.
        mmap: Whether tensors stay in the file until they are used; then they are not looked at.

    Raises:
        ValueError: If it is damaged, holds code, or cannot be read; the text is one line.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        raise ValueError(one_line(error, 120)) from error


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
    """Looks for the newest state whose weights are whole too, where the run writes.

    Args:
        opt: Options of the run.
        iteration: The only iteration to look at; ``None`` for all.

    Returns:
        The state's path, the state, and a line for each newer one that was passed over; no path where there is none
        at all.

    Raises:
        InputError: If there are states and none of them is good.
    """
    warnings = []
    for path in saved_states(Path(opt['path']['training_states'])):
        if iteration is not None and int(path.stem) != iteration:
            continue
        try:
            state = load_state(path)
            if state['iter'] != int(path.stem):
                raise InputError(f'{path}: must be of iteration {path.stem}, got {state["iter"]}.')
            for name in weight_names(opt, state['iter']):
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


def weight_names(opt: Mapping[str, Any], iteration: int) -> Iterator[str]:
    """The files of the weights of an iteration."""
    for label in ('g', 'd') if is_gan(opt) else ('g',):
        yield f'net_{label}_{iteration}.pth'


def find_weights(opt: Mapping[str, Any], iteration: int, models: str | Path) -> dict[str, str]:
    """Finds the weights of ``path.resume_state``: in the run's own folder, or else beside the state.

    Args:
        opt: Options of the run; networks in ``path.ignore_resume_networks`` are left out.
        iteration: That of the state.
        models: The run's folder of weights.

    Returns:
        The file of each network, by ``network_g`` or ``network_d``.

    Raises:
        InputError: If there are none of that iteration: a state never goes on with weights of another.
    """
    found = {}
    beside = Path(opt['path']['resume_state']).parent.parent / 'models'
    for name in weight_names(opt, iteration):
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
    """Compares how many optimizers a state has with those of the run: a GAN run has two.

    Raises:
        InputError: If they differ.
    """
    if saved != asked:
        raise InputError(
            f'path.resume_state: must have {asked} optimizers as this run has, got {path} with {saved}. '
            'Start from its weights: path.pretrain_network_g.'
        )


def check_same_run(state: Mapping[str, Any], rows: list[list[int]], seed: int | None, may_differ: bool) -> None:
    """Compares what the state was saved under with what is asked for now.

    Args:
        state: The training state; one without these values is not compared.
        rows: :func:`schedule_rows` of the run.
        seed: ``manual_seed`` of the option file.
        may_differ: ``path.resume_changed_schedule``.

    Raises:
        InputError: If they differ from the next iteration on, and may not.
    """
    if may_differ or 'schedule' not in state:
        return
    done = state['iter']
    saved, asked = ([tuple(row) for row in table if row[0] > done] for table in (state['schedule'], rows))
    differences = [
        f'{name} {sorted(only)}'
        for name, only in (('saved', set(saved) - set(asked)), ('now', set(asked) - set(saved)))
        if only
    ]
    if seed is not None and seed != state['seed']:
        differences.append(f'saved seed {state["seed"]}, now {seed}')
    if differences:
        raise InputError(
            'path.resume_changed_schedule: must be true to go on with another schedule than the state was saved with, '
            f'got (last iteration, samples, num_frame, gt_size) {"; ".join(differences)}. Restore them, or set it.'
        )
