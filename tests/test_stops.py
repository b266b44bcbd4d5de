"""Runs that are asked to stop wherever they are: real processes, torchrun among them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from runs import (
    METRICS,
    PROBE,
    TRAIN_PROBE,
    loaded,
    options,
    own_set,
    rest_of,
    run,
    started,
    torchrun,
    wait_for,
    wait_for_line,
    write,
)


def stop_options(clips, folder, **changes):
    """A run without an end that saves nothing by itself."""
    changes = {
        'path__experiments_root': str(folder),
        'network_g': {'type': 'ShapeProbe'},
        'train__total_iter': 100_000,
        'train__scheduler': {'type': 'MultigridCosineLR'},
        **changes,
    }
    return options(clips, **changes)


def slowly_validated(clips):
    val = {'val_freq': 3, 'save_img': False, 'metrics': METRICS}
    return {'datasets__val': own_set(clips), 'val': val, 'network_g': {'type': 'SlowlyValidatedProbe'}}


def blocked(clips, folder, pattern):
    """A copy of the clips in which some frames are pipes that nobody writes to, as on a file server that does not answer."""
    shutil.copytree(clips, folder / 'clips')
    for frame in (folder / 'clips/gt').glob(pattern):
        frame.unlink()
        os.mkfifo(frame)
    return folder / 'clips'


def states(folder):
    return [path.name for path in (folder / 'run/training_states').glob('*.state')]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_run_asked_to_stop_in_the_middle_of_a_validation_saves_and_ends(number, tmp_path, clips):
    opt = stop_options(clips, tmp_path, **slowly_validated(clips))
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for_line(process, 'validating')
        os.killpg(process.pid, number)
        rest = rest_of(process, 30)
    assert process.returncode == 128 + number
    assert f'Asked to stop by signal {number.value}: saving first.' in rest
    assert 'left at iteration 3 of 16666: [2x2x64x64], iterations 1-3,' in rest
    assert 'Traceback' not in rest
    assert states(tmp_path) == ['3.state']


@pytest.mark.parametrize(('workers', 'prefetch'), [(0, None), (1, 'cpu')])
def test_run_asked_to_stop_while_it_waits_for_data_saves_and_ends(workers, prefetch, tmp_path, clips):
    clips = blocked(clips, tmp_path, '001/00000003.png')  # iteration 6 is the first that needs it
    opt = stop_options(clips, tmp_path, train__total_iter=13, datasets__train__num_worker_per_gpu=workers)
    opt['datasets']['train']['prefetch_mode'] = prefetch
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for(process, 5)
        os.kill(process.pid, signal.SIGTERM)
        rest = rest_of(process, 30)
    assert process.returncode == 143
    assert 'Asked to stop by signal 15: saving first.' in rest
    assert 'Traceback' not in rest
    assert states(tmp_path) == ['5.state']


def test_run_asked_to_stop_before_its_first_batch_ends_at_once(tmp_path, clips):
    clips = blocked(clips, tmp_path, '*/0*3.png')
    opt = stop_options(clips, tmp_path, datasets__train__batch_size_per_gpu=8, multigrid={})
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for_line(process, 'Start training')
        os.kill(process.pid, signal.SIGTERM)
        rest = rest_of(process, 30)
    assert process.returncode == 143
    assert rest == 'Asked to stop by signal 15 before an iteration was done here.\n'


def test_run_below_nohup_goes_on_after_its_terminal_has_closed(tmp_path, clips):
    opt = stop_options(clips, tmp_path, train__total_iter=40)
    with started('nohup', *TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for(process, 3)
        os.killpg(process.pid, signal.SIGHUP)
        rest = rest_of(process)
    assert process.returncode == 0
    assert 'End of training' in rest


@pytest.mark.parametrize('asked', ['torchrun', 'one rank'])
def test_ranks_asked_to_stop_in_a_validation_save_together(asked, tmp_path, clips):
    """Each rank validates clips of its own; the rank that was not asked hears of it."""
    opt = stop_options(clips, tmp_path, **slowly_validated(clips))
    with started(*torchrun(PROBE, 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path) as process:
        wait_for_line(process, 'validating', 2)
        ranks = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(process.pid if asked == 'torchrun' else int(ranks[-1]), signal.SIGTERM)
        rest = rest_of(process, 40)
    assert process.returncode != 0
    assert rest.count('Asked to stop by signal 15: saving first.') == 1
    assert 'probe.py", line' not in rest  # no traceback of a rank
    assert states(tmp_path) == ['3.state']
    assert sorted(loaded(tmp_path / 'run', '3.state')['rng']) == [0, 1]


def test_ranks_asked_to_stop_while_one_waits_for_data_save_once(tmp_path, clips):
    """The other one waits for its gradient and cannot save."""
    opt = stop_options(blocked(clips, tmp_path, '001/00000003.png'), tmp_path, train__total_iter=13)
    with started(*torchrun(PROBE, 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path) as process:
        wait_for(process, 2)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        rest = rest_of(process, 40)
    assert process.returncode != 0
    assert 'probe.py", line' not in rest
    assert len(states(tmp_path)) == 1


GLOO_RANK = """
import os
from datetime import timedelta
from torch import distributed
from multigrid_vsr.models import stop_signal
stop_signal._CONNECTS_WITHIN = timedelta(seconds=3)
if os.environ['RANK'] == '0':
    def new_group(backend, timeout):
        raise RuntimeError('connectFullMesh failed:\\n no route to host')
    distributed.new_group = new_group
distributed.init_process_group('gloo')
stop = stop_signal.StopSignal(dist=True)
assert stop._group is distributed.group.WORLD
if os.environ['RANK'] == '0':
    os.kill(os.getpid(), 15)
assert [stop.after_iteration() for _ in range(2)] == [0, 15]  # of the other rank too
stop.wait_for_all()
print('both go on')
distributed.destroy_process_group()
"""


def test_rank_that_cannot_connect_over_gloo_does_not_hold_the_others(tmp_path):
    """Those that can would wait for it for half an hour."""
    script = tmp_path / 'rank.py'
    script.write_text(GLOO_RANK)
    printed = run(*torchrun(script)[:-2], cwd=tmp_path, seconds=120).stdout
    assert printed.count('both go on') == 2
    assert (
        'gloo cannot connect the ranks (connectFullMesh failed: no route to host): signals go over the backend of the '
        'run, which costs a wait an iteration. Set GLOO_SOCKET_IFNAME to the network interface of the nodes.'
    ) in printed
