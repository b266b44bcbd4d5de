"""The demo's end: its table and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from multigrid_vsr.core.plan import format_table
from multigrid_vsr.demo.training import SCALE
from multigrid_vsr.report.pictures import rows_of_crops
from multigrid_vsr.report.read import Experiment

METRIC = ('held_out', 'psnr')
# Okabe and Ito's colours, told apart with every kind of colour vision.
_COLOURS = {'full': '#0072B2', 'multigrid': '#D55E00'}
_GREY = '#666666'


def bicubic(lq: np.ndarray) -> np.ndarray:
    """Enlarges a frame, uint8 (h, w, 3), by BasicSR's bicubic ``imresize``: what training has to beat."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(lq / 255.0, SCALE) * 255).round().clip(0, 255).astype(np.uint8)


def bicubic_psnr(root: Path) -> float:
    """PSNR in dB as validation has it: the mean over the clips below ``root/{gt,lq}`` of the mean over their frames."""
    from basicsr.metrics import calculate_psnr

    psnrs: dict[str, list[float]] = {}
    for path in sorted((root / 'gt').glob('*/*.png')):
        lq, gt = (np.asarray(cv2.imread(str(root / kind / path.parent.name / path.name))) for kind in ('lq', 'gt'))
        psnrs.setdefault(path.parent.name, []).append(calculate_psnr(bicubic(lq), gt, crop_border=0))
    return float(np.mean([np.mean(values) for values in psnrs.values()]))


def history(run: Experiment) -> list[tuple[float, float]]:
    """Seconds of training and the PSNR in dB then, for each validation."""
    dataset, metric = METRIC
    return [(point.seconds, point.values[metric]) for point in run.validations[dataset]]


def table(bicubic_db: float, runs: Sequence[Experiment]) -> str:
    """PSNR, seconds of training and iterations of bicubic and of each run at its end."""
    rows = [('bicubic', f'{bicubic_db:.2f}', '-', '-')]
    for run in runs:
        seconds, psnr = history(run)[-1]
        rows.append((run.name, f'{psnr:.2f}', f'{seconds:.0f} s', str(run.iteration)))
    return format_table(('method', 'PSNR / dB', 'training', 'iterations'), rows)


def draw(path: Path, bicubic_db: float, runs: Sequence[Experiment]) -> None:
    """Draws PSNR over the time of training, and crops of bicubic, of each run and of the ground truth side by side."""
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
        seconds, psnrs = zip(*history(run))
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
