"""A windowed transformer of another project on BasicSR: converted and trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils.registry import ARCH_REGISTRY
from probe import train_here
from runs import loaded, log_of, losses, options
from test_convert import STOCK, converted
from torch import nn

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.options.conversion import convert


class Attention(nn.Module):
    """Attention of all places of a frame (b, h, w, c) to each other, under a mask that is made for one size."""

    def __init__(self, dim, heads, size):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer('mask', torch.ones(size**2, size**2, dtype=torch.bool).tril(size), persistent=False)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x.flatten(1, 2))).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, self.mask)  # fails at another size
        return x + self.proj(seen.transpose(1, 2).flatten(2)).view_as(x)


@ARCH_REGISTRY.register()
class BasicRecurrentSwin(nn.Module):
    """Takes the arguments of PSRT's arch: attention in aligned frames (n, t, 3, h, w) of ``img_size``."""

    def __init__(self, mid_channels=64, embed_dim=120, depths=(6, 6, 6), num_heads=(6, 6, 6), window_size=(3, 8, 8),
                 num_frames=3, img_size=64, patch_size=1, cpu_cache_length=100, is_low_res_input=True,
                 spynet_path=None):  # fmt: skip
        super().__init__()
        self.spynet = SpyNet(spynet_path)
        self.conv_first = nn.Conv2d(3, embed_dim, 3, 1, 1)
        self.patch_align = nn.ModuleDict()
        for direction in ('backward_1', 'forward_1'):
            layers = [Attention(embed_dim, n, img_size) for depth, n in zip(depths, num_heads) for _ in range(depth)]
            self.patch_align[direction] = nn.ModuleDict({'layers': nn.ModuleList(layers)})
        self.upsample = nn.Sequential(nn.Conv2d(embed_dim, 48, 3, 1, 1), nn.PixelShuffle(4))

    def forward(self, lqs):
        frames = lqs.flatten(0, 1)
        flows = self.spynet(frames, frames.roll(1, 0)).permute(0, 2, 3, 1)
        features = flow_warp(self.conv_first(frames), flows).permute(0, 2, 3, 1)
        for direction in self.patch_align.values():
            for layer in direction['layers']:
                features = layer(features)
        return self.upsample(features.permute(0, 3, 1, 2)).unflatten(0, lqs.shape[:2])


NETWORK = {
    'type': 'BasicRecurrentSwin',
    **{'mid_channels': 4, 'embed_dim': 8, 'depths': [2], 'num_heads': [2], 'window_size': [3, 8, 8]},
    **{'num_frames': 3, 'img_size': 16, 'patch_size': 1, 'cpu_cache_length': 100, 'is_low_res_input': True},
}


def small(clips: Path, **changes: object) -> dict:
    """A stock run of 6 iterations whose flow network is frozen for 3, in half precision."""
    values = {'model_type': 'VideoRecurrentModel', 'datasets__train__type': 'REDSRecurrentDataset', 'multigrid': None}
    sizes = {'datasets__train__num_frame': 8, 'datasets__train__gt_size': 64}
    train = {'train__amp': 'fp16', 'train__total_iter': 6, 'train__fix_flow': 3, 'train__flow_lr_mul': 0.125}
    kept = {'network_g': NETWORK, 'logger__save_checkpoint_freq': 3}
    return options(clips, **{**values, **sizes, **train, **kept, **changes})


@pytest.mark.filterwarnings('ignore:.*align_corners|torch.meshgrid')
def test_transformer_trains_in_half_precision_with_its_flow_network_frozen_first(tmp_path, stock_clips):
    opt = yaml.safe_load(converted(tmp_path, yaml.safe_dump(small(stock_clips), sort_keys=False)))
    assert opt['multigrid'] == {'num_frame': [6, 8]}
    opt['train']['checkpoint_modules'] = ['patch_align.*.layers']
    (tmp_path / 'train').mkdir()
    train_here(tmp_path / 'train', opt)
    folder = tmp_path / 'train/experiments/run_paper'
    log = log_of(folder)
    frames = re.findall(r'gt_size: 64 num_frame: (\d) batch_size_per_gpu: 1 ', log)
    assert frames == ['6'] * 3 + ['8'] * 3
    assert len([float(loss) for loss in losses(log) if 0 < float(loss) < 1]) == 6
    assert 'Compute 4 modules again for the gradient' in log
    old, new = (loaded(folder, iteration)['params'] for iteration in (3, 6))
    moved = {name.split('.')[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {'spynet', 'conv_first', 'patch_align', 'upsample'}


def test_crop_that_the_windows_do_not_take_is_named_by_the_trial_and_the_file_may_state_what_they_take(
    tmp_path, stock_clips
):
    stated = small(
        stock_clips, multigrid={'lq_divisor': 8}, datasets__train__gt_size=192, network_g={**NETWORK, 'img_size': 48}
    )
    opt = yaml.safe_load(converted(tmp_path, yaml.safe_dump(stated, sort_keys=False)))
    assert opt['multigrid'] == {'lq_divisor': 8, 'gt_size': [128, 192], 'num_frame': [6, 8]}
    (tmp_path / 'train').mkdir()
    opt['datasets']['train'].update(gt_size=128)
    opt['network_g']['img_size'] = 32
    opt['multigrid']['gt_size'] = [64, 128]
    line = 'multigrid: must have shapes that BasicRecurrentSwin takes, got num_frame . and gt_size 64 .*gt_size that it .* is 128'
    with pytest.raises(InputError, match=line):
        train_here(tmp_path / 'train', opt)


def test_windows_without_a_size_ask_for_multiples_of_their_side(stock_clips):
    opt = small(stock_clips)
    del opt['network_g']['img_size']
    opt['datasets']['train']['gt_size'] = 288  # half of LQ 72 is 36: 32 is the multiple of 8 below
    new = convert(opt)
    assert new.options['multigrid']['gt_size'] == [128, 288]
    assert (
        'multigrid.gt_size: [128, 288], 1/2 and all of 288, rounded down to multiples of 32, 128 or more' in new.reasons
    )


def test_arch_that_is_built_for_one_size_grows_in_frames_only(stock_clips):
    new = convert(small(stock_clips))
    assert new.options['multigrid'] == {'num_frame': [6, 8]}
    line = (
        'multigrid.gt_size: left out, network_g.img_size builds the arch for 16; state multigrid.lq_divisor if it takes'
    )
    assert any(reason.startswith(line) for reason in new.reasons)


def test_flow_network_that_would_be_frozen_for_ever_is_refused(stock_clips):
    line = 'train.fix_flow: must be a whole number of at least 0, got -1. Write 0 for none. BasicSR'
    with pytest.raises(OptionError, match=line):
        convert(small(stock_clips, train__fix_flow=-1))


def test_options_that_a_fork_has_added_are_commented_out_with_a_line(tmp_path, capsys):
    more = '  fft_opt: {type: FFTLoss}\n  use_grad_clip: true  # of a fork\n'
    text = STOCK.replace('\ntrain:\n', f'\ntrain:\n{more}') + 'network_d:\n  type: UNetDiscriminatorSN\n'
    (tmp_path / 'stock.yml').write_text(text)
    main(['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / 'mg.yml')])
    own = 'A loss more is a model of your own with MultigridMixin: docs/your_own_parts.md.'
    said = {
        'train.fft_opt': own,
        'train.use_grad_clip': 'Here it is train.grad_clip_norm.',
        'network_d': 'Set model_type: MultigridVideoGANModel, or remove it.',
    }
    lines = capsys.readouterr().out.splitlines()
    for option, fix in said.items():
        assert f'{option}: commented out, since nothing reads it. {fix}' in lines
    new = (tmp_path / 'mg.yml').read_text()
    assert f'train:\n  # nothing reads it. {own}\n  # fft_opt: {{type: FFTLoss}}\n' in new
    assert '  # nothing reads it. Here it is train.grad_clip_norm.\n  # use_grad_clip: true  # of a fork\n' in new
    assert new.endswith('# network_d:\n#   type: UNetDiscriminatorSN\n')
