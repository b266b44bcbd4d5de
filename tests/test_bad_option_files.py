"""Option files that cannot be trained: the line each one gets, and nothing written."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import basicsr
import basicsr.utils.options
import cv2
import pytest
import torch
from probe import NETWORK, ShapeProbe, refused
from runs import TRAIN, options, refusal, run, train, write

from multigrid_vsr.cli import main

GAN = {
    'model_type': 'MultigridVideoGANModel',
    'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3},
    'train__optim_d': {'type': 'Adam', 'lr': 1e-4},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.01},
}

VAL = {
    'datasets__val': {
        'name': 'REDS4', 'type': 'VideoRecurrentTestDataset', 'dataroot_gt': '@gt', 'dataroot_lq': '@lq',
        'cache_data': True, 'io_backend': {'type': 'disk'}, 'num_frame': -1,
    },
    'val': {'val_freq': 5, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
}  # fmt: skip

BAD = [
    ({'model_type': 'VideoRecurrentModel'}, 'model_type: must be MultigridVideoModel.* beside a `multigrid` block, got VideoRecurrentModel. Set model_type'),
    ({'datasets__train__type': None}, 'datasets.train.type: must be MultigridREDSDataset.* beside a `multigrid` block, got nothing.'),
    ({'datasets__train__type': 'REDSRecurrentDatset'}, 'datasets.train.type: must be registered in BasicSR, got .* Did you mean `REDSRecurrentDataset`. One of your own'),
    ({'datasets__train__type': 'REDSRecurrentDataset', 'datasets__train__fps': 24}, 'datasets.train.fps: must be one of name, .*, got fps.'),
    ({'datasets__train__num_frame': 10, 'multigrid__num_frame': [5, 10]}, r'datasets.train.num_frame: must fit every clip \(10 frames needed with an interval of 1\), got 10 for clip 000 ' 'of 6 frames. Lower it'),
    ({'datasets__train__gt_size': 160, 'multigrid__gt_size': [64, 160]}, 'datasets.train.gt_size: must fit into every frame, got 160 for clip 000 of 144x176. Lower it'),
    ({'multigrid__batch_size_per_gpu': [23, 1]}, 'multigrid.batch_size_per_gpu: must be at most the 22 samples of the data, got 23 on 1 GPUs at gt_size 64 and num_frame 2. Lower it.'),
    ({'datasets__train__dataroot_gt': 'nowhere'}, 'datasets.train.dataroot_gt: must be a folder that exists, got nowhere. Correct the path.'),
    ({'datasets__train__val_partition': 'REDS5'}, 'datasets.train.val_partition: must be REDS4 or official, got REDS5.'),
    ({'network_g': {'type': 'BasicVSR'}, 'network_g__spynet_path': 'spynet.pth'}, 'network_g.spynet_path: must be a path that exists, got spynet.pth. Correct the path, or set it to ~.'),
    ({'path__pretrain_network_g': 'net_g.pth'}, 'path.pretrain_network_g: must be a path that exists, got net_g.pth.'),
    ({'path__resume_state': '5.state'}, 'path.resume_state: must be a path that exists, got 5.state.'),
    ({**VAL, 'datasets__val__dataroot_gt': 'nowhere'}, 'datasets.val.dataroot_gt: must be a path that exists, got nowhere.'),
    ({'num_gpu': 3}, r'num_gpu: must be at most the \d GPUs of this machine, got 3. Set num_gpu: auto.'),
    ({'num_gpu': 'all'}, 'num_gpu: must be a whole number or auto, got all. Set num_gpu: auto.'),
    ({'Multigird': {'gt_size': [64, 128]}}, 'Multigird: must be multigrid, got Multigird. Did you mean `multigrid`?'),
    ({'train__amp': 'fp32'}, 'train.amp: must be bf16, fp16, auto, got fp32. Leave it out for float32.'),
    ({'train__compile': 'fast'}, 'train.compile: must be one of true, false, default, .*, got fast. Leave it out'),
    ({'train__compile': 'reduce-overhead'}, 'train.compile: must be .*, got reduce-overhead. Leave it out for no compiling; CUDA graphs are train.cuda_graph.'),
    ({'train__cuda_graph': 1}, 'train.cuda_graph: must be true or false, got 1.'),
    ({'train__arch_checks': 'no'}, 'train.arch_checks: must be true or false, got no.'),
    ({'train__channels_last': 1}, 'train.channels_last: must be true or false, got 1. Correct the value.'),
    ({'train__scheduler': {'type': 'MultigridCosineLR', 'restart': 'stages'}}, 'train.scheduler.restart: must be none, stage, shape, got stages.'),
    ({'train__scheduler__periods': [6, 6], 'train__scheduler__restart_weights': [1, 1]}, r'train.scheduler.periods: must add up to train.total_iter \(13\), got \[6, 6\] \(sum 12\). BasicSR would fail'),
    ({**GAN, 'train__amp': 'bf16'}, 'train.amp: must be left out of a GAN run, got bf16. It trains in float32.'),
    ({**GAN, 'train__cuda_graph': True}, 'train.cuda_graph: must be left out of a GAN run, got True. Its two steps are'),
    ({**GAN, 'multigrid__micro_batch_size_per_gpu': 1, 'multigrid__batch_size_per_gpu': [2, 2]}, r'multigrid.micro_batch_size_per_gpu: must be at least the largest batch \(2\) in a GAN run, got 1. Its gradients'),
    ({'train__scheduler': 'cosine'}, 'train.scheduler: must be a block of options, got cosine. A training run needs it.'),
    ({'network_g': 'BasicVSR'}, 'network_g: must be a block of options, got BasicVSR. A training run needs it.'),
    ({**GAN, 'multigrid__gt_size': [36, 128]}, 'multigrid.gt_size: must be a multiple of 8 for UNetDiscriminatorSN, got 36. Change it.'),
    ({**GAN, 'network_d': None}, 'network_d: must be a block of options, got nothing. A training run'),
    ({**GAN, 'train__gan_opt': None}, 'train.gan_opt: must be a block of options, got nothing. A training run'),
    ({**GAN, 'datasets__train__target': 'center', 'multigrid__num_frame': None, 'datasets__train__num_frame': 5}, 'model_type: must be MultigridVideoModel for an arch with one target frame, got MultigridVideoGANModel.'),
    ({**GAN, 'network_d': {'type': 'VGGStyleDiscriminator'}}, 'multigrid.gt_size: must be 128 throughout for a VGGStyleDiscriminator with that input_size, got 64. Leave'),
    ({'val': {'val_freq': 5}}, 'val.save_img: must be given, got nothing. BasicSR asks for it when it is due.'),
    ({'val': 5}, 'val: must be a block of options, got 5. Write one option a line below it.'),
    ({'logger__print_freq': None}, 'logger.print_freq: must be given, got nothing. BasicSR asks for it when it is due.'),
    ({'name': None}, 'name: must be given, got nothing. BasicSR needs it.'),
    ({'train': None}, 'train: must be a block of options, got nothing. A training run needs it.'),
]  # fmt: skip


# Slips in BasicSR's own options; `@name` is a file or folder of the fixture below.
WINDOWS = {'datasets__val__type': 'VideoTestDataset', 'datasets__val__num_frame': 3, 'datasets__val__padding': 'circle'}
SEPTUPLETS = {'datasets__val__type': 'VideoTestVimeo90KDataset', 'datasets__val__cache_data': False}


def septuplets_with(lq: str) -> dict[str, Any]:
    roots = {'datasets__val__dataroot_gt': '@septuplets/gt', 'datasets__val__dataroot_lq': f'@septuplets/{lq}'}
    return {**SEPTUPLETS, 'datasets__val__num_frame': 7, 'datasets__val__meta_info_file': '@septuplets.txt', **roots}


BASICVSR = {'network_g': {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}}
EDVR = {
    'network_g': {'type': 'EDVR', 'num_feat': 8, 'num_frame': 5, 'deformable_groups': 2},
    'datasets__train__num_frame': 5,
    'multigrid__num_frame': None,
}
PERCEPTUAL = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}
OF_BASICSR = [
    # numbers, switches and texts
    ({'name': 2024}, 'name: must be text, got 2024. Put it in quotes.'),
    ({'scale': '4'}, "scale: must be a whole number of at least 1, got '4'. Correct the value: remove the quotes."),
    ({'num_gpu': True}, 'num_gpu: must be a whole number or auto, got True. Set num_gpu: auto.'),
    ({'manual_seed': 'random'}, 'manual_seed: must be a whole number from 0 to 4294967295, got random.'),
    ({'train__optim_g__lr': 'fast'}, 'train.optim_g.lr: must be a number above 0, got fast.'),
    ({'train__ema_decay': 1.5}, 'train.ema_decay: must be a number from 0 to below 1, got 1.5.'),
    ({'logger__print_freq': 0}, 'logger.print_freq: must be a whole number of at least 1, got 0.'),
    ({'logger__print_freq': '100'}, "logger.print_freq: must be a whole number of .*, got '100'. .* remove the quotes."),
    ({**VAL, 'val__val_freq': '5k'}, 'val.val_freq: must be a whole number of at least 1, got 5k.'),
    ({'path__strict_load_g': 'false'}, 'path.strict_load_g: must be true or false, got false.'),
    ({'datasets__train__num_worker_per_gpu': -1}, 'datasets.train.num_worker_per_gpu: must be a whole number of at l'),
    ({'datasets__train__prefetch_mode': 'gpu'}, 'datasets.train.prefetch_mode: must be cpu or cuda, got gpu.'),
    # what is missing
    ({'num_gpu': None}, 'num_gpu: must be given, got nothing. BasicSR needs it.'),
    ({'path': None}, 'path: must be given, got nothing. BasicSR needs it.'),
    ({'logger': None}, 'logger: must be given, got nothing. BasicSR needs it.'),
    ({'datasets__train__name': None}, 'datasets.train.name: must be given, got nothing. BasicSR needs it.'),
    ({'datasets__train__use_hflip': None}, 'datasets.train.use_hflip: must be given, got nothing. BasicSR needs it.'),
    ({'datasets__train__num_worker_per_gpu': None}, 'datasets.train.num_worker_per_gpu: must be given, got nothing.'),
    ({'datasets__train__io_backend': None}, 'datasets.train.io_backend: must be given, got nothing.'),
    ({'train__optim_g': None}, 'train.optim_g: must be given, got nothing. BasicSR needs it.'),
    ({'train__optim_g__lr': None}, 'train.optim_g.lr: must be given, got nothing. BasicSR needs it.'),
    ({'train__optim_g__type': None}, 'train.optim_g.type: must be given, got nothing. BasicSR needs it.'),
    ({'train__pixel_opt': None}, 'train.pixel_opt: must be given, or train.perceptual_opt, got nothing. A run needs a l'),
    ({'network_g': {}}, 'network_g.type: must be given, got nothing. BasicSR needs it.'),
    ({**GAN, 'train__fix_flow': 5}, 'train.lr_flow: must be given beside fix_flow in a GAN run, got nothing.'),
    ({'logger__wandb': {'project': 'x'}}, 'logger.use_tb_logger: must be true beside logger.wandb.project, got False.'),
    # slips in keys
    ({'train__fix_flw': 5}, 'train.fix_flw: must be one of amp, .*, got fix_flw. Did you mean `fix_flow`?'),
    ({'train__ema_decy': 0.9}, 'train.ema_decy: must be one of .*, got ema_decy. Did you mean `ema_decay`?'),
    ({'path__pretrain_networkg': '@good.pth'}, 'path.pretrain_networkg: must be one of .*Did you mean `pretrain_network_g`'),
    ({'manual_sed': 1, 'manual_seed': None}, 'manual_sed: must be an option that something reads, got 1. Did you mean `manual_seed`?'),
    ({**VAL, 'val__metric': {}, 'val__metrics': None}, 'val.metric: must be an option that something reads, got {}. Did you mean `metrics`?'),
    ({'train__optim_g__weight_decy': 0}, 'train.optim_g.weight_decy: must be one of lr, .*Did you mean `weight_decay`?'),
    # names, and arguments of what they name
    ({'network_g': {'type': 'BasicVRS'}}, 'network_g.type: must be registered in BasicSR, got BasicVRS. Did you mean `Ba'),
    ({'network_g': {'type': 'MyNet'}}, 'network_g.type: must be registered in BasicSR, got MyNet. .*has to be imported first'),
    ({'network_g': {'type': 'BasicVSR', 'num_feet': 4}}, 'network_g.num_feet: must be one of num_feat, .*Did you mean `num_feat`?'),
    ({**BASICVSR, 'network_g__num_feat': '64'}, r"network_g: must hold what BasicVSR can be built with, got .*'64'.*Error"),
    ({**BASICVSR, 'network_g__num_feat': 4.5}, r'network_g: must hold what BasicVSR can be built with, got .*4.5.*Error'),
    ({'network_g': {'type': 'ShapeProbe', 'num_feat': 4}}, 'network_g.num_feat: must be left out for ShapeProbe, got'),
    ({**BASICVSR, 'scale': 2}, 'scale: must be 4 for BasicVSR, which has it built in, got 2. Change it.'),
    ({**BASICVSR, 'scale': None}, 'scale: must be 4 for BasicVSR, which has it built in, got 1. Change it.'),
    ({**GAN, 'network_d__num_feats': 4}, 'network_d.num_feats: must be one of num_in_ch, .*Did you mean `num_feat`?'),
    ({**GAN, 'network_d': {'type': 'UNetDiscriminatorSN'}}, 'network_d.num_in_ch: must be given, got nothing. UNetDiscr'),
    ({**GAN, 'network_d__type': 'UNetDiscriminator'}, 'network_d.type: must be registered in .*`UNetDiscriminatorSN`?'),
    ({**GAN, 'train__gan_opt__gan_type': 'vanila'}, 'train.gan_opt: must hold arguments of GANLoss, got .*vanila'),
    ({'train__optim_g__type': 'Adm'}, 'train.optim_g.type: must be one of .*Adam, .*, got Adm. Did you mean `Adam`?'),
    ({'train__optim_g__type': 'Ranger'}, 'train.optim_g.type: must be one of .*Adam, .*, got Ranger. Correct the name.'),
    ({'train__optim_g__betas': 0.9}, 'train.optim_g: must hold arguments of Adam, got .*TypeError'),
    ({'train__optim_g__betas': [0.9, 1.5]}, 'train.optim_g: must hold arguments of Adam, got .*ValueError: Invalid beta'),
    ({'train__pixel_opt__type': 'CharbonierLoss'}, 'train.pixel_opt.type: must be registered in.*`CharbonnierLoss`?'),
    ({'train__pixel_opt__reduction': 'meen'}, 'train.pixel_opt: must hold arguments of CharbonnierLoss, got .*meen'),
    ({'train__pixel_opt__loss_wait': 1, 'train__pixel_opt__loss_weight': None}, 'train.pixel_opt.loss_wait: must be one of .*Did you mean `loss_weight`?'),
    ({'train__pixel_opt__loss_weight': 'one'}, 'train.pixel_opt.loss_weight: must be a number, got one.'),
    ({'train__pixel_opt': 'CharbonnierLoss'}, 'train.pixel_opt: must be a block of options, got CharbonnierLoss.'),
    ({'train__perceptual_opt': {**PERCEPTUAL, 'layer_weights': {'conv9_4': 1}}}, 'train.perceptual_opt: must hold arguments of PerceptualLoss, got .*conv9_4'),
    ({'train__perceptual_opt': {**PERCEPTUAL, 'vgg_type': 'vgg99'}}, 'train.perceptual_opt: must hold arguments of PerceptualLoss, got .*vgg99'),
    ({'train__perceptual_opt': {**PERCEPTUAL, 'criterion': 'l2'}}, 'train.perceptual_opt: must hold arguments of PerceptualLoss, got .*L2loss'),
    ({'train__perceptual_opt': {'type': 'PerceptualLoss'}}, 'train.perceptual_opt.layer_weights: must be given, got noth'),
    ({'train__scheduler__type': 'CosineLR'}, 'train.scheduler.type: must be one of MultiStepLR, .*, got CosineLR.'),
    ({'train__scheduler': {'type': 'MultiStepLR'}}, "train.scheduler: must hold arguments of MultiStepLR, got .*'milestone"),
    ({'train__scheduler__eta': 0}, "train.scheduler: must hold arguments of CosineAnnealingRestartLR, got .*'eta'"),
    ({**VAL, 'val__metrics__psnr__type': 'calc_psnr'}, 'val.metrics.psnr.type: must be registered .*`calculate_psnr`?'),
    ({**VAL, 'val__metrics__psnr__crop_border': None}, 'val.metrics.psnr.crop_border: must be given, got nothing.'),
    ({**VAL, 'val__metrics__psnr__crop_border': '4'}, 'val.metrics.psnr.crop_border: must be a whole number of at least'),
    ({**VAL, 'val__metrics__psnr__test_y_chanel': True}, 'val.metrics.psnr.test_y_chanel: .*`test_y_channel`?'),
    ({**VAL, 'val__metrics__psnr': 'calculate_psnr'}, 'val.metrics.psnr: must be a block of options, got calculate_psnr.'),
    ({**VAL, 'val__metrics': 'psnr'}, 'val.metrics: must be a block of options, got psnr.'),
    ({**VAL, 'val__metrics__psnr__better': 'up'}, 'val.metrics.psnr.better: must be higher or lower, got up.'),
    # test sets
    ({**VAL, 'datasets__val__name': 'Mine'}, 'datasets.val.name: must be Vid4, REDS4 or REDSofficial, as BasicSR asks, got'),
    ({**VAL, 'datasets__val__type': 'VideoTestDataSet'}, 'datasets.val.type: must be registered .*`VideoTestDataset`?'),
    ({**VAL, 'datasets__val__io_backend': None}, 'datasets.val.io_backend: must be given, got nothing.'),
    ({**VAL, 'datasets__val__io_backend__type': 'lmdb'}, 'datasets.val.io_backend.type: must be disk for a test set, got'),
    ({**VAL, 'datasets__val__cache_data': None}, 'datasets.val.cache_data: must be given, got nothing.'),
    ({**VAL, 'datasets__val__cache_data': False}, 'datasets.val.cache_data: must be true for a VideoRecurrentTestDataset'),
    ({**VAL, 'datasets__val__dataroot_lq': '@gt'}, 'datasets.val.dataroot_lq: must be datasets.val.dataroot_gt at 1/4, 36x44 for 144x176, got 144x176 in'),
    ({**VAL, 'datasets__val__dataroot_lq': '@lq_less'}, 'datasets.val.dataroot_lq: must hold the clips of datasets.val.dataroot_gt, got .*lq_less without 002'),
    ({**VAL, 'datasets__val__dataroot_lq': '@lq_short'}, 'datasets.val.dataroot_lq: must have as many frames as .*, 7 in .*, got 6 in .*00000006.png too many'),
    ({**VAL, 'datasets__val__dataroot_lq': '@lq_mixed'}, 'datasets.val.dataroot_lq: must hold clips of one size, got 30x44'),
    ({**VAL, 'datasets__val__dataroot_gt': '@gt_odd'}, 'datasets.val.dataroot_lq: must hold frames of 1/4 .*143x176 in'),
    ({**VAL, 'datasets__val__meta_info_file': '@list.txt'}, 'datasets.val.dataroot_gt: must hold a folder for each clip, g'),
    ({**VAL, 'datasets__val__meta_info_file': '@names.txt'}, "datasets.val.meta_info_file: must have lines like '000 100"),
    ({**VAL, 'datasets__val__meta_info_file': '@utf16.txt'}, 'datasets.val.meta_info_file: must be a list in UTF-8, got'),
    ({**VAL, **WINDOWS, 'datasets__val__padding': 'mirror'}, 'datasets.val.padding: must be replicate, .*, got mirror.'),
    ({**VAL, **WINDOWS, **EDVR}, r'datasets.val.num_frame: must be 5, as in the arch, got 3. Change it.'),
    ({**VAL, **SEPTUPLETS, 'datasets__val__num_frame': 7}, 'datasets.val.meta_info_file: must be given, got nothing.'),
    ({**VAL, **septuplets_with('large')}, 'datasets.val.dataroot_lq: must be datasets.val.dataroot_gt at 1/4, 8x8 for 32x32, got 32x32 in'),
    ({**VAL, **septuplets_with('mixed')}, 'datasets.val.dataroot_lq: must hold clips of one size, got 6x8 for 8x8 in clip 1/2: '),
    ({**VAL, **septuplets_with('less')}, r'datasets.val.meta_info_file: must list clips that exist, got none at \S+less/1/2/im7'),
    ({**VAL, 'datasets__test': {}}, 'datasets.test: must be train, val, or val_2 and so on, got test.'),
    # weights and states
    ({'path__resume_state': '@page.pth'}, 'path.resume_state: must be a whole training state of plain data, got '),
    ({'path__pretrain_network_g': '@gt'}, 'path.pretrain_network_g: must be weights that torch reads as data, got .*gt'),
    ({'path__pretrain_network_g': '@page.pth'}, 'path.pretrain_network_g: must be weights that torch reads as data, got .*'),
    ({'path__pretrain_network_g': '@bare.pth'}, r'path.param_key_g: must be a key of .*bare.pth \(conv.weight, conv.bias'),
    ({'path__pretrain_network_g': '@wide.pth'}, r'path.pretrain_network_g: must fit ShapeProbe .*conv.weight of \(12, 3, 1'),
    ({'path__pretrain_network_g': '@other.pth', 'path__strict_load_g': False}, 'path.pretrain_network_g: must fit ShapeP'),
    ({**BASICVSR, 'network_g__spynet_path': '@good.pth'}, 'network_g: must hold what BasicVSR can be built with, .*Spy'),
]  # fmt: skip


@pytest.fixture(scope='module')
def files(tmp_path_factory, clips) -> Path:
    """Test sets and weights, right and wrong ones."""
    root = tmp_path_factory.mktemp('files')
    for name in ('gt', 'gt_odd', 'lq', 'lq_less', 'lq_short', 'lq_mixed'):
        shutil.copytree(clips / name.partition('_')[0], root / name)
    shutil.rmtree(root / 'lq_less/002')
    (root / 'lq_short/002/00000006.png').unlink()
    frame = cv2.imread(str(root / 'lq_mixed/001/00000003.png'))
    cv2.imwrite(str(root / 'lq_mixed/001/00000003.png'), frame[:30])
    for path in (root / 'gt_odd').rglob('*.png'):
        cv2.imwrite(str(path), cv2.imread(str(path))[1:])
    for name in ('gt', 'lq', 'large', 'mixed', 'less'):
        (root / 'septuplets' / name / '1/2').mkdir(parents=True)
        for number in range(1, 7 if name == 'less' else 8):
            image = frame[: 32 if name in ('gt', 'large') else 8, : 32 if name in ('gt', 'large') else 8]
            image = image[:6] if (name, number) == ('mixed', 7) else image
            cv2.imwrite(str(root / 'septuplets' / name / f'1/2/im{number}.png'), image)
    (root / 'septuplets.txt').write_text('1/2 7 (32,32,3)\n')
    (root / 'list.txt').write_text('000 6 (144,176,3)\n009 7 (144,176,3)\n')
    (root / 'names.txt').write_text('000\n001\n')
    (root / 'utf16.txt').write_text('000 6 (144,176,3)\n', encoding='utf-16')
    (root / 'page.pth').write_text('<!DOCTYPE html><html>Quota exceeded</html>')
    weights = ShapeProbe().state_dict()
    torch.save({'params': weights}, root / 'good.pth')
    torch.save(weights, root / 'bare.pth')
    torch.save({'params': {'conv.weight': torch.zeros(12, 3, 1, 1), 'conv.bias': torch.zeros(12)}}, root / 'wide.pth')
    torch.save({'params': {f'other.{name}': value for name, value in weights.items()}}, root / 'other.pth')
    return root


def with_files(value: Any, root: Path) -> Any:
    """The same with `@name` replaced by the path of that file."""
    if isinstance(value, dict):
        return {key: with_files(entry, root) for key, entry in value.items()}
    return f'{root}/{value[1:]}' if isinstance(value, str) and value.startswith('@') else value


@pytest.mark.parametrize(
    ('changes', 'line'), [*BAD, *OF_BASICSR], ids=[line.split(':')[0] for _, line in [*BAD, *OF_BASICSR]]
)
def test_run_with_bad_option_stops_before_anything_is_written(
    changes, line, tmp_path, clips, files, monkeypatch, capsys
):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    opt = options(clips, **with_files({'network_g': NETWORK, **changes}, files))
    said = refused(tmp_path, opt, line)
    plan = ['plan', '-opt', str(tmp_path / 'run.yml')]
    noted = {'exists, got': 'Data not checked.', 'GPUs of this machine': 'Not for this machine.'}
    note = next((note for part, note in noted.items() if part in said), None)
    if note is not None:  # what is not on this machine cannot be checked on it
        main(plan)
        assert f'{note} {said}' in capsys.readouterr().out
    else:
        assert refusal(*plan) == said


# Options that are read otherwise than they are written: what comes of them, and what is said.
RIGHT = [
    ({'train__optim_g__lr': '1e-4'}, 1e-4, 'train.optim_g.lr: 1e-4 is text in YAML, taken as the number 0.0001.'),
    ({'logger__save_checkpoint_freq': '5e3'}, 5000, 'logger.save_checkpoint_freq: 5e3 is text in YAML, taken as the numb'),
    ({'train__scheduler__eta_min': '1E-7'}, 1e-7, 'train.scheduler.eta_min: 1E-7 is text in YAML, taken as the number 1e-'),
    ({'train__pixel_opt__eps': '1e-12'}, 1e-12, 'train.pixel_opt.eps: 1e-12 is text in YAML, taken as the number 1e-12.'),
    ({'train__total_iter': '1.3e1'}, 13, 'train.total_iter: 1.3e1 is text in YAML, taken as the number 13.'),
    ({'name': '1e5'}, '1e5', None),
    ({'datasets__train__interval_list': [1.0]}, [1], None),
    ({'path__pretrain_network_g': '~/good.pth'}, '@good.pth', None),
    ({'path__experiments_root': '~/runs'}, '@runs/run', None),
    ({'datasets__train__dataroot_gt': '~/gt'}, '@gt', None),
    ({**VAL, 'datasets__val__dataroot_lq': '~/lq'}, '@lq', None),
    ({**VAL, 'datasets__val__meta_info_file': '~/one.txt'}, '@one.txt', None),
    ({**VAL, **septuplets_with('lq')}, '@septuplets/lq', None),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'value', 'note'), RIGHT, ids=[list(changes)[-1] for changes, _, _ in RIGHT])
def test_option_written_otherwise_than_meant_is_taken_as_meant(
    changes, value, note, tmp_path, clips, files, monkeypatch, capsys
):
    (files / 'one.txt').write_text('000 6 (144,176,3)\n')
    monkeypatch.setenv('HOME', str(files))
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    opt = options(clips, **with_files({'network_g': NETWORK, **changes}, files))
    opt['train']['scheduler']['periods'] = [13]
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(write(tmp_path, opt))])
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    parsed, _ = basicsr.utils.options.parse_options(str(tmp_path))
    for key in list(changes)[-1].split('__'):
        parsed = parsed[key]
    assert parsed == with_files(value, files)
    printed = capsys.readouterr().out
    assert ('is text in YAML' in printed) is (note is not None)
    assert (note or '') in printed


BAD_TEXTS = [
    ('a: !!python/object/apply:os.system [touch ran]', r'bad.yml: must be plain YAML, got the tag !!python/object/apply:os.system. Such a tag runs code'),
    ('%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system [touch ran]', 'must be plain YAML, got'),
    ('a: !<tag:yaml.org,2002:python/object/apply:os.system> [touch ran]', 'must be plain YAML, got the tag'),
    ('name: [run', r'bad.yml: must be YAML, got while parsing a flow sequence.*line 1.*Correct that line.'),
    ('just words', 'bad.yml: must hold options, got str.'),
]  # fmt: skip


@pytest.mark.parametrize(('text', 'line'), BAD_TEXTS)
def test_file_that_is_no_option_file_is_one_line(text, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('bad.yml').write_text(text)
    printed = refusal('plan', '-opt', 'bad.yml')
    assert re.search(line, printed)
    assert '\n' not in printed
    assert [path.name for path in tmp_path.iterdir()] == ['bad.yml']


@pytest.mark.parametrize('script', ['test.py', 'train.py'])
def test_script_of_basicsr_with_file_that_is_no_option_file_exits_with_one_line(script, tmp_path):
    (tmp_path / 'bad.yml').write_text(BAD_TEXTS[0][0])
    done = run(sys.executable, Path(basicsr.__file__).parent / script, '-opt', 'bad.yml', cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert re.search(BAD_TEXTS[0][1], done.stdout)
    assert done.stdout.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['bad.yml']


def test_command_with_bad_option_exits_with_one_line(tmp_path, clips):
    write(tmp_path, options(clips, multigrid__gt_size=[128, 64]))
    done = run(*TRAIN, 'run.yml', cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert done.stdout == (
        'multigrid.gt_size: must grow strictly, got [128, 64]. Sort it, without repeats; other '
        'orders go into `stages`.\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


def test_command_with_missing_file_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = '-opt: must be a file that can be read, got no.yml (No such file or directory). Correct the path.'
    assert refusal('train', '-opt', 'no.yml').splitlines()[-1] == line


def test_force_yml_with_unknown_block_is_refused(tmp_path, clips):
    line = '--force_yml: must be key:key=value with keys .* got a:b=1'
    refused(tmp_path, options(clips), line, '--force_yml', 'a:b=1')


def test_plan_prints_the_table_of_the_log(tmp_path, clips, capsys):
    opt_file = write(tmp_path, options(clips))
    main(['plan', '-opt', str(opt_file)])
    printed = capsys.readouterr().out
    # Written by hand: samples are batch x iterations, Mpixels samples x frames x gt_size^2 / 10^6, cost b t g^2 against
    # 1 x 4 x 128^2, the rate 0.001 (1 + cos(pi i / 13)) / 2 with i = 0, 1, 2, ... 12.
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == 'stage iterations count gt_size num_frame batch/gpu samples Mpixels cost learning rate'.split()
    assert rows[2:9] == [
        ['1', '1-2', '2', '64', '2', '2', '4', '0.033', '25.0%', '1.00e-03', 'to', '9.85e-04'],
        ['1', '3-4', '2', '64', '3', '2', '4', '0.049', '37.5%', '9.43e-04', 'to', '8.74e-04'],
        ['1', '5-6', '2', '64', '4', '2', '4', '0.066', '50.0%', '7.84e-04', 'to', '6.77e-04'],
        ['2', '7-8', '2', '128', '2', '1', '2', '0.066', '50.0%', '5.60e-04', 'to', '4.40e-04'],
        ['2', '9-10', '2', '128', '3', '1', '2', '0.098', '75.0%', '3.23e-04', 'to', '2.16e-04'],
        ['2', '11-13', '3', '128', '4', '1', '3', '0.197', '100.0%', '1.26e-04', 'to', '1.46e-05'],
        ['all', '1-13', '13', '19', '0.508', '59.6%'],
    ]
    pixels = '0.508 Mpixels against 0.852 for 13 iterations of the full shape: 1.68x fewer at equal iterations.'
    assert pixels in printed
    notes = [
        'Note: LQ frames of 16 pixels. The paper stays at 32 or more: it lost quality with 16.',
        'Note: 2 frames. The paper stays at 6 or more: it lost quality with 3.',
    ]
    assert [line for line in printed.splitlines() if line.startswith('Note')] == notes
    assert '3 clips of 22 frames.' in printed
    log = train(tmp_path, opt_file)
    assert '\n'.join(printed.splitlines()[:9]) in log
    assert all(f'INFO: {note}' in log for note in notes)


def test_plan_without_the_data_still_prints_the_table(tmp_path, clips, capsys):
    opt_file = write(tmp_path, options(clips, datasets__train__dataroot_gt='nowhere'))
    main(['plan', '-opt', str(opt_file), '--gpus', '2', '--force_yml', 'multigrid:num_frame=[4]'])
    printed = capsys.readouterr().out
    assert printed.splitlines()[2].split()[:9] == ['1', '1-6', '6', '64', '4', '2', '24', '0.393', '50.0%']
    assert 'Data not checked. datasets.train.dataroot_gt: must be a folder that exists, got nowhere.' in printed
