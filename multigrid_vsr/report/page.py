"""The page: what the template shows, worked out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from multigrid_vsr.core.plan import fewer_pixels
from multigrid_vsr.options.stock_run import stock_run_of
from multigrid_vsr.report import analysis, chart
from multigrid_vsr.report.experiment import Experiment, Point
from multigrid_vsr.report.pictures import rows_of_crops

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
    chart: chart.Chart
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
    environment.filters.update(duration=chart.duration, count=lambda n: f'{n:,}')
    metrics = analysis.shown_metrics(experiments)
    return environment.from_string(template).render(
        names=names_of(experiments),
        experiments=experiments,
        axes=AXES,
        axis='time' if len(experiments) > 1 else 'iterations',
        verdict=verdict(experiments, metrics),
        cards=[_card(experiments, run, metrics) for run in range(len(experiments))],
        figures=[_metric_figure(experiments, *metric) for metric in metrics] + _training_figures(experiments),
        costs=[analysis.segment_costs(experiment) for experiment in experiments],
        settings=analysis.differing_settings(experiments),
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
    target = next((m for m in metrics if analysis.last_with(first, *m)), None)
    if target is None or not others:
        return []
    end = analysis.last_with(first, *target)
    assert end is not None
    names, value = names_of(experiments), end.values[target[1]]
    own = analysis.first_reaching(first, *target, value) or end
    goal = f'the {target[1].upper()} that {names[0]} {"ended" if first.has_ended else "has come to"} with, {value:.4g}'
    sentences = []
    for name, other in zip(names[1:], others):
        point = analysis.first_reaching(other, *target, value)
        if point is None:
            sentences.append(f'{name} has not reached {goal}.')
        else:
            ratio = own.seconds / point.seconds
            sentences.append(
                f'{name} reached {goal}, after {chart.duration(point.seconds)} of training '
                f'({names[0]}: {chart.duration(own.seconds)}): {ratio:.2f} times as fast.'
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
        point = analysis.last_with(experiment, dataset, metric)
        if point is not None:
            top = analysis.best(experiment, dataset, metric)
            last, highest = _value(point, metric), _value(top, metric)
            where = '' if last == highest else f', best {highest} at {top.iteration:,}'
            rows.append((f'{metric.upper()} on {dataset}', f'{last}{where}'))
    rows.append(('training', chart.duration(experiment.seconds)))
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
    def curves(place: Callable[[Experiment, Point], float]) -> list[chart.Series]:
        return [
            chart.Series(run, [place(e, p) for p in points], [p.values[metric] for p in points], 'dots')
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
) -> Callable[[Callable[[Experiment, Point], float]], list[chart.Series]]:
    def curves(place: Callable[[Experiment, Point], float]) -> list[chart.Series]:
        faint, lines = [], []
        for run, e in enumerate(experiments):
            points = [p for p in e.lines if math.isfinite(p.values.get(name, math.nan))]
            xs, ys = [place(e, p) for p in points], [p.values[name] for p in points]
            if smooth:
                faint.append(chart.Series(run, xs, ys, 'faint'))
                ys = analysis.running_median(ys, max(5, len(ys) // 25))
            lines.append(chart.Series(run, xs, ys))
        return faint + lines

    return curves


def _views(
    experiments: Sequence[Experiment], curves: Callable[[Callable[[Experiment, Point], float]], list[chart.Series]]
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
        views.append(View(axis, chart.draw(series, axis, x_most), ribbons, _bands(staged, axis, x_most)))
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
