"""The results of the bench, read from their JSONL: PSNR and time of each run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.train.options import Run
from benchmarks.train.times import Case, case_of
from multigrid_vsr.core.schedule import BatchShape


@dataclass(frozen=True)
class Result:
    """What a run reached.

    Attributes:
        segments: Its shapes, each with its iterations.
        curve: Iterations done and the PSNR in dB of the averaged weights (EMA) then, for each held-out clip; the last
            are those of its end.
        psnr_last: PSNR in dB of the weights themselves at the end, for each clip.
        wall: Wall-clock in seconds from the start of training to its end, neighbours included; ``None`` for a run that
            was interrupted.
    """

    segments: tuple[tuple[int, BatchShape], ...]
    curve: tuple[tuple[int, tuple[float, ...]], ...]
    psnr_last: tuple[float, ...]
    wall: float | None

    def psnr(self, averaged: bool = True) -> float:
        """PSNR at the end in dB, of the averaged weights or of the weights themselves: the mean over the clips."""
        return statistics.mean(self.curve[-1][1] if averaged else self.psnr_last)

    def history(self) -> list[tuple[int, float]]:
        """Iterations done and the PSNR in dB of the averaged weights then: the mean over the clips."""
        return [(iteration, statistics.mean(psnrs)) for iteration, psnrs in self.curve]


class Times:
    """The time of an iteration of each case: medians over all rounds, in milliseconds."""

    def __init__(self, steps: Mapping[Case, float], loads: Mapping[Case, float]) -> None:
        self._steps = steps
        self._loads = loads

    def seconds(self, run: Run, result: Result, iterations: int | None = None, loads: str = 'own') -> float | None:
        """The time of a run, or of its first iterations; ``None`` where a shape has not been timed.

        One worker loads beside the iterations, so an iteration takes what is longer, its step or its loading.

        Args:
            run: The run.
            result: What it has trained on.
            iterations: So many of its iterations; all without it.
            loads: ``own`` for the shape of each iteration, ``full`` for the full shape, cropped afterwards (as
                Restormer does), ``none`` for steps alone.
        """
        total, left = 0.0, sum(count for count, _ in result.segments) if iterations is None else iterations
        full = case_of(run, result.segments[-1][1])
        for count, shape in result.segments:
            case = case_of(run, shape)
            if case not in self._steps or full not in self._loads:
                return None
            load = {'own': self._loads[case], 'full': self._loads[full], 'none': 0.0}[loads]
            total += min(count, left) * max(self._steps[case], load) / 1e3
            left -= min(count, left)
        return total

    def loading(self, run: Run, result: Result, loads: str = 'own') -> float | None:
        """The seconds of its loading alone, of ``own`` or ``full`` shapes; ``None`` where one has not been timed."""
        cases = [
            (count, case_of(run, shape if loads == 'own' else result.segments[-1][1]))
            for count, shape in result.segments
        ]
        if any(case not in self._loads for _, case in cases):
            return None
        return sum(count * self._loads[case] for count, case in cases) / 1e3


def read_runs(path: Path) -> dict[Run, Result]:
    """The runs that are done."""
    return {
        Run(*(line[key] for key in Run._fields)): Result(
            tuple((count, BatchShape(*shape)) for count, *shape in line['segments']),
            tuple((iteration, tuple(psnrs)) for iteration, psnrs in line['curve']),
            tuple(line['psnr_last']),
            line['wall'],
        )
        for line in _lines(path, 'run')
    }


def read_times(path: Path) -> Times:
    """The times of all rounds."""
    steps: dict[Case, list[float]] = {}
    loads: dict[Case, list[float]] = {}
    for line in _lines(path, 'time'):
        train = tuple((name, value) for name, value in line['train'])
        case = Case(line['arch'], line['is_stock'], train, BatchShape(*line['shape']))
        steps.setdefault(case, []).extend(line['step_ms'])
        loads.setdefault(case, []).extend(line['load_ms'])
    return Times(
        {case: statistics.median(values) for case, values in steps.items()},
        {case: statistics.median(values) for case, values in loads.items()},
    )


def _lines(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        found = json.loads(line)
        if found['kind'] == kind:
            yield found
