"""Trains a matrix of variants and seeds, as far as it is not done yet, and keeps what each run reached."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import flow_network, start, times
from benchmarks.train.one_run import trained
from benchmarks.train.options import Run, options
from benchmarks.train.results import read_runs
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.demo import evaluation, training
from multigrid_vsr.demo.training import PARTS, Part, prepare
from multigrid_vsr.measure import one_device
from multigrid_vsr.models.inference import load_restorer, to_bgr_bytes
from multigrid_vsr.options.multigrid_block import schedule_from_options

# More is held out than in the demo, and one video that no run has seen.
BENCH_PARTS = (
    *(part for part in PARTS if part.folder == 'train'),
    Part('val', '000', 'bikes.mp4', None, 215, 24),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 10),
    Part('val', '002', 'carphone_pristine.mp4', None, 0, 24),
)
_WRITING = threading.Lock()


def train(
    root: Path,
    runs: Sequence[Run],
    results: Path,
    rounds: int,
    jobs: int | None,
    checkpoints: int,
    flow_iters: int,
    start_iters: int | None,
) -> None:
    """Trains what is missing, several runs at a time, and times the iterations of all before and after it.

    Args:
        root: Folder for the data and the runs.
        runs: What to train; a run that was interrupted goes on.
        results: JSONL that gets a line for each run and each timing.
        rounds: Interleaved rounds of the timing, on a machine that does nothing else; 0 for none.
        jobs: Runs at a time, each with one thread or one GPU; ``None`` for one run with torch's own threads.
        checkpoints: How many times PSNR is measured in a run, its end included.
        flow_iters: Iterations of the flow network that all begin with.
        start_iters: Iterations of the network that the runs of an arch begin with; ``None`` for enough.

    Raises:
        InputError: If the video of the demo is not installed, or a run fails.
    """
    _prepare(root / 'data', flow_iters)
    done = read_runs(results)
    missing = [run for run in dict.fromkeys(runs) if run not in done]
    for arch in dict.fromkeys(run.arch for run in missing):
        start.make(root, arch, start_iters)
    _measure(root, missing, results, rounds)
    if jobs is not None:
        torch.set_num_threads(1)
    clips = {kind: evaluation.read_clips(root / 'data/val' / kind) for kind in ('lq', 'gt')}
    with ThreadPoolExecutor(jobs or 1) as pool:
        pending = [
            pool.submit(_train_one, root, run, f'{number}/{len(missing)} {run}', results, jobs, checkpoints, clips)
            for number, run in enumerate(missing, 1)
        ]
        try:
            for future in pending:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way is kept when it is done
    _measure(root, missing, results, rounds)


def retime(root: Path, results: Path, rounds: int, flow_iters: int) -> None:
    """Times the iterations of all runs that are done, in place of what was measured before, on another machine maybe.

    Args:
        root: Folder for the data.
        results: JSONL of the runs.
        rounds: Interleaved rounds.
        flow_iters: Iterations of the flow network.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    _prepare(root / 'data', flow_iters)
    lines = [line for line in results.read_text().splitlines() if json.loads(line)['kind'] != 'time']
    lines += [json.dumps(line) for line in times.measure(root, list(read_runs(results)), rounds)]
    with whole_file(results) as file:
        file.write(('\n'.join(lines) + '\n').encode())


def _prepare(data: Path, flow_iters: int) -> None:
    prepare(data, BENCH_PARTS)
    weights = data / 'spynet.pth'
    if weights.exists():
        return
    flow_network.make(weights, data / 'train/lq', flow_iters)
    moved, unmoved = flow_network.warping_error(weights, data / 'val/lq')
    print(f'The flow network: held-out LQ frames are {moved:.2f}/255 from the next one warped, {unmoved:.2f} unmoved.')


def _measure(root: Path, runs: Sequence[Run], results: Path, rounds: int) -> None:
    if runs and rounds:
        for line in times.measure(root, runs, rounds):
            _add(results, line)


def _train_one(
    root: Path, run: Run, label: str, results: Path, jobs: int | None, checkpoints: int, clips: dict[str, Any]
) -> None:
    opt = options(run, one_device(), checkpoints)
    freq, last = opt['logger']['save_checkpoint_freq'], opt['train']['total_iter']
    with trained(root, opt, label, None if jobs is None else 1) as folder:
        saved = training.weights_of(folder, last)
        measured = [each for each in saved if each[0] % freq == 0 or each[0] == last]  # not where it was stopped
        was_interrupted = len(list(folder.glob('train_*.log'))) > 1
        _add(
            results,
            {
                'kind': 'run',
                **run._asdict(),
                'segments': [_segment(segment) for segment in schedule_from_options(opt).segments],
                'curve': [(iteration, _psnrs(opt, weights, 'params_ema', clips)) for iteration, weights in measured],
                'psnr_last': _psnrs(opt, saved[-1][1], 'params', clips),
                'wall': None if was_interrupted else training.wall_clocks(folder)[-1],
            },
        )


def _segment(segment: Any) -> list[int]:
    shape = segment.shape
    return [segment.num_iter, shape.batch_size_per_gpu, shape.num_frame, shape.gt_size]


def _psnrs(opt: dict[str, Any], weights: Path, key: str, clips: dict[str, Any]) -> list[float]:
    """PSNR in dB of each held-out clip."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    restore = load_restorer(opt, weights, key, device)
    restored = {clip: to_bgr_bytes(restore(torch.from_numpy(lq))).numpy() for clip, lq in clips['lq'].items()}
    return [round(evaluation.psnr(restored, {clip: gt}), 4) for clip, gt in clips['gt'].items()]


def _add(results: Path, line: dict[str, Any]) -> None:
    with _WRITING, results.open('a') as file:
        file.write(json.dumps(line) + '\n')
