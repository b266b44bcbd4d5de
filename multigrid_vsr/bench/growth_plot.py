"""The picture of ``multigrid-vsr bench growth``: each cost against what grows, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multigrid_vsr.bench.growth import Curve

_COLUMNS = 3


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
        axes.minorticks_off()
        axes.set_title(f'power {curve.exponent:.2f}', fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
