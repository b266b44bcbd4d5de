"""The signal that stops all ranks, in a group of one rank over real gloo."""

from __future__ import annotations

import logging
import os
import signal

import pytest
from runs import free_port, run, torchrun
from torch import distributed

from multigrid_vsr.models.stop_signal import StopSignal


@pytest.fixture
def one_rank():
    distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{free_port()}', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize('connects', [True, False])
def test_stop_signal_is_known_one_iteration_later_on_all_ranks(connects, one_rank, monkeypatch):
    """Also where no second group can be made, as on nodes whose interface gloo does not find."""
    if not connects:

        def new_group(backend, timeout):
            raise RuntimeError('connectFullMesh failed:\n no route to host')

        monkeypatch.setattr(distributed, 'new_group', new_group)
    warnings = []
    monkeypatch.setattr(logging.getLogger('basicsr'), 'warning', warnings.append)
    stop = StopSignal(dist=True)
    assert stop.after_iteration() == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert [stop.after_iteration(), stop.after_iteration()] == [0, signal.SIGTERM]
    stop.wait_for_all()
    stop.restore()
    assert distributed.is_initialized()
    line = (
        'gloo cannot connect the ranks (connectFullMesh failed: no route to host): signals go over the backend of the '
        'run, which costs a wait an iteration. Set GLOO_SOCKET_IFNAME to the network interface of the nodes.'
    )
    assert warnings == ([] if connects else [line])


RANK = """
import os
from datetime import timedelta
from torch import distributed
from multigrid_vsr.models import stop_signal
stop_signal._CONNECTS_WITHIN = timedelta(seconds=3)
if os.environ['RANK'] == '1':
    def new_group(backend, timeout):
        raise RuntimeError('no interface')
    distributed.new_group = new_group
distributed.init_process_group('gloo')
stop = stop_signal.StopSignal(dist=True)
assert stop._group is distributed.group.WORLD
assert [stop.after_iteration() for _ in range(3)] == [0, 0, 0]
stop.wait_for_all()
print('both go on')
distributed.destroy_process_group()
"""


def test_rank_that_cannot_connect_over_gloo_does_not_hold_the_others(tmp_path):
    """Those that can would wait for it for half an hour."""
    script = tmp_path / 'rank.py'
    script.write_text(RANK)
    assert run(*torchrun(script)[:-2], cwd=tmp_path, seconds=120).stdout.count('both go on') == 2
