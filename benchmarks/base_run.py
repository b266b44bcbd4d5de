"""The run that benchmarks change: a small BasicVSR on the frames of the demo, stock or multigrid, for a few minutes."""

from __future__ import annotations

from typing import Any

import yaml

from multigrid_vsr import demo
from multigrid_vsr.options.table import PAPER_WARMUP_PART


def options(name: str, iters: int, seed: int, num_gpu: int = 0) -> dict[str, Any]:
    """The options of ``stock`` or ``multigrid``, with paths below the folder of the demo: the demo's, changed.

    The digest of all committed runs in tests/test_bench_train.py holds them, whatever becomes of the demo.
    """
    opt: dict[str, Any] = yaml.safe_load(demo.options('full', iters, seed))
    is_stock = name == 'stock'
    opt |= {'name': name, 'num_gpu': num_gpu}
    folder = 'data/train' if is_stock else 'data/store'
    opt['datasets'] = {
        'train': opt['datasets']['train']
        | {'dataroot_gt': f'{folder}/gt', 'dataroot_lq': f'{folder}/lq', 'meta_info_file': 'data/train/meta_info.txt'}
        | {'test_mode': False, 'gt_size': 128, 'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 200}
        | {'prefetch_mode': None if is_stock else 'cpu'}
    }
    opt['multigrid'] = {'gt_size': [64, 128], 'num_frame': [3, 5, 7]}
    opt['train']['scheduler']['warmup_iter'] = iters // PAPER_WARMUP_PART
    opt['train']['total_iter'] = iters
    opt['logger']['save_checkpoint_freq'] = iters // (4 if iters >= 60 else 2)
    for block, option in ((opt, 'val'), *((opt['train'], key) for key in ('amp', 'channels_last', 'ema_decay'))):
        del block[option]
    if is_stock:
        del opt['multigrid']
        opt['model_type'] = 'VideoRecurrentModel'
        opt['datasets']['train'] |= {'type': 'REDSRecurrentDataset', 'io_backend': {'type': 'disk'}}
        cosine = {'type': 'CosineAnnealingRestartLR', 'periods': [iters], 'restart_weights': [1]}
        opt['train']['scheduler'] = {**cosine, 'eta_min': opt['train']['scheduler']['eta_min']}
    return opt
