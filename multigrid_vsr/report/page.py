"""The page: what the figures of several runs say together, and what the template shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from multigrid_vsr.core.plan import fewer_pixels
from multigrid_vsr.core.schedule import Segment
from multigrid_vsr.options.run_options import stock_run_of
from multigrid_vsr.report.pictures import rows_of_crops
from multigrid_vsr.report.read import Experiment, Point

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


# Where a run lies and what it is called differs between any two runs, and the schedule is shown by its options.
_OWN = {'name', 'root_path', 'rank', 'is_train', 'auto_resume', 'datasets.train.multigrid', 'path.experiments_root'}
_OWN |= {f'path.{folder}' for folder in ('models', 'training_states', 'log', 'visualization')}


@dataclass(frozen=True)
class SegmentCost:
    """What one shape cost.

    Attributes:
        segment: Its iterations and shape.
        seconds_per_iter: Mean wall-clock of an iteration, without validation and saving.
        samples_per_second, megapixels_per_second: Throughput of all ranks, ground-truth pixels.
        waiting: Share of the time spent waiting for data.
        peak_memory: Largest ``peak_memory`` of its lines, in the unit of the log.
    """

    segment: Segment
    seconds_per_iter: float | None
    samples_per_second: float | None
    megapixels_per_second: float | None
    waiting: float | None
    peak_memory: float | None


def segment_costs(experiment: Experiment) -> list[SegmentCost]:
    """The cost of each shape of a run; ``None`` where no line tells it."""
    costs = []
    for segment in experiment.schedule.segments:
        lines = [p for p in experiment.lines if segment.start < p.iteration <= segment.end]
        # An interval belongs to a segment as a whole, or to none.
        spans = [p.since for p in lines if p.since is not None and p.iteration - p.since[1] >= segment.start]
        seconds = sum(span for span, _ in spans) / sum(count for _, count in spans) if spans else None
        samples = segment.shape.batch_size_per_gpu * experiment.ranks
        timed = [p.values for p in lines if p.values.get('time')]
        total = sum(values['time'] for values in timed)
        costs.append(
            SegmentCost(
                segment,
                seconds,
                samples / seconds if seconds else None,
                segment.shape.pixels * experiment.ranks / seconds / 1e6 if seconds else None,
                sum(values['data_time'] for values in timed) / total if total else None,
                max((p.values['peak_memory'] for p in lines if 'peak_memory' in p.values), default=None),
            )
        )
    return costs


def is_better_lower(experiment: Experiment, metric: str) -> bool:
    """Whether the option file says that less of a metric is better."""
    return experiment.options.get('val', {}).get('metrics', {}).get(metric, {}).get('better') == 'lower'


def best(experiment: Experiment, dataset: str, metric: str) -> Point:
    """The first of the best validations."""
    points = [point for point in experiment.validations[dataset] if metric in point.values]
    choose = min if is_better_lower(experiment, metric) else max
    return choose(points, key=lambda point: point.values[metric])


def first_reaching(experiment: Experiment, dataset: str, metric: str, value: float) -> Point | None:
    """The first validation that is as good as a value; nothing is read between two validations."""
    sign = -1 if is_better_lower(experiment, metric) else 1
    points = experiment.validations.get(dataset, ())
    return next((p for p in points if metric in p.values and sign * p.values[metric] >= sign * value), None)


def shown_metrics(experiments: Sequence[Experiment]) -> list[tuple[str, str]]:
    """(test set, metric) of all runs, PSNR first, then in the order in which they come."""
    found = [
        (dataset, metric)
        for experiment in experiments
        for dataset, points in experiment.validations.items()
        for point in points[-1:]
        for metric in point.values
    ]
    return sorted(dict.fromkeys(found), key=lambda entry: 'psnr' not in entry[1].lower())


def last_with(experiment: Experiment, dataset: str, metric: str) -> Point | None:
    """The last validation that has a metric."""
    points = experiment.validations.get(dataset, ())
    return next((point for point in reversed(points) if metric in point.values), None)


def differing_settings(experiments: Sequence[Experiment]) -> list[tuple[str, list[str]]]:
    """The options in which runs differ, by their dotted names, and each run's value; a dash where it has none."""
    flat = [dict(_flatten(experiment.options)) for experiment in experiments]
    keys = dict.fromkeys(key for options in flat for key in options if key not in _OWN)
    rows = [(key, [options.get(key, '–') for options in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(options: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', '~' if value is None else str(value)


def running_median(values: Sequence[float], width: int) -> list[float]:
    """The median of ``width`` values around each; fewer at the ends."""
    half = width // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


AXES = ('iterations', 'time', 'samples')


@dataclass(frozen=True)
class Ribbon:
    """The stages of a run below a chart: (width in percent, label, what it says, strength of the colour)."""

    run: int
    parts: list[tuple[float, str, str, float]]


@dataclass(frozen=True)
class View:
    """A chart over one axis, with the stages of each run, and where the spatial stages of one of them lie."""

    axis: str
    chart: Chart
    ribbons: list[Ribbon]
    bands: list[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """A chart over each axis."""

    title: str
    note: str
    views: list[View]


def render(experiments: Sequence[Experiment], now: datetime | None = None) -> str:
    """The whole page: one file without a link to another.

    Args:
        experiments: The runs, the one to compare with first.
        now: Time that the page says it is from.
    """
    template = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration, count=lambda n: f'{n:,}')
    metrics = shown_metrics(experiments)
    return environment.from_string(template).render(
        names=names_of(experiments),
        experiments=experiments,
        axes=AXES,
        axis='time' if len(experiments) > 1 else 'iterations',
        verdict=verdict(experiments, metrics),
        cards=[_card(experiments, run, metrics) for run in range(len(experiments))],
        figures=[_metric_figure(experiments, *metric) for metric in metrics] + _training_figures(experiments),
        costs=[segment_costs(experiment) for experiment in experiments],
        settings=differing_settings(experiments),
        crops=rows_of_crops(experiments),
        now=f'{now or datetime.now():%Y-%m-%d %H:%M}',
    )


def names_of(experiments: Sequence[Experiment]) -> list[str]:
    """The names of the runs; two of the same name get their folders beside it."""
    names = [experiment.name for experiment in experiments]
    return [
        name if names.count(name) == 1 else f'{name} ({experiment.folder})'
        for name, experiment in zip(names, experiments)
    ]


def verdict(experiments: Sequence[Experiment], metrics: Sequence[tuple[str, str]]) -> list[str]:
    """When each run was as good as the first at its end: a sentence for each other run."""
    first, *others = experiments
    target = next((m for m in metrics if last_with(first, *m)), None)
    if target is None or not others:
        return []
    end = last_with(first, *target)
    assert end is not None
    names, value = names_of(experiments), end.values[target[1]]
    own = first_reaching(first, *target, value) or end
    goal = f'the {target[1].upper()} that {names[0]} {"ended" if first.has_ended else "has come to"} with, {value:.4g}'
    sentences = []
    for name, other in zip(names[1:], others):
        point = first_reaching(other, *target, value)
        if point is None:
            sentences.append(f'{name} has not reached {goal}.')
        else:
            ratio = own.seconds / point.seconds
            sentences.append(
                f'{name} reached {goal}, after {duration(point.seconds)} of training '
                f'({names[0]}: {duration(own.seconds)}): {ratio:.2f} times as fast.'
            )
    return sentences


def _card(
    experiments: Sequence[Experiment], run: int, metrics: Sequence[tuple[str, str]]
) -> tuple[str, list[tuple[str, str]]]:
    """(state, rows) of a run."""
    experiment = experiments[run]
    total, done = experiment.schedule.total_iter, experiment.iteration
    state = 'finished' if experiment.has_ended else f'under way or stopped: {done / total:.0%}'
    rows = []
    for dataset, metric in metrics:
        point = last_with(experiment, dataset, metric)
        if point is not None:
            top = best(experiment, dataset, metric)
            last, highest = _value(point, metric), _value(top, metric)
            where = '' if last == highest else f', best {highest} at {top.iteration:,}'
            rows.append((f'{metric.upper()} on {dataset}', f'{last}{where}'))
    rows.append(('training', duration(experiment.seconds)))
    if not experiment.has_ended and experiment.last_time is not None:
        rows.append(('last line', f'{experiment.last_time:%Y-%m-%d %H:%M}'))
        rows += [('time left then', experiment.eta)] if experiment.eta else []
    rows.append(('iterations', f'{done:,} of {total:,}'))
    rows.append(('samples', f'{experiment.samples(done):,}'))
    if len(experiment.schedule.segments) > 1:
        stock = stock_run_of(experiment.options, experiment.ranks)
        other = 'the stock run' if stock else 'as many iterations of the full shape'
        rows.append(('pixels', f'{fewer_pixels(experiment.schedule, experiment.ranks, stock):.2f}x fewer than {other}'))
    if experiment.parameters:
        rows.append(('parameters', f'{experiment.parameters:,}'))
    if experiment.starts:
        rows.append(('resumed at', ', '.join(f'{start:,}' for start in experiment.starts)))
    if experiment.checkpoints:
        rows.append(('checkpoints', f'{len(experiment.checkpoints)}, newest {experiment.checkpoints[-1]:,}'))
    return state, rows


def _value(point: Point, metric: str) -> str:
    value = point.values[metric]
    return f'{value:.2f} dB' if 'psnr' in metric.lower() else f'{value:.4f}'


def _metric_figure(experiments: Sequence[Experiment], dataset: str, metric: str) -> Figure:
    def curves(place: Callable[[Experiment, Point], float]) -> list[Series]:
        return [
            Series(run, [place(e, p) for p in points], [p.values[metric] for p in points], 'dots')
            for run, e in enumerate(experiments)
            if (points := [p for p in e.validations.get(dataset, ()) if metric in p.values])
        ]

    unit = ' / dB' if 'psnr' in metric.lower() else ''
    return Figure(f'{metric.upper()}{unit}', f'on {dataset}', _views(experiments, curves))


def _training_figures(experiments: Sequence[Experiment]) -> list[Figure]:
    """The losses, and the learning rate."""
    names = dict.fromkeys(name for e in experiments for p in e.lines for name in p.values if name.startswith('l_'))
    figures = [
        Figure(
            f'Loss {name}',
            'thin: as logged, thick: running median. Crops of another size or number have other losses.',
            _views(experiments, _line_curves(experiments, name, smooth=True)),
        )
        for name in names
    ]
    if any(e.lines for e in experiments):
        rate = _views(experiments, _line_curves(experiments, 'lr', smooth=False))
        figures.append(Figure('Learning rate', 'of the first parameter group', rate))
    return figures


def _line_curves(
    experiments: Sequence[Experiment], name: str, smooth: bool
) -> Callable[[Callable[[Experiment, Point], float]], list[Series]]:
    def curves(place: Callable[[Experiment, Point], float]) -> list[Series]:
        faint, lines = [], []
        for run, e in enumerate(experiments):
            points = [p for p in e.lines if math.isfinite(p.values.get(name, math.nan))]
            xs, ys = [place(e, p) for p in points], [p.values[name] for p in points]
            if smooth:
                faint.append(Series(run, xs, ys, 'faint'))
                ys = running_median(ys, max(5, len(ys) // 25))
            lines.append(Series(run, xs, ys))
        return faint + lines

    return curves


def _views(
    experiments: Sequence[Experiment], curves: Callable[[Callable[[Experiment, Point], float]], list[Series]]
) -> list[View]:
    places: dict[str, Callable[[Experiment, Point], float]] = {
        'iterations': lambda e, p: p.iteration,
        'time': lambda e, p: p.seconds,
        'samples': lambda e, p: e.samples(p.iteration),
    }
    views = []
    for axis, place in places.items():
        series = curves(place)
        x_most = max(e.seconds if axis == 'time' else _along(e, axis, e.iteration) for e in experiments)
        ribbons = [_ribbon(run, e, axis, x_most) for run, e in enumerate(experiments)]
        staged = next((e for e in experiments if len(e.schedule.segments) > 1), None)
        views.append(View(axis, draw(series, axis, x_most), ribbons, _bands(staged, axis, x_most)))
    return views


def _along(experiment: Experiment, axis: str, iteration: int) -> float:
    iteration = min(iteration, experiment.iteration)
    if axis == 'iterations':
        return iteration
    return experiment.samples(iteration) if axis == 'samples' else experiment.seconds_at(iteration)


def _ribbon(run: int, experiment: Experiment, axis: str, x_most: float) -> Ribbon:
    full = experiment.schedule.full_shape.pixels or 1
    parts = []
    for segment in experiment.schedule.segments:
        width = _along(experiment, axis, segment.end) - _along(experiment, axis, segment.start)
        shape = segment.shape
        what = (
            f'iterations {segment.start + 1:,} to {segment.end:,}: gt_size {shape.gt_size}, num_frame '
            f'{shape.num_frame}, batch {shape.batch_size_per_gpu}'
        )
        strength = 0.25 + 0.75 * math.sqrt(min(1.0, shape.pixels / full))
        parts.append((100 * width / x_most, f'{shape.gt_size}·{shape.num_frame}', what, round(strength, 2)))
    return Ribbon(run, parts)


def _bands(experiment: Experiment | None, axis: str, x_most: float) -> list[tuple[float, float]]:
    """(left, width) in thousandths of every second spatial stage."""
    if experiment is None:
        return []
    stages: dict[int, list[float]] = {}
    for segment in experiment.schedule.segments:
        ends = (_along(experiment, axis, segment.start), _along(experiment, axis, segment.end))
        stages.setdefault(segment.stage, []).extend(1000 * end / x_most for end in ends)
    return [(round(min(e), 1), round(max(e) - min(e), 1)) for stage, e in stages.items() if stage % 2]
