"""One run, one folder: real processes that want the same one, and what they leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import TRAIN_PROBE, options, processes_below, rest_of, run, started, torchrun, wait_for, write

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.host import resume

HOLDER = """
import os, sys, time
from multigrid_vsr.host import resume
resume.claim([sys.argv[1]])
if sys.argv[2:] == ['fork'] and os.fork() == 0:
    time.sleep(100)
print('claimed', flush=True)
sys.stdin.readline()
"""
HELD = r'name: run is already being trained by process {pid} on host {host} \(since [\d-]+ [\d:]+ [+-]\d{{4}}\), in '
HOST = re.escape(os.uname().nodename)


@contextlib.contextmanager
def holder(folder, *arguments):
    """A process that has claimed the folder; it ends in order when it is given a line."""
    quiet = ('-W', 'ignore:This process:DeprecationWarning')  # Python 3.12 names the threads of libraries
    process = subprocess.Popen([sys.executable, *quiet, '-c', HOLDER, str(folder), *arguments], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        assert process.stdout.readline() == 'claimed\n'
        yield process
    finally:
        for pid, _ in processes_below(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _nothing_held():
    """What this process has claimed ends with the test."""
    yield
    resume.release()


def owner_of(folder):
    return json.loads(folder.with_name(f'.{folder.name}.lock').read_text())['pid']


def test_claim_of_a_claimed_folder_names_host_process_and_start(tmp_path):
    with holder(tmp_path / 'run') as process:
        end = re.escape(f'{tmp_path}. Wait for it, stop it, or choose another name.')
        for ask in (resume.claim, resume.check):
            with pytest.raises(InputError, match=f'^{HELD.format(pid=process.pid, host=HOST)}{end}$'):
                ask([tmp_path / 'run'])
        resume.claim([tmp_path / 'another'])


@pytest.mark.parametrize('number', [None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_claim_of_a_folder_whose_process_has_ended_is_given(number, tmp_path):
    with holder(tmp_path / 'run') as process:
        if number is None:
            process.stdin.write('\n')
            process.stdin.flush()
        else:
            process.send_signal(number)
        process.wait()
        left = list(tmp_path.iterdir())
        assert left == ([tmp_path / '.run.lock'] if number in (signal.SIGTERM, signal.SIGKILL) else [])
        resume.claim([tmp_path / 'run'])
    assert owner_of(tmp_path / 'run') == os.getpid()


def test_claim_is_given_while_a_worker_outlives_the_process_that_was_killed(tmp_path):
    with holder(tmp_path / 'run', 'fork') as process:
        ((worker, _),) = processes_below(process.pid)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # lives
        resume.claim([tmp_path / 'run'])
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize('text', ['{"host": "gpu7", "pid": 1, "since": "now"}', 'no JSON', ''])
def test_claim_of_a_lock_file_that_nobody_holds_is_given(text, tmp_path):
    (tmp_path / '.run.lock').write_text(text)
    resume.claim([tmp_path / 'run'])
    assert owner_of(tmp_path / 'run') == os.getpid()


def test_claim_on_a_file_system_without_locks_is_given(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(resume.fcntl, 'lockf', no_locks)
    resume.claim([tmp_path / 'run'])
    assert owner_of(tmp_path / 'run') == os.getpid()


def test_claim_of_a_lock_that_its_last_owner_is_just_removing_makes_another(tmp_path, monkeypatch):
    lock_file, removed = resume._lock, []

    def remove_once(file, lock):
        lock_file(file, lock)
        if not removed:
            removed.append(lock.unlink())

    monkeypatch.setattr(resume, '_lock', remove_once)
    resume.claim([tmp_path / 'run'])
    assert owner_of(tmp_path / 'run') == os.getpid()


def test_claims_at_the_same_moment_are_given_once(tmp_path):
    command = [sys.executable, '-c', HOLDER, str(tmp_path / 'run')]
    processes = [
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    try:
        # One that is refused ends its output; the one that holds the folder waits for its input.
        first = [process.stdout.readline() for process in processes]
    finally:
        errors = [process.communicate('\n')[1] for process in processes]
    assert sorted(first) == ['claimed\n', *[''] * 5][::-1]
    assert sum('is already being trained by process' in error for error in errors) == 5
    assert list(tmp_path.iterdir()) == []


def test_claim_of_another_folder_gives_the_one_before_up(tmp_path):
    for name in ('run', 'run', 'other'):
        resume.claim([tmp_path / name])
    assert [path.name for path in tmp_path.iterdir()] == ['.other.lock']


def test_claim_of_several_folders_is_given_whole_or_not_at_all(tmp_path):
    with holder(tmp_path / 'logs'):
        with pytest.raises(InputError, match=r'^name: logs is already'):
            resume.claim([tmp_path / 'run', tmp_path / 'logs'])
        assert [path.name for path in tmp_path.iterdir()] == ['.logs.lock']


def test_claim_beside_which_nothing_can_be_written_says_so(tmp_path):
    (tmp_path / 'file').touch()
    line = r'must be a folder that this process can write to, got .*/file \(File exists\)'
    with pytest.raises(OptionError, match=line):
        resume.claim([tmp_path / 'file' / 'run'])


def contents(folder):
    return {path: path.stat().st_size for path in folder.rglob('*') if path.is_file() and path.suffix != '.log'}


def test_second_start_of_a_run_is_refused_and_moves_nothing(tmp_path, clips):
    """A fresh start, one that resumes, and a plain run of BasicSR with that name."""
    long = options(clips, name='run', network_g={'type': 'ShapeProbe'}, train__total_iter=1_000_000,
                   train__scheduler={'type': 'MultigridCosineLR'}, logger__use_tb_logger=True,
                   logger__save_checkpoint_freq=1_000_000)  # fmt: skip
    plain = options(clips, model_type='SRModel', multigrid=None, datasets__train__type='PairedImageDataset')
    with started(*TRAIN_PROBE, write(tmp_path, long), cwd=tmp_path) as process:
        wait_for(process, 2)  # TensorBoard's file is there once the first iteration is written
        before = contents(tmp_path)
        assert {tmp_path / 'experiments/.run.lock', tmp_path / 'tb_logger/.run.lock'} <= before.keys()
        refused = HELD.format(pid=process.pid, host=HOST)
        for name, opt, *arguments in (('run.yml', long), ('run.yml', long, '--auto_resume'), ('plain.yml', plain)):
            printed = run(*TRAIN_PROBE, write(tmp_path, opt, name), *arguments, cwd=tmp_path, ok=False).stdout
            assert re.match(refused, printed.splitlines()[-1]), printed
            assert 'Traceback' not in printed
        assert contents(tmp_path).keys() - {tmp_path / 'plain.yml'} == before.keys()
        assert not list(tmp_path.glob('*/*_archived_*'))
        process.send_signal(signal.SIGTERM)
        rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.glob('*/.*.lock'))


def test_ranks_of_a_second_start_end_with_one_line(tmp_path, clips):
    opt_file = write(tmp_path, options(clips, path__experiments_root=str(tmp_path)))
    script = Path(sys.executable).parent / 'multigrid-vsr'
    with holder(tmp_path / 'run') as process:
        printed = run(*torchrun(script, 'train', '-opt', opt_file), cwd=tmp_path, ok=False).stdout
        assert len(re.findall(HELD.format(pid=process.pid, host='.*'), printed)) == 1
        assert {path.name for path in tmp_path.iterdir()} == {'run.yml', '.run.lock'}
