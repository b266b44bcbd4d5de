"""The first minutes on a GPU: whether every option trains, how fast each is, and what whole runs will take."""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gpu_training, gpu_work, harness
from benchmarks.gpu_plan import (
    COLUMNS,
    DRY,
    FULL,
    OPTIONS,
    SECONDS,
    STOCK,
    TOGETHER,
    gpu_hours,
    run_options,
    schedules,
    step_rows,
)
from benchmarks.gpu_report import NO_TIME, Report, Row
from benchmarks.worker import CallError, Worker
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.demo import find_video

_LOADING_SECONDS = 1.0
_LEAST_ITERS = 24  # of the stock run that a training run is made from: `fast` has about half of them, two a segment
_START_SECONDS = 15.0  # of a training run, before its first iteration
_DRY_SECONDS = 3600.0
_UNKNOWN_HOURS = 170.0  # of a run that was not predicted: about half a second an iteration
_TRAINED = ((STOCK, STOCK), ('fast', TOGETHER))
_TRAINING_SECONDS = len(_TRAINED) * 75  # kept for the training runs
_END_SECONDS = 5.0  # kept for the end


class Bench:
    """Measures row by row, the most telling first, and prints and keeps each at once.

    No row starts with less time left than the longest row of its kind took.

    Args:
        out: Folder for the figures, the data and the runs.
        minutes: Time for everything.
        is_dry: Whether to try everything with a tiny network on the CPU.
    """

    def __init__(self, out: Path, minutes: float, is_dry: bool) -> None:
        self._out, self._is_dry = out, is_dry
        self._about = {'dry': 'on the CPU: no figure means anything'} if is_dry else {'minutes': minutes}
        self._sizes = DRY if is_dry else FULL
        self._start = time.monotonic()
        self._end = self._start + (_DRY_SECONDS if is_dry else minutes * 60)
        begin = partial(gpu_work.begin_dry if is_dry else gpu_work.begin, out / 'gpu_worker.txt')
        self._worker, self._loader = (Worker(begin, gpu_work.clean_up) for _ in range(2))
        self._longest: dict[str, float] = {}  # seconds of a row, by kind
        self._given_up: set[str] = set()  # options with a row that was not done in time

    def run(self) -> None:
        """Measures everything."""
        try:
            self._measure_all()
        finally:
            self._worker.close()
            self._loader.close()

    def _measure_all(self) -> None:
        self._schedules = schedules(self._sizes, self._sizes.whole)
        shapes = [(s.shape.num_frame, s.shape.gt_size) for run in self._schedules.values() for s in run.segments]
        self._loaded = list(dict.fromkeys(shapes))
        self._loader.send(gpu_work.load, self._out, self._sizes, self._loaded, _LOADING_SECONDS)
        device = self._worker.call(gpu_work.device, seconds=self._left())
        about = {**self._about, 'date': datetime.date.today().isoformat(), **device}
        self._report = Report(self._out, about, self._sizes)
        first, late = step_rows(self._sizes)
        slow = [option for option in OPTIONS if 'compile' in option]
        others = [option for option in OPTIONS if option not in (*COLUMNS, *slow)]

        self._try_options(COLUMNS, self._sizes.archs[:1])
        self._time_steps(first)
        self._predict('hours')
        self._try_options(COLUMNS, self._sizes.archs[1:])
        self._take_loading()
        self._try_options(others, self._sizes.archs, _TRAINING_SECONDS)
        self._time_steps(late, _TRAINING_SECONDS)
        self._try_options(slow, self._sizes.archs, _TRAINING_SECONDS)
        self._worker.close()  # its cache holds memory of the GPU
        self._train()

    def _try_options(self, options: Any, archs: Any, kept: float = 0.0) -> None:
        for option in options:
            for network, shapes in archs:
                name = {'option': option, 'arch': network['type']}
                self._call('options', name, kept, gpu_work.try_option, network, shapes, option, self._sizes.tried)

    def _time_steps(self, rows: Any, kept: float = 0.0) -> None:
        for option, shape in rows:
            name = {'option': option, 'shape': str(shape)}
            self._call('steps', name, kept, gpu_work.time_steps, self._sizes, option, shape)

    def _take_loading(self) -> None:
        """The rows of loading, which ran beside, and the hours with them."""
        try:
            found = self._loader.result(max(0.0, min(self._left(), self._sizes.patience * SECONDS['loading'])))
        except CallError as error:
            return self._add(Row('loading', {'num_frame': 'all', 'gt_size': 'all'}, error=str(error)))
        for place, (num_frame, gt_size) in enumerate(self._loaded):
            ms = {name: values[place] for name, values in found.items()}
            self._add(Row('loading', {'num_frame': num_frame, 'gt_size': gt_size}, ms))
        self._predict('hours with loading', {name: dict(zip(self._loaded, ms)) for name, ms in found.items()})

    def _predict(self, part: str, loads: dict[str, dict[tuple[int, int], float]] | None = None) -> None:
        """What each run will take one GPU."""
        steps = self._report.figures('steps', 'ms')
        for run, schedule in self._schedules.items():
            load_ms = None if loads is None else loads['stock_ms' if run == STOCK else 'packed_ms']
            for option in (STOCK,) if run == STOCK else COLUMNS:
                name = {'run': run, 'option': option, 'iterations': schedule.total_iter}
                measured = [s.shape for s in schedule.segments if (option, str(s.shape)) in steps]
                step_ms = {shape: steps[option, str(shape)] for shape in measured}
                try:
                    hours = gpu_hours(schedule, step_ms, load_ms, self._sizes.workers)
                    self._add(Row(part, name, {'gpu_hours': hours}))
                except KeyError:
                    self._add(Row(part, name, error='not all of its shapes were measured'))

    def _train(self) -> None:
        for place, (run, option) in enumerate(_TRAINED):
            left, needed = self._left() - _END_SECONDS, SECONDS['training']
            share = max(left / (len(_TRAINED) - place), needed)
            opt = self._training_options(run, option, min(self._sizes.seconds, share - _START_SECONDS))
            name = {'run': run, 'option': option, 'iterations': opt['train']['total_iter']}
            measure = partial(gpu_training.train, self._out, opt, run == STOCK, share)
            self._attempt('training', name, left >= needed, measure)

    def _training_options(self, run: str, option: str, seconds: float) -> dict[str, Any]:
        """A run of about so many seconds, by the hours that were predicted for a whole one."""
        parts = ('hours', 'hours with loading')  # the second is better, where it is there
        predicted = {names[:2]: h for part in parts for names, h in self._report.figures(part, 'gpu_hours').items()}
        hours = predicted.get((run, option), _UNKNOWN_HOURS)
        total_iter = max(int(self._sizes.whole * seconds / (hours * 3600)), _LEAST_ITERS)
        opt = run_options(run, self._sizes, total_iter, 0 if self._is_dry else 1)
        changes = OPTIONS.get(option, {})
        optim_g = opt['train']['optim_g'] | ({'fused': True} if 'optim_g' in changes else {})
        opt['train'] |= {**changes, 'optim_g': optim_g}
        return {**opt, 'name': run}

    def _call(self, part: str, name: dict[str, Any], kept: float, function: Callable[..., Any], *args: Any) -> None:
        """Adds a row from the worker's process, if it can end with so many seconds left."""
        option = name['option']
        if option in self._given_up:
            return self._add(Row(part, name, error='given up: a row of this option was not done in time'))
        kind = 'compile' if 'compile' in option else part
        longest = self._longest.get(kind, SECONDS[kind])
        start, left = time.monotonic(), self._left() - kept
        seconds = min(left, self._sizes.patience * max(longest, SECONDS[kind]))
        call = partial(self._worker.call, function, self._out, *args, seconds=seconds)
        has_figures, took = self._attempt(part, name, left >= longest, call), time.monotonic() - start
        if has_figures:
            self._longest[kind] = max(self._longest.get(kind, 0.0), took)
        elif took >= seconds > 0:
            self._given_up.add(option)

    def _attempt(self, part: str, name: dict[str, Any], has_time: bool, measure: Callable[[], dict[str, Any]]) -> bool:
        """Adds a row; whether it has figures."""
        try:
            row = Row(part, name, measure()) if has_time else Row(part, name, error=NO_TIME)
        except CallError as error:
            row = Row(part, name, error=str(error))
        self._add(row)
        return row.error is None

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _add(self, row: Row) -> None:
        self._report.add(row)
        print(f'{time.monotonic() - self._start:4.0f} s  {row}', flush=True)


def run(args: argparse.Namespace) -> None:
    """Measures and prints, and writes ``gpu.json`` and ``gpu.md`` with every figure.

    Raises:
        InputError: If an option breaks its rule, or the video of the demo is not installed.
    """
    if not 0 < args.minutes < float('inf'):
        raise OptionError('--minutes', 'be a number above 0', args.minutes, 'Correct the value.')
    if args.dry:  # the processes that it starts see no GPU either, and take one core each
        os.environ |= {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    import torch

    if not args.dry and not torch.cuda.is_available():
        raise OptionError('--dry', 'be given on a machine without a GPU', None, 'It tries all of it, tiny.')
    find_video('bikes.mp4')  # refuses now what would end the command late
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that its processes end too
    Bench(args.out, args.minutes, args.dry).run()
    print(f'Figures: {args.out}/gpu.json, tables: {args.out}/gpu.md')


def main(argv: Sequence[str] | None = None) -> None:
    commands = harness.parser('gpu', __doc__, '--out gpu --minutes 4', '--out dry --dry')
    commands.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for all that it writes')
    commands.add_argument('--minutes', type=float, default=9, help='time for all of it; 4 give the hours (default: 9)')
    commands.add_argument('--dry', action='store_true', help='try all of it, tiny, on the CPU, however long it takes')
    harness.run(commands, run, argv)


if __name__ == '__main__':
    main()
