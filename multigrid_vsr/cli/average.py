"""``multigrid-vsr average``: the mean of a run's last checkpoints."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigrid_vsr.cli.arguments import check_least, check_writable
from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.options.option_file import copy_in_run_folder

if TYPE_CHECKING:
    import torch

_EXAMPLES = (
    'multigrid-vsr average experiments/my_run --last 5',
    'multigrid-vsr average experiments/my_run --last 10 -o averaged.pth',
    'multigrid-vsr average experiments/my_duf_run --last 5 -opt options/my_duf_run.yml --bn_iters 200',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'average',
        help="write the mean of a run's last checkpoints",
        description='Writes the mean of the last checkpoints as a weight file of BasicSR: of `params`, and of '
        '`params_ema` where all have it. The running statistics of BatchNorm (DUF, TOFlow) are measured anew on '
        "batches of the training set, as the run's last iterations cut them; archs without BatchNorm need no data.",
        examples=_EXAMPLES,
    )
    parser.add_argument('experiment', type=Path, metavar='EXPERIMENT', help='folder of a run')
    parser.add_argument('--last', type=int, default=5, metavar='N', help='checkpoints (default: 5)')
    parser.add_argument(
        '-o',
        dest='out',
        type=Path,
        metavar='FILE',
        help='weight file (default: EXPERIMENT/models/net_g_average.pth)',
    )
    parser.add_argument('-opt', help="option file, for BatchNorm alone (default: the copy in the run's folder)")
    parser.add_argument('--bn_iters', type=int, default=100, metavar='N', help='batches for BatchNorm (default: 100)')
    return parser


def run(args: argparse.Namespace) -> None:
    """Averages, measures the statistics of BatchNorm where there are any, and writes.

    Raises:
        InputError: If there are too few checkpoints, one cannot be read, or the training set that BatchNorm needs is
            not there.
    """
    folder: Path = args.experiment
    if not folder.is_dir():
        raise OptionError('EXPERIMENT', 'be the folder of a run', folder, 'Correct the path.')
    check_least(args, {'--last': 1, '--bn_iters': 1})
    out: Path = args.out or folder / 'models/net_g_average.pth'
    check_writable('-o', out)
    from multigrid_vsr.models import averaging, checkpoints

    paths = averaging.last_checkpoints(folder, args.last)
    weights = averaging.average(paths)
    if averaging.has_batch_norm(weights):
        _measure_batch_norm(weights, args.opt or _option_file(folder), args.bn_iters)
    try:
        checkpoints.save(weights, out)
    except OSError as error:
        raise InputError(f'-o: must be a file that can be written, got {error}. Correct the path.') from None
    print(f'{out}: the mean of {", ".join(path.name for path in paths)} ({", ".join(weights)})')


def _option_file(folder: Path) -> Path:
    found = copy_in_run_folder(folder)
    if found is None:
        raise OptionError(
            '-opt', f'be given where {folder} has no copy of the option file', None, 'BatchNorm needs the training set.'
        )
    return found


def _measure_batch_norm(weights: dict[str, Any], opt_file: str | Path, count: int) -> None:
    """Builds the run's model and training set, and goes through its last batches once for each state."""
    import basicsr.utils.options
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.models import build_model
    from tqdm import tqdm

    from multigrid_vsr.models.averaging import update_batch_norm

    sys.argv[1:] = ['-opt', str(opt_file)]  # BasicSR parses the command line itself
    opt, _ = basicsr.utils.options.parse_options(os.getcwd(), is_train=True)
    opt['path'].update({key: None for key in opt['path'] if key.startswith('pretrain_network')})
    dataset_opt = opt['datasets']['train']
    if dataset_opt.get('multigrid') is not None:
        dataset_opt['start_iter'] = max(0, dataset_opt['multigrid'].total_iter - count)
    dataset = build_dataset(dataset_opt)
    sampler = EnlargedSampler(dataset, 1, 0, dataset_opt.get('dataset_enlarge_ratio', 1))
    model = build_model(opt)
    batches = build_dataloader(
        dataset, dataset_opt, num_gpu=opt['num_gpu'], dist=False, sampler=sampler, seed=opt['manual_seed']
    )

    def inputs() -> Iterator[torch.Tensor]:
        for batch in tqdm(itertools.islice(batches, count), desc='BatchNorm', unit='batch', total=count):
            model.feed_data(batch)
            yield model.lq

    update_batch_norm(weights, model.get_bare_model(model.net_g), inputs)
