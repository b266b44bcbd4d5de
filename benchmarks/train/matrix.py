"""Trains a matrix of variants and seeds, as far as it is not done yet, and keeps what each run reached.

All runs of an arch begin with the same network, trained until it has left bilinear behind. BasicSR's networks add to a
bilinear enlargement, and a small one gives nothing but that for its first 150 iterations, whatever the rate. When a run
gets past it is luck, and in a run of minutes this decides how far the run comes by more than the variants differ.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.train import clips, flow_network, times
from benchmarks.train.results import read_runs
from benchmarks.train.runs import Run, options
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.demo import train_file
from multigrid_vsr.measure import one_device
from multigrid_vsr.models.inference import load_restorer, to_bgr_bytes
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.report.read import parse_log

_START_ITERS, _LONGER = 240, {'edvr': 720}  # EDVR gives bilinear still after 240
_WRITING = threading.Lock()


def train(root: Path, runs: Sequence[Run], results: Path, args: argparse.Namespace) -> None:
    """Trains what is missing in ``results``, several runs at a time, and times all iterations before and after it.

    A run that was interrupted continues. ``args`` is the command line.

    Raises:
        InputError: If the video of the demo is not installed, or a run fails.
    """
    done = read_runs(results)
    missing = [run for run in dict.fromkeys(runs) if run not in done]
    _prepare(root, runs, args.flow_iters)
    for arch, data in dict.fromkeys((run.arch, run.data) for run in missing):
        _make_start(root, arch, data, args.start_iters or _LONGER.get(arch, _START_ITERS))
    _measure(root, missing, results, args.rounds)
    threads = None if args.jobs is None else 1
    if threads is not None:
        torch.set_num_threads(threads)
    with ThreadPoolExecutor(args.jobs or 1) as pool:
        labels = [f'{number}/{len(missing)} {run}' for number, run in enumerate(missing, 1)]
        pending = [
            pool.submit(_train_one, root, run, label, results, threads, args.checkpoints)
            for run, label in zip(missing, labels)
        ]
        try:
            for future in pending:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # a run that has begun is kept when it is done
    _measure(root, missing, results, args.rounds)


def retime(root: Path, results: Path, rounds: int, flow_iters: int) -> None:
    """Times the iterations of all runs that are done again, and replaces the earlier times.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    runs = list(read_runs(results))
    _prepare(root, runs, flow_iters)
    lines = [line for line in results.read_text().splitlines() if json.loads(line)['kind'] != 'time']
    lines += [json.dumps(line) for line in times.measure(root, runs, rounds)]
    with whole_file(results) as file:
        file.write(('\n'.join(lines) + '\n').encode())


def _prepare(root: Path, runs: Iterable[Run], flow_iters: int) -> None:
    """Makes the clips of the runs, and a flow network trained on each set of clips."""
    for data, folder in dict.fromkeys((run.data, root / run.folder) for run in runs):
        clips.make(data, folder)
        weights = folder / 'spynet.pth'
        if not weights.exists():
            flow_network.make(weights, folder / 'train/lq', flow_iters)
            moved, unmoved = flow_network.warping_error(weights, folder / 'val/lq')
            print(f'The flow network of {data}: held-out LQ frames are {moved:.2f}/255 from the next one warped, '
                  f'{unmoved:.2f} unmoved.')  # fmt: skip


def _make_start(root: Path, arch: str, data: str, iters: int) -> None:
    """Trains what the runs of an arch begin with, at 128 pixels and 7 frames under the paper's rule; kept if there."""
    run = Run('untrained_full', arch, gt_size=128, num_frame=7, rate=2e-3, iters=iters, seed=0, data=data)
    target = root / run.start
    if target.exists():
        return
    opt = {**options(run, one_device()), 'name': target.stem}
    with trained(root, opt, f'Train the start of {arch}', None) as folder:
        _weights_of(folder, iters)[-1][1].rename(target)


@contextlib.contextmanager
def trained(root: Path, opt: dict[str, Any], label: str, threads: int | None) -> Iterator[Path]:
    """Trains a run, or the rest of an interrupted one, and yields its folder, which is deleted after use.

    A run of BasicSR's own model begins again: without a GPU BasicSR does not resume, with one it takes other samples.

    Raises:
        InputError: If the run fails.
    """
    path, folder = root / f'{opt["name"]}.yml', root / 'experiments' / opt['name']
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    is_stock = opt['model_type'] != 'MultigridVideoModel'
    if is_stock:
        shutil.rmtree(folder, ignore_errors=True)
    train_file(path, opt['train']['total_iter'], label, threads, *(() if is_stock else ('--auto_resume',)))
    yield folder
    shutil.rmtree(folder)
    path.unlink()


def _measure(root: Path, runs: Sequence[Run], results: Path, rounds: int) -> None:
    for line in times.measure(root, runs, rounds) if rounds else ():
        _add(results, line)


def _train_one(root: Path, run: Run, label: str, results: Path, threads: int | None, checkpoints: int) -> None:
    opt = options(run, one_device(), checkpoints)
    freq, last = opt['logger']['save_checkpoint_freq'], opt['train']['total_iter']
    segments = schedule_from_options(opt).segments
    held_out = _held_out(root / run.folder / 'val')
    with trained(root, opt, label, threads) as folder:
        saved = _weights_of(folder, last)
        measured = [each for each in saved if each[0] % freq == 0 or each[0] == last]  # not where it was stopped
        was_interrupted = len(list(folder.glob('train_*.log'))) > 1
        line = {
            'kind': 'run',
            **run._asdict(),
            'segments': [[segment.num_iter, *astuple(segment.shape)] for segment in segments],
            'curve': [(iteration, _psnrs(opt, weights, 'params_ema', held_out)) for iteration, weights in measured],
            'psnr_last': _psnrs(opt, saved[-1][1], 'params', held_out),
            'wall': None if was_interrupted else _wall_clock(folder),
        }
        _add(results, line)


def _weights_of(folder: Path, iters: int) -> list[tuple[int, Path]]:
    """The weights of a run that is done, each with its iteration; the last are those of its end."""
    models = folder / 'models'
    found = sorted((int(path.stem.removeprefix('net_g_')), path) for path in models.glob('net_g_[0-9]*.pth'))
    return found if found[-1][0] == iters else [*found, (iters, models / 'net_g_latest.pth')]


def _wall_clock(folder: Path) -> float:
    """Seconds from the start of training to its end, in the log of a run that never stopped."""
    log = parse_log(next(folder.glob('train_*.log')).read_text())
    assert log.start is not None
    return (log.saves[-1] - log.start).total_seconds()


@functools.cache
def _held_out(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The clips that PSNR is measured on: LQ and ground truth."""
    return flow_network.read_clips(folder / 'lq'), flow_network.read_clips(folder / 'gt')


def _psnrs(opt: dict[str, Any], weights: Path, key: str, held_out: tuple[dict[str, np.ndarray], ...]) -> list[float]:
    """BasicSR's PSNR in dB of each held-out clip, RGB, no border left out: the mean over its frames."""
    from basicsr.metrics import calculate_psnr

    restore = load_restorer(opt, weights, key, torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    psnrs = []
    lq_clips, gt_clips = held_out
    for clip, gt in gt_clips.items():
        restored = to_bgr_bytes(restore(torch.from_numpy(lq_clips[clip]))).numpy()
        psnrs.append(round(float(np.mean([calculate_psnr(*pair, crop_border=0) for pair in zip(restored, gt)])), 4))
    return psnrs


def _add(results: Path, line: dict[str, Any]) -> None:
    with _WRITING, results.open('a') as file:
        file.write(json.dumps(line) + '\n')
