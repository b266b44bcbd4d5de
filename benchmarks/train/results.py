"""The results of ``python -m benchmarks.train``, read from their JSONL: PSNR and time of each run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.train.runs import Run
from benchmarks.train.times import Case, case_of
from multigrid_vsr.core.schedule import BatchShape


@dataclass(frozen=True)
class Result:
    """What a run reached; PSNR is in dB, of each held-out clip."""

    segments: tuple[tuple[int, BatchShape], ...]  # iterations of each shape
    curve: tuple[tuple[int, tuple[float, ...]], ...]  # iterations done, PSNR of the averaged weights (EMA)
    psnr_last: tuple[float, ...]  # of the weights themselves at the end
    wall: float | None  # seconds of training with other runs beside it; None for a run that was interrupted

    def psnr(self, averaged: bool = True) -> float:
        """PSNR at the end, of the averaged weights or of the weights themselves: the mean over the clips."""
        return statistics.mean(self.curve[-1][1] if averaged else self.psnr_last)

    def history(self) -> list[tuple[int, float]]:
        """Iterations done, and the PSNR of the averaged weights then: the mean over the clips."""
        return [(iteration, statistics.mean(psnrs)) for iteration, psnrs in self.curve]


class Times:
    """The medians, over all rounds, of the milliseconds that a step and loading its batch take, for each case."""

    def __init__(self, ms: Mapping[Case, tuple[float, float]]) -> None:
        self._ms = ms

    def seconds(self, run: Run, result: Result, iterations: int | None = None, loads: str = 'own') -> float | None:
        """The time of a run, or of its first iterations; ``None`` if a shape has not been timed.

        One worker loads beside the iterations, so an iteration takes as long as its step or its loading. It loads its
        ``own`` shape, the ``full`` shape, cropped afterwards (as Restormer does), or ``none``.
        """
        costs = self._costs(run, result, loads)
        if costs is None:
            return None
        total, left = 0.0, sum(count for count, _, _ in costs) if iterations is None else iterations
        for count, step, load in costs:
            total += min(count, left) * max(step, load) / 1e3
            left -= min(count, left)
        return total

    def loading(self, run: Run, result: Result, loads: str = 'own') -> float | None:
        """The seconds of its loading, of ``own`` or ``full`` shapes; ``None`` where one has not been timed."""
        costs = self._costs(run, result, loads)
        return None if costs is None else sum(count * load for count, _, load in costs) / 1e3

    def _costs(self, run: Run, result: Result, loads: str) -> list[tuple[int, float, float]] | None:
        """Iterations, ms of a step and ms of loading for each segment."""
        found = []
        for count, shape in result.segments:
            own, full = (self._ms.get(case_of(run, each)) for each in (shape, result.segments[-1][1]))
            if own is None or full is None:
                return None
            found.append((count, own[0], {'own': own[1], 'full': full[1], 'none': 0.0}[loads]))
        return found


def read_runs(path: Path) -> dict[Run, Result]:
    """The runs that are done."""
    return {
        Run(**{key: line[key] for key in Run._fields if key in line}): Result(
            tuple((count, BatchShape(*shape)) for count, *shape in line['segments']),
            tuple((iteration, tuple(psnrs)) for iteration, psnrs in line['curve']),
            tuple(line['psnr_last']),
            line['wall'],
        )
        for line in _lines(path, 'run')
    }


def read_times(path: Path) -> Times:
    """The times of all rounds."""
    found: dict[Case, tuple[list[float], list[float]]] = {}
    for line in _lines(path, 'time'):
        train = tuple((name, value) for name, value in line['train'])
        case = Case(line['arch'], line['is_stock'], train, BatchShape(*line['shape']))
        steps, loads = found.setdefault(case, ([], []))
        steps += line['step_ms']
        loads += line['load_ms']
    return Times({case: (statistics.median(steps), statistics.median(loads)) for case, (steps, loads) in found.items()})


def _lines(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return (found for found in map(json.loads, lines) if found['kind'] == kind)
