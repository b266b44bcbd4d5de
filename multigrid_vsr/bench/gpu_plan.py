"""What ``bench gpu`` tries, as data: options, shapes and networks, in order of worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.demo import training
from multigrid_vsr.options.conversion import convert
from multigrid_vsr.options.multigrid_block import schedule_from_options

STOCK = 'stock'  # BasicSR's own model
TOGETHER = 'together'
SHARES = {'options': 0.25, 'steps': 0.57, 'loading': 0.62, 'training': 1.0}  # of the time, when each part ends

_FUSED = {'optim_g': {'type': 'Adam', 'lr': 1e-4, 'fused': True}}
# Changes of the `train` block; a graph of what is compiled is a matter of `compile` itself.
OPTIONS: dict[str, dict[str, Any]] = {
    'none': {},
    'amp: bf16': {'amp': 'bf16'},
    'channels_last': {'channels_last': True},
    'arch_checks: false': {'arch_checks': False},
    'cuda_graph': {'cuda_graph': True},
    'optim_g.fused': _FUSED,
    'amp: fp16': {'amp': 'fp16'},
    TOGETHER: {'amp': 'bf16', 'channels_last': True, 'cuda_graph': True, **_FUSED},
    'compile': {'compile': True},
    f'{TOGETHER}, compile': {'amp': 'bf16', 'channels_last': True, 'compile': True, **_FUSED},
}
IN_PARTS = 'max_batch_size_per_gpu: 1'  # of the `multigrid` block, and so not among them
COLUMNS = (STOCK, 'none', 'amp: bf16', 'channels_last', 'cuda_graph', TOGETHER, 'compile', f'{TOGETHER}, compile')
RECIPE_COLUMNS = ('none', TOGETHER)  # what the predicted hours are for, beside stock


@dataclass(frozen=True)
class Sizes:
    """How large all of it is.

    Attributes:
        archs: Networks that every option is tried on, with their batch, frames of the three shapes, and ``gt_size``.
        network: The network whose iterations are timed.
        shapes: Shapes at which they are: the small ones, then the full ones.
        batches: More batches, at the first shape.
        full: Shape of the stock run that the hours are predicted for.
        warmup, rounds, iters: Iterations before those timed; rounds of so many that are.
        tried: Iterations at each of the three shapes.
        seconds: Length of a training run.
        workers: ``num_worker_per_gpu``.
    """

    archs: tuple[tuple[dict[str, Any], tuple[BatchShape, BatchShape, BatchShape]], ...]
    network: dict[str, Any]
    shapes: tuple[BatchShape, ...]
    batches: tuple[int, ...]
    full: BatchShape
    warmup: int
    rounds: int
    iters: int
    tried: tuple[int, int, int]
    seconds: float
    workers: int


def _three(batch: int, frames: tuple[int, int, int], sides: tuple[int, int, int]) -> Any:
    return tuple(BatchShape(batch, num_frame, gt_size) for num_frame, gt_size in zip(frames, sides))


FULL = Sizes(
    archs=(
        ({'type': 'BasicVSR', 'num_feat': 64, 'num_block': 4}, _three(2, (7, 7, 11), (128, 192, 192))),
        (
            {'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 1},
            _three(2, (7, 7, 11), (128, 192, 192)),
        ),
        ({'type': 'EDVR', 'num_feat': 64, 'num_frame': 5}, _three(2, (5, 5, 5), (64, 128, 192))),
        ({'type': 'IconVSR', 'num_feat': 64, 'num_block': 4}, _three(2, (7, 7, 11), (128, 192, 192))),
    ),
    network={'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30},
    shapes=tuple(BatchShape(4, num_frame, gt_size) for gt_size in (128, 256) for num_frame in (7, 11, 15)),
    batches=(8, 16, 32),
    full=BatchShape(4, 15, 256),
    warmup=5,
    rounds=3,
    iters=4,
    tried=(7, 7, 6),
    seconds=60,
    workers=6,
)
DRY = Sizes(
    archs=(
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, _three(2, (2, 2, 3), (32, 64, 64))),
        ({'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}, _three(2, (2, 2, 3), (32, 64, 64))),
        (
            {'type': 'EDVR', 'num_feat': 8, 'num_frame': 5, 'deformable_groups': 2, 'num_reconstruct_block': 1},
            _three(2, (5, 5, 5), (32, 64, 64)),
        ),
        (
            {'type': 'IconVSR', 'num_feat': 8, 'num_block': 1, 'keyframe_stride': 5},
            _three(2, (5, 5, 6), (32, 64, 64)),
        ),
    ),
    network={'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
    shapes=tuple(BatchShape(1, num_frame, gt_size) for gt_size in (32, 64) for num_frame in (6, 7)),
    batches=(2,),
    full=BatchShape(1, 7, 128),
    warmup=0,
    rounds=1,
    iters=1,
    tried=(2, 1, 1),
    seconds=1,
    workers=1,
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


def recipe_options(recipe: str, sizes: Sizes, total_iter: int, num_gpu: int = 0) -> dict[str, Any]:
    """The same run as ``multigrid-vsr convert --recipe`` makes it, on packed frames."""
    opt = convert(stock_options(sizes, total_iter, num_gpu), recipe).options
    roots = {f'dataroot_{kind}': f'data/store/{kind}' for kind in ('gt', 'lq')}
    opt['datasets']['train'].update(roots, io_backend={'type': 'packed'}, prefetch_mode='cpu')
    return opt


def step_rows(sizes: Sizes) -> Iterator[tuple[str, BatchShape]]:
    """The iterations to time, column and shape, in order of worth; none twice."""
    grown = [BatchShape(batch, sizes.shapes[0].num_frame, sizes.shapes[0].gt_size) for batch in sizes.batches]
    fast = [s.shape for s in schedule_from_options(recipe_options('fast', sizes, 12_000)).segments]
    rows = [(column, shape) for column in COLUMNS[:2] for shape in sizes.shapes]
    rows += [(TOGETHER, shape) for shape in sizes.shapes]
    rows += [(column, shape) for column in RECIPE_COLUMNS for shape in (*fast, *grown)]
    rows += [(column, shape) for column in COLUMNS for shape in sizes.shapes]
    return iter(row for row in dict.fromkeys(rows) if row[0] == STOCK or row[0] in OPTIONS)
