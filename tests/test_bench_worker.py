"""A process that measures for ``benchmarks.gpu``: what crashes or hangs in it."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from benchmarks.worker import CallError, Worker


def end():
    """What is called after an error."""


def end_badly():
    raise RuntimeError('the device is lost')


def divided(value):
    return os.getpid(), 12 / value


def ended(status):
    os._exit(status)


def child():
    subprocess.Popen(['sleep', '1000'])


@pytest.mark.parametrize('is_usable', [True, False])
def test_worker_goes_on_after_an_error_in_its_process_or_in_another(is_usable):
    worker = Worker(end, end if is_usable else end_badly)
    try:
        first, value = worker.call(divided, 3, seconds=60)
        assert value == 4
        with pytest.raises(CallError, match=r'^ZeroDivisionError: division by zero$'):
            worker.call(divided, 0, seconds=60)
        assert (worker.call(divided, 3, seconds=60)[0] == first) is is_usable
    finally:
        worker.close()


def test_worker_that_crashes_or_hangs_costs_one_call_and_leaves_no_process():
    from runs import processes_below, still_running  # not needed in the processes that this file is imported in

    worker = Worker(end, end)
    try:
        with pytest.raises(CallError, match=r'^its process ended with status 7$'):
            worker.call(ended, 7, seconds=60)
        assert worker.call(divided, 4, seconds=60)[1] == 3
        worker.call(child, seconds=60)
        below = processes_below(worker._process.pid)
        with pytest.raises(CallError, match=r'^not done after 1 s$'):
            worker.call(time.sleep, 1000, seconds=1)
        assert below
        assert still_running(below, 10) == set()
        assert worker.call(divided, 4, seconds=60)[1] == 3
    finally:
        worker.close()
