"""Nothing is lost: a run that was stopped, or whose frame or disk failed, ends as one that was not."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from probe import NETWORK, train_here
from runs import (
    TRAIN,
    TRAIN_PROBE,
    assert_same_end,
    loaded,
    log_of,
    losses,
    options,
    processes_below,
    real_options,
    rest_of,
    same_bits,
    started,
    still_running,
    train,
    wait_for,
    write,
)

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models import checkpoints


@pytest.fixture(scope='module')
def whole(tmp_path_factory, clips):
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp('whole')
    log = train(folder, write(folder, real_options(clips, folder)))
    assert len(losses(log)) == 13
    return folder, losses(log)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_run_asked_to_stop_saves_and_goes_on_as_if_it_had_not_been(number, tmp_path, clips, whole):
    """As a terminal and SLURM ask: all processes of the group, the workers too; and then again at once."""
    workers = {'datasets__train__num_worker_per_gpu': 2, 'datasets__train__prefetch_mode': 'cpu'}
    opt_file = write(tmp_path, real_options(clips, tmp_path, **workers))
    rng = random.Random(int(number))
    with started(*TRAIN, opt_file, cwd=tmp_path) as process:
        seen = losses(wait_for(process, rng.randint(1, 9)))
        processes = processes_below(process.pid)
        time.sleep(rng.uniform(0, 0.2))
        for _ in range(2):
            os.killpg(process.pid, number)
        rest = rest_of(process)
    assert process.returncode == 128 + number
    assert f'Asked to stop by signal {number.value}: saving first.' in rest
    assert 'Traceback' not in rest
    assert len(processes) == 2
    assert still_running(processes, 5) == set()
    newest = max(int(path.stem) for path in (tmp_path / 'run/training_states').glob('*.state'))
    log = train(tmp_path, opt_file, '--auto_resume')
    assert f'Resuming training from epoch: 0, iter: {newest}.' in log
    assert seen + losses(rest) == whole[1][:newest]  # that of the last iteration too
    assert losses(log) == whole[1][newest:]
    assert_same_end(tmp_path, whole[0])


@pytest.mark.parametrize(('workers', 'prefetch_mode'), [(0, None), (0, 'cpu'), (2, 'cpu')])
def test_run_whose_frame_cannot_be_read_saves_first_and_goes_on(workers, prefetch_mode, tmp_path, clips, whole):
    """No checkpoint but that of the failure is left by the first run."""
    shutil.copytree(clips, tmp_path / 'clips')
    damaged = tmp_path / 'clips/gt/001/00000003.png'  # iteration 6 is the first that needs it
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:200])
    loading = {'num_worker_per_gpu': workers, 'prefetch_mode': prefetch_mode}
    changes = {f'datasets__train__{key}': value for key, value in loading.items()}
    opt = real_options(tmp_path / 'clips', tmp_path, **changes)
    opt['logger']['save_checkpoint_freq'] = 1000
    log = train(tmp_path, write(tmp_path, opt), ok=False)
    assert losses(log) == whole[1][:5]
    assert 'A frame cannot be read: saving first.' in log
    assert re.fullmatch(rf'clip 001, frame 3: {damaged} holds no image that can be decoded', log.splitlines()[-1])
    assert [path.name for path in (tmp_path / 'run/training_states').iterdir()] == ['5.state']
    damaged.write_bytes(sound)
    log = train(tmp_path, write(tmp_path, real_options(tmp_path / 'clips', tmp_path)), '--auto_resume')
    assert losses(log) == whole[1][5:]
    assert_same_end(tmp_path, whole[0])


@pytest.mark.parametrize('stuck', ['network', 'frame'])
def test_second_ctrl_c_stops_a_run_that_is_stuck(stuck, tmp_path, clips):
    """In a network that does not come back, or with a worker that waits for a frame for ever."""
    if stuck == 'frame':
        shutil.copytree(clips, tmp_path / 'clips')
        clips = tmp_path / 'clips'
        for path in clips.glob('gt/001/0000000[1-9].png'):  # iteration 1 takes samples of the other clips
            path.unlink()
            os.mkfifo(path)
    workers = {'datasets__train__num_worker_per_gpu': 2, 'datasets__train__prefetch_mode': 'cpu'}
    network = {'type': 'StuckProbe' if stuck == 'network' else 'ShapeProbe'}
    opt = options(
        clips, path__experiments_root=str(tmp_path), network_g=network, logger__save_checkpoint_freq=1, **workers
    )
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for(process, 1)
        time.sleep(0.5)
        processes = processes_below(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1.1)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert 'Traceback' not in rest_of(process, 5)
    assert process.returncode == 128 + signal.SIGINT
    assert len(processes) == 2
    assert still_running(processes, 1) == set()
    assert list((tmp_path / 'run/training_states').glob('[0-9]*.state')) != []


@pytest.fixture(scope='module')
def finished(tmp_path_factory, clips):
    """A finished run of the probe, with a checkpoint at every iteration."""
    folder = tmp_path_factory.mktemp('finished')
    return train_here(folder, options(clips, network_g=NETWORK, logger__save_checkpoint_freq=1)), folder


@pytest.fixture
def small(tmp_path, clips, finished):
    """A copy of it, with its options and what it was fed."""
    fed, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return options(clips, network_g=NETWORK, logger__save_checkpoint_freq=1), fed, tmp_path / 'experiments/run'


def keep_until(folder, iteration):
    for path in (*folder.glob('training_states/*.state'), *folder.glob('models/net_g_[0-9]*.pth')):
        if int(re.search(r'\d+', path.stem).group()) > iteration:
            path.unlink()


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path: Path) -> None:
    path.write_bytes(b'')


def damage_foreign(path: Path) -> None:
    torch.save({'params': torch.zeros(1)}, path)


def damage_rename(path: Path) -> None:
    shutil.copy(path.with_name('4.state'), path)


@pytest.mark.parametrize(
    ('name', 'damage'),
    [
        *(
            ('training_states/7.state', damage)
            for damage in (damage_truncate, damage_empty, damage_foreign, damage_rename)
        ),
        *(('models/net_g_7.pth', damage) for damage in (damage_truncate, damage_empty, Path.unlink)),
    ],
)
def test_resume_passes_over_a_damaged_checkpoint(name, damage, tmp_path, small, capsys):
    opt, fed, folder = small
    keep_until(folder, 7)
    damage(folder / name)
    assert train_here(tmp_path, opt, '--auto_resume') == fed[6:]
    assert re.search(r'Passed over \S+/training_states/7.state: ', capsys.readouterr().out)


def test_resume_with_damaged_states_alone_stops_and_keeps_them(tmp_path, small):
    opt, _, folder = small
    keep_until(folder, 1)
    damage_empty(folder / 'training_states/1.state')
    before = sorted(folder.rglob('*'))
    with pytest.raises(InputError, match=r'--auto_resume: must find a whole checkpoint in \S+, got 1 damaged ones'):
        train_here(tmp_path, opt, '--auto_resume')
    assert sorted(folder.rglob('*')) == before


class Code:
    def __reduce__(self):
        return os.mkdir, ('ran',)


def test_state_with_code_in_it_is_refused_and_does_not_run(tmp_path, small, monkeypatch):
    opt, _, folder = small
    monkeypatch.chdir(tmp_path)
    torch.save({'epoch': 0, 'iter': 3, 'optimizers': [], 'schedulers': [], 'code': Code()}, folder / 'bad.state')
    opt['path']['resume_state'] = str(folder / 'bad.state')
    with pytest.raises(InputError, match=r'path.resume_state: must be a whole training state of plain data, got'):
        train_here(tmp_path, opt)
    assert not (tmp_path / 'ran').exists()


def test_resume_state_of_another_run_takes_its_weights_from_beside_it(tmp_path, small):
    opt, fed, folder = small
    opt = {**opt, 'name': 'second', 'path': {**opt['path'], 'resume_state': str(folder / 'training_states/5.state')}}
    assert train_here(tmp_path, opt) == fed[5:]
    assert same_bits(folder / 'models/net_g_13.pth', tmp_path / 'experiments/second/models/net_g_13.pth')


def test_resume_state_without_its_weights_is_refused_by_train_and_plan(tmp_path, small, monkeypatch):
    opt, _, folder = small
    monkeypatch.chdir(tmp_path)
    opt['path']['resume_state'] = str(folder / 'training_states/5.state')
    main(['plan', '-opt', str(write(tmp_path, opt))])
    (folder / 'models/net_g_5.pth').unlink()
    line = r'path.resume_state: must have its weights net_g_5.pth in'
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt)
    with pytest.raises(SystemExit, match=line):
        main(['plan', '-opt', str(write(tmp_path, opt))])


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'num_frame': [2, 4]}, r'saved \[.*\(13, 1, 4, 128\).*; now \[\(9, 1, 2, 128\), \(13, 1, 4, 128\)\]'),
        ({'batch_size_per_gpu': [2, 2]}, r'now \[\(8, 2, 2, 128\)'),
        ({'manual_seed': 4}, 'saved seed 3, now 4'),
    ],
)
def test_resume_with_another_schedule_needs_to_be_allowed(change, line, tmp_path, small):
    opt, _, folder = small
    keep_until(folder, 6)
    for key, value in change.items():
        (opt if key == 'manual_seed' else opt['multigrid'])[key] = value
    match = 'path.resume_changed_schedule: must be true to go on with another schedule'
    with pytest.raises(InputError, match=match) as error:
        train_here(tmp_path, opt, '--auto_resume')
    if 'num_frame' not in change:
        assert re.search(line, str(error.value))
    opt['path']['resume_changed_schedule'] = True
    assert len(train_here(tmp_path, opt, '--auto_resume')) == 7


def test_resume_without_a_seed_in_the_file_goes_on_with_the_one_it_had(tmp_path, clips):
    opt = options(clips, network_g=NETWORK, manual_seed=None, logger__save_checkpoint_freq=1)
    fed = train_here(tmp_path, opt)
    keep_until(tmp_path / 'experiments/run', 6)
    assert train_here(tmp_path, opt, '--auto_resume') == fed[6:]


def test_full_disk_costs_its_checkpoint_alone(tmp_path, clips, monkeypatch, caplog):
    """From the third checkpoint on, the disk takes the first bytes of a file and no more."""
    real = torch.save
    count = []

    def save(value, file):
        count.append(file)
        if len(count) > 4:
            file.write(b'half')
            raise OSError(28, 'No space left on device')
        real(value, file)

    monkeypatch.setattr(torch, 'save', save)
    opt = options(clips, network_g=NETWORK, logger__save_checkpoint_freq=2)
    with pytest.raises(InputError, match=r'net_g_latest.pth cannot be written .*No space left.* run again with --auto'):
        train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    files = sorted(path.name for path in (*folder.glob('models/*'), *folder.glob('models/.*')))
    assert files == ['net_g_2.pth', 'net_g_4.pth']
    monkeypatch.undo()
    assert checkpoints.newest_good({
        'path': {'training_states': str(folder / 'training_states'), 'models': str(folder / 'models')},
        'model_type': 'MultigridVideoModel',
    })[0].name == '4.state'  # fmt: skip


def test_run_resumed_with_other_flags_of_its_optimizer_has_those_of_the_file(tmp_path, clips):
    """Fused Adam and weights with the channels last: moments of the old layout would belong to other weights."""
    ends = []
    for name, changes in {'plain': {}, 'changed': {'train__channels_last': True}}.items():
        folder = tmp_path / name
        folder.mkdir()
        network = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}
        common = {'network_g': network, 'train__total_iter': 6, 'logger__save_checkpoint_freq': 3}
        train_here(folder, options(clips, **common))
        (folder / 'experiments/run/training_states/6.state').unlink()
        optimizer = {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.9], 'weight_decay': 0.01, 'fused': True}
        train_here(folder, options(clips, **common, train__optim_g=optimizer, **changes), '--auto_resume')
        run_folder = folder / 'experiments/run'
        assert re.findall(r'INFO: (train.optim: .*)', log_of(run_folder)) == [
            'train.optim: betas is (0.9, 0.9) now, and was (0.9, 0.99).',
            'train.optim: weight_decay is 0.01 now, and was 0.',
            'train.optim: fused is True now, and was None.',
        ]
        group = loaded(run_folder, '6.state')['optimizers'][0]
        flags = [group['param_groups'][0][key] for key in ('betas', 'weight_decay', 'fused')]
        assert [tuple(flags[0]), *flags[1:]] == [(0.9, 0.9), 0.01, True]  # older versions keep a list
        ends.append(loaded(run_folder, 'latest')['params'])
    assert max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0]) < 1e-4
