"""Learning rates of a multigrid run, compared by what they reach on the demo's real video."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from multigrid_vsr.core.plan import format_table, total_pixels
from multigrid_vsr.core.schedule import split
from multigrid_vsr.demo import evaluation, training
from multigrid_vsr.demo.dataset import prepare
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.recipes import WARMUP_PART

_PAPER = {'restart': 'shape', 'anneal': 'last'}
_PERIODS = 6  # the paper's: two spatial stages of three frame counts
_VOLUME = {'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}

# What `train.scheduler` and `multigrid` hold beside the demo's options. `paper_full` is the paper's rule with as many
# periods of the full shape; `stock` is the demo's stock run: the full shape throughout, one cosine of BasicSR's.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'paper': (_PAPER, {}),
    'each': ({**_PAPER, 'anneal': 'each'}, {}),
    'cosine': ({'restart': 'none'}, {}),
    'paper_full': (_PAPER, {}),
    'stock': ({}, {}),
    'stage': ({'restart': 'stage'}, {}),
    'stage_no_ramp': ({'restart': 'stage', 'warmup_iter': -1}, {}),
    'stage_ramps': ({'restart': 'stage', 'warmup_at': 'boundaries'}, {}),
    'stage_half': ({'restart': 'stage', 'restart_weights': [1, 0.5]}, {}),
    'volume': ({'restart': 'stage', 'batch_scaling': 'none'}, _VOLUME),
    'volume_sqrt': ({'restart': 'stage', 'batch_scaling': 'sqrt'}, _VOLUME),
    'volume_linear': ({'restart': 'stage', 'batch_scaling': 'linear'}, _VOLUME),
}
COMPARED = ('paper', 'each', 'cosine', 'paper_full', 'stock')
RATES = (2e-3, 5e-4)


class Run(NamedTuple):
    """One run of the comparison; ``rate`` is the one that it begins with."""

    variant: str
    rate: float
    seed: int
    iters: int

    def __str__(self) -> str:
        return f'{self.variant} at {self.rate:g}, seed {self.seed}'


Results = dict[Run, float]  # PSNR in dB


def compare(
    root: Path, variants: Sequence[str], rates: Sequence[float], seeds: int, iters: int, jobs: int | None
) -> None:
    """Trains every variant at every rate with every seed, as far as it is not done yet, and prints a table.

    Args:
        root: Folder for the data, the runs and ``learning_rate.jsonl``, the results so far.
        variants: Names of variants; differences are taken from the first.
        rates: Rates to begin with.
        seeds: Number of seeds, counted from 0.
        iters: Iterations of each run.
        jobs: Runs at a time, each with one thread; ``None`` for one run with torch's own number of threads.

    Raises:
        InputError: If the video of the demo is not installed, or a run fails.
    """
    prepare(root / 'data')
    gt, lq = (evaluation.read_clips(root / 'data/val' / kind) for kind in ('gt', 'lq'))
    results = read_results(root)
    rows = list(dict.fromkeys(itertools.product(rates, variants)))
    runs = [Run(name, rate, seed, iters) for seed in range(seeds) for rate, name in rows]
    if jobs is not None:
        torch.set_num_threads(1)

    def measure(number: int, run: Run) -> None:
        weights = train(root, run, f'{number}/{len(runs)} {run}', None if jobs is None else 1)
        add_result(root, run, evaluation.psnr(evaluation.super_resolve(weights, lq), gt))
        shutil.rmtree(weights.parents[1])

    with ThreadPoolExecutor(jobs or 1) as pool:
        missing = [pool.submit(measure, number, run) for number, run in enumerate(runs, 1) if run not in results]
        try:
            for future in missing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way is kept when it is done
    print(table(read_results(root), runs, evaluation.psnr(evaluation.bicubic(lq), gt)))


def options(run: Run) -> dict[str, Any]:
    """The options of a run: those of the demo, changed where the variant differs."""
    is_stock = run.variant == 'stock'
    opt = yaml.safe_load(training.options('stock' if is_stock else 'multigrid', run.iters, run.seed))
    opt['name'] = f'{run.variant}_{run.rate:g}_{run.seed}'
    opt['logger']['save_checkpoint_freq'] = run.iters
    opt['train']['optim_g']['lr'] = run.rate
    if not is_stock:
        scheduler, multigrid = VARIANTS[run.variant]
        opt['train']['scheduler'] = {
            'type': 'MultigridCosineLR',
            'warmup_iter': run.iters // WARMUP_PART,
            **scheduler,
        }
        opt['multigrid'].update(multigrid)
    if run.variant == 'paper_full':
        opt['multigrid'] = {'stages': [{'iter': count} for count in split(run.iters, [1] * _PERIODS)]}
    return opt


def train(root: Path, run: Run, label: str, threads: int | None) -> Path:
    """Trains a variant in a process of its own; returns the weights at the end."""
    opt = options(run)
    path = root / f'{opt["name"]}.yml'
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    training.train_file(path, run.iters, label, threads)
    return root / 'experiments' / opt['name'] / 'models/net_g_latest.pth'


def add_result(root: Path, run: Run, psnr: float) -> None:
    """Keeps the PSNR of a run that is done."""
    with (root / 'learning_rate.jsonl').open('a') as file:
        file.write(json.dumps(run._asdict() | {'psnr': psnr}) + '\n')


def read_results(root: Path) -> Results:
    """The runs that are done. Lines without a rate are of an older bench, whose ramps were others."""
    path = root / 'learning_rate.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {Run(*(line[key] for key in Run._fields)): line['psnr'] for line in lines if 'rate' in line}


def table(results: Results, runs: Sequence[Run], bicubic: float) -> str:
    """PSNR of each variant, rate and seed in dB, and how far it is from the first variant with the same rate and seed.

    The first deviation is that of the seeds, the second that of the differences, both of a sample. Pixels are those
    trained on, against the full shape throughout.
    """
    first = runs[0]
    full = total_pixels(schedule_from_options(options(first._replace(variant='stock'))))
    seeds = list(dict.fromkeys(run.seed for run in runs))
    rows = [('bicubic', '-', '-', *['-'] * len(seeds), f'{bicubic:.3f}', '-', '-', '-')]
    for run in (run for run in runs if run.seed == seeds[0]):
        pixels = total_pixels(schedule_from_options(options(run))) / full
        of_seeds = [run._replace(seed=seed) for seed in seeds]
        psnrs = [results[each] for each in of_seeds]
        differences = [results[each] - results[each._replace(variant=first.variant)] for each in of_seeds]
        cells = [f'{psnr:.3f}' for psnr in (*psnrs, statistics.mean(psnrs))]
        cells += [_deviation(psnrs), f'{statistics.mean(differences):+.3f}', _deviation(differences)]
        rows.append((run.variant, f'{run.rate:g}', f'{pixels:.0%}', *cells))
    header = ('variant', 'rate', 'pixels', *(f'seed {seed}' for seed in seeds), 'mean', 'deviation')
    return format_table((*header, f'from {first.variant}', 'deviation'), rows)


def _deviation(values: list[float]) -> str:
    return f'{statistics.stdev(values):.3f}' if len(values) > 1 else '-'
