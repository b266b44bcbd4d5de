"""The run that benchmarks change: a small BasicVSR on the frames of the demo, stock or multigrid, for a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

from multigrid_vsr.demo import train_file
from multigrid_vsr.options.table import PAPER_WARMUP_PART

Frames = dict[str, np.ndarray]  # clip: uint8 (t, h, w, 3), BGR

_OPTIONS = """\
# {title}
name: {name}
model_type: {model_type}
scale: 4
num_gpu: {num_gpu}
manual_seed: {seed}

datasets:
  train:
    name: bikes_and_bunny
    type: {dataset_type}
    dataroot_gt: data/{folder}/gt
    dataroot_lq: data/{folder}/lq
    meta_info_file: data/train/meta_info.txt
    val_partition: REDS4
    test_mode: false
    io_backend:
      type: {io_backend}
    num_frame: 7
    gt_size: 128
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 200
    prefetch_mode: {prefetch_mode}
{multigrid}
network_g:
  type: BasicVSR
  num_feat: 16
  num_block: 2

path:
  experiments_root: experiments
  strict_load_g: true
  resume_state: ~

train:
  optim_g:
    type: Adam
    lr: 0.002
    betas: [0.9, 0.99]
  scheduler:
    type: {scheduler}
    eta_min: 0.0000001
  total_iter: {total_iter}
  warmup_iter: -1
  pixel_opt:
    type: CharbonnierLoss
    loss_weight: 1.0
    reduction: mean

logger:
  print_freq: 5
  save_checkpoint_freq: {save_checkpoint_freq}
  use_tb_logger: false
  wandb:
    project: ~
    resume_id: ~
"""

_ONE_COSINE = """\
CosineAnnealingRestartLR
    periods: [{total_iter}]
    restart_weights: [1]"""

# The paper's rule, its ramp as long a part of the run as there: 5000 iterations of 75,000.
_PAPER = """\
MultigridCosineLR
    restart: shape
    anneal: last
    warmup_iter: {warmup_iter}"""

_MULTIGRID = """
multigrid:
  gt_size: [64, 128]
  num_frame: [3, 5, 7]
"""


@dataclass(frozen=True)
class Run:
    """One of the two runs.

    Attributes:
        name: Name of the run, ``stock`` or ``multigrid``.
        checkpoints: Weights after so many iterations, with the wall-clock of training until then, in seconds.
    """

    name: str
    checkpoints: tuple[tuple[int, float, Path], ...]


def train(out: Path, name: str, iters: int, seed: int, num_gpu: int = 0) -> Run:
    """Trains one of the two runs in a process of its own, with a progress bar.

    Args:
        out: Folder of the demo; the option file and ``experiments/`` go there.
        name: ``stock`` or ``multigrid``.
        iters: Iterations.
        seed: Seed of the run.
        num_gpu: GPUs to train on; 0 for the CPU.

    Raises:
        InputError: If the run ends with an error; its last lines are printed before.
    """
    path = out / f'train_{name}.yml'
    path.write_text(options(name, iters, seed, num_gpu))
    train_file(path, iters, f'Train {name:<9}')
    folder = out / 'experiments' / name
    checkpoints = [(n, seconds, path) for (n, path), seconds in zip(weights_of(folder, iters), wall_clocks(folder))]
    return Run(name, tuple(checkpoints))


def options(name: str, iters: int, seed: int, num_gpu: int = 0) -> str:
    """The option file of one of the two runs; paths are relative to the folder of the demo."""
    is_stock = name == 'stock'
    return _OPTIONS.format(
        title='Stock BasicSR: the full shape throughout.' if is_stock else 'The same run with a growing shape.',
        name=name,
        seed=seed,
        num_gpu=num_gpu,
        model_type='VideoRecurrentModel' if is_stock else 'MultigridVideoModel',
        dataset_type='REDSRecurrentDataset' if is_stock else 'MultigridREDSDataset',
        folder='train' if is_stock else 'store',
        io_backend='disk' if is_stock else 'packed',
        prefetch_mode='~' if is_stock else 'cpu',
        multigrid='' if is_stock else _MULTIGRID,
        scheduler=(_ONE_COSINE if is_stock else _PAPER).format(
            total_iter=iters, warmup_iter=iters // PAPER_WARMUP_PART
        ),
        total_iter=iters,
        save_checkpoint_freq=iters // (4 if iters >= 60 else 2),
    )


def weights_of(folder: Path, iters: int) -> list[tuple[int, Path]]:
    """The weights of a run that is done, each with its iteration; the last are those of its end."""
    models = folder / 'models'
    found = sorted((int(path.stem.removeprefix('net_g_')), path) for path in models.glob('net_g_[0-9]*.pth'))
    return found if found[-1][0] == iters else [*found, (iters, models / 'net_g_latest.pth')]


def wall_clocks(folder: Path) -> list[float]:
    """Seconds from the start of training to each checkpoint and to the end, in the log of a run that never stopped."""
    lines = next(folder.glob('train_*.log')).read_text().splitlines()
    start = next(_time(line) for line in lines if ' INFO: Start training' in line)
    return [(_time(line) - start).total_seconds() for line in lines if ' INFO: Sav' in line]


def _time(line: str) -> datetime:
    return datetime.strptime(line[:23], '%Y-%m-%d %H:%M:%S,%f')


def read_clips(root: Path) -> Frames:
    """Reads every clip below a folder."""
    return {
        folder.name: np.array([cv2.imread(str(path)) for path in sorted(folder.iterdir())])
        for folder in sorted(root.iterdir())
    }


def psnr(results: Frames, gt: Frames) -> float:
    """BasicSR's PSNR in dB, RGB, no border left out: the mean over clips of the mean over frames."""
    from basicsr.metrics import calculate_psnr

    clips = [[calculate_psnr(*pair, crop_border=0) for pair in zip(results[clip], gt[clip])] for clip in gt]
    return float(np.mean([np.mean(values) for values in clips]))
