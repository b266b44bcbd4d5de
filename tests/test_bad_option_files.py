"""Option files that cannot be trained: the line each one gets, and nothing written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import basicsr
import pytest
from probe import NETWORK, train_here
from runs import options, run, write

from multigrid_vsr.core.errors import InputError

GAN = {
    'model_type': 'MultigridVideoGANModel',
    'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3},
    'train__optim_d': {'type': 'Adam', 'lr': 1e-4},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.01},
}

BAD = [
    (
        {'multigrid__gt_sizes': [64, 128]},
        'multigrid.gt_sizes: must be one of gt_size, num_frame, .*, got gt_sizes. Did you mean `gt_size`?',
    ),
    (
        {'model_type': 'VideoRecurrentModel'},
        'model_type: must be MultigridVideoModel.* beside a `multigrid` block, got VideoRecurrentModel. Set model_type',
    ),
    (
        {'datasets__train__type': 'REDSRecurrentDataset'},
        'datasets.train.type: must be MultigridREDSDataset.* beside a `multigrid` block, got REDSRecurrentDataset.',
    ),
    (
        {'datasets__train__num_frame': 10, 'multigrid__num_frame': [5, 10]},
        r'datasets.train.num_frame: must fit every clip \(10 frames needed with an interval of 1\), got 10 for clip 000 '
        'of 6 frames. Lower it',
    ),
    (
        {'datasets__train__gt_size': 160, 'multigrid__gt_size': [64, 160]},
        'datasets.train.gt_size: must fit into every frame, got 160 for clip 000 of 144x176. Lower it',
    ),
    (
        {'multigrid__batch_size_per_gpu': [23, 1]},
        'multigrid.batch_size_per_gpu: must be at most the 22 samples of the data, got 23 on 1 GPUs at gt_size 64 and '
        'num_frame 2. Lower it.',
    ),
    (
        {'datasets__train__dataroot_gt': 'nowhere'},
        'datasets.train.dataroot_gt: must be a folder that exists, got nowhere. Correct the path.',
    ),
    (
        {'datasets__train__val_partition': 'REDS5'},
        'datasets.train.val_partition: must be REDS4 or official, got REDS5.',
    ),
    (
        {'network_g__spynet_path': 'spynet.pth'},
        'network_g.spynet_path: must be a path that exists, got spynet.pth. Correct the path, or set it to ~.',
    ),
    ({'path__pretrain_network_g': 'net_g.pth'}, 'path.pretrain_network_g: must be a path that exists, got net_g.pth.'),
    ({'path__resume_state': '5.state'}, 'path.resume_state: must be a path that exists, got 5.state.'),
    (
        {'datasets__val': {'name': 'REDS4', 'dataroot_gt': 'nowhere'}},
        'datasets.val.dataroot_gt: must be a path that exists, got nowhere.',
    ),
    ({'num_gpu': 3}, r'num_gpu: must be at most the \d GPUs of this machine, got 3. Set num_gpu: auto.'),
    ({'num_gpu': 'all'}, 'num_gpu: must be a whole number or auto, got all. Set num_gpu: auto.'),
    ({'Multigird': {'gt_size': [64, 128]}}, 'Multigird: must be multigrid, got Multigird. Did you mean `multigrid`?'),
    ({'train__amp': 'fp32'}, 'train.amp: must be bf16 or fp16, got fp32. Leave it out for float32.'),
    ({'train__compile': 'fast'}, 'train.compile: must be one of true, false, default, .*, got fast. Leave it out'),
    ({'train__channels_last': 1}, 'train.channels_last: must be true or false, got 1. Correct the value.'),
    (
        {'train__scheduler__batch_scaling': 'log'},
        'train.scheduler.batch_scaling: must be none, sqrt, linear, got log. Choose one of them.',
    ),
    (
        {'train__scheduler__periods': [6, 6], 'train__scheduler__restart_weights': [1, 1]},
        r'train.scheduler.periods: must add up to train.total_iter \(13\), got \[6, 6\] \(sum 12\). BasicSR would fail',
    ),
    ({**GAN, 'train__amp': 'bf16'}, 'train.amp: must be left out of a GAN run, got bf16. It trains in float32.'),
    (
        {**GAN, 'multigrid__max_batch_size_per_gpu': 1},
        r'multigrid.max_batch_size_per_gpu: must be at least the largest batch \(2\) in a GAN run, got 1. Its gradients',
    ),
    (
        {'train__scheduler': 'cosine'},
        'train.scheduler: must be a block of options, got cosine. A training run needs it.',
    ),
    ({'network_g': 'BasicVSR'}, 'network_g: must be a block of options, got BasicVSR. A training run needs it.'),
    (
        {**GAN, 'multigrid__gt_size': [36, 128]},
        'multigrid.gt_size: must be a multiple of 8 for UNetDiscriminatorSN, got 36. Change it.',
    ),
    ({**GAN, 'network_d': None}, 'network_d: must be a block of options, got nothing. A training run'),
    ({**GAN, 'train__gan_opt': None}, 'train.gan_opt: must be a block of options, got nothing. A training run'),
    (
        {**GAN, 'datasets__train__target': 'center', 'multigrid__num_frame': None, 'datasets__train__num_frame': 5},
        'model_type: must be MultigridVideoModel for an arch with one target frame, got MultigridVideoGANModel.',
    ),
    (
        {**GAN, 'network_d': {'type': 'VGGStyleDiscriminator'}},
        'multigrid.gt_size: must be 128 throughout for a VGGStyleDiscriminator with that input_size, got 64. Leave',
    ),
    ({'val': {'val_freq': 5}}, 'val.save_img: must be given, got nothing. BasicSR asks for it when it is due.'),
    ({'val': 5}, 'val: must be a block of options, got 5. Write one option a line below it.'),
    (
        {'logger__print_freq': None},
        'logger.print_freq: must be given, got nothing. BasicSR asks for it when it is due.',
    ),
    ({'name': None}, 'name: must be given, got nothing. BasicSR needs it.'),
    ({'train': None}, 'train: must be a block of options, got nothing. A training run needs it.'),
]


@pytest.mark.parametrize(('changes', 'line'), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_run_with_bad_option_stops_before_anything_is_written(changes, line, tmp_path, clips, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    with pytest.raises(InputError, match=line) as error:
        train_here(tmp_path, options(clips, **{'network_g': NETWORK, **changes}))
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


BAD_TEXTS = [
    (
        'a: !!python/object/apply:os.system [touch ran]',
        r'bad.yml: must be plain YAML, got the tag !!python/object/apply:os.system. Such a tag runs code',
    ),
    ('%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system [touch ran]', 'must be plain YAML, got'),
    ('a: !<tag:yaml.org,2002:python/object/apply:os.system> [touch ran]', 'must be plain YAML, got the tag'),
    ('name: [run', r'bad.yml: must be YAML, got while parsing a flow sequence.*line 1.*Correct that line.'),
    ('just words', 'bad.yml: must hold options, got str.'),
]


@pytest.mark.parametrize(
    ('script', 'text', 'line'), [('test.py', *BAD_TEXTS[0]), *(('train.py', *bad) for bad in BAD_TEXTS)]
)
def test_script_with_file_that_is_no_option_file_exits_with_one_line(script, text, line, tmp_path):
    (tmp_path / 'bad.yml').write_text(text)
    done = run(sys.executable, Path(basicsr.__file__).parent / script, '-opt', 'bad.yml', cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert re.search(line, done.stdout)
    assert done.stdout.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['bad.yml']


@pytest.mark.parametrize('command', ['train', 'plan'])
def test_command_with_bad_option_exits_with_one_line(command, tmp_path, clips):
    write(tmp_path, options(clips, multigrid__gt_size=[128, 64]))
    done = run(sys.executable, '-m', 'multigrid_vsr.cli', command, '-opt', 'run.yml', cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert done.stdout == (
        'multigrid.gt_size: must grow strictly, got [128, 64]. Sort it, without repeats; other '
        'orders go into `stages`.\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


def test_command_with_missing_file_exits_with_one_line(tmp_path):
    done = run(sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', 'no.yml', cwd=tmp_path, ok=False)
    assert done.stdout == (
        '-opt: must be a file that can be read, got no.yml (No such file or directory). Correct the path.\n'
    )


def test_force_yml_with_unknown_block_exits_with_one_line(tmp_path, clips):
    with pytest.raises(InputError, match=r'--force_yml: must be key:key=value with keys .* got a:b=1'):
        train_here(tmp_path, options(clips), '--force_yml', 'a:b=1')


def test_plan_prints_the_table_of_the_log(tmp_path, clips):
    opt_file = write(tmp_path, options(clips))
    printed = run(sys.executable, '-m', 'multigrid_vsr.cli', 'plan', '-opt', opt_file, cwd=tmp_path).stdout
    # Written by hand: samples are batch x iterations, Mpixels samples x frames x gt_size^2 / 10^6, cost b t g^2 against
    # 1 x 4 x 128^2.
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == 'stage iterations count gt_size num_frame batch/gpu samples Mpixels cost'.split()
    assert rows[2:9] == [
        ['1', '1-2', '2', '64', '2', '2', '4', '0.033', '25.0%'],
        ['1', '3-4', '2', '64', '3', '2', '4', '0.049', '37.5%'],
        ['1', '5-6', '2', '64', '4', '2', '4', '0.066', '50.0%'],
        ['2', '7-8', '2', '128', '2', '1', '2', '0.066', '50.0%'],
        ['2', '9-10', '2', '128', '3', '1', '2', '0.098', '75.0%'],
        ['2', '11-13', '3', '128', '4', '1', '3', '0.197', '100.0%'],
        ['all', '1-13', '13', '19', '0.508', '59.6%'],
    ]
    assert '0.508 Mpixels against 0.852 for 13 iterations of the full shape: 1.68x fewer.' in printed
    assert '3 clips of 22 frames.' in printed
    log = run(sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', opt_file, cwd=tmp_path).stdout
    assert '\n'.join(printed.splitlines()[:9]) in log


def test_plan_without_the_data_still_prints_the_table(tmp_path, clips):
    opt_file = write(tmp_path, options(clips, datasets__train__dataroot_gt='nowhere'))
    printed = run(
        sys.executable,
        '-m',
        'multigrid_vsr.cli',
        'plan',
        '-opt',
        opt_file,
        '--gpus',
        '2',
        '--force_yml',
        'multigrid:num_frame=[4]',
        cwd=tmp_path,
    ).stdout
    assert printed.splitlines()[2].split() == ['1', '1-6', '6', '64', '4', '2', '24', '0.393', '50.0%']
    assert 'Data not checked. datasets.train.dataroot_gt: must be a folder that exists, got nowhere.' in printed
