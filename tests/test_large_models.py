"""The option file of a transformer project on BasicSR: converted, planned and trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import windowed_arch  # noqa: F401  # registers
import yaml
from probe import train_here
from runs import losses
from test_convert import changed_lines, converted

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.options.conversion import convert

PSRT = (Path(__file__).parent / 'psrt_reds.yml').read_text()

# Written by hand.
CHANGED = """\
-name: 4126_PSRTRecurrent_mix_precision_REDS_600K_N16
-model_type: RecurrentMixPrecisionRTModel
+name: 4126_PSRTRecurrent_mix_precision_REDS_600K_N16_paper
+model_type: MultigridVideoModel
-    type: REDSRecurrentDataset
+    type: MultigridREDSDataset
+# the shapes of the run
+multigrid:
+  num_frame: [8, 12, 16]  # equal parts of the run
+
+# the run that this file was made from: plan, log and report compare with it
+stock_run:
+  total_iter: 600000  # its iterations
+  batch_size: 8  # its samples an iteration, on all GPUs
+
+  amp: fp16  # half precision with a gradient scaler; the losses stay in float32
-    type: CosineAnnealingRestartLR
-    periods: [600000]
-    restart_weights: [1]
+    type: MultigridCosineLR
+    restart: shape  # the rate starts again at every change of the shape
+    anneal: last  # it stays near its start until the last shape, and falls there
+    warmup_iter: 5000  # iterations of a linear ramp at the start
+  cuda_graph: true  # one launch an iteration on a GPU, the same bits; not measured on a GPU yet
"""
REASONS = [
    'model_type: MultigridVideoModel for RecurrentMixPrecisionRTModel',
    'train.amp: fp16 with a gradient scaler, as that model has it; the losses are in float32 here',
    "train.fix_modules: left out, so spynet: write ['spynet', 'deform'] if BasicRecurrentSwin has both; that model fixes "
    'and slows parameters with these names',
    'use_static_graph: stays; where fix_flow ends the network is wrapped anew, and the run goes on',
    'multigrid.gt_size: left out, network_g.img_size builds the arch for 64; state multigrid.lq_divisor if it takes '
    'others',
    'multigrid.num_frame: [8, 12, 16], 1/2, 3/4 and all of 16, rounded down, 6 or more',
]


def test_real_file_is_converted_with_its_comments_and_planned(tmp_path, capsys):
    assert changed_lines(PSRT, converted(tmp_path, PSRT)) == CHANGED
    assert set(REASONS) <= set(capsys.readouterr().out.splitlines())
    opt_file = tmp_path / 'mg.yml'
    opt_file.write_text(re.sub('num_gpu: 8 ', 'num_gpu: 0 ', opt_file.read_text()))
    main(['plan', '-opt', str(opt_file)])
    printed = capsys.readouterr().out
    assert re.findall(r'^ +1 +\S+ +200000 +256 +(\d+) ', printed, re.MULTILINE) == ['8', '12', '16']


def small(clips, **changes):
    """The real file's options with a small arch, on short clips."""
    opt = yaml.safe_load(PSRT)
    opt.update(name='run', num_gpu=0)
    del opt['datasets']['val'], opt['val']
    opt['datasets']['train'].update(
        dataroot_gt=str(clips / 'gt'), dataroot_lq=str(clips / 'lq'), meta_info_file=str(clips / 'meta_info.txt'),
        num_frame=8, gt_size=64, num_worker_per_gpu=0,
    )  # fmt: skip
    opt['network_g'].update(
        mid_channels=4, embed_dim=8, depths=[2], num_heads=[2], window_size=[3, 8, 8], img_size=16, spynet_path=None
    )
    opt['train'].update(total_iter=6, fix_flow=3)
    opt['train']['scheduler'].update(periods=[6])
    opt['logger'].update(print_freq=1, save_checkpoint_freq=3, use_tb_logger=False)
    return {**opt, **changes}


@pytest.mark.filterwarnings('ignore:.*align_corners|torch.meshgrid')
def test_real_file_with_a_small_arch_trains_in_half_precision_with_its_flow_network_fixed_first(tmp_path, stock_clips):
    opt = yaml.safe_load(converted(tmp_path, yaml.safe_dump(small(stock_clips), sort_keys=False)))
    assert opt['multigrid'] == {'num_frame': [6, 8]}
    assert opt['train']['amp'] == 'fp16'
    opt['train']['checkpoint_modules'] = ['patch_align.*.layers']
    (tmp_path / 'train').mkdir()
    train_here(tmp_path / 'train', opt)
    folder = tmp_path / 'train/experiments/run_paper'
    log = next(folder.glob('train_*.log')).read_text()
    frames = re.findall(r'gt_size: 64 num_frame: (\d) batch_size_per_gpu: 1 ', log)
    assert frames == ['6'] * 3 + ['8'] * 3
    assert len([float(loss) for loss in losses(log) if 0 < float(loss) < 1]) == 6
    assert 'Compute 4 modules again for the gradient' in log
    old, new = (torch.load(folder / f'models/net_g_{n}.pth', weights_only=True)['params'] for n in (3, 6))
    moved = {name.split('.')[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {'spynet', 'conv_first', 'patch_align', 'upsample'}


def test_crop_that_the_windows_do_not_take_is_named_by_the_trial_and_the_file_may_state_what_they_take(
    tmp_path, stock_clips
):
    stated = small(stock_clips, multigrid={'lq_divisor': 8})
    stated['datasets']['train']['gt_size'] = 192
    stated['network_g']['img_size'] = 48
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


@pytest.mark.parametrize('arch', ['VRT', 'BasicVSRPlusPlus'])
def test_arch_with_deformable_alignment_keeps_it_fixed_too(arch, stock_clips):
    opt = small(stock_clips, network_g={'type': arch})
    opt['datasets']['train']['gt_size'] = 256
    new = convert(opt)
    assert new.options['train']['fix_modules'] == ['spynet', 'deform']
    assert list(new.options['train'])[:3] == ['ema_decay', 'amp', 'fix_modules']


BAD = [
    ({'train__fix_flow': -1}, 'train.fix_flow: must be a whole number of at least 0, got -1. Write 0 for none. BasicSR'),
    ({'multigrid': {'lq_divisor': 8, 'num_frame': [6, 8]}}, 'multigrid: must not be there yet, or hold lq_divisor, min_lq_size, '),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_option_of_that_project_with_another_value_than_it_takes_is_refused(changes, line, stock_clips):
    opt = small(stock_clips)
    for name, value in changes.items():
        *block, key = name.split('__')
        (opt[block[0]] if block else opt)[key] = value
    with pytest.raises(OptionError, match=line):
        convert(opt)


def test_options_that_a_fork_has_added_are_commented_out_with_a_line(tmp_path, capsys):
    more = '  fft_opt: {type: FFTLoss}\n  use_grad_clip: true  # of a fork\n'
    text = PSRT.replace('\ntrain:\n', f'\ntrain:\n{more}') + 'network_d:\n  type: UNetDiscriminatorSN\n'
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
