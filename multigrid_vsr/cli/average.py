"""``multigrid-vsr average``: the mean of a run's last checkpoints (Izmailov et al., arXiv 1803.05407, section 3)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import check_least, check_writable
from multigrid_vsr.core.errors import InputError, OptionError

Weights = dict[str, dict[str, Any]]  # 'params', 'params_ema': the tensors of a network
_EXAMPLES = (
    'multigrid-vsr average experiments/my_run --last 5',
    'multigrid-vsr average experiments/my_run --last 10 -o averaged.pth',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'average',
        help="write the mean of a run's last checkpoints",
        description='Writes the mean of the last checkpoints as a weight file of BasicSR: of `params`, and of '
        '`params_ema` where all have it. Archs with BatchNorm (DUF, TOFlow) are refused.',
        examples=_EXAMPLES,
    )
    parser.add_argument('experiment', type=Path, metavar='EXPERIMENT', help='folder of a run')
    parser.add_argument('--last', type=int, default=5, metavar='N', help='checkpoints (default: 5)')
    default = 'EXPERIMENT/models/net_g_average.pth'
    parser.add_argument('-o', dest='out', type=Path, metavar='FILE', help=f'weight file (default: {default})')
    return parser


def run(args: argparse.Namespace) -> None:
    """Averages and writes."""
    folder: Path = args.experiment
    if not folder.is_dir():
        raise OptionError('EXPERIMENT', 'be the folder of a run', folder, 'Correct the path.')
    check_least(args, {'--last': 1})
    out: Path = args.out or folder / 'models/net_g_average.pth'
    check_writable('-o', out)
    from multigrid_vsr.models import checkpoints  # torch takes seconds

    paths = last_checkpoints(folder, args.last)
    weights = average(paths)
    try:
        checkpoints.save(weights, out)
    except OSError as error:
        raise OptionError('-o', 'be a file that can be written', error, 'Correct the path.') from None
    print(f'{out}: the mean of {", ".join(path.name for path in paths)} ({", ".join(weights)})')


def last_checkpoints(folder: Path, count: int) -> list[Path]:
    """The weight files of the last iterations of a run, oldest first; an OptionError if there are fewer."""
    found = {int(path.stem[6:]): path for path in folder.glob('models/net_g_*.pth') if path.stem[6:].isdigit()}
    if len(found) < count:
        rule = f'be at most the {len(found)} checkpoints net_g_*.pth in {folder / "models"}'
        raise OptionError('--last', rule, count, 'Lower it, or give the folder of another run.')
    return [found[iteration] for iteration in sorted(found)[-count:]]


def average(paths: Sequence[Path]) -> Weights:
    """The mean of each parameter over weight files, summed in float64. Integers are taken from the last file.

    Returns:
        For each of ``params`` and ``params_ema`` that all files have, the tensors of a network.

    Raises:
        InputError: If a file cannot be read, is of another network, or holds BatchNorm's running statistics: those of
            an averaged network are not the mean of the networks' statistics.
    """
    sums: Weights = {}
    last: Weights = {}
    for path in paths:
        last = _read(path)
        sums = {key: sums.get(key, {}) for key in last if key in sums or path == paths[0]}
        for key, total in sums.items():
            if total and _shapes(total) != _shapes(last[key]):
                raise InputError(f'{path}: must hold the same network as {paths[0]}, got other weights. Leave it out.')
            for name, value in last[key].items():
                total[name] = total.get(name, 0) + value.double()
    return {
        key: {
            name: (total[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
            for name, value in last[key].items()
        }
        for key, total in sums.items()
    }


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.shape for name, value in state.items()}


def _read(path: Path) -> Weights:
    import torch

    from multigrid_vsr.models import checkpoints

    try:
        weights = checkpoints.read(path)
    except ValueError as error:
        raise InputError(f'{path}: must be a whole weight file of plain data, got {error}. Leave it out.') from None
    states: list[Any] = list(weights.values()) if isinstance(weights, Mapping) else [None]
    if not all(isinstance(s, Mapping) and all(isinstance(w, torch.Tensor) for w in s.values()) for s in states):
        raise InputError(f'{path}: must be a weight file of BasicSR, got something else. Leave it out.')
    if any(name.endswith('running_var') for state in states for name in state):
        rule, fix = 'be a run of an arch without BatchNorm', 'Use net_g_latest.pth, or train with an EMA.'
        raise OptionError('EXPERIMENT', rule, path, fix)
    return dict(weights)
