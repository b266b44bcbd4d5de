"""A file that is the old or the new one, whatever fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from multigrid_vsr.core.whole_file import whole_file


def test_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / 'plan.json'
    path.write_bytes(b'old')
    with whole_file(path) as file:
        file.write(b'new')
        assert path.read_bytes() == b'old'
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {'plan.json': b'new'}


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_failure_leaves_the_old_one_and_nothing_else(tmp_path, error):
    path = tmp_path / 'plan.json'
    path.write_bytes(b'old')

    def write():
        with whole_file(path) as file:
            file.write(b'ne')
            raise error

    with pytest.raises(type(error)):
        write()
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {'plan.json': b'old'}


def test_killed_process_leaves_the_old_one_under_the_name(tmp_path):
    path = tmp_path / 'plan.json'
    path.write_bytes(b'old')
    code = (
        'import os, signal, sys; from pathlib import Path; from multigrid_vsr.core.whole_file import whole_file\n'
        'with whole_file(Path(sys.argv[1])) as file:\n'
        "    file.write(b'ne'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, '-c', code, path], env={**os.environ, 'PYTHONWARNINGS': 'ignore'})
    assert (done.returncode, path.read_bytes()) == (-signal.SIGKILL, b'old')


def test_checkpoint_that_does_not_fit_names_the_reason_of_the_system_and_not_torchs(tmp_path):
    code = (
        'import resource, signal, torch; from multigrid_vsr.models.checkpoints import save; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); '
        'save({"weight": torch.zeros(10_000)}, "net_g_4.pth")'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == 'OSError: net_g_4.pth cannot be written ([Errno 27] File too large)'
    assert list(tmp_path.iterdir()) == []
