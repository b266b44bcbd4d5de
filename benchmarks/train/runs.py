"""The variants of ``python -m benchmarks.train``, and the option file of a run: the base run's, with what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

from benchmarks import base_run
from multigrid_vsr.core.lr import BATCH_SCALINGS
from multigrid_vsr.core.schedule import split
from multigrid_vsr.demo import SCALE
from multigrid_vsr.measure import model_of_windows
from multigrid_vsr.options.archs import target_of
from multigrid_vsr.options.conversion import HALF, QUARTER, RECIPES, THREE_QUARTERS
from multigrid_vsr.options.multigrid_block import schedule_from_options, total_iter_of
from multigrid_vsr.options.table import PAPER_WARMUP_PART

Stage = tuple[float | Fraction, float | Fraction, float | Fraction]


@dataclass(frozen=True)
class Variant:
    """What differs from the paper's recipe: two sizes of three frame counts each, equation 1 of the rate, one ramp."""

    sides: tuple[Fraction | int, ...] = (HALF, 1)  # crops of the spatial stages, as shares of the full one
    frames: tuple[Fraction | int, ...] = (HALF, THREE_QUARTERS, 1)  # inside a stage, as shares of the full count
    stage_shares: tuple[int, ...] = ()  # lengths of the spatial stages; empty for equal ones
    stages: tuple[Stage, ...] = ()  # instead: each segment's iterations as a share of --iters, its crop, its frames
    fill: int = 1  # with `stages`: how many times the batch smaller shapes have, at equal samples
    unfilled: float = 0  # with `fill`: share of --iters for which the first segment keeps the batch
    holds_flow: bool = False  # with `stages`: the flow network is frozen before the last one
    least_lq: int = 0  # LQ side in pixels that no crop is below
    batch: int = 1  # how many times the batch; the iterations are divided by it
    rate: str = 'linear'  # how the rate follows `batch`: none, sqrt or linear
    ramp: bool = True
    other_small_rate: bool = False  # the small stages begin at the rate where the paper halves it, and the other way
    multigrid: Mapping[str, Any] = field(default_factory=dict)  # more options of `multigrid`
    scheduler: Mapping[str, Any] = field(default_factory=dict)  # more of `train.scheduler`
    train: Mapping[str, Any] = field(default_factory=dict)  # more of `train`
    optimizer: str = 'Adam'
    network: Mapping[str, Any] = field(default_factory=dict)  # other values of `network_g`, where it has them
    starts_trained: bool = True  # from the weights of `Run.start`
    setup: str = 'multigrid'  # or `plain`: this project's parts without the block; or `stock`: BasicSR's


_VOLUME = {'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}
_CONSTANT = {'type': 'MultiStepLR', 'milestones': [10**9], 'gamma': 1}
_OPTIONS = {'channels_last': True, 'amp': 'bf16', 'fix_flow': 10**9}
_MUON = 'benchmarks.train.muon.ConvMuon'
_FAST: dict[str, Any] = {'stages': RECIPES['fast'].stages, 'least_lq': 16}
_MORE: dict[str, Any] = {
    'stages': ((2, QUARTER, THREE_QUARTERS), (0.9, HALF, THREE_QUARTERS), (0.05, 1, 1)),
    'least_lq': 16,
}
_FULL = ((Fraction(1, 6), 1, 1),) * 6  # as many periods as the paper's, all of the full shape


def _filled(fill: int = 4, scaling: str | None = 'sqrt', **more: Any) -> Variant:
    """The recipe `fast` with more samples at a time in its small shapes, the rate following the batch."""
    return Variant(**_FAST, fill=fill, scheduler={'batch_scaling': scaling} if scaling else {}, **more)


VARIANTS: dict[str, Variant] = {
    # Baselines. `stock` is BasicSR's model, dataset and loader, and its one cosine without a ramp.
    'stock': Variant(setup='stock'),
    'plain': Variant(setup='plain'),
    'full': Variant(stages=_FULL),
    'paper': Variant(),
    # What makes seeds differ, beside the network that runs begin with: the flow network, and that it learns.
    'random_flow': Variant(starts_trained=False, network={'spynet_path': None}),
    'fixed_flow': Variant(train={'fix_flow': 10**9}),
    # 1: the rate
    'cosine': Variant(scheduler={'restart': 'none', 'anneal': 'each'}),
    'each_stage': Variant(scheduler={'restart': 'stage', 'anneal': 'each'}),
    'each_shape': Variant(scheduler={'anneal': 'each'}),
    'linear': Variant(scheduler={'anneal': 'linear'}),
    'other_small_rate': Variant(other_small_rate=True),
    # 2: a larger batch, at equal samples
    'batch2_none': Variant(batch=2, rate='none'),
    'batch2_sqrt': Variant(batch=2, rate='sqrt'),
    'batch2': Variant(batch=2),
    'batch2_no_ramp': Variant(batch=2, ramp=False),
    'batch4_none': Variant(batch=4, rate='none'),
    'batch4_sqrt': Variant(batch=4, rate='sqrt'),
    'batch4': Variant(batch=4),
    'batch4_no_ramp': Variant(batch=4, ramp=False),
    'no_ramp': Variant(ramp=False),
    # 3: what grows
    'space': Variant(frames=(1,)),
    'time': Variant(sides=(1,)),
    'at_once': Variant(stages=tuple((Fraction(1, 3), share, share) for share in (HALF, THREE_QUARTERS, 1))),
    'no_middle': Variant(frames=(HALF, 1)),
    # 4: how many sizes, and from which
    'sizes3': Variant(sides=(HALF, THREE_QUARTERS, 1)),
    'sizes4': Variant(sides=(HALF, Fraction(5, 8), THREE_QUARTERS, 1)),
    'from_quarter': Variant(sides=(QUARTER, 1)),
    'from_three_quarters': Variant(sides=(THREE_QUARTERS, 1)),
    'from_more_frames': Variant(frames=(THREE_QUARTERS, 1)),
    # 5: the share of the last stage
    'last_third': Variant(stage_shares=(2, 1)),
    'last_sixth': Variant(stage_shares=(5, 1)),
    'last_twelfth': Variant(stage_shares=(11, 1)),
    'constant': Variant(scheduler=_CONSTANT),
    'last_third_constant': Variant(stage_shares=(2, 1), scheduler=_CONSTANT),
    'last_sixth_constant': Variant(stage_shares=(5, 1), scheduler=_CONSTANT),
    'last_twelfth_constant': Variant(stage_shares=(11, 1), scheduler=_CONSTANT),
    # 6: small shapes with more samples at a time
    'volume': Variant(multigrid=_VOLUME, scheduler={'batch_scaling': 'sqrt'}),
    'volume_linear': Variant(multigrid=_VOLUME, scheduler={'batch_scaling': 'linear'}),
    'volume_samples': Variant(multigrid={**_VOLUME, 'share': 'samples'}, scheduler={'batch_scaling': 'sqrt'}),
    # 8: more small iterations, so that the time is about a half, a third, a quarter of `full`
    'half': Variant(stages=((0.5, HALF, THREE_QUARTERS), (0.3, HALF, 1), (Fraction(1, 6), 1, 1))),
    'third': Variant(stages=((0.2, HALF, HALF), (0.3, HALF, THREE_QUARTERS), (0.15, HALF, 1), (0.1, 1, 1))),
    'quarter': Variant(stages=((0.25, HALF, HALF), (0.2, HALF, THREE_QUARTERS), (0.1, HALF, 1), (0.075, 1, 1))),
    # 9: what pays, together: by the schedule alone, and with every option that makes an iteration faster
    'fast': Variant(**_FAST),
    'fast_options': Variant(**_FAST, train=_OPTIONS),
    # 10: the small shapes of `fast` with more samples at a time, at equal samples
    'fill4': _filled(),
    'fill4_linear': _filled(scaling='linear'),
    'fill4_none': _filled(scaling=None),
    'fill2': _filled(fill=2),
    'fill4_options': _filled(train=_OPTIONS),
    'fill2_options': _filled(fill=2, train=_OPTIONS),
    'fill4_late_options': _filled(unfilled=0.1, train=_OPTIONS),
    'fill4_second_options': _filled(unfilled=0.9, train=_OPTIONS),  # only the second small stage is filled
    # 11: levers: by the law as good as `full`, with the flow network held in the small stages; and a matrix optimizer.
    'more': Variant(**_MORE, holds_flow=True),
    'more_options': Variant(**_MORE, train=_OPTIONS),
    'full_muon': Variant(stages=_FULL, optimizer=_MUON),
    'fast_muon_options': Variant(**_FAST, train=_OPTIONS, optimizer=_MUON),
}
VARIANTS |= {
    f'untrained_{name}': replace(variant, starts_trained=False)
    for name, variant in VARIANTS.items()
    if name in ('stock', 'full', 'paper') or name.startswith(('fast', 'fill', 'more'))
}

BATCH = 2
EMA_DECAY = 0.95
CHECKPOINTS = 4
FIXED_PART = 60  # the flow network is held for so large a part, and learns slowly then, as in BasicSR's REDS files
SIDE_MULTIPLE = 16  # an LQ side is a multiple of 4: EDVR takes no other
_SPYNET = {'spynet_path': 'data/spynet.pth'}
_EDVR = {'type': 'EDVR', 'num_feat': 16, 'num_frame': 5, 'num_extract_block': 1, 'num_reconstruct_block': 2}
_PLUS_PLUS = {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1, 'is_low_res_input': True}
NETWORKS: dict[str, dict[str, Any]] = {
    'basicvsr': {'type': 'BasicVSR', 'num_feat': 16, 'num_block': 2, **_SPYNET},
    'basicvsr_48x10': {'type': 'BasicVSR', 'num_feat': 48, 'num_block': 10, **_SPYNET},  # 45 % of the work in the trunk
    'basicvsr_64x30': {'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30, **_SPYNET},
    'basicvsrpp': {**_PLUS_PLUS, **_SPYNET},
    'edvr': {**_EDVR, 'deformable_groups': 4, 'center_frame_idx': 2},
}


class Run(NamedTuple):
    """One run; ``rate`` is the one that a run of the whole batch begins with, ``iters`` those of the full shape."""

    variant: str
    arch: str
    gt_size: int
    num_frame: int
    rate: float
    iters: int
    seed: int
    data: str = 'films'  # or `mixed`: see benchmarks/train/clips.py

    def __str__(self) -> str:
        return f'{self.variant}, seed {self.seed}'

    @property
    def name(self) -> str:
        """The name of its folder."""
        values = self[:-1] if self.data == 'films' else self
        return '_'.join(f'{value:g}' if isinstance(value, float) else str(value) for value in values)

    @property
    def folder(self) -> str:
        """Where its clips are, below the folder of the bench."""
        return 'data' if self.data == 'films' else f'data_{self.data}'

    @property
    def start(self) -> str:
        """The weights that it begins with, if it begins trained, below the folder of the bench."""
        return f'{self.folder}/start_{self.arch}.pth'


def options(run: Run, num_gpu: int = 0, checkpoints: int = CHECKPOINTS) -> dict[str, Any]:
    """The option file of a run with so many checkpoints, its end included; paths are relative to the bench's folder."""
    variant, network = VARIANTS[run.variant], NETWORKS[run.arch]
    network = network | {name: value for name, value in variant.network.items() if name in network}
    opt = base_run.options('stock' if variant.setup == 'stock' else 'multigrid', run.iters, run.seed)
    opt.update(name=run.name, num_gpu=num_gpu, network_g=network)
    if variant.starts_trained:
        opt['path']['pretrain_network_g'] = run.start
    opt['datasets']['train'].update(
        num_frame=network.get('num_frame', run.num_frame), gt_size=run.gt_size, batch_size_per_gpu=BATCH
    )
    flow = {'flow_lr_mul': 0.125, 'fix_flow': run.iters // FIXED_PART} if 'spynet_path' in network else {}
    opt['train'].update({'ema_decay': EMA_DECAY, **flow, **variant.train})
    opt['train']['optim_g'].update(type=variant.optimizer, lr=run.rate)
    opt.pop('multigrid', None)
    if variant.setup == 'stock' and target_of(opt) == 'center':
        opt['model_type'] = model_of_windows(network)
        opt['datasets']['train'].update(type='REDSDataset', dataroot_flow=None)
    if variant.setup == 'plain':
        opt['train']['scheduler'] = base_run.options('stock', run.iters, run.seed)['train']['scheduler']
    elif variant.setup == 'multigrid':
        opt['multigrid'] = (_stages if variant.stages else _nested)(variant, run, 'num_frame' in network)
        _follow(opt, variant, run)
    if variant.holds_flow:
        opt['train']['fix_flow'] = sum(entry['iter'] for entry in opt['multigrid']['stages'][:-1])
    opt['logger']['save_checkpoint_freq'] = -(-opt['train']['total_iter'] // checkpoints)
    for block in (opt['datasets']['train'], opt['network_g']):
        block |= {key: value.replace('data/', f'{run.folder}/', 1) for key, value in block.items() if _is_path(value)}
    return opt


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith('data/')


def _nested(variant: Variant, run: Run, is_fixed: bool) -> dict[str, Any]:
    """The block ``multigrid`` as lists; ``is_fixed`` where the network takes one number of frames."""
    block: dict[str, Any] = {'gt_size': [_side(run, share, variant.least_lq) for share in variant.sides]}
    if not is_fixed:
        block['num_frame'] = [math.floor(run.num_frame * share) for share in variant.frames]
    block.update(variant.multigrid)
    if variant.stage_shares or block.get('share') == 'samples':
        block['stage_iter'] = split(run.iters // variant.batch, variant.stage_shares or [1] * len(variant.sides))
    return block


def _stages(variant: Variant, run: Run, is_fixed: bool) -> dict[str, Any]:
    """The block ``multigrid`` with each segment written out, all but the last with ``fill`` times the batch."""
    entries = []
    for share, side, frames in variant.stages:
        entry = {'iter': round(run.iters * share), 'gt_size': _side(run, side, variant.least_lq)}
        if not is_fixed:
            entry['num_frame'] = math.floor(run.num_frame * frames)
        entries.append(entry)
    if variant.fill == 1:
        return {'stages': entries}
    unfilled = round(run.iters * variant.unfilled)
    early = [{**entries[0], 'iter': unfilled}] if unfilled else []
    entries[0]['iter'] -= unfilled
    for entry in entries[:-1]:
        entry |= {'iter': round(entry['iter'] / variant.fill), 'batch_size_per_gpu': BATCH * variant.fill}
    return {'stages': [entry for entry in (*early, *entries) if entry['iter']]}


def _side(run: Run, share: float | Fraction, least_lq: int) -> int:
    return max(math.floor(run.gt_size * share / SIDE_MULTIPLE) * SIDE_MULTIPLE, SCALE * least_lq)


def _follow(opt: dict[str, Any], variant: Variant, run: Run) -> None:
    """Iterations, batch, rate and ramp, as the variant has them."""
    train_opt = opt['train']
    opt['datasets']['train']['batch_size_per_gpu'] = BATCH * variant.batch
    train_opt['optim_g']['lr'] = run.rate * variant.batch ** BATCH_SCALINGS[variant.rate]
    train_opt['total_iter'] = total_iter_of(opt) or run.iters // variant.batch
    ramp = train_opt['total_iter'] // PAPER_WARMUP_PART if variant.ramp else -1
    if 'type' in variant.scheduler:
        train_opt.update(scheduler=dict(variant.scheduler), warmup_iter=ramp)
    else:
        train_opt['scheduler'].update(warmup_iter=ramp, **variant.scheduler, **_small_rates(opt, variant))


def _small_rates(opt: dict[str, Any], variant: Variant) -> dict[str, list[float]]:
    """``restart_weights``, where the paper has the small stages of an arch begin below the rate."""
    small = RECIPES['paper'].small_rates.get(opt['network_g']['type'], 1)
    if variant.other_small_rate:
        small = 0.5 if small == 1 else 1
    small_stages = schedule_from_options(opt).segments[-1].stage
    return {'restart_weights': [*[small] * small_stages, 1]} if small_stages and small != 1 else {}
