"""What the figures of several runs say together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multigrid_vsr.core.shapes import Segment
from multigrid_vsr.report.experiment import Experiment, Point

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
