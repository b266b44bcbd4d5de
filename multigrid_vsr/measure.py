"""Real iterations of a run on this machine: what `batch` and `plan --measure` time."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError, one_line
from multigrid_vsr.core.plan import StockRun, format_table, total_samples
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.host.patch import register
from multigrid_vsr.models.clock import Pace, segment_seconds, span, time_step
from multigrid_vsr.models.preflight import is_out_of_memory, random_batch
from multigrid_vsr.options.fitting import shortened
from multigrid_vsr.options.run_options import stock_run_of


def one_device() -> int:
    """``num_gpu`` of a measurement: one GPU, or the CPU."""
    return min(torch.cuda.device_count(), 1)


def model_of_windows(network_opt: Mapping[str, Any]) -> str:
    """``model_type`` of BasicSR's for a network that gives the frame in the middle of a window."""
    return 'EDVRModel' if network_opt['type'] == 'EDVR' else 'VideoBaseModel'


def build(opt: dict[str, Any]) -> Any:
    """The model of a run, with cuDNN as in BasicSR's training script; signals end the process at once."""
    register()  # nothing is, where a module of this plugin has imported BasicSR
    from basicsr.models import build_model

    torch.backends.cudnn.benchmark = True
    model = build_model(opt)
    if hasattr(model, 'run'):
        model.run.stop_signal.restore()
    return model


_ENOUGH = 0.95  # share of the largest throughput from which on a larger batch is not worth its memory


def try_batches(rate_of: Callable[[int], float | None], limit: int) -> dict[int, float]:
    """Tries batches up to the largest that fits, or ``limit``: doubling first, then halving the gap.

    Args:
        rate_of: Gives the samples a second of a batch, or ``None`` where the memory does not hold it.

    Returns:
        Samples a second of each batch that fits.
    """
    rates: dict[int, float] = {}
    fits, too_large, batch = 0, limit + 1, 1
    while fits + 1 < too_large:
        rate = rate_of(batch)
        if rate is None:
            too_large = batch
        else:
            fits, rates[batch] = batch, rate
        batch = min(2 * fits, limit) if too_large > limit and fits else (fits + too_large) // 2
    return dict(sorted(rates.items()))


def enough(rates: Mapping[int, float]) -> int:
    """The smallest batch past which throughput hardly grows."""
    return min(batch for batch, rate in rates.items() if rate >= _ENOUGH * max(rates.values()))


_ROW = '{:>7}  {:>9}  {:>11}  {:>14}  {:>6}  {:>9}'


def batch_lines(model: Any, schedule: Schedule, has_entries: bool, limit: int, iters: int) -> Iterator[str]:
    """Tries batches of every shape of a run.

    Args:
        model: A ``MultigridVideoModel`` on one device; its weights are spoilt.
        schedule: Shapes of the run.
        has_entries: Whether ``multigrid.stages`` writes each segment out.
        limit: Largest batch.
        iters: Iterations of which the median is taken.

    Yields:
        The lines of a table, each as soon as it is known, and the lines for the option file.

    Raises:
        InputError: If one sample of a shape does not fit.
    """
    batches: dict[tuple[int, int], int] = {}
    header = _ROW.format('gt_size', 'num_frame', 'fits', 'samples/s of 1', 'enough', 'samples/s')
    yield f'{header}\n{"-" * len(header)}'
    for num_frame, gt_size in dict.fromkeys((s.shape.num_frame, s.shape.gt_size) for s in schedule.segments):
        rates = try_batches(partial(_samples_a_second, model, iters, num_frame, gt_size), limit)
        if not rates:
            raise InputError(
                f'multigrid: must have shapes of which the GPU holds one sample, got num_frame {num_frame} and '
                f'gt_size {gt_size}. Leave that shape out, or set train.amp: auto.'
            )
        best, most = enough(rates), max(rates)
        batches[num_frame, gt_size] = best
        fits = f'{most}' if most < limit else f'{most} or more'
        yield _ROW.format(gt_size, num_frame, fits, f'{rates[1]:.1f}', best, f'{rates[best]:.1f}')
    held = [batches[segment.shape.num_frame, segment.shape.gt_size] for segment in schedule.segments]
    yield ''
    if not has_entries:
        stages: dict[int, list[int]] = {}
        for segment, batch in zip(schedule.segments, held):
            stages.setdefault(segment.stage, []).append(batch)
        yield f'  batch_size_per_gpu: {shortened(list(stages.values()))}'
        return
    yield '  stages:'
    for segment, batch in zip(schedule.segments, held):
        entry = f'iter: {segment.num_iter}, gt_size: {segment.shape.gt_size}, num_frame: {segment.shape.num_frame}'
        yield f'    - {{{entry}, batch_size_per_gpu: {batch}}}'
    yield f'  # with as many samples as now: multigrid-vsr fit --fill "{held}"'


def _samples_a_second(model: Any, iters: int, num_frame: int, gt_size: int, batch: int) -> float | None:
    """The throughput of whole iterations, optimizer and EMA included; ``None`` where memory does not hold them."""
    try:
        model.lq, model.gt = random_batch(model, BatchShape(batch, num_frame, gt_size))
        times = [time_step(model.device, partial(model.update, 1)).seconds for _ in range(2 + iters)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        model.lq = model.gt = model.output = None
        for optimizer in model.optimizers:
            optimizer.zero_grad()
        if model.device.type == 'cuda':
            torch.cuda.empty_cache()
    return batch / statistics.median(times[2:])


_LOADS = 3


@dataclass(frozen=True)
class Prediction:
    """What a run takes, without validation and checkpoints.

    Attributes:
        schedule: Its shapes.
        costs: An iteration of each shape; waiting is for the batch that its workers load meanwhile.
        stock: The stock run on one GPU; ``None`` where the file does not say what it was.
        stock_step: Seconds of an iteration of BasicSR's own model at the full shape; ``None`` where it cannot train it.
        why_not: The reason.
    """

    schedule: Schedule
    costs: dict[BatchShape, Pace]
    stock: StockRun | None
    stock_step: float | None
    why_not: str = ''

    @property
    def segment_seconds(self) -> list[float]:
        return segment_seconds(self.schedule, lambda shape: self.costs[shape].seconds)

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
                {'step': self.costs[s.shape].step, 'loading': self.costs[s.shape].waiting, 'seconds': seconds}
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
            cost, count = self.costs[segment.shape], f'{segment.start + 1}-{segment.end}'
            rows.append((count, f'{segment.shape}', f'{cost.step:.4g}', f'{cost.waiting:.2g}', f'{seconds / 3600:.3g}'))
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

    stock = stock_run_of(opt, 1)
    opt = {**opt, 'num_gpu': min(opt['num_gpu'], 1)}
    train_set = opt['datasets']['train']
    schedule: Schedule = train_set['multigrid']
    dataset = build_dataset(train_set)
    model = build(opt)
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
        costs[shape] = Pace(step, max(0.0, loads[shape] / workers - step) if workers else loads[shape])
    del model
    return Prediction(schedule, costs, stock, *_stock_step(opt, dataset, rounds))


def _load(dataset: Any, schedule: Schedule, shape: BatchShape) -> tuple[dict[str, Any], float]:
    """A batch of a shape, and the seconds that one process takes for one."""
    one = Schedule.from_shapes([(_LOADS + 1, shape)], shape)
    for number in range(_LOADS + 1):
        batch = dataset[batch_requests(one, number, num_samples=len(dataset), seed=number)]
        if number == 0:  # files are opened
            start = perf_counter()
    return batch, (perf_counter() - start) / _LOADS


def _step(model: Any, batch: dict[str, Any], update: Callable[[int], Any]) -> float:
    """Seconds of one iteration: not the first, at which BasicSR's models freeze what they freeze."""
    return time_step(model.device, lambda: (model.feed_data(batch), update(2))).seconds


def _stock_step(opt: dict[str, Any], dataset: Any, rounds: int) -> tuple[float | None, str]:
    """Seconds of an iteration of BasicSR's own model at the full shape, or why it has none."""
    schedule: Schedule = opt['datasets']['train']['multigrid']
    stock = copy.deepcopy(opt)
    is_window = opt['datasets']['train']['target'] == 'center'
    stock['model_type'] = {
        'MultigridVideoModel': model_of_windows(opt['network_g']) if is_window else 'VideoRecurrentModel',
        'MultigridVideoGANModel': 'VideoRecurrentGANModel',
    }.get(opt['model_type'])
    if stock['model_type'] is None:
        return None, f'{opt["model_type"]} is none of its models'
    cosine = {'type': 'CosineAnnealingRestartLR', 'periods': [schedule.total_iter], 'restart_weights': [1]}
    stock['train']['scheduler'] = cosine
    stock['train'].setdefault('fix_flow', None)
    loaded, _ = _load(dataset, schedule, schedule.full_shape)
    if 'lq' not in loaded:
        return None, 'LQ frames are made on the device'
    batch = {key: to_float_rgb(x) if x.dtype == torch.uint8 else x for key in ('lq', 'gt') for x in [loaded[key]]}
    try:
        model = build(stock)
        times = [_step(model, batch, model.optimize_parameters) for _ in range(2 + 2 * rounds)][2:]
    except Exception as error:  # whatever BasicSR or the arch raises
        return None, 'memory does not hold its batch' if is_out_of_memory(error) else one_line(error)
    return sum(times) / len(times), ''
