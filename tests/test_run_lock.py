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
import threading
import time
from pathlib import Path

import pytest
from runs import (
    TRAIN,
    TRAIN_PROBE,
    options,
    processes_below,
    rest_of,
    run,
    started,
    torchrun,
    wait_for,
    write,
)

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.host import resume

HOLDER = """
import os, sys, time
from multigrid_vsr.host import run_lock
run_lock.claim([sys.argv[1]])
if sys.argv[2:] == ['fork'] and os.fork() == 0:
    time.sleep(100)
print('claimed', flush=True)
sys.stdin.readline()
"""
REFUSED = (
    r'name: must be of no run that is under way, got run, which process {pid} on host {host} has been training in '
)


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


def lock_file(folder, **owner):
    """A lock file as a process of this machine would have left it, unless it says otherwise."""
    folder.parent.mkdir(exist_ok=True)
    path = folder.with_name(f'.{folder.name}.lock')
    signed = {'host': 'gpu7', 'pid': 4242, 'since': '2026-11-25 09:00:00 +0000', 'boot': resume._boot(), **owner}
    path.write_text(json.dumps(signed))
    return path


@contextlib.contextmanager
def beating(path):
    """Another machine that sets the time of its lock file."""
    done = threading.Event()

    def beat():
        for number in range(1, 1000):
            if done.wait(0.1):
                return
            os.utime(path, (number, number))  # a clock that is wrong by fifty years

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(resume, 'BEAT', 0.05)
    monkeypatch.setattr(resume, 'SILENCE', 0.6)


def refusal_of(folder):
    with pytest.raises(OptionError) as refused:
        resume.claim([folder])
    return str(refused.value)


def test_claim_of_a_claimed_folder_names_host_process_and_start(tmp_path):
    with holder(tmp_path / 'run') as process:
        line = refusal_of(tmp_path / 'run')
        assert re.fullmatch(
            REFUSED.format(pid=process.pid, host=re.escape(os.uname().nodename)) + re.escape(str(tmp_path))
            + r' since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\. Wait for its end, stop it, or give another name\.',
            line,
        )  # fmt: skip
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
    assert json.loads((tmp_path / '.run.lock').read_text())['pid'] == os.getpid()


def test_claim_is_given_while_a_worker_outlives_the_process_that_was_killed(tmp_path):
    with holder(tmp_path / 'run', 'fork') as process:
        ((worker, _),) = processes_below(process.pid)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # lives
        resume.claim([tmp_path / 'run'])
        os.kill(worker, signal.SIGKILL)


def test_claim_is_given_at_once_where_the_number_of_a_dead_process_is_anothers_by_now(tmp_path, capsys):
    lock_file(tmp_path / 'run', pid=os.getppid())
    resume.claim([tmp_path / 'run'])
    assert capsys.readouterr().out == ''  # nothing was waited for


def test_claim_of_a_lock_that_its_last_owner_is_just_removing_makes_another(tmp_path, monkeypatch):
    refuse_if_claimed, removed = resume._refuse_if_claimed, []

    def remove_once(file, lock):
        refuse_if_claimed(file, lock)
        if not removed:
            removed.append(lock.unlink())

    monkeypatch.setattr(resume, '_refuse_if_claimed', remove_once)
    resume.claim([tmp_path / 'run'])
    assert json.loads((tmp_path / '.run.lock').read_text())['pid'] == os.getpid()


@pytest.mark.usefixtures('_quick')
def test_claim_of_another_machines_folder_is_refused_while_it_shows_life(tmp_path, capsys):
    with beating(lock_file(tmp_path / 'run', boot='another')):
        assert re.match(REFUSED.format(pid=4242, host='gpu7'), refusal_of(tmp_path / 'run'))
    assert capsys.readouterr().out == (f'Looking up to 1 s whether host gpu7 still writes {tmp_path / ".run.lock"}.\n')


@pytest.mark.usefixtures('_quick')
@pytest.mark.parametrize('text', [None, 'no JSON', ''])
def test_claim_of_another_machines_folder_is_given_when_it_shows_none(text, tmp_path):
    path = lock_file(tmp_path / 'run', boot='another')
    if text is not None:
        path.write_text(text)
    resume.claim([tmp_path / 'run'])
    assert json.loads(path.read_text())['pid'] == os.getpid()


@pytest.mark.usefixtures('_quick')
def test_claim_without_locks_of_the_file_system_goes_by_signs_of_life(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(resume.fcntl, 'lockf', no_locks)
    with beating(lock_file(tmp_path / 'run')):
        assert re.match(REFUSED.format(pid=4242, host='gpu7'), refusal_of(tmp_path / 'run'))
    resume.claim([tmp_path / 'run'])


def test_process_that_holds_a_folder_shows_life(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, 'BEAT', 0.05)
    monkeypatch.setattr(resume, '_holder', 0)  # a thread of its own, with this beat
    resume.claim([tmp_path / 'run'])
    os.utime(tmp_path / '.run.lock', (1, 1))
    deadline = time.monotonic() + 10
    while (tmp_path / '.run.lock').stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.time() - (tmp_path / '.run.lock').stat().st_mtime < 5


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
    assert sum('must be of no run that is under way' in error for error in errors) == 5
    assert list(tmp_path.iterdir()) == []


def test_process_that_goes_on_to_another_run_gives_the_first_up(tmp_path):
    resume.claim([tmp_path / 'run', tmp_path / 'logs'])
    resume.claim([tmp_path / 'run', tmp_path / 'logs'])
    assert {path.name for path in tmp_path.iterdir()} == {'.run.lock', '.logs.lock'}
    resume.claim([tmp_path / 'other'])
    assert [path.name for path in tmp_path.iterdir()] == ['.other.lock']


def test_claim_of_several_folders_is_given_whole_or_not_at_all(tmp_path):
    with holder(tmp_path / 'logs'):
        with pytest.raises(OptionError, match='got logs, which process'):
            resume.claim([tmp_path / 'run', tmp_path / 'logs'])
        assert [path.name for path in tmp_path.iterdir()] == ['.logs.lock']


def test_claim_beside_which_nothing_can_be_written_says_so(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(
        OptionError, match=r'must be a folder that this process can write to, got .*/file \(File exists\)'
    ):
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
        refused = REFUSED.format(pid=process.pid, host=re.escape(os.uname().nodename))
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
        assert len(re.findall(REFUSED.format(pid=process.pid, host='.*'), printed)) == 1
        assert {path.name for path in tmp_path.iterdir()} == {'run.yml', '.run.lock'}


def test_run_whose_holder_was_killed_trains_and_leaves_no_lock(tmp_path, clips):
    opt = options(clips, path__experiments_root=str(tmp_path), train__total_iter=2, multigrid=None)
    with holder(tmp_path / 'run') as process:
        process.kill()
        process.wait()
    assert (tmp_path / '.run.lock').exists()
    run(*TRAIN, write(tmp_path, opt), cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'run.yml', 'run'}
