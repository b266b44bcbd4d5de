"""The hours of a run, from a few iterations of every shape on this machine, and those of stock BasicSR."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from multigrid_vsr.bench.building import model_of_windows
from multigrid_vsr.core.errors import one_line
from multigrid_vsr.core.plan import StockRun, format_table, total_samples
from multigrid_vsr.core.run_lines import span
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.data.pixels import to_float_rgb
from multigrid_vsr.models.memory import is_out_of_memory
from multigrid_vsr.options.stock_run import stock_run_of

_LOADS = 3


@dataclass(frozen=True)
class ShapeCost:
    """Seconds of an iteration of one shape.

    Attributes:
        step: From the batch to the new weights.
        loading: What it waits for a batch that its workers make meanwhile, or that it makes itself.
    """

    step: float
    loading: float

    @property
    def seconds(self) -> float:
        return self.step + self.loading


@dataclass(frozen=True)
class Prediction:
    """What a run takes, without validation and checkpoints.

    Attributes:
        schedule: Its shapes.
        costs: Of each shape.
        stock: The stock run on one GPU; ``None`` where the file does not say what it was.
        stock_step: Seconds of an iteration of BasicSR's own model at the full shape; ``None`` where it cannot train it.
        why_not: The reason.
    """

    schedule: Schedule
    costs: dict[BatchShape, ShapeCost]
    stock: StockRun | None
    stock_step: float | None
    why_not: str = ''

    @property
    def segment_seconds(self) -> list[float]:
        return [segment.num_iter * self.costs[segment.shape].seconds for segment in self.schedule.segments]

    @property
    def seconds(self) -> float:
        return sum(self.segment_seconds)

    @property
    def stock_iterations(self) -> int:
        """Iterations of the full shape with the samples of the stock run, or of this run where that is not known."""
        stock = self.stock
        samples = total_samples(self.schedule) if stock is None else stock.total_iter * stock.batch_size
        return round(samples / self.schedule.full_shape.batch_size_per_gpu)

    @property
    def stock_seconds(self) -> float | None:
        return None if self.stock_step is None else self.stock_step * self.stock_iterations

    def as_data(self) -> dict[str, Any]:
        """For ``plan --json``; times in seconds."""
        return {
            'segments': [
                {'step': self.costs[s.shape].step, 'loading': self.costs[s.shape].loading, 'seconds': seconds}
                for s, seconds in zip(self.schedule.segments, self.segment_seconds)
            ],
            'seconds': self.seconds,
            'stock_step': self.stock_step,
            'stock_iterations': self.stock_iterations,
            'stock_seconds': self.stock_seconds,
        }

    def __str__(self) -> str:
        rows = []
        for segment, seconds in zip(self.schedule.segments, self.segment_seconds):
            cost = self.costs[segment.shape]
            iterations = f'{segment.start + 1}-{segment.end}'
            row = (iterations, str(segment.shape), f'{cost.step:.4g}', f'{cost.loading:.2g}', f'{seconds / 3600:.3g}')
            rows.append(row)
        rows.append((f'1-{self.schedule.total_iter}', '', '', '', f'{self.seconds / 3600:.3g}'))
        table = format_table(('iterations', 'batch x frames x gt', 's a step', 'and waiting', 'hours'), rows)
        lines = [table, f'The run takes {span(self.seconds)}, without validation and checkpoints.']
        whose = 'the same samples' if self.stock is None else 'the samples of the stock run'
        stock = f"BasicSR's own model, {self.stock_iterations} iterations of the full shape ({whose})"
        if self.stock_seconds is None:
            lines.append(f'{stock}, cannot be timed: {self.why_not}.')
        else:
            faster = self.stock_seconds / self.seconds
            lines.append(
                f'{stock} at {self.stock_step:.4g} s, its loading not counted: {span(self.stock_seconds)}, '
                f'{faster:.2f} times as long.'
            )
        return '\n'.join(lines)


def predict(opt: dict[str, Any], rounds: int) -> Prediction:
    """Times a run on one device.

    Args:
        opt: Options of a training run with a schedule, as ``parse_options`` gives them.
        rounds: Passes over the shapes that count, after one that does not.
    """
    from basicsr.data import build_dataset
    from basicsr.models import build_model

    torch.backends.cudnn.benchmark = True  # as in training
    stock = stock_run_of(opt, 1)
    opt = {**opt, 'num_gpu': min(opt['num_gpu'], 1)}
    train_set = opt['datasets']['train']
    schedule: Schedule = train_set['multigrid']
    dataset = build_dataset(train_set)
    model = build_model(opt)
    shapes = list(dict.fromkeys(segment.shape for segment in schedule.segments))
    batches, loads = {}, {}
    for shape in shapes:
        batches[shape], loads[shape] = _load(dataset, schedule, shape)
    times: dict[BatchShape, list[float]] = {shape: [] for shape in shapes}
    update = getattr(model, 'update', partial(type(model).optimize_parameters, model))  # a step, and nothing around it
    for round_ in tqdm(range(rounds + 1), desc='Time every shape', unit='round', leave=False):
        for shape in shapes:
            _step(model, batches[shape], update)  # the first after another shape is no usual one
            times[shape] += [_step(model, batches[shape], update) for _ in range(2 if round_ else 0)]
    costs = {}
    workers = train_set['num_worker_per_gpu']
    for shape in shapes:
        step = sum(times[shape]) / len(times[shape])
        costs[shape] = ShapeCost(step, max(0.0, loads[shape] / workers - step) if workers else loads[shape])
    del model
    return Prediction(schedule, costs, stock, *_stock_step(opt, dataset, rounds))


def _load(dataset: Any, schedule: Schedule, shape: BatchShape) -> tuple[dict[str, Any], float]:
    """A batch of a shape, and the seconds that one process takes for one."""
    one = Schedule.from_shapes([(_LOADS + 1, shape)], shape)
    for number in range(_LOADS + 1):
        batch = dataset[batch_requests(one, number, num_samples=len(dataset), seed=number)]
        if number == 0:  # files are opened
            start = time.perf_counter()
    return batch, (time.perf_counter() - start) / _LOADS


def _step(model: Any, batch: dict[str, Any], update: Callable[[int], Any]) -> float:
    """Seconds of one iteration: not the first, at which BasicSR's models freeze what they freeze."""
    start = time.perf_counter()
    model.feed_data(batch)
    update(2)
    if model.device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _stock_step(opt: dict[str, Any], dataset: Any, rounds: int) -> tuple[float | None, str]:
    """Seconds of an iteration of BasicSR's own model at the full shape, or why it has none."""
    from basicsr.models import build_model

    schedule: Schedule = opt['datasets']['train']['multigrid']
    stock = copy.deepcopy(opt)
    stock['model_type'] = _stock_type(opt)
    if stock['model_type'] is None:
        return None, f'{opt["model_type"]} is none of its models'
    total_iter = schedule.total_iter
    stock['train']['scheduler'] = {
        'type': 'CosineAnnealingRestartLR', 'periods': [total_iter], 'restart_weights': [1]
    }  # fmt: skip
    stock['train'].setdefault('fix_flow', None)
    loaded, _ = _load(dataset, schedule, schedule.full_shape)
    if 'lq' not in loaded:
        return None, 'LQ frames are made on the device'
    batch = {key: to_float_rgb(x) if x.dtype == torch.uint8 else x for key in ('lq', 'gt') for x in [loaded[key]]}
    try:
        model = build_model(stock)
        times = [_step(model, batch, model.optimize_parameters) for _ in range(2 + 2 * rounds)][2:]
    except Exception as error:  # whatever BasicSR or the arch raises
        return None, 'memory does not hold its batch' if is_out_of_memory(error) else one_line(error)
    return sum(times) / len(times), ''


def _stock_type(opt: dict[str, Any]) -> str | None:
    """The model of BasicSR that trains the same network."""
    if opt['model_type'] == 'MultigridVideoGANModel':
        return 'VideoRecurrentGANModel'
    if opt['model_type'] != 'MultigridVideoModel':
        return None
    if opt['datasets']['train']['target'] == 'center':
        return model_of_windows(opt['network_g'])
    return 'VideoRecurrentModel'
