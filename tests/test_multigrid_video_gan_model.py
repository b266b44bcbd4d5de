"""The GAN model through real runs: BasicSR's losses at the shape of each iteration, resumed and validated."""

from __future__ import annotations

import copy
import re

import basicsr.train
import pytest
import torch
from basicsr.models.video_recurrent_gan_model import VideoRecurrentGANModel
from probe import NETWORK, train_here
from runs import METRICS, log_of, options, same_bits, validation_set

from multigrid_vsr.data.batches import to_float_rgb

pytestmark = pytest.mark.filterwarnings('ignore')  # what the archs and torch say to each other


def gan_options(clips, **changes):
    discriminator = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    return options(
        clips,
        model_type='MultigridVideoGANModel',
        network_g=NETWORK,
        network_d=discriminator,
        train__optim_d={'type': 'Adam', 'lr': 1e-3},
        train__gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.01},
        train__ema_decay=0.9,
        train__total_iter=6,
        train__scheduler={'type': 'MultigridCosineLR', 'warmup_iter': 2},
        logger__save_checkpoint_freq=2,
        **changes,
    )


def weights(folder, iteration=6):
    """Of the generator and the discriminator."""
    return [torch.load(folder / f'models/net_{label}_{iteration}.pth', weights_only=True) for label in 'gd']


def test_gan_run_follows_the_schedule_validates_and_resumes_to_the_same_bits(tmp_path, clips):
    opt = gan_options(
        clips, datasets__val=validation_set(clips), val={'val_freq': 3, 'save_img': False, 'metrics': METRICS}
    )
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == [
        (2, 2, 3, 16, 16), (2, 3, 3, 16, 16), (2, 4, 3, 16, 16),
        (1, 2, 3, 32, 32), (1, 3, 3, 32, 32), (1, 4, 3, 32, 32),
    ]  # fmt: skip
    folder = tmp_path / 'experiments/run'
    log = log_of(folder)
    for name in ('l_g_pix', 'l_g_gan', 'l_d_real', 'l_d_fake'):
        assert len(re.findall(rf'{name}: \d', log)) == 6
    assert len(re.findall(r'# psnr: \d+\.\d{4}', log)) == 3
    whole = weights(folder)
    for iteration in (4, 6):
        (folder / f'training_states/{iteration}.state').unlink()
    assert train_here(tmp_path, opt, '--auto_resume') == fed[2:]
    assert same_bits(weights(folder), whole)
    assert not same_bits(weights(folder, 2)[1], whole[1])


def test_gan_run_without_a_schedule_equals_basicsrs_step(tmp_path, clips, monkeypatch):
    """The same batches through BasicSR's own class: ours adds no arithmetic."""
    opt = gan_options(clips, multigrid=None)
    opt['train'].update(fix_flow=None, scheduler={'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5})
    train_here(tmp_path, opt)
    ours = weights(tmp_path / 'experiments/run')

    class Stock(VideoRecurrentGANModel):
        def feed_data(self, data):  # bytes to floats
            super().feed_data({key: to_float_rgb(data[key]) for key in ('lq', 'gt')})

        def __init__(self, opt):
            opt['datasets']['train']['multigrid'] = None
            super().__init__(opt)

    monkeypatch.setattr(basicsr.train, 'build_model', lambda opt: Stock(copy.deepcopy(opt)))
    train_here(tmp_path, {**opt, 'name': 'stock'})
    assert same_bits(ours, weights(tmp_path / 'experiments/stock'))


@pytest.mark.parametrize('channels_last', [False, True])
def test_gan_run_trains_time_alone_with_a_discriminator_of_one_size(channels_last, tmp_path, clips):
    """It views its features, which has to work with the channels last in the generator."""
    opt = gan_options(clips, multigrid={'num_frame': [2, 3, 4]}, train__channels_last=channels_last)
    opt['network_d'] = {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4, 'input_size': 128}
    assert [shape[1] for shape, _ in train_here(tmp_path, opt)] == [2, 2, 3, 3, 4, 4]
