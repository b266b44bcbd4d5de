"""Costs against what grows, and their picture, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_COLUMNS = 3


class Curve(NamedTuple):
    """What one thing costs as another grows.

    Attributes:
        what: What is measured, with its unit.
        grows: What grows, and what stays.
        sizes: How large it is.
        values: The medians there.
    """

    what: str
    grows: str
    sizes: Sequence[int]
    values: Sequence[float]

    @property
    def exponent(self) -> float:
        """The slope of the logarithms, by least squares: the cost grows as the size to so high a power."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.values), 1)[0])


def draw(path: Path, curves: Sequence[Curve]) -> None:
    """Draws a panel for each curve, with its power and a dashed line of the power 1.

    Args:
        path: Picture to write; its ending says of which kind.
        curves: The curves.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    rows = -(-len(curves) // _COLUMNS)
    figure, panels = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 3 * rows), layout='constrained')
    for axes, curve in zip(panels.flat, curves):
        proportional = [curve.values[0] * size / curve.sizes[0] for size in curve.sizes]
        axes.plot(curve.sizes, proportional, color='#BBBBBB', linestyle='--', linewidth=1)
        axes.plot(curve.sizes, curve.values, marker='o', color='#0072B2')
        axes.set(xscale='log', yscale='log', xlabel=curve.grows, ylabel=curve.what)
        axes.set_xticks(curve.sizes, map(str, curve.sizes))
        for size, value in zip(curve.sizes, curve.values):
            words = f'{float(f"{value:.3g}"):g}'
            axes.annotate(words, (size, value), (0, 6), textcoords='offset points', ha='center', fontsize=8)
        axes.set_yticks([])
        axes.minorticks_off()
        axes.margins(0.12, 0.2)
        axes.set_title(f'power {curve.exponent:.2f}', fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    figure.suptitle('Dashed: in proportion, power 1', fontsize=10, color='#777777')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
