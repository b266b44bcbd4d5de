"""The first hour on a GPU: whether every option trains, how fast each is, and what whole runs will take."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from multigrid_vsr.bench import gpu_training, gpu_work
from multigrid_vsr.bench.gpu_hours import STOCK_SAMPLES, gpu_hours
from multigrid_vsr.bench.gpu_plan import (
    DRY,
    FULL,
    IN_PARTS,
    OPTIONS,
    RECIPE_COLUMNS,
    SHARES,
    STOCK,
    TOGETHER,
    Sizes,
    recipe_options,
    step_rows,
    stock_options,
)
from multigrid_vsr.bench.gpu_report import NO_TIME, Report, Row
from multigrid_vsr.bench.worker import CallError, Worker
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.demo.dataset import prepare
from multigrid_vsr.options.multigrid_block import schedule_from_options

_LOADING_SECONDS = 1.0
_LEAST_ITERS = 12  # of a training run: six segments of two lines
_START_SECONDS = 15.0  # of a training run, before its first iteration
_DRY_SECONDS = 3600.0
_UNKNOWN_SECONDS = 0.5  # of an iteration that was not timed
_RUNS = ((STOCK, STOCK), *((recipe, column) for recipe in ('paper', 'fast') for column in RECIPE_COLUMNS))
_TRAINED = ((STOCK, STOCK), ('paper', 'none'), ('fast', TOGETHER))


class Bench:
    """Measures part by part, each as long as its share of the time lasts; every row is printed and kept at once.

    Args:
        out: Folder for the figures, the data and the runs.
        minutes: Time for all of it.
        is_dry: Whether a tiny network tries all of it on the CPU.
    """

    def __init__(self, out: Path, minutes: float, is_dry: bool) -> None:
        self._out = out
        self._sizes: Sizes = DRY if is_dry else FULL
        self._start, self._seconds = time.monotonic(), _DRY_SECONDS if is_dry else minutes * 60
        begin = gpu_work.begin_dry if is_dry else gpu_work.begin
        self._worker = Worker(partial(begin, out / 'gpu_worker.txt'), gpu_work.clean_up)
        self._num_gpu = 0 if is_dry else 1
        about = {
            'dry' if is_dry else 'minutes': 'on the CPU: no figure means anything' if is_dry else minutes,
            'date': datetime.date.today().isoformat(),
            **self._worker.call(gpu_work.device, seconds=self._seconds),
        }
        self._report = Report(out, about, self._sizes)

    def run(self) -> None:
        """Measures all parts, in order of worth."""
        try:
            self._try_options()
            self._time_steps()
            self._time_loading()
            self._predict_hours()
            self._train()
        finally:
            self._worker.close()

    def _try_options(self) -> None:
        for option in (IN_PARTS, *OPTIONS):
            for network, shapes in self._sizes.archs:
                name = {'option': option, 'arch': network['type']}
                self._measure('options', name, gpu_work.try_option, network, shapes, option, self._sizes.tried)

    def _time_steps(self) -> None:
        small = self._sizes.shapes[0].gt_size
        for option, shape in step_rows(self._sizes):
            counts = shape.gt_size == small  # there are as many launches at any crop
            name = {'option': option, 'shape': str(shape)}
            self._measure('steps', name, gpu_work.time_steps, self._sizes, option, shape, counts)

    def _time_loading(self) -> None:
        prepare(self._out / 'data')
        for shape in self._sizes.shapes:
            name = {'num_frame': shape.num_frame, 'gt_size': shape.gt_size}
            self._measure('loading', name, gpu_work.time_loading, self._sizes, *name.values(), _LOADING_SECONDS)

    def _predict_hours(self) -> None:
        total_iter = STOCK_SAMPLES // self._sizes.full.batch_size_per_gpu
        for run, option in _RUNS:
            schedule = schedule_from_options(self._options_of(run, total_iter))
            name = {'run': run, 'option': option, 'iterations': schedule.total_iter}
            try:
                self._add(Row('hours', name, self._hours(schedule, run, option)))
            except KeyError:
                self._add(Row('hours', name, error='not all of its shapes were measured'))

    def _hours(self, schedule: Schedule, run: str, option: str) -> dict[str, Any]:
        """What a run will take one GPU: its steps alone, and with the loading of its workers."""
        steps = self._report.figures('steps', 'ms')
        loads = self._report.figures('loading', 'stock_ms' if run == STOCK else 'packed_ms')
        step_ms = {s.shape: steps[option, str(s.shape)] for s in schedule.segments}
        alone = {(s.shape.num_frame, s.shape.gt_size): 0.0 for s in schedule.segments}
        load_ms = {shape: loads[shape] for shape in alone}
        return {
            'gpu_hours_of_steps': gpu_hours(schedule, step_ms, alone, 1),
            'gpu_hours': gpu_hours(schedule, step_ms, load_ms, self._sizes.workers),
        }

    def _train(self) -> None:
        for place, (run, option) in enumerate(_TRAINED):
            share = self._left('training') / (len(_TRAINED) - place)
            opt = self._training_options(run, option, min(self._sizes.seconds, share - _START_SECONDS))
            name = {'run': run, 'option': option, 'iterations': opt['train']['total_iter']}
            self._attempt('training', name, partial(gpu_training.train, self._out, opt))

    def _training_options(self, run: str, option: str, seconds: float) -> dict[str, Any]:
        """A run of about so many seconds, by the hours that were predicted for a whole one."""
        whole = STOCK_SAMPLES // self._sizes.full.batch_size_per_gpu
        predicted = {names[:2]: hours for names, hours in self._report.figures('hours', 'gpu_hours').items()}
        hours = predicted.get((run, option), whole * _UNKNOWN_SECONDS / 3600)
        opt = self._options_of(run, max(int(whole * seconds / (hours * 3600)), _LEAST_ITERS))
        opt['name'] = run
        changes = OPTIONS.get(option, {})
        optimizer = {'fused': True} if changes.get('optim_g', {}).get('fused') else {}
        opt['train'] |= {**changes, 'optim_g': opt['train']['optim_g'] | optimizer}
        return opt

    def _options_of(self, run: str, total_iter: int) -> dict[str, Any]:
        if run == STOCK:
            return stock_options(self._sizes, total_iter, self._num_gpu)
        return recipe_options(run, self._sizes, total_iter, self._num_gpu)

    def _measure(self, part: str, name: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> None:
        """One row, in the process of the worker."""
        self._attempt(part, name, lambda left: self._worker.call(function, self._out, *arguments, seconds=left))

    def _attempt(self, part: str, name: dict[str, Any], measure: Callable[[float], dict[str, Any]]) -> None:
        left = self._left(part)
        try:
            self._add(Row(part, name, measure(left)) if left > 0 else Row(part, name, error=NO_TIME))
        except CallError as error:
            self._add(Row(part, name, error=str(error)))

    def _left(self, part: str) -> float:
        return self._start + self._seconds * SHARES[part] - time.monotonic()

    def _add(self, row: Row) -> None:
        self._report.add(row)
        print(f'{time.monotonic() - self._start:4.0f} s  {row}', flush=True)
