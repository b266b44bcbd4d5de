"""What ``benchmarks.gpu`` tries, as data: options, shapes and networks, in order of worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.demo import training
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
# Seconds that a row of each kind takes at most, as long as none of the kind has been measured.
SECONDS = {'options': 8.0, 'steps': 15.0, 'compile': 60.0, 'loading': 20.0, 'training': 40.0, 'launches': 15.0}


@dataclass(frozen=True)
class Sizes:
    """How large all of it is.

    Attributes:
        archs: Networks that every option is tried on, with their batch, frames and ``gt_size`` of three shapes.
        network: The network whose iterations are timed.
        shapes: Shapes at which they are beside those of the recipes: the small one, the full one, the other sizes.
        warmup, rounds, iters: Iterations before those timed; rounds of so many that are.
        tried: Iterations of a shape before the one whose gradient is compared.
        seconds: Length of a training run.
        workers: ``num_worker_per_gpu``.
        patience: How many times longer than expected a row may take before it is given up.
    """

    archs: tuple[tuple[dict[str, Any], tuple[BatchShape, ...]], ...]
    network: dict[str, Any]
    shapes: tuple[BatchShape, ...]
    warmup: int
    rounds: int
    iters: int
    tried: int
    seconds: float
    workers: int
    patience: float

    @property
    def full(self) -> BatchShape:
        """Shape of the stock run."""
        return self.shapes[1]


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
DRY = Sizes(
    archs=(
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, _DRY_THREE),
        ({'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}, _DRY_THREE),
        ({'type': 'EDVR', 'num_feat': 8, **_DRY_EDVR}, _shapes((2, 5, 32), (2, 5, 64))),
        (
            {'type': 'IconVSR', 'num_feat': 8, 'num_block': 1, 'keyframe_stride': 5},
            _shapes((2, 5, 32), (2, 5, 64), (2, 6, 64)),
        ),
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


def stock_options(sizes: Sizes, total_iter: int, num_gpu: int = 0) -> dict[str, Any]:
    """A stock run on the frames of the demo, its paths from the folder of the demo on."""
    opt = yaml.safe_load(training.options(STOCK, total_iter, seed=0, num_gpu=num_gpu))
    full = sizes.full
    opt['datasets']['train'].update(
        num_frame=full.num_frame, gt_size=full.gt_size, batch_size_per_gpu=full.batch_size_per_gpu
    )
    opt['datasets']['train'].update(num_worker_per_gpu=sizes.workers, pin_memory=True)
    opt['network_g'] = dict(sizes.network)
    opt['train']['optim_g']['lr'] = 2e-4
    opt['logger']['print_freq'] = 2
    return opt


def run_options(run: str, sizes: Sizes, total_iter: int, num_gpu: int = 0) -> dict[str, Any]:
    """The stock run, or the same as ``multigrid-vsr convert --recipe`` makes it, on packed frames."""
    opt = stock_options(sizes, total_iter, num_gpu)
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
