"""The demo's table, its two pictures, and its runs as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from multigrid_vsr.core.plan import format_table, total_pixels
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.demo.evaluation import Frames
from multigrid_vsr.demo.training import Run
from multigrid_vsr.report.pictures import place_of_largest
from multigrid_vsr.report.plan_plot import draw_cost
from multigrid_vsr.report.read import Experiment, Point, read_experiment

# Okabe and Ito's colours, told apart with every kind of colour vision.
COLOURS = {'stock': '#0072B2', 'multigrid': '#D55E00', 'bicubic': '#666666'}

# In dB, `untrained_full` from `untrained_stock` (benchmarks/results/train.jsonl): from untrained networks as here.
RATE_ALONE = '+0.711 [-0.292, +1.714]'

History = Sequence[tuple[float, float]]  # wall-clock of training in seconds, PSNR in dB then


def table(bicubic: float, runs: Mapping[str, History], ssims: Mapping[str, float]) -> str:
    """Wall-clock of training, PSNR and SSIM of bicubic and of each run at its end."""
    rows = [('bicubic', '-', f'{bicubic:.2f}', f'{ssims["bicubic"]:.4f}')]
    for name, history in runs.items():
        seconds, psnr = history[-1]
        rows.append((name, f'{seconds:.0f} s', f'{psnr:.2f}', f'{ssims[name]:.4f}'))
    return format_table(('method', 'training', 'PSNR / dB', 'SSIM'), rows)


def summary(bicubic: float, runs: Mapping[str, History]) -> str:
    """What the figures show, and nothing else."""
    (stock_seconds, stock), (seconds, multigrid) = runs['stock'][-1], runs['multigrid'][-1]
    above = [name for name, history in runs.items() if history[-1][1] > bicubic]
    return (
        f'The multigrid run took {seconds / stock_seconds:.2f} of the time of the stock run and ends '
        f'{multigrid - stock:+.2f} dB from it. Above bicubic: {" and ".join(above) or "neither"}.\n'
        "The stock run has BasicSR's own schedule, the multigrid run the paper's rate, which alone changes the PSNR: "
        f'in benchmarks/claims.md the full shape at that rate ends {RATE_ALONE} dB from stock (three seeds).\n'
        'One seed, a tiny network and minutes of training: an illustration, not a benchmark.'
    )


def measured(out: Path, run: Run, histories: Mapping[str, History], results: Mapping[str, Frames]) -> Experiment:
    """A run for the page of ``multigrid-vsr report``, with what the demo measured after it.

    BasicSR cannot validate on a CPU, so neither run does. The frames of the last checkpoint go where validation would
    save them.

    Args:
        out: Folder of the demo.
        run: The run.
        histories: PSNR of each of its checkpoints.
        results: Frames of its last one.
    """
    name, last = 'held_out', run.checkpoints[-1][0]
    folder = out / 'experiments' / run.name
    for clip, frames in results[run.name].items():
        pictures = folder / 'visualization' / name / clip
        pictures.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames):
            cv2.imwrite(str(pictures / f'{number:08d}_{last}.png'), frame)
    points = [
        Point(iteration, seconds, {'psnr': psnr})
        for (iteration, *_), (seconds, psnr) in zip(run.checkpoints, histories[run.name])
    ]
    found = read_experiment(folder)
    roots = {f'dataroot_{kind}': str((out / 'data/val' / kind).absolute()) for kind in ('gt', 'lq')}
    options = {**found.options, 'datasets': {**found.options['datasets'], 'val': {'name': name, **roots}}}
    return replace(found, options=options, validations={name: tuple(points)})


def draw_runs(path: Path, schedule: Schedule, bicubic: float, runs: Mapping[str, History]) -> None:
    """Draws the shapes of the multigrid run, with what they cost as area, and PSNR over the wall-clock of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=150, layout='constrained')
    cost, psnr = figure.subplots(1, 2, width_ratios=[1, 1.15])
    pixels = total_pixels(schedule) / (schedule.total_iter * schedule.full_shape.pixels)
    draw_cost(cost, schedule, f'What an iteration costs: {pixels:.0%} of the pixels in all')
    cost.set_xlim(0, schedule.total_iter)
    cost.set_xlabel('iteration')
    _draw_psnr(psnr, bicubic, runs)
    for axis in (cost, psnr):
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def _draw_psnr(axis: Any, bicubic: float, runs: Mapping[str, History]) -> None:
    axis.axhline(bicubic, color=COLOURS['bicubic'], linestyle='--', linewidth=1)
    for name, history in runs.items():
        seconds, values = zip(*history)
        axis.plot(seconds, values, marker='o', color=COLOURS[name])
        axis.annotate(
            f'{name}\n{values[-1]:.2f} dB in {seconds[-1]:.0f} s',
            (seconds[-1], values[-1]),
            xytext=(0, 10),
            textcoords='offset points',
            ha='right',
            color=COLOURS[name],
            fontweight='bold',
        )
    axis.annotate(
        f'bicubic {bicubic:.2f} dB',
        (1, bicubic),
        xycoords=('axes fraction', 'data'),
        xytext=(-4, 4),
        textcoords='offset points',
        ha='right',
        color=COLOURS['bicubic'],
    )
    axis.set_xlim(left=0)
    axis.margins(y=0.2)
    axis.set_xlabel('wall-clock of training / s')
    axis.set_ylabel('PSNR on held-out frames / dB')
    axis.set_title('What it reaches: a small BasicVSR, x4, one seed', loc='left', fontsize=11)


def draw_crops(path: Path, lq: Frames, methods: Mapping[str, Frames], size: int = 96, zoom: int = 3) -> None:
    """Draws the same crop of every method side by side, a row for each clip.

    The crop is where bicubic is farthest from the ground truth, so that there is something to see.

    Args:
        path: Picture to write.
        lq: LQ clips, shown with square pixels.
        methods: Results by their names; the ground truth is the last.
        size: Side of the crop in ground-truth pixels.
        zoom: Screen pixels of each.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    truth = list(methods.values())[-1]
    columns = ['LQ', *methods]
    figure, grid = pyplot.subplots(
        len(lq), len(columns), figsize=(2.2 * len(columns), 2.35 * len(lq)), layout='constrained', squeeze=False
    )
    for axes_of_clip, (clip, frames) in zip(grid, lq.items()):
        middle = len(frames) // 2
        error = np.square(methods['bicubic'][clip][middle].astype(float) - truth[clip][middle]).mean(axis=2)
        top, left = (place // 4 for place in place_of_largest(error, size))
        images = [frames[middle][top : top + size // 4, left : left + size // 4]]
        images += [
            result[clip][middle][top * 4 : top * 4 + size, left * 4 : left * 4 + size] for result in methods.values()
        ]
        for axes, image in zip(axes_of_clip, images):
            side = size * zoom
            axes.imshow(cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)[..., ::-1])
            axes.set_axis_off()
    for axes, name in zip(grid[0], columns):
        axes.set_title(name)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
