"""Learning rates of a multigrid run, compared by what they reach on the demo's real video."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.core.plan import format_table, total_pixels
from multigrid_vsr.demo import evaluation, training
from multigrid_vsr.demo.dataset import prepare
from multigrid_vsr.options.multigrid_block import schedule_from_options

_VOLUME = {'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}

# What `train.scheduler` and `multigrid` hold beside the demo's options; a ramp is 15 iterations where nothing is said.
# `stock` is the demo's stock run: the full shape throughout, one cosine.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'none': ({'restart': 'none'}, {}),
    'stage': ({'restart': 'stage'}, {}),
    'shape': ({'restart': 'shape'}, {}),
    'stage_no_ramp': ({'restart': 'stage', 'warmup_iter': -1}, {}),
    'stage_half': ({'restart': 'stage', 'restart_weights': [1, 0.5]}, {}),
    'volume': ({'restart': 'stage', 'batch_scaling': 'none'}, _VOLUME),
    'volume_sqrt': ({'restart': 'stage', 'batch_scaling': 'sqrt'}, _VOLUME),
    'volume_linear': ({'restart': 'stage', 'batch_scaling': 'linear'}, _VOLUME),
    'stock': ({}, {}),
}

Results = dict[tuple[str, int, int], float]  # (variant, seed, iterations): PSNR in dB


def compare(root: Path, seeds: int, iters: int) -> None:
    """Trains every variant with every seed, as far as it is not done yet, and prints the table of docs/benchmarks.md.

    Args:
        root: Folder for the data, the runs and ``learning_rate.jsonl``, the results so far.
        seeds: Number of seeds, counted from 0.
        iters: Iterations of each run.

    Raises:
        InputError: If the video of the demo is not installed, or a run fails.
    """
    prepare(root / 'data')
    gt, lq = (evaluation.read_clips(root / 'data/val' / kind) for kind in ('gt', 'lq'))
    results = read_results(root)
    runs = list(itertools.product(range(seeds), VARIANTS))
    for number, (seed, name) in enumerate(runs, 1):
        if (name, seed, iters) not in results:
            weights = train(root, name, seed, iters, f'{number}/{len(runs)} {name}, seed {seed}')
            add_result(root, name, seed, iters, evaluation.psnr(evaluation.super_resolve(weights, lq), gt))
            shutil.rmtree(weights.parents[1])
    print(table(read_results(root), seeds, iters, evaluation.psnr(evaluation.bicubic(lq), gt)))


def options(name: str, seed: int, iters: int) -> dict[str, Any]:
    """The options of a variant: those of the demo, changed where the variant differs."""
    opt = yaml.safe_load(training.options('stock' if name == 'stock' else 'multigrid', iters, seed))
    opt['name'] = f'{name}_{seed}'
    opt['logger']['save_checkpoint_freq'] = iters
    if name != 'stock':
        scheduler, multigrid = VARIANTS[name]
        opt['train']['scheduler'] = {'type': 'MultigridCosineLR', 'warmup_iter': 15, **scheduler}
        opt['train']['warmup_iter'] = -1
        opt['multigrid'].update(multigrid)
    return opt


def train(root: Path, name: str, seed: int, iters: int, label: str) -> Path:
    """Trains a variant in a process of its own; returns the weights at the end."""
    opt = options(name, seed, iters)
    path = root / f'{opt["name"]}.yml'
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    training.train_file(path, iters, label)
    return root / 'experiments' / opt['name'] / 'models/net_g_latest.pth'


def add_result(root: Path, name: str, seed: int, iters: int, psnr: float) -> None:
    """Keeps the PSNR of a run that is done."""
    with (root / 'learning_rate.jsonl').open('a') as file:
        file.write(json.dumps({'variant': name, 'seed': seed, 'iters': iters, 'psnr': psnr}) + '\n')


def read_results(root: Path) -> Results:
    """The runs that are done."""
    path = root / 'learning_rate.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return {(line['variant'], line['seed'], line['iters']): line['psnr'] for line in map(json.loads, lines)}


def table(results: Results, seeds: int, iters: int, bicubic: float) -> str:
    """PSNR of each variant and seed in dB, and how far it is from ``stage`` with the same seed.

    The first deviation is that of the seeds, the second that of the differences, both of a sample. Pixels are those
    trained on, against the full shape throughout.
    """
    full = total_pixels(schedule_from_options(options('stock', 0, iters)))
    rows = [('bicubic', '-', *['-'] * seeds, f'{bicubic:.3f}', '-', '-', '-')]
    for name in VARIANTS:
        pixels = total_pixels(schedule_from_options(options(name, 0, iters))) / full
        psnrs = [results[name, seed, iters] for seed in range(seeds)]
        differences = [psnr - results['stage', seed, iters] for seed, psnr in enumerate(psnrs)]
        cells = [f'{psnr:.3f}' for psnr in (*psnrs, statistics.mean(psnrs))]
        cells += [_deviation(psnrs), f'{statistics.mean(differences):+.3f}', _deviation(differences)]
        rows.append((name, f'{pixels:.0%}', *cells))
    header = ('variant', 'pixels', *(f'seed {seed}' for seed in range(seeds)), 'mean', 'deviation')
    return format_table((*header, 'from stage', 'deviation'), rows)


def _deviation(values: list[float]) -> str:
    return f'{statistics.stdev(values):.3f}' if len(values) > 1 else '-'
