"""BasicSR's archs, tiny, through real multigrid runs on real frames; and the line for a shape that does not fit."""

from __future__ import annotations

import re
from itertools import pairwise

import bits
import cv2
import pytest
import torch
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.data.reds_dataset import REDSDataset
from basicsr.data.vimeo90k_dataset import Vimeo90KDataset
from probe import refused, resume_here, train_here
from runs import METRICS, loaded, log_of, options, same_bits, validation_set
from test_multigrid_reds_dataset import assert_same_sample, dataset_options, vimeo_options
from test_multigrid_video_model import build

from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset, MultigridVimeo90KDataset
from multigrid_vsr.models.preflight import random_batch
from multigrid_vsr.options.archs import LIMITS

ARCHS = [({'type': arch, **network}, *shapes) for arch, (network, *shapes) in bits.ARCHS.items()]
each_arch = pytest.mark.parametrize(
    ('network', 'scale', 'gt_size', 'num_frame'), ARCHS, ids=[arch[0]['type'] for arch in ARCHS]
)


def arch_options(clips, network, scale, gt_size, num_frame, **changes):
    opt = options(clips, network_g=network, scale=scale, **changes)
    opt['multigrid'] = {'gt_size': gt_size, **({'num_frame': num_frame} if len(num_frame) > 1 else {})}
    opt['datasets']['train'].update(gt_size=gt_size[-1], num_frame=num_frame[-1])
    if scale == 1:
        opt['datasets']['train']['dataroot_lq'] = opt['datasets']['train']['dataroot_gt']
    return opt


def one_clip(folder, clips, target, scale, num_frame):
    """A test set of seven whole frames, of the kind that the arch is tested on."""
    for kind in ('gt', 'lq'):
        (folder / kind / '002').mkdir(parents=True)
        side = 64 // scale if kind == 'lq' else 64  # of whole frames, small ones
        for path in (clips / (kind if scale > 1 else 'gt') / '002').iterdir():
            cv2.imwrite(str(folder / kind / '002' / path.name), cv2.imread(str(path))[:side, :side])
    if target == 'center':
        return validation_set(folder, 'VideoTestDataset', num_frame=num_frame)
    return validation_set(folder)


@pytest.mark.filterwarnings('ignore')  # what the archs and torch say to each other
@each_arch
def test_arch_trains_validates_resumes_and_ends_the_same(
    network, scale, gt_size, num_frame, tmp_path, clips, stock_clips
):
    opt = arch_options(stock_clips, network, scale, gt_size, num_frame, train__total_iter=6, train__ema_decay=0.9,
                       logger__save_checkpoint_freq=2)  # fmt: skip
    opt['datasets']['val'] = one_clip(tmp_path / 'val', clips, LIMITS[network['type']].target, scale, num_frame[-1])
    opt['val'] = {'val_freq': 6, 'save_img': False, 'metrics': METRICS}
    train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    assert re.findall(r'# psnr: \d+\.\d+\t # 002: \d+\.\d+', log_of(folder))
    resume_here(tmp_path, opt, folder, 4, 6)
    first, last = (loaded(folder, iteration) for iteration in (2, 6))
    assert first.keys() == last.keys() == {'params', 'params_ema'}
    assert not same_bits(first['params'], last['params'])


@pytest.mark.filterwarnings('ignore')
@each_arch
def test_arch_with_channels_last_has_the_same_gradients(network, scale, gt_size, num_frame, tmp_path, stock_clips):
    gradients = []
    for channels_last in (False, True):
        opt = arch_options(stock_clips, network, scale, gt_size, num_frame, train__channels_last=channels_last)
        model, _ = build(tmp_path, opt)
        weights = [weight for weight in model.net_g.parameters() if weight.dim() == 4 and weight.shape[1] > 1]
        layouts = {weight.is_contiguous() for weight in weights if weight.shape[-1] > 1}
        assert layouts == (set() if network['type'] == 'DUF' else {not channels_last})  # its convolutions are 3-D
        torch.manual_seed(0)
        model.backward(*random_batch(model, model.schedule.segments[0].shape))
        assert model.output.is_contiguous()
        gradients.append([weight.grad for weight in model.net_g.parameters() if weight.grad is not None])
    for plain, last in zip(*gradients, strict=True):
        assert torch.allclose(plain, last, rtol=1e-3, atol=1e-4 * plain.abs().max().item() + 1e-9)


@pytest.mark.filterwarnings('ignore')
def test_edvr_trains_its_fusion_alone_at_first_in_a_resumed_run_too(tmp_path, stock_clips):
    opt = arch_options(stock_clips, *ARCHS[2], train__total_iter=5, train__scheduler__periods=[5], train__tsa_iter=4,
                       train__dcn_lr_mul=0.5, logger__save_checkpoint_freq=1)  # fmt: skip
    train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    resume_here(tmp_path, opt, folder, 3, 4, 5)
    weights = [loaded(folder, iteration)['params'] for iteration in range(1, 6)]
    changed = [
        {'fusion' in name for name in first if not torch.equal(first[name], second[name])}
        for first, second in pairwise(weights)
    ]
    assert changed == [{True}, {True}, {True, False}, {True, False}]
    groups = loaded(folder, '5.state')['optimizers'][0]['param_groups']
    assert [group['initial_lr'] for group in groups] == [1e-3, 5e-4]


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
def test_basicvsrpp_without_its_assertion_gives_the_bits_of_the_hosts_code():
    torch.manual_seed(0)
    network = BasicVSRPlusPlus(mid_channels=16, num_blocks=1)
    assert network.is_with_alignment
    for alignment in network.deform_align.values():
        torch.nn.init.normal_(alignment.conv_offset[-1].weight, std=0.1)  # it begins with 0: no offsets
    forward = BasicVSRPlusPlus.forward
    large, small = torch.rand(1, 3, 3, 64, 64), torch.rand(1, 3, 3, 24, 40)
    with torch.no_grad():
        whole = network(large)
        assert torch.equal(whole, forward.without_assertion(network, large))
        with pytest.raises(AssertionError, match='at least 64'):
            forward.__wrapped__(network, small)
        assert network(small).shape == (1, 3, 3, 96, 160)
        network.is_with_alignment = False  # what BasicSR builds without CUDA
        assert not torch.equal(whole, network(large))


@pytest.mark.parametrize('intervals', [[1], [1, 2]])
def test_dataset_with_center_target_equals_basicsrs(intervals, stock_clips):
    opt = dataset_options(stock_clips, interval_list=intervals, target='center', num_frame=5)
    ours = MultigridREDSDataset(opt)
    stock = REDSDataset({**opt, 'io_backend': {'type': 'disk'}, 'val_partition': 'REDS4', 'dataroot_flow': None,
                         'meta_info_file': str(stock_clips / 'meta_info.txt')})  # fmt: skip
    for index in (0, 1, 50, 98, 99):
        assert_same_sample(ours, stock, index)
    batch = ours[[SampleRequest(7, 5, 64, seed=1), SampleRequest(8, 5, 64, seed=2)]]
    assert (tuple(batch['lq'].shape), tuple(batch['gt'].shape)) == ((2, 5, 16, 16, 3), (2, 64, 64, 3))


@pytest.mark.parametrize('num_frame', [5, 7])
def test_dataset_of_septuplets_with_center_target_equals_basicsrs(num_frame, septuplets):
    opt = vimeo_options(septuplets, target='center', num_frame=num_frame)
    meta_info = {'io_backend': {'type': 'disk'}, 'meta_info_file': str(septuplets / 'meta_info.txt')}
    ours, stock = MultigridVimeo90KDataset(opt), Vimeo90KDataset({**opt, **meta_info})
    for index in range(4):
        assert_same_sample(ours, stock, index)


@pytest.mark.parametrize(
    ('network', 'changes', 'line'),
    [
        ({'type': 'BasicVSRPlusPlus', 'cpu_cache_length': 3}, {}, 'num_frame: must be at most 3 for BasicVSRPlusPlus, got 4'),
        ({'type': 'IconVSR', 'temporal_padding': 3}, {'num_frame': 5}, 'num_frame: must be at least 7 for IconVSR, got 5.'),
        ({'type': 'IconVSR', 'num_feat': 12}, {'num_frame': 5}, 'network_g.num_feat: must be a multiple of 8 for IconVSR, got 12.'),
        ({'type': 'EDVR', 'hr_in': True}, {'num_frame': 5, 'gt_size': [72, 128], 'scale': 1}, 'multigrid.gt_size: must be a multiple of 16 for EDVR, got 72'),
        ({'type': 'EDVR'}, {}, r'multigrid.num_frame: must be left out for an arch with one target frame, .* \[2, 3, 4\]'),
        ({'type': 'EDVR', 'num_frame': 5}, {'num_frame': 3}, r'num_frame: must equal network_g.num_frame \(5\), got 3.'),
        ({'type': 'EDVR'}, {'num_frame': 4}, 'datasets.train.num_frame: must be odd, with one frame in the middle, got 4.'),
        ({'type': 'EDVR'}, {'num_frame': 5, 'gt_size': [72, 128]}, 'multigrid.gt_size: must be a multiple of 16 for EDVR, got 72'),
        ({'type': 'TOFlow'}, {'num_frame': 5, 'scale': 1}, 'num_frame: must be at least 7 for TOFlow, got 5.'),
        ({'type': 'DUF'}, {'num_frame': 9}, 'num_frame: must be at most 7 for DUF, got 9.'),
        ({'type': 'BasicVSR'}, {'target': 'center', 'num_frame': 5}, 'target: must be sequence for BasicVSR, got center.'),
        ({'type': 'BasicVSR'}, {'target': 'middle'}, 'datasets.train.target: must be sequence or center, got middle.'),
    ],
)  # fmt: skip
def test_run_with_a_shape_that_the_arch_does_not_take_says_so(network, changes, line, tmp_path, clips):
    changes = dict(changes)
    opt = options(clips, network_g=network, scale=changes.pop('scale', 4))
    opt['multigrid'].update(gt_size=changes.pop('gt_size', [64, 128]))
    opt['datasets']['train'].update(changes)
    if 'num_frame' in changes:
        del opt['multigrid']['num_frame']
    refused(tmp_path, opt, line)
