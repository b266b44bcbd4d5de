"""The bits of runs and of the loader, to compare two versions of this project on one machine.

``python tests/bits.py before.json`` in one checkout, ``python tests/bits.py after.json before.json`` in the other: it
prints what differs and exits with 1. It uses commands and option files only, so that both versions may differ inside.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import write_stock_clips
from runs import make_lmdbs

ARCHS: dict[str, tuple[dict[str, Any], int, list[int], list[int]]] = {  # network_g, scale, gt_size, num_frame
    'BasicVSR': ({'num_feat': 4, 'num_block': 1}, 4, [64, 128], [2, 3, 6]),
    'IconVSR': ({'num_feat': 8, 'num_block': 1, 'temporal_padding': 2}, 4, [64, 128], [5, 6]),
    'EDVR': ({'num_feat': 8, 'num_reconstruct_block': 1, 'num_extract_block': 1, 'num_frame': 5}, 4, [64, 128], [5]),
    'DUF': ({'num_layer': 16}, 4, [32, 64], [7]),
    'TOFlow': ({}, 1, [16, 32], [7]),
    'BasicVSRPlusPlus': ({'mid_channels': 16, 'num_blocks': 1}, 4, [64, 128], [2, 3, 4]),
}
OPTIONS = """
model_type: MultigridVideoModel
num_gpu: 0
manual_seed: 3
datasets:
  train: {name: clips, type: MultigridREDSDataset, io_backend: {type: disk}, interval_list: [1], random_reverse: true,
    use_hflip: true, use_rot: true, num_worker_per_gpu: 0, batch_size_per_gpu: 1, prefetch_mode: ~}
path: {strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 0.001, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [6], restart_weights: [1], eta_min: 1.0e-7}
  total_iter: 6
  warmup_iter: -1
  pixel_opt: {type: CharbonnierLoss, loss_weight: 1.0, reduction: mean}
logger: {print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false}
"""


def options(root: Path, name: str, arch: str) -> dict[str, Any]:
    """An option file of six iterations."""
    network, scale, gt_size, num_frame = ARCHS[arch]
    opt = yaml.safe_load(OPTIONS)
    lq = 'lq' if scale > 1 else 'gt'
    opt['datasets']['train'].update(
        dataroot_gt=str(root / 'gt'), dataroot_lq=str(root / lq), gt_size=gt_size[-1], num_frame=num_frame[-1]
    )
    opt |= {'name': name, 'scale': scale, 'network_g': {'type': arch, **network}, 'multigrid': {'gt_size': gt_size}}
    if len(num_frame) > 1:
        opt['multigrid']['num_frame'] = num_frame
    return opt


def train(folder: Path, opt: dict[str, Any], *arguments: str, kill_after: int = 0) -> Path:
    """Runs ``multigrid-vsr train``, killed after an iteration where one is given; returns the folder of the run."""
    opt_file = folder / f'{opt["name"]}.yml'
    opt_file.write_text(yaml.safe_dump(opt, sort_keys=False))
    command = [sys.executable, __file__, 'train', '-opt', str(opt_file), *arguments]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    printed = ''
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if kill_after and f'iter:{kill_after:8,d}, ' in line:
                process.send_signal(signal.SIGKILL)
    if process.returncode != (-signal.SIGKILL if kill_after else 0):
        raise SystemExit(printed)
    return folder / 'experiments' / opt['name']


def bits_of(weights: Path) -> str:
    """SHA-256 of all tensors of a checkpoint, in the order of their names."""
    digest = hashlib.sha256()
    for key, tensors in sorted(torch.load(weights, weights_only=True).items()):
        for name in sorted(tensors):
            digest.update(f'{key}.{name}'.encode())
            digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def all_bits(folder: Path) -> dict[str, str]:
    """The bits of each run, and of the loader's first 100 batches from each back end."""
    write_stock_clips(folder)
    make_lmdbs(folder, folder)
    found: dict[str, str] = {}
    stock = options(folder, 'stock', 'BasicVSR')
    del stock['multigrid']
    stock['model_type'] = 'VideoRecurrentModel'
    stock['datasets']['train'].update(
        type='REDSRecurrentDataset',
        meta_info_file=str(folder / 'meta_info.txt'),
        val_partition='REDS4',
        test_mode=False,
    )
    found['stock'] = bits_of(train(folder, stock) / 'models/net_g_6.pth')
    for arch in ARCHS:
        found[arch] = bits_of(train(folder, options(folder, arch, arch)) / 'models/net_g_6.pth')
    killed = options(folder, 'killed', 'BasicVSR')
    train(folder, killed, kill_after=5)
    found['killed and resumed'] = bits_of(train(folder, killed, '--auto_resume') / 'models/net_g_6.pth')
    prepare = [sys.executable, '-m', 'multigrid_vsr.cli', 'prepare', '--gt', str(folder / 'gt')]
    prepare += ['--lq', str(folder / 'lq'), '-o', str(folder / 'store')]
    subprocess.run(prepare, check=True, capture_output=True)
    for backend, suffix in (('disk', ''), ('lmdb', '.lmdb'), ('packed', '')):
        for workers in (0, 2):
            opt = options(folder, f'{backend} {workers}', 'BasicVSR')
            root = folder / 'store' if backend == 'packed' else folder
            opt['datasets']['train'].update(
                dataroot_gt=str(root / f'gt{suffix}'), dataroot_lq=str(root / f'lq{suffix}'),
                io_backend={'type': backend}, num_worker_per_gpu=workers,
            )  # fmt: skip
            opt['multigrid'] |= {'batch_size_per_gpu': [3, 2]}
            opt['network_g'] = {'type': 'HashedInput'}
            opt['train'].update(total_iter=100, pixel_opt={'type': 'HashedLoss'})
            opt['train']['scheduler']['periods'] = [100]
            opt['logger'].update(save_checkpoint_freq=1000)
            found[f'loader, {backend}, {workers} workers'] = (train(folder, opt) / 'batches.sha256').read_text()
    return found


def register() -> None:
    """An arch and a loss that take down what the loader gives them."""
    from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

    digest = hashlib.sha256()

    @ARCH_REGISTRY.register()
    class HashedInput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 48, 1)

        def forward(self, lq: torch.Tensor) -> torch.Tensor:
            digest.update(f'{tuple(lq.shape)}'.encode() + lq.numpy().tobytes())
            return torch.pixel_shuffle(self.conv(lq.flatten(0, 1)), 4).unflatten(0, lq.shape[:2])

    @LOSS_REGISTRY.register()
    class HashedLoss(torch.nn.Module):
        def forward(self, output: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
            digest.update(f'{tuple(gt.shape)}'.encode() + gt.numpy().tobytes())
            return (output - gt).abs().mean()

    name = yaml.safe_load(Path(sys.argv[sys.argv.index('-opt') + 1]).read_text())['name']
    process = os.getpid()

    def write() -> None:
        if os.getpid() == process and Path('experiments', name).is_dir():
            Path('experiments', name, 'batches.sha256').write_text(digest.hexdigest())

    atexit.register(write)


def main() -> None:
    if sys.argv[1] == 'train':
        register()
        from multigrid_vsr.cli import main as command

        return command()
    with tempfile.TemporaryDirectory() as folder:
        found = all_bits(Path(folder))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
    if len(sys.argv) > 2:
        before = json.loads(Path(sys.argv[2]).read_text())
        changed = [name for name in before if before[name] != found.get(name)]
        print(f'{len(before) - len(changed)} of {len(before)} have the same bits.', *changed, sep='\n')
        raise SystemExit(1 if changed else 0)
    return None


if __name__ == '__main__':
    main()
