"""Charts as numbers: what lies where, in thousandths of the plot. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SIZE = 1000  # units of the plot in each direction; it is stretched to the width of the page
_MOST_POINTS = 500
_TIME_STEPS = [1, 2, 5, 10, 20, 30, *(60 * n for n in (1, 2, 5, 10, 20, 30)), *(3600 * n for n in (1, 2, 4, 6, 12))]


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        run: Place of its run on the page, which gives the colour.
        xs, ys: Its points.
        style: ``line``, ``faint``, or ``dots`` for a line whose points are marked.
    """

    run: int
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = 'line'


@dataclass(frozen=True)
class Curve:
    """A drawn curve: an SVG path, and the marked points with what each says."""

    run: int
    style: str
    path: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A drawn chart: ticks are (place in percent, label)."""

    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_most: float


def draw(series: Sequence[Series], axis: str, x_most: float) -> Chart:
    """Lays out a chart.

    Args:
        series: Curves; points that are no numbers are left out.
        axis: ``iterations``, ``time`` in seconds, or ``samples``.
        x_most: Right end.
    """
    x_most = x_most or 1.0
    low, high, step = _y_range(series)
    curves = [_curve(one, axis, x_most, low, high) for one in series]
    x_step = _time_step(x_most) if axis == 'time' else max(1.0, _nice(x_most / 5))
    xs = [x_step * n for n in range(int(x_most / x_step * 1.0001) + 1)]
    count = round((high - low) / step)
    return Chart(
        curves,
        [(100 * x / x_most, duration(x, short=True) if axis == 'time' else count_label(x)) for x in xs],
        [(100 - 100 * n / count, _y_label(low + n * step, step, max(abs(low), abs(high)))) for n in range(count + 1)],
        x_most,
    )


def _curve(series: Series, axis: str, x_most: float, low: float, high: float) -> Curve:
    points = [(x, y) for x, y in zip(series.xs, series.ys) if math.isfinite(y)]
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    groups = [points[start : start + every] for start in range(0, len(points), every)]
    means = [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]
    places = [(round(_SIZE * x / x_most, 1), round(_SIZE * (high - y) / (high - low), 1)) for x, y in means]
    is_marked = series.style == 'dots' and len(points) <= 80
    where = {'time': duration, 'iterations': lambda x: f'iteration {x:,.0f}', 'samples': lambda x: f'{x:,.0f} samples'}
    dots = [(*place, f'{y:.5g} · {where[axis](x)}') for place, (x, y) in zip(places, means)] if is_marked else []
    return Curve(series.run, series.style, 'M' + 'L'.join(f'{x:g} {y:g}' for x, y in places), dots)


def _y_range(series: Sequence[Series]) -> tuple[float, float, float]:
    """Lowest, highest and step. Of a long curve the wildest hundredth at each end may run out of the frame."""
    lows, highs = [], []
    for one in series:
        ys = sorted(y for y in one.ys if math.isfinite(y))
        if ys:
            cut = len(ys) // 100
            lows.append(ys[cut])
            highs.append(ys[-1 - cut])
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        high, low = high + (abs(high) or 1) * 1e-3, low - (abs(low) or 1) * 1e-3
    step = _nice((high - low) / 4)
    return step * math.floor(low / step), step * math.ceil(high / step), step


def _nice(value: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= value * 0.9999)


def _time_step(seconds: float) -> float:
    return next((step for step in _TIME_STEPS if seconds / step <= 5), 86400 * max(1.0, _nice(seconds / 4 / 86400)))


def _y_label(value: float, step: float, largest: float) -> str:
    if largest >= 0.01:
        return f'{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}'
    power = math.floor(math.log10(largest))
    return f'{value / 10**power:.3g}e{power}' if abs(value) > step / 2 else '0'


def count_label(value: float) -> str:
    """12000 as 12k, 1500000 as 1.5M."""
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= size:
            return f'{value / size:.3g}{unit}'
    return f'{value:g}'


def duration(seconds: float, short: bool = False) -> str:
    """A time in its two largest units; in the largest alone where the other is nothing."""
    rounded = round(seconds)
    sizes = [('d', 86400), ('h', 3600), ('min', 60), ('s', 1)]
    if seconds < 10 and not short:
        return f'{seconds:.1f} s'
    place = next((i for i, (_, size) in enumerate(sizes) if rounded >= size), 3)
    parts: list[str] = []
    for unit, size in sizes[place : place + 2]:
        if rounded // size or not parts:
            parts.append(f'{rounded // size} {unit}')
        rounded %= size
    return ' '.join(parts)
