"""The model: validation on the CPU, the EMA, the frozen flow network, the log."""

from __future__ import annotations

import logging
import re
import sys
from unittest import mock

import cv2
import numpy as np
import probe
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils.options import parse_options
from probe import NETWORK, train_here
from runs import METRICS, loaded, options, same_bits, validation_set, write
from torch._dynamo.utils import counters

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models import acceleration
from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel
from multigrid_vsr.models.preflight import preflight

VAL = {'val_freq': 1, 'save_img': False}


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
    model, (loader,) = build(tmp_path, {**opt, 'val': {**VAL, 'metrics': METRICS}})
    if ema:  # the average enlarges; the trained network has random weights

        def enlarge(lq):
            frames = lq[0] if kind == 'VideoRecurrentTestDataset' else lq[:, lq.shape[1] // 2]
            enlarged = torch.nn.functional.interpolate(frames, scale_factor=4)
            return enlarged[None] if kind == 'VideoRecurrentTestDataset' else enlarged

        model.net_g_ema.forward = enlarge
    with mock.patch.object(logging.getLogger('basicsr'), 'propagate', True), caplog.at_level('INFO'):
        model.validation(loader, 7, None, save_img=True)
    logged = float(re.search(r'# psnr: ([\d.]+)', caplog.text).group(1))
    assert logged == pytest.approx(psnr(tmp_path / 'experiments/run/visualization/REDS4', clips), abs=1e-3)
    assert (logged > 20) is bool(ema)
    assert model.net_g.training
    assert not ema or not model.net_g_ema.training


@pytest.mark.parametrize(('val', 'frames'), [({}, 22), ({'flip_seq': True, 'center_frame_only': True}, 3)])
def test_validation_without_metrics_runs(val, frames, tmp_path, clips):
    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips))
    model, (loader,) = build(tmp_path, {**opt, 'val': {**VAL, **val}})
    model.validation(loader, 7, None, save_img=True)
    assert len(list((tmp_path / 'experiments/run/visualization').rglob('*_7.png'))) == frames


def test_validation_of_two_sets_keeps_their_best_apart(tmp_path, clips):
    """BasicSR keeps the table of the first set, and fails where the second has other folders."""
    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips))
    for path in clips.glob('lq/*/*.png'):  # a ground truth that is LQ enlarged
        (tmp_path / 'enlarged' / path.parent.name).mkdir(parents=True, exist_ok=True)
        enlarged = cv2.resize(cv2.imread(str(path)), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / 'enlarged' / path.parent.name / path.name), enlarged)
    opt['datasets']['val_2'] = validation_set(clips, 'VideoRecurrentTestDataset', 'Vid4')
    opt['datasets']['val_2']['dataroot_gt'] = str(tmp_path / 'enlarged')
    model, loaders = build(tmp_path, {**opt, 'val': {**VAL, 'metrics': METRICS}})
    model.net_g.forward = lambda lq: torch.nn.functional.interpolate(lq[0], scale_factor=4)[None]
    model.validation(loaders[0], 7, None, save_img=False)
    model.validation(loaders[1], 7, None, save_img=False)
    assert 20 < model.best_metric_results['REDS4']['psnr']['val'] < 40
    assert model.best_metric_results['Vid4']['psnr']['iter'] == -1  # all frames are equal: no number


def trained(folder, clips, **changes):
    """The weights that four iterations end with."""
    opt = options(clips, name='a', **{'train__total_iter': 4, 'train__scheduler__periods': [4], **changes})
    train_here(folder, opt)
    return loaded(folder / 'experiments/a', 'latest')


def test_iteration_trains_the_bits_of_basicsrs_own(tmp_path, clips, monkeypatch):
    """The step, the losses and the average against VideoRecurrentModel's, on the same batches."""
    from basicsr.models.video_recurrent_model import VideoRecurrentModel

    ours = trained(tmp_path, clips, train__ema_decay=0.9)
    for name in ('optimize_parameters', 'model_ema', 'get_current_log'):
        monkeypatch.setattr(MultigridVideoModel, name, getattr(VideoRecurrentModel, name))
    stock = trained(tmp_path, clips, train__ema_decay=0.9)
    assert same_bits(ours, stock)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('max_batch', [1, 2, 3])
def test_gradient_of_the_parts_is_that_of_the_whole_batch(max_batch, reduction, tmp_path, clips):
    """A batch of 4 in parts of 1, 2, and 3 + 1 samples."""
    gradients = []
    for limit in (4, max_batch):
        opt = options(clips, multigrid__batch_size_per_gpu=[4, 1], multigrid__micro_batch_size_per_gpu=limit)
        opt['train']['pixel_opt'].update(reduction=reduction, loss_weight=1e-4 if reduction == 'sum' else 1.0)
        model, _ = build(tmp_path, opt)
        generator = torch.Generator().manual_seed(0)
        lq, gt = (torch.rand(4, 4, 3, side, side, generator=generator) for side in (32, 128))
        losses = model.backward(lq, gt)
        gradients.append({name: parameter.grad.clone() for name, parameter in model.net_g.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name
    assert losses['l_pix'].item() == pytest.approx(model.cri_pix(model.net_g(lq), gt).item(), rel=1e-5)


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_run_in_half_precision_ends_near_the_one_in_float32(amp, tmp_path, clips):
    whole, half = (trained(tmp_path, clips, network_g=NETWORK, train__amp=mode)['params'] for mode in (None, amp))
    distances = [(whole[name] - half[name]).abs().max().item() for name in whole]
    assert 0 < max(distances) < 0.02  # four steps of at most 1e-3 or so


def test_preflight_leaves_everything_as_it_was(tmp_path, clips):
    model, _ = build(tmp_path, options(clips))
    model.opt['train']['compile'] = True  # every shape; without it the largest, on a GPU alone
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    random_state = torch.get_rng_state()
    shapes = []
    model.net_g.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    preflight(model, model.schedule)
    assert shapes == [
        (1, 4, 3, 32, 32), (1, 3, 3, 32, 32), (2, 4, 3, 16, 16), (1, 2, 3, 32, 32), (2, 3, 3, 16, 16), (2, 2, 3, 16, 16),
    ]  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in model.net_g.state_dict().items())
    assert all(parameter.grad is None for parameter in model.net_g.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model.optimizer_g.state
    preflight(model, model.schedule, current_iter=9)  # a resumed run: of 13, the first with 3 frames of 128 pixels
    assert shapes[6:] == [(1, 4, 3, 32, 32), (1, 3, 3, 32, 32)]


def test_preflight_tries_the_largest_part_first_for_all_gpus_of_the_process(tmp_path, clips, monkeypatch):
    """A batch of 8 small samples in parts of 2 needs less than one large one; two GPUs have twice the batch."""
    opt = options(clips, multigrid__batch_size_per_gpu=[8, 1], multigrid__micro_batch_size_per_gpu=1)
    opt['multigrid'].update(gt_size=[96, 128], num_frame=[4])
    model, _ = build(tmp_path, opt)
    model.gpus = 2
    model.opt['train']['compile'] = True
    shapes = []
    monkeypatch.setattr(model, 'backward', lambda lq, gt: shapes.append((tuple(lq.shape), tuple(gt.shape))))
    preflight(model, model.schedule)
    assert shapes == [((2, 4, 3, 32, 32), (2, 4, 3, 128, 128)), ((16, 4, 3, 24, 24), (16, 4, 3, 96, 96))]


def test_preflight_out_of_memory_says_what_to_change(tmp_path, clips, monkeypatch):
    model, _ = build(tmp_path, options(clips))
    model.opt['train']['compile'] = True  # every shape; without it the largest, on a GPU alone

    def backward(lq, gt):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(model, 'backward', backward)
    line = (
        'multigrid.batch_size_per_gpu: must fit the memory of the GPU, got 1 samples of 4 frames and gt_size 128, which'
    )
    with pytest.raises(InputError, match=line):
        preflight(model, model.schedule)


@pytest.mark.parametrize(
    ('arch', 'line'),
    [
        ('PickyProbe', r'multigrid: must have shapes that PickyProbe takes, got num_frame 3 and gt_size 128 \(no three '
                       r'frames of 32 pixels\). Leave that shape out.'),
        ('CentreProbe', r'got num_frame 4 and gt_size 128 \(output \(1, 3, 128, 128\) for a ground truth of '
                        r'\(1, 4, 3, 128, 128\)\). Correct scale, or set datasets.train.target: center'),
    ],
)  # fmt: skip
def test_run_with_an_unknown_arch_says_which_shape_does_not_fit_before_it_trains(arch, line, tmp_path, clips):
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, options(clips, network_g={'type': arch}))
    assert probe.seen == []


def test_preflight_of_an_even_sequence_does_not_pass_for_a_mirrored_one(tmp_path, clips, monkeypatch):
    """BasicVSR++ remembers for good that a sequence was mirrored, as zeros are, and then estimates one flow for both."""
    network = {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}
    monkeypatch.setattr(acceleration, 'compile_children', lambda *arguments: None)
    model, _ = build(tmp_path, options(clips, network_g=network, train__compile=True))
    preflight(model, model.schedule)
    assert model.net_g.is_mirror_extended is False


@pytest.fixture
def graphs(monkeypatch):
    """Gets the number of compiled graphs at the beginning of every iteration."""
    found = []
    update = MultigridVideoModel.update
    monkeypatch.setattr(
        MultigridVideoModel,
        'update',
        lambda *arguments: (found.append(counters['stats']['unique_graphs']), update(*arguments)),
    )
    torch._dynamo.reset()  # what another test has compiled
    counters.clear()
    return found


@pytest.mark.filterwarnings('ignore')  # what torch's compiler says to itself
@pytest.mark.parametrize('channels_last', [False, True])
def test_run_with_compile_compiles_every_shape_first_and_trains_the_same_bits(channels_last, tmp_path, clips, graphs):
    changes = {'train__total_iter': 12, 'train__ema_decay': 0.9, 'train__optim_g__eps': 1e-3}
    changes['train__scheduler'] = {'type': 'MultigridCosineLR'}
    changes['network_g'] = {'type': 'LoopProbe'}
    plain = trained(tmp_path, clips, **changes)
    compiled = trained(tmp_path, clips, **changes, train__compile=True, train__channels_last=channels_last)
    assert len(graphs) == 24
    assert graphs[:12] == [0] * 12
    del graphs[:12]
    # Two modules, two crops of one batch each: with the batch of 2 and 1, two shapes of a frame. The first state of a
    # sequence has no gradient. The convolution beside them is not compiled, nor is the check of what comes out.
    assert graphs[0] == 2 + 4
    assert len(set(graphs)) == 1  # nothing is compiled once the first iteration has begun
    for key in ('params', 'params_ema'):
        for name, weight in plain[key].items():
            assert torch.allclose(weight, compiled[key][name], atol=1e-5), name


@pytest.mark.filterwarnings('ignore')  # what torch's compiler says to itself
def test_flow_network_is_compiled_once_though_it_thaws_later(tmp_path, clips, graphs):
    """It is fixed for the first five iterations of twelve; two modules and it, for one shape."""
    changes = {'train__total_iter': 12, 'train__fix_flow': 6, 'multigrid': None, 'train__optim_g__eps': 1e-3}
    changes['network_g'] = {'type': 'FlowLoopProbe'}
    changes['train__scheduler'] = {'type': 'MultigridCosineLR'}
    plain = trained(tmp_path, clips, **changes)['params']
    compiled = trained(tmp_path, clips, **changes, train__compile=True)['params']
    assert graphs == [0] * 12 + [2 + 1 + 1] * 12
    for name, weight in plain.items():
        assert torch.allclose(weight, compiled[name], atol=1e-5), name


@pytest.mark.filterwarnings(
    'ignore:The parameter|Arguments other than:UserWarning'
)  # BasicSR asks torchvision as of old
def test_run_with_perceptual_loss_sees_every_frame_as_an_image(tmp_path, clips, monkeypatch):
    """VGG with random weights at the place where BasicSR looks for the pretrained ones."""
    import torchvision

    monkeypatch.chdir(tmp_path)
    weights = tmp_path / 'experiments/pretrained_models/vgg19-dcbb9e9d.pth'
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.vgg19(weights=None).state_dict(), weights)
    perceptual = {'type': 'PerceptualLoss', 'layer_weights': {'conv1_2': 1}, 'style_weight': 0.5}
    model, _ = build(tmp_path, options(clips, network_g=NETWORK, train__perceptual_opt=perceptual))
    lq, gt = torch.rand(2, 3, 3, 16, 16), torch.rand(2, 3, 3, 64, 64)
    losses = model.backward(lq, gt)
    assert losses.keys() == {'l_pix', 'l_percep', 'l_style'}
    output = model.net_g(lq)
    features = [model.cri_perceptual.vgg(images.flatten(0, 1))['conv1_2'] for images in (output, gt)]
    assert losses['l_percep'].item() == pytest.approx((features[0] - features[1]).abs().mean().item(), rel=1e-4)


def test_run_from_pretrained_weights_begins_with_them(tmp_path, clips):
    weights = trained(tmp_path, clips, network_g=NETWORK, train__ema_decay=0.9)
    path = tmp_path / 'experiments/a/models/net_g_latest.pth'
    opt = options(clips, network_g=NETWORK, path__pretrain_network_g=str(path), train__ema_decay=0.9)
    model, _ = build(tmp_path, opt)
    begun = {'params': dict(model.net_g.state_dict()), 'params_ema': dict(model.net_g_ema.state_dict())}
    assert same_bits(begun, weights)


@pytest.mark.parametrize('arch', ['BasicVSR', 'BasicVSRPlusPlus'])
def test_run_with_a_pretrained_flow_network_begins_with_it(arch, tmp_path, clips):
    from basicsr.archs.spynet_arch import SpyNet

    torch.manual_seed(7)
    weights = SpyNet().basic_module.state_dict(prefix='basic_module.')
    path = tmp_path / 'spynet.pth'
    torch.save({'params': weights}, path)
    opt = options(clips, network_g={'type': arch, 'spynet_path': str(path)}, train__ema_decay=0.9)
    model, _ = build(tmp_path, opt)
    for network in (model.net_g, model.net_g_ema):
        found = network.spynet.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in weights.items())
