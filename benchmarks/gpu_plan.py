"""What ``benchmarks.gpu`` tries, as data: options, shapes and networks in order of worth, and hours from times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import base_run
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models.clock import segment_seconds
from multigrid_vsr.options.conversion import convert
from multigrid_vsr.options.multigrid_block import schedule_from_options

STOCK = 'stock'  # BasicSR's own model, and its archs as it has them
GRAPH, TOGETHER = 'cuda_graph', 'together'

_FUSED = {'optim_g': {'type': 'Adam', 'lr': 1e-4, 'fused': True}}
_TOGETHER = {'amp': 'bf16', 'channels_last': True, 'cuda_graph': True, **_FUSED}
IN_PARTS = 'micro_batch_size_per_gpu: 1'  # of the `multigrid` block
# Changes of the `train` block.
OPTIONS: dict[str, dict[str, Any]] = {
    'none': {},
    GRAPH: {'cuda_graph': True},
    TOGETHER: _TOGETHER,
    IN_PARTS: {},
    'amp: bf16': {'amp': 'bf16'},
    'channels_last': {'channels_last': True},
    'arch_checks: false': {'arch_checks': False},
    'optim_g.fused': _FUSED,
    'amp: fp16': {'amp': 'fp16'},
    f'{TOGETHER}, compile': {**_TOGETHER, 'compile': True},
    f'{GRAPH}, compile': {'cuda_graph': True, 'compile': True},
    'compile': {'compile': True},
}
COLUMNS = ('none', GRAPH, TOGETHER)  # what is tried and timed first
LATE_COLUMNS = (f'{TOGETHER}, compile', f'{GRAPH}, compile', 'amp: bf16', 'channels_last', 'compile')
RUNS = (STOCK, 'plain', 'paper', 'fast')
STOCK_SAMPLES = 300_000 * 16  # BasicSR's BasicVSR on REDS
# Seconds that a row of each kind takes at most, as long as none of the kind has been measured.
SECONDS = {'options': 8.0, 'steps': 15.0, 'compile': 60.0, 'loading': 20.0, 'training': 40.0}


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    archs: tuple[tuple[dict[str, Any], tuple[BatchShape, ...]], ...]  # networks that each try every option, and shapes
    network: dict[str, Any]  # whose iterations are timed
    shapes: tuple[BatchShape, ...]  # beside those of the recipes: the small one, the full one, the other sizes
    warmup: int  # iterations before those timed
    rounds: int  # of `iters` iterations that are timed
    iters: int
    tried: int  # iterations of a shape before the one whose gradient is compared
    seconds: float  # length of a training run
    workers: int  # num_worker_per_gpu
    patience: float  # a row is given up after so many times the expected time

    @property
    def full(self) -> BatchShape:
        """Shape of the stock run."""
        return self.shapes[1]

    @property
    def whole(self) -> int:
        """Iterations of BasicSR's run on REDS, at the batch of the full shape."""
        return STOCK_SAMPLES // self.full.batch_size_per_gpu


def _shapes(*sizes: tuple[int, int, int]) -> tuple[BatchShape, ...]:
    return tuple(BatchShape(*size) for size in sizes)


_THREE = _shapes((2, 7, 128), (2, 7, 192), (2, 11, 192))
FULL = Sizes(
    archs=(
        ({'type': 'BasicVSR', 'num_feat': 64, 'num_block': 4}, _THREE),
        ({'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 1}, _THREE),
        ({'type': 'EDVR', 'num_feat': 64, 'num_frame': 5}, _shapes((2, 5, 64), (2, 5, 128), (2, 5, 192))),
        ({'type': 'IconVSR', 'num_feat': 64, 'num_block': 4}, _THREE),
    ),
    network={'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30},
    shapes=_shapes((4, 7, 128), (4, 15, 256), (4, 7, 256), (4, 15, 128)),
    warmup=5,
    rounds=3,
    iters=4,
    tried=4,  # a graph is captured in the fourth
    seconds=45,
    workers=6,
    patience=4,
)
_DRY_THREE = _shapes((2, 2, 32), (2, 2, 64), (2, 3, 64))
_DRY_EDVR = {'num_frame': 5, 'deformable_groups': 2, 'num_reconstruct_block': 1}
_DRY_ICON = {'num_feat': 8, 'num_block': 1, 'keyframe_stride': 5}
DRY = Sizes(
    archs=(
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, _DRY_THREE),
        ({'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}, _DRY_THREE),
        ({'type': 'EDVR', 'num_feat': 8, **_DRY_EDVR}, _shapes((2, 5, 32), (2, 5, 64))),
        ({'type': 'IconVSR', **_DRY_ICON}, _shapes((2, 5, 32), (2, 5, 64), (2, 6, 64))),
    ),
    network={'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
    shapes=_shapes((1, 6, 64), (1, 7, 128), (1, 6, 128), (1, 7, 64)),
    warmup=0,
    rounds=1,
    iters=1,
    tried=0,
    seconds=1,
    workers=1,
    patience=100,
)


def run_options(run: str, sizes: Sizes, total_iter: int, num_gpu: int = 0) -> dict[str, Any]:
    """The stock run on PNG files, or what ``convert --recipe`` makes of it, on packed frames, in the demo's folder."""
    opt = base_run.options(STOCK, total_iter, seed=0, num_gpu=num_gpu)
    opt['datasets']['train'].update(asdict(sizes.full), num_worker_per_gpu=sizes.workers, pin_memory=True)
    opt['network_g'] = dict(sizes.network)
    opt['train']['optim_g']['lr'] = 2e-4
    opt['logger']['print_freq'] = 2
    if run == STOCK:
        return opt
    opt = convert(opt, run).options
    roots = {f'dataroot_{kind}': f'data/store/{kind}' for kind in ('gt', 'lq')}
    opt['datasets']['train'].update(roots, io_backend={'type': 'packed'}, prefetch_mode='cpu')
    return opt


def schedules(sizes: Sizes, total_iter: int) -> dict[str, Schedule]:
    """The shapes of each run."""
    return {run: schedule_from_options(run_options(run, sizes, total_iter)) for run in RUNS}


def step_rows(sizes: Sizes) -> tuple[list[tuple[str, BatchShape]], list[tuple[str, BatchShape]]]:
    """The iterations to time, column and shape: those that the hours need, then those of other options.

    All columns of a shape follow each other: what cuDNN has tuned for one serves the others.
    """
    of_runs = schedules(sizes, 12_000)
    grown = [s.shape for run in ('fast', 'paper') for s in of_runs[run].segments if s.shape not in sizes.shapes]
    first = [(column, shape) for shape in sizes.shapes for column in (STOCK, *COLUMNS)]
    first += [(column, shape) for shape in dict.fromkeys(grown) for column in COLUMNS]
    late = [(LATE_COLUMNS[0], shape) for shape in sizes.shapes[:2]]
    late += [(column, shape) for shape in sizes.shapes for column in LATE_COLUMNS]
    return first, list(dict.fromkeys(late))


def gpu_hours(
    schedule: Schedule,
    step_ms: Mapping[BatchShape, float],
    load_ms: Mapping[tuple[int, int], float] | None = None,
    workers: int = 1,
) -> float:
    """Hours of one GPU: an iteration takes as long as its step, or as its batch takes to load if that is longer.

    Args:
        schedule: Shapes of the run.
        step_ms: Milliseconds of an iteration of each shape.
        load_ms: Milliseconds that one worker takes for a sample of (num_frame, gt_size).
        workers: Workers of the GPU.

    Raises:
        KeyError: If one of its shapes has not been measured.
    """

    def seconds(shape: BatchShape) -> float:
        sample_ms = load_ms[shape.num_frame, shape.gt_size] if load_ms is not None else 0.0
        return max(step_ms[shape], sample_ms * shape.batch_size_per_gpu / workers) / 1e3

    return sum(segment_seconds(schedule, seconds)) / 3600
