"""``multigrid-vsr cooldown``: the end of a run under way, in a run of its own."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from probe import NETWORK, train_here
from runs import log_of, options, write

from multigrid_vsr.cli import main


def run_options(clips, **changes):
    """13 iterations whose rate hardly falls before the last shape, twice as large at the batch of 2."""
    rule = {'type': 'MultigridCosineLR', 'restart': 'shape', 'anneal': 'last', 'eta_min': 0, 'warmup_iter': -1}
    values = {'network_g': NETWORK, 'logger__save_checkpoint_freq': 4, 'multigrid__micro_batch_size_per_gpu': 1}
    return options(clips, train__scheduler={**rule, 'batch_scaling': 'linear'}, **values, **changes)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, clips):
    folder = tmp_path_factory.mktemp('trained')
    train_here(folder, run_options(clips))
    return folder


@pytest.fixture
def under_way(trained, tmp_path, monkeypatch):
    """The folder where a run has been trained, and what it has written."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path, dirs_exist_ok=True))


def cooled(*arguments):
    main(['cooldown', '-opt', 'run.yml', '-o', 'end.yml', *map(str, arguments)])


def written(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / 'experiments/run').rglob('*') if path.is_file()}


def rates(folder):
    return [float(rate) for rate in re.findall(r'lr:\((\S+),\)', log_of(folder))]


def test_cooldown_goes_on_at_the_full_shape_and_anneals_from_the_rate_that_the_run_had(under_way, capsys):
    before = written(under_way)
    cooled('--from', 4, '--iter', 4)
    printed = capsys.readouterr().out
    opt = yaml.safe_load((under_way / 'end.yml').read_text())
    # Written by hand: iterations 1 to 4 are two shapes at gt_size 64; the rate of the fourth, cos(pi/13) into its period.
    assert opt['multigrid'] == {
        'micro_batch_size_per_gpu': 1,
        'stages': [
            {'iter': 2, 'gt_size': 64, 'num_frame': 2, 'batch_size_per_gpu': 2},
            {'iter': 2, 'gt_size': 64, 'num_frame': 3, 'batch_size_per_gpu': 2},
            {'iter': 4},
        ],
    }
    assert opt['train']['scheduler'] == {
        'type': 'MultigridCosineLR',
        'restart': 'shape',
        'anneal': 'last',
        'restart_weights': [1, 1, 0.985471],
        'warmup_iter': -1,
        'eta_min': 0,
    }
    assert (opt['name'], opt['train']['total_iter']) == ('run_cooldown_4_4', 8)
    assert 'Go on with: multigrid-vsr train -opt end.yml' in printed
    fed = train_here(under_way, opt)
    assert [shape for shape, _ in fed[-4:]] == [(1, 4, 3, 32, 32)] * 4
    # 0.985471e-3 times 1, 0.853553, 0.5 and 0.146447
    assert rates(under_way / 'experiments/run_cooldown_4_4') == pytest.approx(
        [9.855e-4, 8.412e-4, 4.927e-4, 1.443e-4], rel=1e-3
    )
    assert written(under_way) == before
    assert (under_way / 'experiments/run_cooldown_4_4/models/net_g_latest.pth').exists()


def test_cooldown_takes_the_newest_whole_checkpoint_wherever_the_run_is(under_way, capsys):
    newest = under_way / 'experiments/run/training_states/12.state'
    newest.write_bytes(newest.read_bytes()[:-100])
    os.rename('experiments', 'elsewhere')
    cooled('--iter', 4, '--run', 'elsewhere/run')
    opt = yaml.safe_load((under_way / 'end.yml').read_text())
    assert opt['path']['resume_state'] == str(under_way / 'elsewhere/run/training_states/8.state')
    assert opt['path']['resume_changed_schedule'] is True
    assert [entry['iter'] for entry in opt['multigrid']['stages']] == [2, 2, 2, 2, 4]
    assert re.search(r'Passed over \S+12.state', capsys.readouterr().out)


def test_cooldown_resumed_in_the_middle_sees_and_ends_as_one_that_was_not(under_way):
    cooled('--from', 4, '--iter', 4)
    opt = yaml.safe_load((under_way / 'end.yml').read_text())
    opt['logger']['save_checkpoint_freq'] = 2
    whole = train_here(under_way, opt)
    folder = under_way / 'experiments/run_cooldown_4_4'
    weights = (folder / 'models/net_g_latest.pth').read_bytes()
    (folder / 'training_states/8.state').unlink()
    assert train_here(under_way, opt, '--auto_resume')[-2:] == whole[-2:]
    assert (folder / 'models/net_g_latest.pth').read_bytes() == weights


STOCK = {'multigrid': None, 'model_type': 'VideoRecurrentModel'}
BAD = [
    ({}, ('--iter', 0), '--iter: must be at least 1, got 0. Correct the value.'),
    ({}, ('--iter', 4, '--from', 0), '--from: must be at least 1, got 0. Correct the value.'),
    ({}, ('--iter', 4, '--from', 5), r'--from: must be the iteration of a checkpoint in experiments/run, got 5 \(there: none\). Say where the run is'),
    (STOCK, ('--iter', 4), '-opt: must be a file of this project, got run'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'arguments', 'line'), BAD)
def test_cooldown_of_what_is_not_there_exits_with_one_line(changes, arguments, line, tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, run_options(clips, **changes))
    with pytest.raises(SystemExit, match=line) as error:
        cooled(*arguments)
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']
