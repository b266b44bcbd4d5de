"""The model: validation on the CPU, the EMA, the frozen flow network, the log."""

from __future__ import annotations

import logging
import re
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils.options import parse_options
from probe import NETWORK, train_here
from runs import options, write

METRICS = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}}


def validation_set(clips, kind='VideoRecurrentTestDataset', name='REDS4'):
    return {
        'name': name,
        'type': kind,
        'dataroot_gt': str(clips / 'gt'),
        'dataroot_lq': str(clips / 'lq'),
        'cache_data': True,
        'io_backend': {'type': 'disk'},
        'num_frame': 3 if kind == 'VideoTestDataset' else -1,
        'padding': 'reflection',
    }


def build(folder, opt):
    """The model of an option file, and its validation loaders, as BasicSR's training script builds them."""
    with mock.patch.object(sys, 'argv', ['train.py', '-opt', str(write(folder, opt))]):
        opt, _ = parse_options(str(folder), is_train=True)
    loaders = [build_dataloader(build_dataset(o), o) for phase, o in opt['datasets'].items() if phase.startswith('val')]
    return build_model(opt), loaders


def psnr(folder, clips):
    """Mean over clips of the mean PSNR of the saved frames, computed from the files alone."""
    means = []
    for clip in sorted(path.name for path in (clips / 'gt').iterdir()):
        values = []
        for path in sorted((clips / 'gt' / clip).iterdir()):
            result = cv2.imread(str(folder / clip / f'{path.stem}_7.png')).astype(float)
            values.append(10 * np.log10(255**2 / np.mean((result - cv2.imread(str(path))) ** 2)))
        means.append(np.mean(values))
    return np.mean(means)


@pytest.mark.parametrize('kind', ['VideoRecurrentTestDataset', 'VideoTestDataset'])
@pytest.mark.parametrize('ema', [0, 0.5])
def test_validation_logs_the_psnr_of_the_frames_it_saves(kind, ema, tmp_path, clips, caplog):
    network = NETWORK if kind == 'VideoRecurrentTestDataset' else {'type': 'CentreProbe'}
    opt = options(clips, network_g=network, datasets__val=validation_set(clips, kind), train__ema_decay=ema)
    model, (loader,) = build(tmp_path, {**opt, 'val': {'metrics': METRICS}})
    if ema:  # what is validated is the average: the trained weights would give white frames
        torch.nn.init.constant_(model.net_g.conv.weight, 1e3)
    with mock.patch.object(logging.getLogger('basicsr'), 'propagate', True), caplog.at_level('INFO'):
        model.validation(loader, 7, None, save_img=True)
    logged = float(re.search(r'# psnr: ([\d.]+)', caplog.text).group(1))
    assert logged == pytest.approx(psnr(tmp_path / 'experiments/run/visualization/REDS4', clips), abs=1e-3)
    assert model.net_g.training
    assert not ema or not model.net_g_ema.training


def test_validation_without_metrics_runs(tmp_path, clips):
    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips))
    model, (loader,) = build(tmp_path, {**opt, 'val': {}})
    model.validation(loader, 7, None, save_img=True)
    assert len(list((tmp_path / 'experiments/run/visualization').rglob('*_7.png'))) == 22


def test_validation_of_two_sets_keeps_their_best_apart(tmp_path, clips):
    """BasicSR keeps the table of the first set, and fails where the second has other folders."""
    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips))
    opt['datasets']['val_2'] = validation_set(clips, 'VideoRecurrentTestDataset', 'Vid4')
    opt['datasets']['val_2']['dataroot_gt'] = opt['datasets']['val_2']['dataroot_lq']  # x1: measures as -1 dB or so
    model, loaders = build(tmp_path, {**opt, 'val': {'metrics': METRICS}})
    model.net_g.forward = lambda lq: torch.nn.functional.interpolate(lq[0], scale_factor=4)[None]
    model.validation(loaders[0], 7, None, save_img=False)
    model.net_g.forward = lambda lq: lq
    model.validation(loaders[1], 7, None, save_img=False)
    assert 20 < model.best_metric_results['REDS4']['psnr']['val'] < 40
    assert model.best_metric_results['Vid4']['psnr']['val'] == float('inf')


def test_validation_with_flip_seq_and_center_frame_runs(tmp_path, clips):
    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips))
    model, (loader,) = build(tmp_path, {**opt, 'val': {'flip_seq': True, 'center_frame_only': True}})
    model.validation(loader, 7, None, save_img=True)
    assert len(list((tmp_path / 'experiments/run/visualization').rglob('*_7.png'))) == 3


def flow_weights(path):
    weights = torch.load(path, weights_only=True)['params']
    return {name: weight for name, weight in weights.items() if 'spynet.basic' in name}


def changed(folder, first, second):
    """Whether the flow network and whether the rest changed between two checkpoints."""
    first, second = (
        torch.load(folder / f'experiments/run/models/net_g_{n}.pth', weights_only=True)['params']
        for n in (first, second)
    )
    names = {flow: [name for name in first if ('spynet.basic' in name) is flow] for flow in (True, False)}
    return tuple(any(not torch.equal(first[name], second[name]) for name in names[flow]) for flow in (True, False))


def test_fix_flow_holds_by_iteration_in_a_resumed_run_too(tmp_path, clips):
    """Iterations 1 to 5 leave the flow network alone, iteration 6 is the first that trains it."""
    opt = options(
        clips,
        train__fix_flow=6,
        train__total_iter=7,
        train__scheduler__periods=[7],
        multigrid={'gt_size': [64, 128]},
        logger__save_checkpoint_freq=1,
    )
    train_here(tmp_path, opt)
    assert [changed(tmp_path, n, n + 1) for n in range(1, 7)] == [(False, True)] * 4 + [(True, True)] * 2
    for number in (4, 5, 6, 7):
        (tmp_path / f'experiments/run/training_states/{number}.state').unlink()
    whole = torch.load(tmp_path / 'experiments/run/models/net_g_7.pth', weights_only=True)['params']
    train_here(tmp_path, opt, '--auto_resume')
    assert [changed(tmp_path, n, n + 1) for n in range(3, 7)] == [(False, True)] * 2 + [(True, True)] * 2
    resumed = torch.load(tmp_path / 'experiments/run/models/net_g_7.pth', weights_only=True)['params']
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_tensorboard_carries_shape_rate_and_loss(tmp_path, clips):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_here(tmp_path, options(clips, network_g=NETWORK, logger__use_tb_logger=True))
    events = EventAccumulator(str(tmp_path / 'tb_logger/run')).Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()['scalars']}
    assert values['multigrid/gt_size'] == [64] * 6 + [128] * 7
    assert values['multigrid/num_frame'] == [2, 2, 3, 3, 4, 4, 2, 2, 3, 3, 4, 4, 4]
    assert values['multigrid/batch_size_per_gpu'] == [2] * 6 + [1] * 7
    assert values['lr/group_0'][0] == pytest.approx(1e-3)
    assert len(values['losses/l_pix']) == 13
