"""LQ frames made on the device: repeatable, exact after a resume, out of ground truth alone."""

from __future__ import annotations

import contextlib
import random
import re

import numpy as np
import own_parts  # noqa: F401  # registers
import pytest
import torch
from probe import NETWORK, refused, resume_here, train_here
from runs import LQ_SHAPES, METRICS, SHAPES, options, same_bits, validation_set
from test_arch_speed import can_count
from test_multigrid_video_model import build
from test_own_dataset import CENTRE, blurred, of_windows

from multigrid_vsr import launches
from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models import degradation
from multigrid_vsr.models.degradation import build_degradation, degrade

BLUR = {'type': 'BlurNoiseJPEG', 'noise_sigma': [1, 10], 'kernel_size': 7}


def of_gt(clips, degradation, **changes):
    """A run whose LQ frames do not exist."""
    opt = options(clips, network_g=NETWORK, train__degradation=degradation, **changes)
    del opt['datasets']['train']['dataroot_lq']
    return opt


def real_gt(clips, count=2):
    """Ground truth of the training set, (b, 4, 3, 128, 128)."""
    from multigrid_vsr import MultigridREDSDataset, SampleRequest
    from multigrid_vsr.data.batches import to_float_rgb

    opt = {**of_gt(clips, None)['datasets']['train'], 'scale': 4, 'degraded': True}
    batch = MultigridREDSDataset(opt)[[SampleRequest(index, 4, 128, seed=index) for index in range(count)]]
    assert list(batch) == ['gt', 'key']
    return to_float_rgb(batch['gt'])


@pytest.mark.parametrize(('degradation', 'backend'), [('noisy_mean', 'disk'), (BLUR, 'packed')], ids=['disk', 'packed'])
def test_run_on_ground_truth_alone_is_repeatable_with_workers_and_after_a_resume(degradation, backend, tmp_path, clips):
    opt = of_gt(clips, degradation, logger__save_checkpoint_freq=4)
    if backend == 'packed':
        main(['prepare', '--gt', str(clips / 'gt'), '-o', str(tmp_path / 'store'), '--workers', '1'])
        opt['datasets']['train'].update(dataroot_gt=str(tmp_path / 'store/gt'), io_backend={'type': 'packed'})
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    assert len({value for _, value in fed}) == len(fed)
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    assert resume_here(tmp_path, opt, tmp_path / 'experiments/run', 8, 12) == fed[4:]


def test_degradation_of_a_sample_depends_on_its_seed_alone(clips):
    gt, blur = real_gt(clips), build_degradation(BLUR, 'cpu')
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    both = degrade(blur, gt, [7, 8], 4)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert both.shape == (2, 4, 3, 32, 32)
    assert torch.allclose(degrade(blur, gt[1:], [8], 4), both[1:])
    assert not torch.allclose(degrade(blur, gt[1:], [9], 4), both[1:], atol=0.01)
    assert torch.equal((both * 255).round() / 255, both)
    shrunk = torch.nn.functional.avg_pool3d(gt, (1, 4, 4))
    assert 0.005 < (both - shrunk).abs().mean() < 0.1


def test_noise_of_a_sample_is_grey_in_all_frames_or_in_none_and_differs_between_frames():
    """Of mid-grey frames, at a quality that leaves colours."""
    gt = torch.full((1, 4, 3, 128, 128), 0.5)
    noisy = build_degradation({'type': 'BlurNoiseJPEG', 'noise_sigma': [30, 30], 'jpeg_quality': [99, 99]}, 'cpu')
    found = []
    for seed in range(40):
        frames = degrade(noisy, gt, [seed], 4)[0]
        spread = [float((frame - frame.mean(0)).abs().max()) for frame in frames]  # of the channels
        found.append({value > 0.05 for value in spread})
        assert len({tuple(frame.flatten().tolist()) for frame in frames}) == 4
    assert all(len(kinds) == 1 for kinds in found)
    assert 8 < found.count({False}) < 24  # two of five


@can_count
@pytest.mark.parametrize('num_frame', [7, 15])
def test_degradation_waits_for_nothing_and_launches_as_much_whatever_the_frames(num_frame, monkeypatch):
    monkeypatch.setattr(degradation, 'seeded', lambda *_: contextlib.nullcontext())  # a GPU's states
    random.seed(0), np.random.seed(0)
    blur = degradation.BlurNoiseJPEG()
    with launches.counted() as counts:
        for module in blur.modules():  # which BasicSR shares between all of them
            for name, value in module._parameters.items():
                module._parameters[name] = torch.nn.Parameter(torch.empty(value.shape, device='cuda'))
        gt = torch.empty(4, num_frame, 3, 128, 128, device='cuda')
        counts.launches = counts.waits = 0
        with torch.no_grad():
            blur(gt, range(4), 4)
    assert counts.waits == 0
    assert 280 < counts.launches < 320


def test_window_arch_gets_every_lq_frame_and_the_target_in_the_middle(tmp_path, clips):
    opt = of_windows(of_gt(clips, BLUR), 3)
    opt['network_g'], opt['datasets']['train']['target'] = CENTRE, 'center'
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == [(batch, 3, 3, size // 4, size // 4) for batch, _, size in SHAPES]


def test_own_dataset_may_give_ground_truth_alone(tmp_path, stock_clips):
    opt = blurred(stock_clips, type='GroundTruthDataset')
    opt['train']['degradation'] = 'noisy_mean'
    assert [shape for shape, _ in train_here(tmp_path, opt)] == LQ_SHAPES


def test_validation_reads_its_lq_frames_as_without_degradation(tmp_path, clips):
    results, val = [], {'val_freq': 1, 'save_img': False, 'metrics': METRICS}
    for made in (None, BLUR):
        opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips), val=val)
        opt['train'].update({'degradation': made} if made else {})
        model, (loader,) = build(tmp_path, opt)
        model.validation(loader, 1, None)
        results.append(model.metric_results)
    assert same_bits(*results)


@pytest.mark.parametrize(
    ('degradation', 'line'),
    [
        ('noisy_men', 'train.degradation: must be registered in DEGRADATION_REGISTRY, got .* Did you mean `noisy_mean`?'),
        ({'strength': 1}, 'train.degradation: must be registered in DEGRADATION_REGISTRY, got nothing.'),
        ({'type': 'noisy_mean', 'strengths': 1}, 'train.degradation.strengths: must be one of strength, got .*`strength`'),
        ({'type': 'BlurNoiseJPEG', 'noise': 1}, 'train.degradation.noise: must be one of blur_sigma, noise_sigma'),
        ({'type': 'BlurNoiseJPEG', 'blur_sigma': 1}, r'train.degradation.blur_sigma: must be two rising numbers above 0, got 1\.'),
        ({'type': 'BlurNoiseJPEG', 'blur_sigma': [2, 2]}, r'blur_sigma: must be two rising numbers above 0, got \[2, 2\]\.'),
        ({'type': 'BlurNoiseJPEG', 'blur_sigma': [0, 2]}, r'blur_sigma: must be two rising numbers above 0, got \[0, 2\]\.'),
        ({'type': 'BlurNoiseJPEG', 'noise_sigma': [-1, 2]}, r'noise_sigma: must be two numbers of at least 0, .* got \[-1, 2\]\.'),
        ({'type': 'BlurNoiseJPEG', 'noise_sigma': [1, 2, 3]}, r'noise_sigma: must be two numbers .* got \[1, 2, 3\]\.'),
        ({'type': 'BlurNoiseJPEG', 'jpeg_quality': [100, 100]}, r'jpeg_quality: must be two .* below 100, .* got \[100, 100\]\.'),
        ({'type': 'BlurNoiseJPEG', 'jpeg_quality': [0, 95]}, r'jpeg_quality: must be two numbers above 0 .* got \[0, 95\]\.'),
        ({'type': 'BlurNoiseJPEG', 'jpeg_quality': ['30', 95]}, r"jpeg_quality: must be two numbers .* got \['30', 95\]\."),
        ({'type': 'BlurNoiseJPEG', 'kernel_size': 8}, r'train.degradation.kernel_size: must be an odd number above 0, got 8\.'),
        ({'type': 'BlurNoiseJPEG', 'kernel_size': 151}, r'train.degradation: must take frames of 64 pixels, the smallest gt_size, got BlurNoiseJPEG \(RuntimeError: .*\)\. Correct the values\.'),
        (3, 'train.degradation: must be a block of options, got 3.'),
    ],
    ids=str,
)  # fmt: skip
def test_degradation_that_cannot_be_built_stops_the_run_before_anything_is_written(degradation, line, tmp_path, clips):
    refused(tmp_path, of_gt(clips, degradation), line)


def test_degradation_that_makes_another_shape_is_named_before_the_first_iteration(tmp_path, clips):
    line = re.escape('train.degradation: must make (1, 3, 3, 16, 16) of (1, 3, 3, 64, 64), got (1, 3, 3, 64, 64).')
    with pytest.raises(OptionError, match=line):
        train_here(tmp_path, of_gt(clips, 'too_large'))


def test_run_without_lq_frames_and_degradation_says_both_ways(tmp_path, clips):
    refused(tmp_path, of_gt(clips, None), 'dataroot_lq: must be given, got nothing. Or let train.degradation make LQ')
