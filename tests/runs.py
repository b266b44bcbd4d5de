"""Option files for the tests, and ways to run them."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

_OPTIONS = """
name: run
model_type: MultigridVideoModel
scale: 4
num_gpu: 0
manual_seed: 3
datasets:
  train:
    name: clips
    type: MultigridREDSDataset
    io_backend: {type: disk}
    num_frame: 4
    gt_size: 128
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 1
    prefetch_mode: ~
multigrid:
  gt_size: [64, 128]
  num_frame: [2, 3, 4]
  batch_size_per_gpu: [2, 1]
network_g: {type: BasicVSR, num_feat: 4, num_block: 1}
path: {strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: Adam, lr: !!float 1e-3, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [13], restart_weights: [1], eta_min: !!float 1e-7}
  total_iter: 13
  warmup_iter: -1
  pixel_opt: {type: CharbonnierLoss, loss_weight: 1.0, reduction: mean}
logger: {print_freq: 1, save_checkpoint_freq: 1000, use_tb_logger: false, wandb: {project: ~, resume_id: ~}}
"""

# Written by hand: 13 iterations are 6 at gt_size 64 and 7 at 128; 6 are 2 + 2 + 2 and 7 are 2 + 2 + 3 (floor of 7/3
# and 14/3). Each entry is (batch, num_frame, gt_size) of iterations 1 to 13.
SHAPES = (
    [(2, 2, 64)] * 2 + [(2, 3, 64)] * 2 + [(2, 4, 64)] * 2 + [(1, 2, 128)] * 2 + [(1, 3, 128)] * 2 + [(1, 4, 128)] * 3
)


def options(clips: Path, **changes: Any) -> dict[str, Any]:
    """A run of 13 iterations on the clips; ``datasets__train__type='X'`` changes an option, ``None`` removes it."""
    opt = yaml.safe_load(_OPTIONS)
    opt['datasets']['train'].update(dataroot_gt=str(clips / 'gt'), dataroot_lq=str(clips / 'lq'))
    for key, value in changes.items():
        *blocks, last = key.split('__')
        target = opt
        for block in blocks:
            target = target.setdefault(block, {})
        target[last] = copy.deepcopy(value)
        if value is None:
            del target[last]
    if 'periods' in opt.get('train', {}).get('scheduler', {}) and 'train__scheduler__periods' not in changes:
        opt['train']['scheduler']['periods'] = [opt['train'].get('total_iter', 13)]
    return opt


def write(folder: Path, opt: dict[str, Any], name: str = 'run.yml') -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(opt))
    return path


def run(*command: Any, cwd: Path, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with stdout and stderr together, one thread, and the warnings that a user would have."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
    env.pop('PYTHONWARNINGS', None)
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) is ok, done.stdout[-4000:]
    return done


def train(cwd: Path, opt_file: Path, *arguments: Any, ok: bool = True, **environment: str) -> str:
    """``multigrid-vsr train`` in a process of its own; returns what it printed."""
    return run(
        sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', opt_file, *arguments, cwd=cwd, ok=ok, **environment
    ).stdout


def losses(log: str) -> list[str]:
    """The losses in a log, as printed, in order."""
    return re.findall(r'l_pix: (\S+)', log)


def same_weights(first: Path, second: Path) -> bool:
    """Whether two checkpoints are equal to the last bit."""
    first, second = torch.load(first, weights_only=True), torch.load(second, weights_only=True)
    return first.keys() == second.keys() and all(
        torch.equal(first[key][name], second[key][name]) for key in first for name in first[key]
    )
