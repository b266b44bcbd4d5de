"""The picture of the bench: PSNR over time, and the difference that decides each claim."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.train.claims import CLAIMS, Claim, interval, paired, verdict
from benchmarks.train.results import Times
from benchmarks.train.runs import Run
from benchmarks.train.tables import Results, baseline, title

_DRAWN = ('stock', 'full', 'paper', 'half', 'third', 'quarter', 'fast', 'fast_options')
# Okabe and Ito's colours, told apart with every kind of colour vision.
_COLOURS = dict(zip(_DRAWN, ('#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#999999')))
# The variants of the headline, from an untrained network: what each line is called, where its label stands, its colour.
_HEADLINE = {
    'fast': ('Multigrid: small shapes first', (-8, 8), '#D55E00'),
    'full': ('Full shape, same learning rate rule\n(the better baseline)', (0, 10), '#0072B2'),
    'stock': ("Full shape, BasicSR's schedule", (0, -64), '#666666'),
}
_VERDICT_COLOURS = {'supported': '#009E73', 'refuted': '#D55E00', 'cannot tell': '#777777'}


def draw(path: Path, results: Results, times: Times, runs: Sequence[Run]) -> None:
    """Draws a group of runs into a picture."""
    from matplotlib.figure import Figure

    pairs = [(claim, paired(claim, results, runs)) for claim in CLAIMS]
    decided = [(claim, differences) for claim, differences in pairs if len(differences) > 1]
    size = 13, max(6, 0.3 * len(decided))
    figure = Figure(figsize=size, layout='constrained')
    left, right = figure.subplots(1, 2)
    _draw_curves(left, results, times, runs)
    _draw_claims(right, decided)
    figure.suptitle(title(runs), fontsize=11)
    figure.savefig(path, dpi=150)


def draw_headline(path: Path, results: Results, times: Times) -> None:
    """Draws PSNR over time at gt 256 for README: multigrid against both baselines, means and ranges over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), dpi=200, layout='constrained')
    axes = figure.subplots()
    ends = {}
    for name, (label, offset, colour) in _HEADLINE.items():
        runs = [r for r in results if r[:4] == (f'untrained_{name}', 'basicvsr', 256, 7) and r.iters == 360]
        ends[name] = _draw_seeds(axes, results, times, runs, colour, seconds_per_unit=60).get_xydata()[-1]
        axes.annotate(
            f'{label}\n{ends[name][1]:.2f} dB, {len(runs)} seeds',
            ends[name],
            xytext=offset,
            textcoords='offset points',
            ha='left' if name == 'fast' else 'right',
            va='top' if name == 'stock' else 'bottom',
            color=colour,
            fontweight='bold',
        )
    (fast, _), (full, level) = ends['fast'], ends['full']
    arrow = {'arrowstyle': '<->', 'color': '#222222'}
    axes.annotate('', (fast, level), xytext=(full, level), arrowprops=arrow)
    axes.text((fast + full) / 2, level + 0.02, f'{full / fast:.1f} times less time', ha='center', va='bottom')
    axes.set_title(
        'A small BasicVSR (x4), untrained at the start, on a CPU. Full shape: 7 frames of 256 x 256.\n'
        'Lines are means over the seeds, bands their range.',
        loc='left',
        fontsize=10,
    )
    axes.set_xlim(left=0)
    axes.margins(y=0.18)
    axes.set_xlabel('time of training / minutes, one CPU thread')
    axes.set_ylabel('PSNR on held-out video / dB')
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def _draw_seeds(
    axes: Any, results: Results, times: Times, runs: Sequence[Run], colour: str, seconds_per_unit: float = 1
) -> Any:
    """Draws the mean over the seeds, which is given back as a line of matplotlib, and their range, shaded."""
    first, histories = results[runs[0]], [dict(results[run].history()) for run in runs]
    common = sorted(set.intersection(*map(set, histories)))  # one that stopped may have been measured there too
    seconds = [times.seconds(runs[0], first, iteration) for iteration in common]
    places = [each / seconds_per_unit for each in seconds if each is not None]
    psnrs = [[history[iteration] for history in histories] for iteration in common]
    axes.fill_between(places, [min(v) for v in psnrs], [max(v) for v in psnrs], color=colour, alpha=0.15, linewidth=0)
    return axes.plot(places, [statistics.mean(v) for v in psnrs], marker='o', markersize=4, color=colour)[0]


def _draw_curves(axes: Any, results: Results, times: Times, runs: Sequence[Run]) -> None:
    """PSNR over time: means over the seeds, the seeds' range shaded, and a dotted line at the end of the baseline."""
    for name, colour in _COLOURS.items():
        of_seeds = [run for run in runs if run.variant.removeprefix('untrained_') == name]
        if not of_seeds or times.seconds(of_seeds[0], results[of_seeds[0]]) is None:
            continue
        line = _draw_seeds(axes, results, times, of_seeds, colour)
        end = line.get_ydata()[-1]
        line.set_label(f'{name}: {end:.2f} dB')
        if of_seeds[0].variant == baseline(runs):
            axes.axhline(end, color=colour, linestyle=':', linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel('time of training / s, steps and loading')
    axes.set_ylabel('PSNR on held-out frames / dB, averaged weights')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='lower right')


def _draw_claims(axes: Any, decided: Sequence[tuple[Claim, Sequence[float]]]) -> None:
    """Each claim's mean difference, its interval and its bound."""
    labels: list[str] = []
    for claim, differences in decided:
        (low, high), place = interval(differences), -len(labels)
        colour = _VERDICT_COLOURS[verdict(differences, claim.bound)]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(statistics.mean(differences), place, marker='o', color=colour)
        axes.plot(claim.bound, place, marker='|', markersize=12, color='black')
        labels.append(f'{claim.variant} - {claim.against}' + ('' if claim.averaged else ', not averaged'))
    axes.set_yticks(range(0, -len(labels), -1), labels, fontsize=8)
    axes.axvline(0, color='#BBBBBB', linewidth=1, zorder=0)
    axes.set_xlabel('difference / dB with its 95 % interval; | is the bound of the claim')
    axes.spines[['top', 'right', 'left']].set_visible(False)
    for verdict_, colour in _VERDICT_COLOURS.items():
        axes.plot([], [], color=colour, marker='o', label=verdict_)
    axes.legend(frameon=False, loc='lower center', bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
