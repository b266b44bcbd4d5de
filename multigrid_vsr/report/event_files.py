"""TensorBoard's event files, read by TensorBoard's own reader where it is installed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from multigrid_vsr.report.log_file import Line, Validation


def read_events(folder: Path, metrics: dict[str, list[str]]) -> tuple[list[Line], list[Validation]]:
    """Reads the scalars of a run.

    Args:
        folder: Folder of event files; one that does not exist has none.
        metrics: Names of the metrics of each test set, in the order of the option file. BasicSR's video models leave
            the set's name out of a tag; it is that of the only one, and with several such metrics are left out.

    Returns:
        A line for each iteration with losses or a rate, and the validations, both in order. Nothing where TensorBoard
        is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return [], []
    if not any(folder.glob('events.out.tfevents.*')):
        return [], []
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    sets = {f'metrics/{dataset}/{metric}': (dataset, metric) for dataset in metrics for metric in metrics[dataset]}
    if len(metrics) == 1:
        sets.update({f'metrics/{metric}': (dataset, metric) for dataset in metrics for metric in metrics[dataset]})
    lines: dict[int, tuple[float, dict[str, float]]] = {}
    validations: dict[tuple[int, str], tuple[float, dict[str, float]]] = {}
    for tag in accumulator.Tags()['scalars']:
        name = 'lr' if tag == 'lr/group_0' else tag.removeprefix('losses/').removeprefix('multigrid/')
        for event in accumulator.Scalars(tag):
            if tag in sets:
                dataset, metric = sets[tag]
                validations.setdefault((event.step, dataset), (event.wall_time, {}))[1][metric] = event.value
            elif not tag.startswith('metrics/'):
                lines.setdefault(event.step, (event.wall_time, {}))[1][name] = event.value
    return (
        [Line(step, datetime.fromtimestamp(time), values) for step, (time, values) in sorted(lines.items())],
        [
            Validation(step, datetime.fromtimestamp(time), dataset, values)
            for (step, dataset), (time, values) in sorted(validations.items())
        ],
    )
