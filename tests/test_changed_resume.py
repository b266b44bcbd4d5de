"""Going on with another option file, and after a start from weights that are not the run's own."""

from __future__ import annotations

import re
import shutil
from unittest import mock

import pytest
import torch
import yaml
from probe import NETWORK, train_here
from runs import TRAIN, loaded, log_of, options, run, same_bits, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError

STEPS = {'type': 'MultiStepLR', 'milestones': [100], 'gamma': 0.5}
BASICVSR = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}
GAN = {
    'model_type': 'MultigridVideoGANModel', 'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4},
    'train__optim_d': {'type': 'Adam', 'lr': 1e-3},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.01},
}  # fmt: skip


def short(clips, **changes):
    """Iterations of one small shape, a checkpoint at every second."""
    values = {'multigrid': {}, 'datasets__train__gt_size': 32, 'datasets__train__num_frame': 2, 'network_g': NETWORK}
    values |= {'train__total_iter': 6, 'train__scheduler': STEPS, 'logger__save_checkpoint_freq': 2}
    return options(clips, **{**values, **changes})


def weights(path, key='params'):
    return torch.load(path, weights_only=True)[key]


def forget(folder, last):
    """Takes the checkpoints after an iteration away."""
    for path in (*folder.glob('training_states/*'), *folder.glob('models/*')):
        if int((re.findall(r'\d+', path.stem) or ['1000'])[0]) > last:
            path.unlink()


def rates(folder):
    return [tuple(map(float, found[:-1].split(','))) for found in re.findall(r'lr:\((\S+)\)', log_of(folder))]


@pytest.fixture(scope='module')
def foreign(tmp_path_factory, clips):
    """Weights of another run without a key: g.pth and d.pth."""
    folder = tmp_path_factory.mktemp('foreign')
    train_here(folder, short(clips, manual_seed=99, train__total_iter=2, **GAN))
    for label in 'gd':
        torch.save(weights(folder / f'experiments/run/models/net_{label}_2.pth'), folder / f'{label}.pth')
    return folder


@pytest.fixture(scope='module')
def plain(tmp_path_factory, clips):
    """The experiments folder of a finished run."""
    folder = tmp_path_factory.mktemp('plain')
    train_here(folder, short(clips))
    return folder / 'experiments'


def ends_the_same_again(folder, opt, names):
    """Whether a run that goes on from iteration 4 ends with the bits that it has ended with."""
    shutil.copytree(folder, folder.parents[1] / 'whole')
    forget(folder, 4)
    train_here(folder.parents[1], opt, '--auto_resume')
    return all(same_bits(folder / name, folder.parents[1] / 'whole' / name) for name in names)


@pytest.mark.parametrize('path_opt', [
    {'param_key_g': None},
    {'param_key_g': None, 'strict_load_g': False},
    {'param_key_g': 'weights'},
    {'param_key_g': 'params_ema'},
])  # fmt: skip
def test_run_from_weights_under_another_key_goes_on_from_its_own(path_opt, tmp_path, clips, foreign):
    raw, key = torch.load(foreign / 'g.pth', weights_only=True), path_opt['param_key_g']
    torch.save(raw if key is None else {key: raw}, tmp_path / 'w.pth')
    opt = short(clips, train__ema_decay=0.5)
    opt['path'] |= {'pretrain_network_g': str(tmp_path / 'w.pth'), **path_opt}
    folder = tmp_path / 'experiments/run'
    train_here(tmp_path, opt)
    assert (weights(folder / 'models/net_g_2.pth')['conv.weight'] - raw['conv.weight']).abs().max() < 0.01
    assert ends_the_same_again(folder, opt, ['models/net_g_6.pth', 'training_states/6.state'])


def test_average_of_weights_without_one_begins_as_the_weights(tmp_path, clips, foreign):
    opt = short(clips, train__ema_decay=0.9999, train__total_iter=2)
    opt['path'] |= {'pretrain_network_g': str(foreign / 'g.pth'), 'param_key_g': None}
    train_here(tmp_path, opt)
    averaged = weights(tmp_path / 'experiments/run/models/net_g_2.pth', 'params_ema')['conv.weight']
    assert (averaged - torch.load(foreign / 'g.pth', weights_only=True)['conv.weight']).abs().max() < 1e-5


def test_cooldown_and_a_state_of_another_run_go_on_from_its_weights(tmp_path, clips, foreign, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rule = {'type': 'MultigridCosineLR', 'anneal': 'linear', 'warmup_iter': -1}
    opt = short(clips, train__optim_g={'type': 'Adam', 'lr': 1e-9}, train__scheduler=rule)
    opt['path'] |= {'pretrain_network_g': str(foreign / 'g.pth'), 'param_key_g': None, 'strict_load_g': False}
    train_here(tmp_path, opt)
    main(['cooldown', '-opt', 'run.yml', '-o', 'end.yml', '--from', '4', '--iter', '2'])
    end = yaml.safe_load((tmp_path / 'end.yml').read_text())
    train_here(tmp_path, end)
    opt['name'], opt['path']['resume_state'] = 'second', 'experiments/run/training_states/4.state'
    train_here(tmp_path, opt)
    own = weights('experiments/run/models/net_g_4.pth')['conv.weight']
    for name in (end['name'], 'second'):
        found = weights(f'experiments/{name}/models/net_g_latest.pth')['conv.weight']
        assert (found - own).abs().max() < 1e-6


def test_gan_run_from_weights_of_a_discriminator_without_a_key_goes_on_from_its_own(tmp_path, clips, foreign):
    opt = short(clips, **GAN)
    opt['path'] |= {'pretrain_network_d': str(foreign / 'd.pth'), 'param_key_d': None, 'strict_load_d': False}
    train_here(tmp_path, opt)
    names = ['models/net_g_6.pth', 'models/net_d_6.pth']
    assert ends_the_same_again(tmp_path / 'experiments/run', opt, names)


COSINE = {'type': 'CosineAnnealingRestartLR', 'restart_weights': [1], 'eta_min': 0}
# By hand: 1e-3 (1 + cos(pi i / 8)) / 2 at i = 4, 5, 6, 7.
OF_EIGHT = [5.0e-4, 3.087e-4, 1.464e-4, 3.806e-5]


@pytest.mark.parametrize(
    ('saved', 'asked', 'expected'),
    [
        ({}, {'train__scheduler': {**STEPS, 'milestones': [5], 'gamma': 0.1}}, [1e-3, 1e-4, 1e-4, 1e-4]),
        ({}, {'train__scheduler': {**STEPS, 'milestones': [2, 6]}}, [5e-4, 5e-4, 2.5e-4, 2.5e-4]),
        ({}, {'train__optim_g': {'type': 'Adam', 'lr': 1e-4}}, [1e-4] * 4),
        ({'train__scheduler': {**COSINE, 'periods': [6]}}, {'train__scheduler': {**COSINE, 'periods': [8]}}, OF_EIGHT),
        ({}, {'train__scheduler': {**COSINE, 'periods': [8]}}, OF_EIGHT),
        ({'train__scheduler': {**COSINE, 'periods': [6]}}, {}, [1e-3] * 4),
        # BasicSR's scheduler goes on from the warm-up's last rate: 1e-3 * 3 / 4.
        ({}, {'train__warmup_iter': 4}, [7.5e-4] * 4),
        ({}, {'train__warmup_iter': 7}, [5 / 7 * 1e-3, 6 / 7 * 1e-3, 6 / 7 * 1e-3, 6 / 7 * 1e-3]),
    ],
)  # fmt: skip
def test_run_that_goes_on_has_the_rates_of_its_file_as_the_table_says(saved, asked, expected, tmp_path, clips, plain):
    if saved:
        train_here(tmp_path, short(clips, **saved))
    else:
        shutil.copytree(plain, tmp_path / 'experiments')
    folder = tmp_path / 'experiments/run'
    forget(folder, 4)
    asked = {'path__resume_changed_schedule': True, 'train__total_iter': 8, **asked}
    train_here(tmp_path, short(clips, **asked), '--auto_resume')
    assert [rate for (rate,) in rates(folder)] == pytest.approx(expected, rel=1e-3)
    assert f'to {expected[-1]:.2e}\n' in log_of(folder)  # of the table
    shutil.copytree(folder, tmp_path / 'changed')
    forget(folder, 6)
    train_here(tmp_path, short(clips, **asked), '--auto_resume')  # and again, from a state of this file
    assert same_bits(folder / 'training_states/8.state', tmp_path / 'changed/training_states/8.state')


@pytest.mark.parametrize(
    ('before', 'after', 'expected'),
    [
        ({}, {'train__flow_lr_mul': 0.125}, [(1e-3, 1.25e-4)] * 2),
        ({'train__flow_lr_mul': 0.125}, {}, [(1e-3,)] * 2),
        ({'train__flow_lr_mul': 0.125}, {'train__flow_lr_mul': 0.5, 'train__fix_modules': ['upconv']}, [(1e-3, 5e-4)] * 2),
    ],
)  # fmt: skip
def test_run_that_goes_on_with_other_groups_keeps_the_moments_of_each_parameter(
    before, after, expected, tmp_path, clips
):
    train_here(tmp_path, short(clips, network_g=BASICVSR, **before))
    folder = tmp_path / 'experiments/run'
    forget(folder, 4)
    train_here(tmp_path, short(clips, network_g=BASICVSR, **after), '--auto_resume')
    assert rates(folder) == expected
    assert 'begin anew' not in log_of(folder)
    saved = [loaded(folder, f'{iteration}.state') for iteration in (4, 6)]
    steps = [
        {
            name: float(state['optimizers'][0]['state'][place]['step'])
            for place, name in enumerate(state['parameters'][0])
        }
        for state in saved
    ]
    assert [set(of_state.values()) for of_state in steps] == [{4.0}, {6.0}]
    assert steps[0].keys() == steps[1].keys()


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9}, {'type': 'Adam', 'lr': 1e-3}),
        ({'type': 'Adam', 'lr': 1e-3}, {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9}),
        ({'type': 'Adam', 'lr': 1e-3}, {'type': 'Adamax', 'lr': 1e-3}),
    ],
)
def test_run_that_goes_on_with_another_optimizer_says_that_its_moments_begin_anew(before, after, tmp_path, clips):
    train_here(tmp_path, short(clips, train__optim_g=before))
    folder = tmp_path / 'experiments/run'
    forget(folder, 4)
    assert len(train_here(tmp_path, short(clips, train__optim_g=after), '--auto_resume')) == 2
    assert 'train.optim: the moments of 2 of 2 parameters begin anew.' in log_of(folder)


@pytest.mark.parametrize('strict', [True, False])
def test_run_that_goes_on_with_another_width_stops_before_anything_is_written(strict, tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_here(tmp_path, short(clips, network_g=BASICVSR))
    folder = tmp_path / 'experiments/run'
    forget(folder, 4)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    opt = short(clips, network_g={**BASICVSR, 'num_feat': 6})
    opt['path']['strict_load_g'] = strict
    line = r'path.resume_state: must fit BasicVSR with the arguments of network_g, got \S+/net_g_4.pth \(.*Correct network_g'
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt, '--auto_resume')
    opt['path']['resume_state'] = 'experiments/run/training_states/4.state'
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt)
    with pytest.raises(SystemExit, match=line):
        main(['plan', '-opt', str(write(tmp_path, opt))])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before


@pytest.mark.parametrize(
    'what', ['-opt', 'path.pretrain_network_g', 'network_g.spynet_path', 'datasets.train.meta_info_file']
)
def test_new_run_that_reads_its_own_folder_is_refused_and_moves_nothing(what, tmp_path, clips, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opt = short(clips, network_g=BASICVSR, train__total_iter=4)
    train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    (folder / 'list.txt').write_text('000 6 (144,176,3)\n001 9 (144,176,3)\n')
    trained = {name: weight for name, weight in weights(folder / 'models/net_g_4.pth').items() if 'basic' in name}
    torch.save({'params': {name.removeprefix('spynet.'): weight for name, weight in trained.items()}}, folder / 's.pth')
    if what == 'path.pretrain_network_g':
        opt['path']['pretrain_network_g'] = 'experiments/run/models/net_g_2.pth'
    if what == 'network_g.spynet_path':
        opt['network_g']['spynet_path'] = 'experiments/run/s.pth'
    if what == 'datasets.train.meta_info_file':
        opt['datasets']['train']['meta_info_file'] = 'experiments/run/list.txt'
    there = sorted(tmp_path.rglob('*'))
    place = folder if what == '-opt' else tmp_path
    line = f'{what}: must be outside {folder}, which a new run of this name moves away, got '
    with pytest.raises(InputError, match=line):
        train_here(place, opt) if what != '-opt' else _train_file(tmp_path, folder / 'run.yml')
    assert sorted(tmp_path.rglob('*')) == there
    capsys.readouterr()
    main(['plan', '-opt', str(place / 'run.yml')])
    assert f'Not as a new run. {line}' in capsys.readouterr().out
    forget(folder, 2)
    _train_file(tmp_path, place / 'run.yml', '--auto_resume')
    assert (folder / 'models/net_g_4.pth').is_file()
    assert [path.name for path in (tmp_path / 'experiments').iterdir() if 'archived' in path.name] == []


def _train_file(folder, opt_file, *arguments):
    """Trains with the file as it is."""
    written = yaml.safe_load(opt_file.read_text())
    with mock.patch('probe.write', return_value=opt_file):
        train_here(folder, written, *arguments)


@pytest.mark.parametrize(
    ('more', 'line'),
    [
        ('  ema_decay: 0.9\n  ema_decay: 0.5\n', 'must say an option once in a block, got ema_decay in line'),
        ('  <<: *shared\n', 'must be without merge keys, which BasicSR does not merge, got `<<` in line'),
    ],
)
def test_file_that_basicsr_reads_otherwise_is_refused_by_all_commands(more, line, tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = 'shared: &shared {stop_on_nan: 3}\n' + yaml.safe_dump(options(clips)).replace(
        '\ntrain:\n', f'\ntrain:\n{more}'
    )
    (tmp_path / 'run.yml').write_text(text)
    (tmp_path / 'stock.yml').write_text(text.replace('MultigridVideoModel', 'VideoRecurrentModel'))
    for arguments in (('plan', '-opt', 'run.yml'), ('convert', '-opt', 'stock.yml', '-o', 'mg.yml')):
        with pytest.raises(SystemExit, match=f'{arguments[2]}: {line}'):
            main(list(arguments))
    with pytest.raises(InputError, match=f'run.yml: {line}'):
        _train_file(tmp_path, tmp_path / 'run.yml')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['run.yml', 'stock.yml']


def test_letters_that_basicsr_cannot_read_in_the_locale_are_one_line(tmp_path, clips):
    ascii_only = {'LC_ALL': 'POSIX', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii'}
    opt_file = write(tmp_path, options(clips, train__total_iter=1))
    opt_file.write_text(opt_file.read_text().replace('name: run', 'name: 视频_é', 1), encoding='utf-8')
    printed = run(*TRAIN, opt_file, cwd=tmp_path, ok=False, **ascii_only).stdout
    line = f'{opt_file}: must be in the encoding of the locale, which BasicSR reads it in, got UTF-8 and not '
    assert printed.splitlines()[-1].startswith(line)
    assert 'Traceback' not in printed
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']
    run(*TRAIN, opt_file, cwd=tmp_path, **{**ascii_only, 'PYTHONUTF8': '1', 'PYTHONIOENCODING': 'utf-8'})
    assert (tmp_path / 'experiments/视频_é/models/net_g_latest.pth').exists()


def test_blocks_that_an_alias_repeats_train_as_if_they_were_written_out(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = short(clips, train__total_iter=2, train__optim_g={'type': 'Adam', 'lr': 1e-3}, **GAN)
    train_here(tmp_path, opt)
    opt['name'] = 'aliased'
    for key in ('optim_g', 'optim_d'):
        opt['train'][key] = '*adam'
    text = 'shared: {adam: &adam {type: Adam, lr: 0.001}}\n' + yaml.safe_dump(opt).replace("'*adam'", '*adam')
    (tmp_path / 'aliased.yml').write_text(text)
    main(['plan', '-opt', 'aliased.yml'])
    _train_file(tmp_path, tmp_path / 'aliased.yml')
    for name in ('models/net_g_2.pth', 'models/net_d_2.pth', 'training_states/2.state'):
        assert same_bits(tmp_path / 'experiments/run' / name, tmp_path / 'experiments/aliased' / name)
