"""The batches of a run, in the schedule's order, from any start iteration; and the processes that load them."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from basicsr.data import worker_init_fn
from basicsr.utils.dist_util import get_dist_info
from torch.utils.data import DataLoader, Dataset, Sampler

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import SampleRequest, Schedule
from multigrid_vsr.data.batches import BatchLoader, SharedSlots, load_batch
from multigrid_vsr.data.dataset_adapter import DatasetAdapter

# Workers ignore the end of a job, Ctrl-C, a closed terminal, and SLURM's --signal.
LEFT_TO_THE_RUN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_REASONS = {
    signal.SIGBUS: 'a file that it read was cut, its disk has failed, or shared memory is full (/dev/shm)',
    signal.SIGKILL: 'memory is short, or somebody has ended it',
}
_LONGEST_END = 1.0  # seconds; a killed process that waits for a dead disk does not end

_PREFETCH_FACTOR = 2  # batches that a worker may be ahead; DataLoader's own default

_workers: list[BaseProcess] = []


def init_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seeds a worker by BasicSR's ``worker_init_fn``, and lets it ignore the signals that stop a run.

    These signals reach all processes of a run, but the run needs its workers until it has saved.
    """
    for number in LEFT_TO_THE_RUN:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_RUN)
    worker_init_fn(worker_id, num_workers, rank, seed)


def from_workers(loader: DataLoader) -> Iterator[Any]:
    """Iterates over a loader; no signal ends a worker before the worker can ignore it.

    Forked workers have the handlers of this process. Spawned workers import for seconds first, so they start with the
    signals blocked. For a dead worker torch would raise in the middle of an iteration, when weights cannot be saved.
    Here the error comes with the next batch.

    Raises:
        InputError: If a signal has ended a worker.
    """
    watcher = signal.getsignal(signal.SIGCHLD)
    context = loader.multiprocessing_context or multiprocessing
    if context.get_start_method(allow_none=True) in (None, 'fork'):
        iterator = iter(loader)
    else:
        resource_tracker.ensure_running()  # now, because its start unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RUN)
        try:
            iterator = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, watcher or signal.SIG_DFL)
    if not _workers:
        atexit.register(kill_workers)
    _workers.extend(iterator._workers)  # type: ignore[attr-defined]  # torch has no public name for them
    try:
        yield from iterator
    except RuntimeError as error:
        raise _dead_worker() or error from None


def _dead_worker() -> InputError | None:
    """The line for a worker that a signal has ended; ``None`` if there is none."""
    for worker in _workers:
        if worker.exitcode is not None and worker.exitcode < 0:
            number = signal.Signals(-worker.exitcode)
            reason = _REASONS.get(number, 'what it loads, or a library, has failed')
            return InputError(f'A worker that loads data was ended by {number.name}: {reason}.')
    return None


def kill_workers() -> None:
    """Kills the workers, because after an error they may wait for work and ignore SIGTERM."""
    watcher = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report each dead worker as an error
    for worker in _workers:
        worker.kill()
    for worker in _workers:
        worker.join(_LONGEST_END)
    _workers.clear()
    atexit.unregister(kill_workers)
    signal.signal(signal.SIGCHLD, watcher or signal.SIG_DFL)


class BatchRequests:
    """The requests of one process for each iteration in ``[start_iter, total_iter)``.

    Args:
        schedule: Shapes of the run.
        num_samples: Samples in the dataset.
        seed: Seed of the run, the same on all ranks.
        world_size: Ranks that share a global batch.
        ranks: The ranks that this process loads for: one, or several for ``DataParallel``.
        start_iter: Iterations already done.
    """

    def __init__(
        self,
        schedule: Schedule,
        num_samples: int,
        seed: int,
        world_size: int = 1,
        ranks: range = range(1),
        start_iter: int = 0,
    ) -> None:
        self.schedule = schedule
        self.ranks = ranks
        self.iterations = range(start_iter, schedule.total_iter)  # counted from 0
        self._of_rank = partial(batch_requests, schedule, num_samples=num_samples, seed=seed, world_size=world_size)

    def at(self, iteration: int) -> list[SampleRequest]:
        """The requests of an iteration."""
        return [request for rank in self.ranks for request in self._of_rank(iteration, rank=rank)]


class MultigridLoader:
    """Gives every batch of the run in one epoch.

    BasicSR's loop computes its epochs from one batch size, and makes an iterator for each. Here the first epoch is the
    whole run, and the others are empty.

    Args:
        dataset: A :class:`BatchLoader`, or a :class:`DatasetAdapter`.
        requests: The samples of each batch.
        epoch_sampler: BasicSR's sampler, which knows the epoch; with ``None`` every iterator gives the whole run.
        num_prefetch_queue: Batches that workers may load ahead, besides two for each worker.
        pin_memory: Whether to pin batches, if there is a GPU.
        run: The run (models/run.py). It is told when an iteration ends, and saved before a frame that cannot be read
            ends it.
        options: Passed to ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Any,
        requests: BatchRequests,
        epoch_sampler: Any = None,
        num_prefetch_queue: int = 0,
        pin_memory: bool = False,
        run: Any = None,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.requests = requests
        self._epoch_sampler = epoch_sampler
        self._num_prefetch_queue = num_prefetch_queue
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._run = run
        # Each iterator draws from this generator. If it drew from the global one, a resumed run would have other random
        # numbers in its network than a run without a stop.
        self._options = {'generator': torch.Generator(), **options}

    def __len__(self) -> int:
        return len(self.requests.iterations)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches. Workers start with the first one, because BasicSR makes an iterator that it never uses."""
        if self._epoch_sampler is not None and self._epoch_sampler.epoch > 0:
            return
        batches, run = self._batches(), self._run
        if run is None:
            yield from batches
            return
        while True:
            run.end_iteration()
            run.leave_if_stopped()
            try:
                with run.waiting_for_batch():
                    batch = next(batches, None)
            except InputError:
                run.save_before_failing()
                raise
            if batch is None:
                return
            yield batch

    def _batches(self) -> Iterator[dict[str, Any]]:
        options = {'batch_size': None, 'collate_fn': _as_loaded, **self._options}
        num_workers = options.get('num_workers', 0)
        if num_workers == 0 or not isinstance(self.dataset, BatchLoader):
            fresh = _FreshBatches(self.dataset, self.requests.at)
            loader = DataLoader(fresh, sampler=self.requests.iterations, pin_memory=self._pin_memory, **options)
            for batch in from_workers(loader) if num_workers else loader:
                if isinstance(batch, InputError):
                    raise batch
                yield batch
            return
        prefetch_factor = _PREFETCH_FACTOR + -(-self._num_prefetch_queue // num_workers)
        slots = self._slots(num_workers * prefetch_factor + 1)  # DataLoader asks for one more before it gives one out
        sampler = slots.assign(self.requests.iterations)
        for answer in from_workers(DataLoader(slots, sampler=sampler, prefetch_factor=prefetch_factor, **options)):
            yield slots.take(answer, self._pin_memory)

    def _slots(self, num_ahead: int) -> SharedSlots:
        largest = max(self.dataset.num_bytes(segment.shape) for segment in self.requests.schedule.segments)
        num_bytes = largest * len(self.requests.ranks)
        num_held = 2  # the batch that is trained on, and the next one
        try:
            return SharedSlots(self.dataset, self.requests.at, num_bytes, num_ahead, num_held)
        except RuntimeError as error:
            raise InputError(
                f'datasets.train.num_worker_per_gpu: must leave {(num_ahead + num_held) * num_bytes / 1e9:.2f} GB of '
                f'shared memory for batches, got {self._options["num_workers"]} workers ({error}). Lower it, or give '
                'the container more (docker run --shm-size).'
            ) from None


class _FreshBatches(Dataset):
    """A dataset of batches, by iteration; each batch has memory of its own."""

    def __init__(self, dataset: Any, requests_at: Callable[[int], Sequence[SampleRequest]]) -> None:
        self._dataset = dataset
        self._requests_at = requests_at

    def __getitem__(self, iteration: int) -> dict[str, Any] | InputError:
        try:
            return load_batch(self._dataset, self._requests_at(iteration))
        except InputError as error:  # if a worker raised it, DataLoader would make a traceback of it
            return error


def _as_loaded(batch: Any) -> Any:
    return batch


def build_multigrid_loader(
    dataset: Dataset,
    dataset_opt: Mapping[str, Any],
    num_gpu: int = 1,
    dist: bool = False,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> MultigridLoader:
    """Builds the loader of a run from the arguments that BasicSR gives to ``build_dataloader``.

    Without a launcher one process loads the batches of all its GPUs (``DataParallel``). Workers load ahead anyway;
    ``prefetch_mode: cpu`` lets them be further ahead, and starts one if there is none.

    Args:
        dataset: The training set: a :class:`BatchLoader`, or a dataset in BasicSR's manner.
        dataset_opt: ``datasets.train``, with the :class:`Schedule` as ``multigrid`` and, in a resumed run, the
            iterations already done as ``start_iter``.
        num_gpu: GPUs of this process, without a launcher.
        dist: Whether there is a launcher.
        sampler: BasicSR's sampler, which knows the epoch.
        seed: Seed of the run, the same on all ranks.
    """
    rank, world_size = get_dist_info()
    gpus_here = 1 if dist else max(num_gpu, 1)
    is_ahead = dataset_opt.get('prefetch_mode') == 'cpu'
    num_workers = max(dataset_opt['num_worker_per_gpu'] * gpus_here, int(is_ahead))
    requests = BatchRequests(
        dataset_opt['multigrid'],
        len(dataset),  # type: ignore[arg-type]
        seed,
        world_size=world_size * gpus_here,
        ranks=range(rank * gpus_here, (rank + 1) * gpus_here),
        start_iter=dataset_opt.get('start_iter', 0),
    )
    return MultigridLoader(
        dataset if isinstance(dataset, BatchLoader) else DatasetAdapter(dataset, dataset_opt),
        requests,
        sampler,
        num_prefetch_queue=dataset_opt.get('num_prefetch_queue', 1) if is_ahead else 0,
        num_workers=num_workers,
        worker_init_fn=partial(init_worker, num_workers=num_workers, rank=rank, seed=seed),
        pin_memory=dataset_opt.get('pin_memory', False),
        run=dataset_opt.get('run'),
        persistent_workers=dataset_opt.get('persistent_workers', False) and num_workers > 0,
    )
