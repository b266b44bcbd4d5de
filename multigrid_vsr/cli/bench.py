"""``multigrid-vsr bench``: loading or an iteration against BasicSR's, or whole runs against each other."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multigrid_vsr.cli import bench_gpu, bench_train
from multigrid_vsr.core.errors import OptionError

_MEASURES = {
    'loader': 'loading against BasicSR',
    'datasets': "what BasicSR's datasets cost under the schedule",
    'step': 'an iteration against BasicSR',
    'options': 'an iteration with each option that makes it faster',
    'checkpoint': 'memory and time with modules that are computed again for the gradient',
    'run': 'a whole run against the sum of its steps',
    'growth': 'what iterations and loading cost as crop, frames, batch, clips and workers grow',
    'scale': 'what many GPUs on a shared file system meet, simulated (Linux with FUSE, and mfusepy)',
    'plan': 'what plan --measure and the log say of a run, against what it takes',
    'gpu': 'what a GPU can show within minutes: every option, iterations, whole runs',
    'launches': 'kernels that an iteration launches on a GPU and its waits for it, counted without one',
    'validation': 'memory that a validation takes, for whole clips and in pieces',
    'train': 'variants of a run with several seeds, by what they reach on real video, and in which time',
}
# Its module, where that has another name.
_MODULES = {'options': 'acceleration', 'checkpoint': 'checkpointing', 'run': 'whole_run', 'plan': 'predicted'}
# What a measure needs or can do beside `--rounds` and `--data`.
_MORE = {
    'gpu': (' --out gpu', ' --out dry --dry'),
    'launches': ('', ' -opt options/train_basicvsr_mg.yml'),
    'validation': (' -opt options/train_basicvsr_mg.yml', ' -opt mg.yml --clip 300 270 480'),
    'growth': ('', ' --plot growth.svg'),
    'train': (' --data matrix', ' --data matrix --table', ' --data matrix --variants stock paper --seeds 1'),
}
_REDS4 = (100, 180, 320)  # frames of a clip, LQ height and width


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'bench',
        help='measure loading, iterations or whole runs on this machine',
        examples=(
            'multigrid-vsr bench loader',
            'multigrid-vsr bench step --rounds 9',
            'multigrid-vsr bench gpu --out gpu',
        ),
    )
    measures = parser.add_subparsers(dest='what', metavar='WHAT', required=True)
    for what, description in _MEASURES.items():
        endings = _MORE.get(what, ('', ' --rounds 9 --data bench_data'))
        examples = [f'multigrid-vsr bench {what}{ending}' for ending in endings]
        measure = measures.add_parser(what, help=description, examples=examples)
        measure.set_defaults(parser_below=measure)
        if what == 'gpu':
            bench_gpu.add_arguments(measure)
        elif what == 'launches':
            measure.add_argument('-opt', metavar='FILE', help='a training file, for its network and shapes')
            continue
        elif what == 'validation':
            measure.add_argument('-opt', required=True, metavar='FILE', help='option file, for its network')
            clip = 'the largest clip, LQ pixels (default: that of REDS4, 100 180 320)'
            names = ('FRAMES', 'HEIGHT', 'WIDTH')
            measure.add_argument('--clip', type=int, nargs=3, default=_REDS4, metavar=names, help=clip)
            continue
        if what == 'train':
            bench_train.add_arguments(measure)
            kept = 'frames and results, kept; an interrupted bench goes on from it'
        else:
            measure.add_argument('--rounds', type=int, default=5, help='interleaved; medians are printed (default: 5)')
            kept = 'frames (loader: 0.7 GB) and runs, kept'
        if what == 'growth':
            measure.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves there, .png or .svg')
        measure.add_argument('--data', type=Path, help=f'folder for {kept}; default: one that is deleted')
    return parser


def run(args: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        InputError: If an option breaks its rule, the video of the demo is not installed, or a run fails.
    """
    if args.what == 'gpu':
        return bench_gpu.run(args)
    if args.what == 'train':
        with _folder(args) as root:
            return bench_train.run(args, root)
    if args.what == 'launches':
        from multigrid_vsr.bench import launches

        return launches.measure(args.opt)
    if args.what == 'validation':
        from multigrid_vsr.bench import validation

        return validation.measure(args.opt, tuple(args.clip))
    if args.rounds < 1:
        raise OptionError('--rounds', 'be at least 1', args.rounds, 'Medians are taken over the rounds.')
    module = importlib.import_module(f'multigrid_vsr.bench.{_MODULES.get(args.what, args.what)}')
    with _folder(args) as root:
        module.measure(root, args.rounds, *([args.plot] if args.what == 'growth' else []))


@contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """``--data``, or a folder that is deleted."""
    warnings.filterwarnings('ignore', 'Detected call of `lr_scheduler|torch.meshgrid')  # BasicSR's; they mean nothing
    warnings.filterwarnings('ignore', 'This DataLoader will create')  # more than cores, where they wait for a disk
    with tempfile.TemporaryDirectory() as temporary:
        yield args.data or Path(temporary)
