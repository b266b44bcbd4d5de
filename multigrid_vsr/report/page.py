"""The page of ``multigrid-vsr report``, which compares runs."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np

from multigrid_vsr.core.plan import fewer_pixels
from multigrid_vsr.core.schedule import Segment
from multigrid_vsr.options.run_options import stock_run_of
from multigrid_vsr.report.pictures import rows_of_crops
from multigrid_vsr.report.read import Experiment, Point

AXES = ('iterations', 'time', 'samples')
_SIZE = 1000  # units of a chart in each direction; the page stretches it to its width
_MOST_POINTS, _MOST_DOTS = 500, 80
_TIME_STEPS = [1, 2, 5, 10, 20, 30, *(60 * n for n in (1, 2, 5, 10, 20, 30)), *(3600 * n for n in (1, 2, 4, 6, 12))]
_UNITS = ((86400, 'd'), (3600, 'h'), (60, 'min'), (1, 's'))
# Settings that differ between any two runs, and the schedule, whose options the page shows.
_OWN = {'name', 'root_path', 'rank', 'is_train', 'auto_resume', 'datasets.train.multigrid', 'path.experiments_root'}
_OWN |= {f'path.{folder}' for folder in ('models', 'training_states', 'log', 'visualization')}

Metric = tuple[str, str]  # the names of the test set and of the metric


class Series(NamedTuple):
    """A curve over iterations."""

    run: int  # the number of its run on the page
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = 'line'  # or `faint`, or `dots`


def render(experiments: Sequence[Experiment]) -> str:
    """The whole page, in one self-contained file. The other runs are compared with the first one."""
    template = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(count=lambda n: f'{n:,}', png=_png)
    metrics = _metrics(experiments)
    return environment.from_string(template).render(
        names=_names(experiments),
        experiments=experiments,
        axes=AXES,
        axis='time' if len(experiments) > 1 else 'iterations',
        verdict=verdict(experiments),
        cards=[_card(experiment, metrics) for experiment in experiments],
        figures=_figures(experiments, metrics),
        costs=[segment_costs(experiment) for experiment in experiments],
        settings=_differing_settings(experiments),
        crops=rows_of_crops(experiments),
        now=f'{datetime.now():%Y-%m-%d %H:%M}',
    )


def _png(image: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode('.png', image)[1].tobytes()).decode()


def _names(experiments: Sequence[Experiment]) -> list[str]:
    """The names of the runs, with their folders if two have the same name."""
    names = [experiment.name for experiment in experiments]
    return [name if names.count(name) == 1 else f'{name} ({e.folder})' for name, e in zip(names, experiments)]


def _metrics(experiments: Sequence[Experiment]) -> list[Metric]:
    """The metrics of the last validations of all runs, PSNR first."""
    found = [
        (dataset, metric)
        for experiment in experiments
        for dataset, points in experiment.validations.items()
        for metric in points[-1].values
    ]
    return sorted(dict.fromkeys(found), key=lambda metric: 'psnr' not in metric[1].lower())


def _measured(experiment: Experiment, metric: Metric) -> list[Point]:
    """The validations that measured a metric."""
    return [point for point in experiment.validations.get(metric[0], ()) if metric[1] in point.values]


def _sign(experiment: Experiment, metric: Metric) -> int:
    """-1 if the option file says that a lower value is better, else 1."""
    options = experiment.options.get('val', {}).get('metrics', {}).get(metric[1], {})
    return -1 if options.get('better') == 'lower' else 1


def first_reaching(experiment: Experiment, metric: Metric, value: float) -> Point | None:
    """The first validation that is as good as a value, without interpolation."""
    sign = _sign(experiment, metric)
    points = _measured(experiment, metric)
    return next((point for point in points if sign * point.values[metric[1]] >= sign * value), None)


def verdict(experiments: Sequence[Experiment]) -> list[str]:
    """For each other run a sentence about when it became as good as the first run at its end."""
    first, *others = experiments
    metric = next((m for m in _metrics(experiments) if _measured(first, m)), None)
    if metric is None:
        return []
    names, value = _names(experiments), _measured(first, metric)[-1].values[metric[1]]
    own = first_reaching(first, metric, value)
    assert own is not None
    goal = f'the {metric[1].upper()} that {names[0]} {"ended" if first.has_ended else "has come to"} with, {value:.4g}'
    sentences = []
    for name, other in zip(names[1:], others):
        if (point := first_reaching(other, metric, value)) is None:
            sentences.append(f'{name} has not reached {goal}.')
            continue
        sentences.append(
            f'{name} reached {goal}, after {duration(point.seconds)} of training '
            f'({names[0]}: {duration(own.seconds)}): {own.seconds / point.seconds:.2f} times as fast.'
        )
    return sentences


def _card(experiment: Experiment, metrics: Sequence[Metric]) -> tuple[str, list[tuple[str, str]]]:
    """The card of a run: (state, rows)."""
    total, done = experiment.schedule.total_iter, experiment.iteration
    state = 'finished' if experiment.has_ended else f'under way or stopped: {done / total:.0%}'
    rows = []
    for metric in metrics:
        if points := _measured(experiment, metric):
            name, sign = metric[1], _sign(experiment, metric)
            form = '{:.2f} dB' if 'psnr' in name.lower() else '{:.4f}'
            best = max(points, key=lambda point: sign * point.values[name])
            last, highest = (form.format(point.values[name]) for point in (points[-1], best))
            where = '' if last == highest else f', best {highest} at {best.iteration:,}'
            rows.append((f'{name.upper()} on {metric[0]}', f'{last}{where}'))
    rows.append(('training', duration(experiment.seconds)))
    if not experiment.has_ended and experiment.last_time is not None:
        rows.append(('last line', f'{experiment.last_time:%Y-%m-%d %H:%M}'))
        rows += [('time left then', experiment.eta)] if experiment.eta else []
    rows += [('iterations', f'{done:,} of {total:,}'), ('samples', f'{experiment.samples(done):,}')]
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


class SegmentCost(NamedTuple):
    """The cost of one shape; ``None`` if no line of the log tells it."""

    segment: Segment
    seconds_per_iter: float | None  # without validation and saving
    samples_per_second: float | None  # of all ranks
    megapixels_per_second: float | None  # of all ranks, ground truth
    waiting: float | None  # share of the time spent waiting for data
    peak_memory: float | None  # the largest of the log


def segment_costs(experiment: Experiment) -> list[SegmentCost]:
    """The cost of each shape of a run."""
    costs = []
    for segment in experiment.schedule.segments:
        lines = [p for p in experiment.lines if segment.start < p.iteration <= segment.end]
        # An interval belongs to a segment as a whole, or to none.
        spans = [p.since for p in lines if p.since is not None and p.iteration - p.since[1] >= segment.start]
        seconds = sum(span for span, _ in spans) / sum(count for _, count in spans) if spans else None
        a_second = experiment.ranks / seconds if seconds else None
        timed = [p.values for p in lines if p.values.get('time')]
        total = sum(values['time'] for values in timed)
        costs.append(
            SegmentCost(
                segment,
                seconds,
                a_second and a_second * segment.shape.batch_size_per_gpu,
                a_second and a_second * segment.shape.pixels / 1e6,
                sum(values['data_time'] for values in timed) / total if total else None,
                max((p.values['peak_memory'] for p in lines if 'peak_memory' in p.values), default=None),
            )
        )
    return costs


def _differing_settings(experiments: Sequence[Experiment]) -> list[tuple[str, list[str]]]:
    """The options in which runs differ, by their dotted names, with the value of each run, or a dash."""
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


def _figures(experiments: Sequence[Experiment], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """The metrics, the losses and the learning rate over training."""
    figures = []
    for dataset, name in metrics:
        series = _series((e.validations.get(dataset, ()) for e in experiments), name, 'dots')
        unit = ' / dB' if 'psnr' in name.lower() else ''
        figures.append(_figure(f'{name.upper()}{unit}', f'on {dataset}', experiments, series))
    lines = [experiment.lines for experiment in experiments]
    note = 'thin: as logged, thick: running median. Crops of another size or number have other losses.'
    for name in dict.fromkeys(name for run in lines for p in run for name in p.values if name.startswith('l_')):
        smooth = [one._replace(ys=_running_median(one.ys)) for one in _series(lines, name)]
        figures.append(_figure(f'Loss {name}', note, experiments, _series(lines, name, 'faint') + smooth))
    if any(lines):
        figures.append(_figure('Learning rate', 'of the first parameter group', experiments, _series(lines, 'lr')))
    return figures


def _series(runs: Iterable[Sequence[Point]], name: str, style: str = 'line') -> list[Series]:
    """The finite values of a name among the points of each run."""
    found = [[p for p in points if math.isfinite(p.values.get(name, math.nan))] for points in runs]
    return [
        Series(run, [p.iteration for p in points], [p.values[name] for p in points], style)
        for run, points in enumerate(found)
        if points
    ]


def _running_median(values: Sequence[float]) -> list[float]:
    half = max(5, len(values) // 25) // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _figure(title: str, note: str, experiments: Sequence[Experiment], series: Sequence[Series]) -> dict[str, Any]:
    """A chart over each axis, with the shapes of each run below it.

    Every second spatial stage is shaded, for the first run with several shapes.
    """
    staged = [e for e in experiments if len(e.schedule.segments) > 1]
    views = []
    for axis in AXES:
        placed = [one._replace(xs=[_along(experiments[one.run], axis, x) for x in one.xs]) for one in series]
        x_most = max(_along(e, axis, e.iteration) for e in experiments) or 1.0
        ribbons = [{'run': run, 'parts': _ribbon(e, axis, x_most)} for run, e in enumerate(experiments)]
        bands = _bands(staged[0], axis, x_most) if staged else []
        views.append({'axis': axis, 'chart': draw(placed, axis, x_most), 'ribbons': ribbons, 'bands': bands})
    return {'title': title, 'note': note, 'views': views}


def _along(experiment: Experiment, axis: str, iteration: float) -> float:
    """The place of an iteration on an axis, at most that of the last one that is done."""
    done = min(int(iteration), experiment.iteration)
    if axis == 'iterations':
        return done
    return experiment.samples(done) if axis == 'samples' else experiment.seconds_at(done)


def _ribbon(experiment: Experiment, axis: str, x_most: float) -> list[tuple[float, str, str, float]]:
    """The shapes of a run: (width in percent, label, tooltip, opacity)."""
    full = experiment.schedule.full_shape.pixels or 1
    parts = []
    for segment in experiment.schedule.segments:
        width = _along(experiment, axis, segment.end) - _along(experiment, axis, segment.start)
        shape = segment.shape
        words = (
            f'iterations {segment.start + 1:,} to {segment.end:,}: gt_size {shape.gt_size}, num_frame '
            f'{shape.num_frame}, batch {shape.batch_size_per_gpu}'
        )
        strength = 0.25 + 0.75 * math.sqrt(min(1.0, shape.pixels / full))
        parts.append((100 * width / x_most, f'{shape.gt_size}·{shape.num_frame}', words, round(strength, 2)))
    return parts


def _bands(experiment: Experiment, axis: str, x_most: float) -> list[tuple[float, float]]:
    """Every second spatial stage: (left, width) in thousandths."""
    stages: dict[int, list[float]] = {}
    for segment in experiment.schedule.segments:
        ends = (_along(experiment, axis, segment.start), _along(experiment, axis, segment.end))
        stages.setdefault(segment.stage, []).extend(1000 * end / x_most for end in ends)
    return [(round(min(e), 1), round(max(e) - min(e), 1)) for stage, e in stages.items() if stage % 2]


def draw(series: Sequence[Series], axis: str, x_most: float) -> dict[str, Any]:
    """Lays out a chart from 0 to ``x_most`` on one of :data:`AXES`, time in seconds.

    Returns:
        ``curves``, each with its run, style, SVG path and dots (x, y, tooltip), and ``x_ticks`` and ``y_ticks`` (place
        in percent, label).
    """
    low, high, step = _y_range(series)
    x_step = _time_step(x_most) if axis == 'time' else max(1.0, _nice(x_most / 5))
    xs = [x_step * n for n in range(int(x_most / x_step * 1.0001) + 1)]
    count = round((high - low) / step)
    largest = max(abs(low), abs(high))
    return {
        'curves': [_curve(one, axis, x_most, low, high) for one in series],
        'x_ticks': [(100 * x / x_most, duration(x, short=True) if axis == 'time' else _count_label(x)) for x in xs],
        'y_ticks': [(100 - 100 * n / count, _y_label(low + n * step, step, largest)) for n in range(count + 1)],
    }


def _curve(series: Series, axis: str, x_most: float, low: float, high: float) -> dict[str, Any]:
    """A curve of at most 500 points, each the mean of several."""
    points = list(zip(series.xs, series.ys))
    every = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + every] for start in range(0, len(points), every)]
    means = [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]
    places = [(round(_SIZE * x / x_most, 1), round(_SIZE * (high - y) / (high - low), 1)) for x, y in means]
    is_marked = series.style == 'dots' and len(points) <= _MOST_DOTS
    where = {'time': duration, 'iterations': lambda x: f'iteration {x:,.0f}', 'samples': lambda x: f'{x:,.0f} samples'}
    dots = [(*place, f'{y:.5g} · {where[axis](x)}') for place, (x, y) in zip(places, means)] if is_marked else []
    path = 'M' + 'L'.join(f'{x:g} {y:g}' for x, y in places)
    return {'run': series.run, 'style': series.style, 'path': path, 'dots': dots}


def _y_range(series: Sequence[Series]) -> tuple[float, float, float]:
    """Lowest, highest and step. The frame may cut off the lowest and the highest hundredth of a long curve."""
    sorted_ys = [sorted(one.ys) for one in series]
    low = min((ys[len(ys) // 100] for ys in sorted_ys), default=0.0)
    high = max((ys[-1 - len(ys) // 100] for ys in sorted_ys), default=1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        high, low = high + (abs(high) or 1) * 1e-3, low - (abs(low) or 1) * 1e-3
    step = _nice((high - low) / 4)
    return step * math.floor(low / step), step * math.ceil(high / step), step


def _nice(value: float) -> float:
    """A value rounded up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= value * 0.9999)


def _time_step(seconds: float) -> float:
    return next((step for step in _TIME_STEPS if seconds / step <= 5), 86400 * max(1.0, _nice(seconds / 4 / 86400)))


def _y_label(value: float, step: float, largest: float) -> str:
    if largest >= 0.01:
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f'{value:.{digits + (step * 10**digits % 1 > 1e-6)}f}'  # 0.25 needs one digit more
    power = math.floor(math.log10(largest))
    return f'{value / 10**power:.3g}e{power}' if abs(value) > step / 2 else '0'


def _count_label(value: float) -> str:
    """12000 as 12k, 1500000 as 1.5M."""
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= size:
            return f'{value / size:.3g}{unit}'
    return f'{value:g}'


def duration(seconds: float, short: bool = False) -> str:
    """A time in its two largest units, or in one if the second is 0."""
    if seconds < 10 and not short:
        return f'{seconds:.1f} s'
    left = round(seconds)
    place = next((i for i, (size, _) in enumerate(_UNITS) if left >= size), 3)
    parts: list[str] = []
    for size, unit in _UNITS[place : place + 2]:
        count, left = divmod(left, size)
        if count or not parts:
            parts.append(f'{count} {unit}')
    return ' '.join(parts)
