"""The time of an iteration and of loading its batch, for each shape of the runs, measured with nothing beside it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import in_rounds
from benchmarks.step import OURS, STOCK, batches_of, model_of, run_step
from benchmarks.train.runs import VARIANTS, Run, options
from multigrid_vsr.core.schedule import BatchShape, SampleRequest
from multigrid_vsr.options.archs import target_of
from multigrid_vsr.options.multigrid_block import schedule_from_options


class Case(NamedTuple):
    """What is timed: iterations of a network, by BasicSR's parts or this project's, at a shape."""

    arch: str
    is_stock: bool
    train: tuple[tuple[str, Any], ...]  # options of `train` that a variant adds
    shape: BatchShape


def case_of(run: Run, shape: BatchShape) -> Case:
    """Where the iterations of a shape of a run belong."""
    variant = VARIANTS[run.variant]
    train = dict(variant.train)
    if variant.optimizer != 'Adam':
        train['optimizer'] = variant.optimizer
    if variant.holds_flow and shape.gt_size < run.gt_size:
        train['fix_flow'] = 10**9
    return Case(run.arch, variant.setup == 'stock', tuple(sorted(train.items())), shape)


def measure(root: Path, runs: Sequence[Run], rounds: int) -> Iterator[dict[str, Any]]:
    """Times every shape of the runs in interleaved rounds, in the folder of the bench with its data.

    Yields:
        A line of results for each case: milliseconds of an iteration and of loading its batch, for each round.
    """
    timers: dict[tuple[Case, str], Callable[[], float]] = {}
    models: dict[tuple[Any, ...], Any] = {}  # one serves all shapes
    with _inside(root):
        for run in runs:
            for segment in schedule_from_options(options(run)).segments:
                case = case_of(run, segment.shape)
                if (case, 'step_ms') in timers:
                    continue
                if case[:-1] not in models:
                    models[case[:-1]] = _model_of(run, dict(case.train))
                timers[case, 'step_ms'] = _step_timer(models[case[:-1]], segment.shape)
                timers[case, 'load_ms'] = _load_timer(run, segment.shape)
        found = in_rounds(timers, rounds)
    for case in dict.fromkeys(case for case, _ in timers):
        steps, loads = found[case, 'step_ms'], found[case, 'load_ms']
        ms = {'step_ms': [round(ms, 2) for ms in steps], 'load_ms': [round(ms, 3) for ms in loads]}
        yield {'kind': 'time', **case._asdict(), 'shape': list(vars(case.shape).values()), **ms}


@contextlib.contextmanager
def _inside(root: Path) -> Iterator[None]:
    """Works in a folder: the paths of a run are relative."""
    before = Path.cwd()
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)


def _model_of(run: Run, train: dict[str, Any]) -> Any:
    opt = options(run)
    train.pop('optimizer', None)  # as `optim_g` has it
    shared = {name: opt['train'][name] for name in ('ema_decay', 'optim_g')}
    return model_of(Path(), opt['model_type'], opt['network_g'], **shared, **train)


def _step_timer(model: Any, shape: BatchShape) -> Callable[[], float]:
    batch = batches_of(shape)[OURS if model.opt['model_type'] == OURS else STOCK]
    if model.opt['datasets']['train']['target'] == 'center':
        batch['gt'] = batch['gt'][:, shape.num_frame // 2]
    return partial(run_step, model, batch)


def _load_timer(run: Run, shape: BatchShape) -> Callable[[], float]:
    from basicsr.data import build_dataset

    opt = options(run)
    train_opt = {**opt['datasets']['train'], 'scale': opt['scale'], 'target': target_of(opt), 'phase': 'train'}
    dataset = build_dataset(train_opt)
    numbers = iter(range(10**9))

    def load() -> float:
        start = time.perf_counter()
        requests = [
            SampleRequest(next(numbers) % len(dataset), shape.num_frame, shape.gt_size, next(numbers))
            for _ in range(shape.batch_size_per_gpu)
        ]
        if VARIANTS[run.variant].setup == 'stock':
            for request in requests:
                dataset[request.index]
        else:
            dataset[requests]
        return (time.perf_counter() - start) * 1e3

    return load
