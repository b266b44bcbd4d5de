"""The options of one run of the bench: those of the demo, changed where its variant differs."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import yaml

from benchmarks.train.variants import VARIANTS, Variant
from multigrid_vsr.core.lr import BATCH_SCALINGS
from multigrid_vsr.core.schedule import split
from multigrid_vsr.demo import training
from multigrid_vsr.demo.training import SCALE
from multigrid_vsr.measure import model_of_windows
from multigrid_vsr.options.archs import target_of
from multigrid_vsr.options.conversion import PAPER_WARMUP_PART, RECIPES
from multigrid_vsr.options.multigrid_block import schedule_from_options, total_iter_of

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

    def __str__(self) -> str:
        return f'{self.variant}, seed {self.seed}'

    @property
    def name(self) -> str:
        """The name of its folder."""
        return '_'.join(f'{value:g}' if isinstance(value, float) else str(value) for value in self)


def options(run: Run, num_gpu: int = 0, checkpoints: int = CHECKPOINTS) -> dict[str, Any]:
    """The option file of a run with so many checkpoints, its end included; paths are relative to the bench's folder."""
    variant, network = VARIANTS[run.variant], NETWORKS[run.arch]
    network = network | {name: value for name, value in variant.network.items() if name in network}
    opt = _demo('stock' if variant.setup == 'stock' else 'multigrid', run)
    opt.update(name=run.name, num_gpu=num_gpu, network_g=network)
    if variant.starts_trained:
        opt['path']['pretrain_network_g'] = start_of(run.arch)
    opt['datasets']['train'].update(
        num_frame=network.get('num_frame', run.num_frame), gt_size=run.gt_size, batch_size_per_gpu=BATCH
    )
    opt['train'].update({'ema_decay': EMA_DECAY, **(_flow(run) if 'spynet_path' in network else {}), **variant.train})
    opt['train']['optim_g']['lr'] = run.rate
    opt.pop('multigrid', None)
    if variant.setup == 'stock' and target_of(opt) == 'center':
        opt['model_type'] = model_of_windows(network)
        opt['datasets']['train'].update(type='REDSDataset', dataroot_flow=None)
    if variant.setup == 'plain':
        opt['train']['scheduler'] = _demo('stock', run)['train']['scheduler']
    elif variant.setup == 'multigrid':
        is_fixed = 'num_frame' in network
        opt['multigrid'] = _stages(variant, run, is_fixed) if variant.stages else _nested(variant, run, is_fixed)
        _follow(opt, variant, run)
    opt['logger']['save_checkpoint_freq'] = -(-opt['train']['total_iter'] // checkpoints)
    return opt


def start_of(arch: str) -> str:
    """Weights that the runs of an arch begin with, below the folder of the bench."""
    return f'data/start_{arch}.pth'


def _demo(name: str, run: Run) -> dict[str, Any]:
    return dict(yaml.safe_load(training.options(name, run.iters, run.seed)))


def _flow(run: Run) -> dict[str, Any]:
    return {'flow_lr_mul': 0.125, 'fix_flow': run.iters // FIXED_PART}


def _nested(variant: Variant, run: Run, is_fixed: bool) -> dict[str, Any]:
    block: dict[str, Any] = {'gt_size': [_side(run, share, variant.least_lq) for share in variant.sides]}
    if not is_fixed:
        block['num_frame'] = [math.floor(run.num_frame * share) for share in variant.frames]
    block.update(variant.multigrid)
    if variant.stage_shares or block.get('share') == 'samples':
        block['stage_iter'] = split(run.iters // variant.batch, variant.stage_shares or [1] * len(variant.sides))
    return block


def _stages(variant: Variant, run: Run, is_fixed: bool) -> dict[str, Any]:
    entries = []
    for share, side, frames in variant.stages:
        entry = {'iter': round(run.iters * share), 'gt_size': _side(run, side, variant.least_lq)}
        if not is_fixed:
            entry['num_frame'] = math.floor(run.num_frame * frames)
        entries.append(entry)
    if variant.fill == 1:
        return {'stages': entries}
    first, *others = entries
    unfilled = round(run.iters * variant.unfilled)
    early = [{**first, 'iter': unfilled}] if unfilled else []
    small = [{**first, 'iter': first['iter'] - unfilled}, *others[:-1]]
    filled = [
        {**entry, 'iter': round(entry['iter'] / variant.fill), 'batch_size_per_gpu': BATCH * variant.fill}
        for entry in small
    ]
    return {'stages': [*early, *filled, others[-1]]}


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
