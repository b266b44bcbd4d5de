"""Real torchrun with two ranks, over gloo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import basicsr
import pytest
import torch
from runs import losses, options, run, train, write

TRAIN_SCRIPT = Path(basicsr.__file__).parent / 'train.py'
COMMAND = Path(sys.executable).parent / 'multigrid-vsr'
PSNR = re.compile(r'# psnr: ([\d.]+)(.*)')


def torchrun(*arguments, port):
    start = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}']
    return [sys.executable, *start, *arguments, '--launcher', 'pytorch']


def test_torchrun_ranks_share_the_global_batch(tmp_path, clips):
    two_ranks = options(clips, multigrid__batch_size_per_gpu=[2, 1], name='two')
    one_rank = options(clips, multigrid__batch_size_per_gpu=[4, 2], datasets__train__batch_size_per_gpu=2, name='one')
    opt_file = write(tmp_path, {**two_ranks, 'path': {'experiments_root': str(tmp_path)}})
    run(*torchrun(TRAIN_SCRIPT, '-opt', opt_file, port=29617), cwd=tmp_path)
    log_two = next((tmp_path / 'two').glob('train_two_*.log')).read_text()
    train(tmp_path, write(tmp_path, {**one_rank, 'path': {'experiments_root': str(tmp_path)}}, 'one.yml'))
    log_one = next((tmp_path / 'one').glob('train_one_*.log')).read_text()
    # The mean loss of two halves is that of the whole, so equal figures mean that the ranks held its two halves.
    two, one = ([float(loss) for loss in losses(log)] for log in (log_two, log_one))
    assert len(two) == len(one) == 13
    assert two == pytest.approx(one, rel=2e-3)


def test_ranks_that_share_the_batch_train_the_same_bits(tmp_path, clips):
    """20 iterations over boundaries: 2 ranks with batch b against 1 rank with 2b, within float error."""
    # Adam divides a gradient by its own size: with a tiny epsilon it would make the rounding of a gradient near 0 a step.
    optimizer = {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99], 'eps': 1e-3}
    changes = {
        'train__optim_g': optimizer,
        'network_g': {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
        'train__total_iter': 20,
        'train__scheduler': {'type': 'MultigridCosineLR'},
    }
    for name, batches, full in (('two', [2, 1], 1), ('one', [4, 2], 2)):
        opt = options(clips, **changes, name=name, multigrid__batch_size_per_gpu=batches, path__experiments_root=str(tmp_path),
                      datasets__train__batch_size_per_gpu=full)  # fmt: skip
        opt_file = write(tmp_path, opt, f'{name}.yml')
        if name == 'one':
            train(tmp_path, opt_file)
        else:
            run(*torchrun(COMMAND, 'train', '-opt', opt_file, port=29618), cwd=tmp_path)
    first, second = (
        torch.load(tmp_path / name / 'models/net_g_latest.pth', weights_only=True)['params'] for name in ('one', 'two')
    )
    for key, weight in first.items():
        assert torch.allclose(weight, second[key], rtol=0, atol=1e-6), key


def test_validation_of_two_ranks_logs_the_figures_of_one(tmp_path, clips):
    val = {'name': 'REDS4', 'type': 'VideoRecurrentTestDataset', 'dataroot_gt': str(clips / 'gt'), 'cache_data': True,
           'dataroot_lq': str(clips / 'lq'), 'io_backend': {'type': 'disk'}, 'num_frame': -1}  # fmt: skip
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}}
    found = []
    for name in ('one', 'two'):
        # A rate of nothing, so that the weights are the same whatever the batch is.
        opt = options(clips, name=name, multigrid=None, train__total_iter=1, datasets__val=val,
                      val={'val_freq': 1, 'save_img': False, 'metrics': metrics}, train__optim_g__lr=1e-20,
                      path__experiments_root=str(tmp_path))  # fmt: skip
        opt_file = write(tmp_path, opt)
        if name == 'one':
            log = train(tmp_path, opt_file)
        else:
            log = run(*torchrun(COMMAND, 'train', '-opt', opt_file, port=29619), cwd=tmp_path).stdout
        found.append(PSNR.findall(log))
    assert len(found[0]) == 2  # after the iteration, and at the end
    assert found[0] == found[1]


def test_dead_rank_ends_the_run_with_an_error(tmp_path, clips):
    opt = options(clips, train__total_iter=100_000, multigrid=None, path__experiments_root=str(tmp_path))
    command = torchrun(TRAIN_SCRIPT, '-opt', write(tmp_path, opt), port=29620)
    process = subprocess.Popen([str(word) for word in command], cwd=tmp_path, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        for line in process.stdout:
            if re.search(r'iter: +3, ', line):
                break
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        deadline = time.monotonic() + 90
        process.stdout.read()
        assert process.wait(timeout=max(1, deadline - time.monotonic())) != 0
    finally:
        process.stdout.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
