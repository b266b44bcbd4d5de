"""The loader: where it starts, when it stops, and what an error becomes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
import torch
from runs import processes_below
from test_schedule import run_options

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.data.batches import SharedSlots
from multigrid_vsr.data.loader import BatchRequests, MultigridLoader, init_worker, kill_workers
from multigrid_vsr.options.multigrid_block import schedule_from_options


class Sampler:
    """What the loader knows of BasicSR's sampler."""

    epoch = 0


class Requests(torch.utils.data.Dataset):
    """Gives what it is asked for, and a tensor that shows when it is written over."""

    def __getitem__(self, requests):
        return self.load(requests, lambda *shape: torch.empty(shape, dtype=torch.uint8))

    def load(self, requests, empty):
        shown = empty(len(requests), 1000).copy_(torch.tensor([[request.index] for request in requests]))
        return {'shown': shown, 'lq': empty(1), 'key': [request.index for request in requests]}

    def num_bytes(self, shape):
        return 1001 * shape.batch_size_per_gpu


def keys(batches):
    """The keys of batches, each with what belongs to it."""
    found = []
    for batch in batches:
        assert torch.equal(batch['shown'], torch.tensor([[key] * 1000 for key in batch['key']], dtype=torch.uint8))
        found.append(batch['key'])
    return found


def loader(dataset=None, start_iter=0, sampler=None, total_iter=9, **changes):
    schedule = schedule_from_options(run_options(total_iter=total_iter, batch=2))
    requests = BatchRequests(schedule, 22, seed=0, start_iter=start_iter)
    return MultigridLoader(dataset or Requests(), requests, sampler, **changes)


def test_loader_started_late_gives_the_rest_of_the_run():
    whole = keys(loader())
    assert len(whole) == len(loader()) == 9
    assert keys(loader(start_iter=4)) == whole[4:]
    assert keys(loader(start_iter=9)) == []


@pytest.mark.parametrize('num_workers', [1, 2, 3])
@pytest.mark.parametrize('num_prefetch_queue', [0, 2])
@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # more workers than cores
def test_loader_with_workers_keeps_every_batch_as_it_was_loaded(num_workers, num_prefetch_queue):
    """Slots are written again and again; whoever keeps a batch has one of its own."""
    batches = []
    for batch in loader(total_iter=60, num_workers=num_workers, num_prefetch_queue=num_prefetch_queue):
        batches.append(batch)
        time.sleep(0.001)  # the workers are ahead as far as they may be
    assert keys(batches) == keys(loader(total_iter=60))


def test_slot_is_free_once_the_last_tensor_in_it_is_gone():
    requests = BatchRequests(schedule_from_options(run_options(batch=2)), 22, seed=0)
    slots = SharedSlots(Requests(), requests.at, num_bytes=2002, num_ahead=1, num_held=1)
    indices = slots.assign(requests.iterations)

    def take():
        index = next(indices)
        return index[0], slots.take(slots[index], pin_memory=False)

    first, batch = take()
    row = batch['shown'][1]
    del batch
    second, copied = take()  # no other slot is left for the next one
    third, _ = take()
    assert (first, second, third) == (first, 1 - first, 1 - first)
    assert (row != copied['shown']).all()
    del row
    assert take()[0] == first


def test_loader_without_room_in_shared_memory_raises_one_line(monkeypatch):
    """As in a container; a limit on the size of files stands for it."""
    monkeypatch.setattr(Requests, 'num_bytes', lambda self, shape: 1_000_000)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            InputError, match=r'^datasets.train.num_worker_per_gpu: must leave 0.0\d GB of .* 2 workers'
        ):
            next(iter(loader(num_workers=2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_loader_iterated_twice_starts_again():
    """As CUDAPrefetcher does: it takes a batch of one iterator, and goes on with another."""
    twice = loader()
    assert keys([next(iter(twice))]) == keys([next(iter(twice))]) == keys([next(iter(loader()))])


def test_worker_asked_to_stop_while_it_starts_goes_on():
    """A rank's workers import for seconds, and a signal to the whole job reaches them meanwhile."""
    init = partial(init_worker, num_workers=1, rank=0, seed=0)
    started = loader(num_workers=1, multiprocessing_context='spawn', worker_init_fn=init)
    before = processes_below(os.getpid())
    batches = iter(started)
    stopping = threading.Thread(target=_stop_new_processes, args=[before])
    stopping.start()
    assert len(list(batches)) == 9
    stopping.join()


def test_kill_workers_ends_those_of_the_loader_and_no_others():
    """Another plugin's process goes on, and the handler of SIGCHLD, torch's or its own, is there again."""
    before = multiprocessing.active_children()
    other = multiprocessing.get_context('fork').Process(target=time.sleep, args=[60])
    other.start()
    batches = iter(loader(num_workers=2, worker_init_fn=partial(init_worker, num_workers=2, rank=0, seed=0)))
    next(batches)
    workers = [child for child in multiprocessing.active_children() if child not in [*before, other]]
    watcher = signal.getsignal(signal.SIGCHLD)
    kill_workers()
    try:
        assert (len(workers), [worker.exitcode for worker in workers]) == (2, [-signal.SIGKILL] * 2)
        assert other.is_alive()
        assert signal.getsignal(signal.SIGCHLD) is watcher
    finally:
        other.kill()
        other.join()


def _stop_new_processes(before):
    """The resource tracker of multiprocessing ignores it too."""
    for _ in range(100):
        for pid, _ in processes_below(os.getpid()) - before:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)


def test_loader_is_empty_after_the_first_epoch():
    sampler = Sampler()
    epochs = loader(sampler=sampler)
    assert len(list(epochs)) == 9
    sampler.epoch = 1
    assert list(epochs) == []


def test_loader_iterator_that_is_never_asked_starts_nothing():
    before = multiprocessing.active_children()
    iterator = iter(loader(num_workers=2, num_prefetch_queue=2))
    assert multiprocessing.active_children() == before
    del iterator
