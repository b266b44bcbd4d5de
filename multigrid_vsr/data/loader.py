"""The batches of a run, in the schedule's order, from any start iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import SampleRequest
from multigrid_vsr.data.prefetch import in_background
from multigrid_vsr.data.shared_slots import BatchLoader, SharedSlots, load_batch
from multigrid_vsr.data.workers import dead_worker, start_workers

PREFETCH_FACTOR = 2  # batches that a worker may be ahead; DataLoader's own default


class BatchRequests(Sampler[list[SampleRequest]]):
    """The requests of one rank for each iteration in ``[start_iter, total_iter)``.

    Args:
        schedule: Shapes of the run.
        num_samples: Samples in the dataset.
        seed: Seed of the run, the same on all ranks.
        world_size: Number of shares that a global batch is cut into.
        ranks: The shares that this process loads: one, or several for ``DataParallel``.
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
        self.num_samples = num_samples
        self.seed = seed
        self.world_size = world_size
        self.ranks = ranks
        self.start_iter = start_iter

    @property
    def iterations(self) -> range:
        """The iterations that are left, counted from 0."""
        return range(self.start_iter, self.schedule.total_iter)

    def at(self, iteration: int) -> list[SampleRequest]:
        """The requests of an iteration."""
        return [
            request
            for rank in self.ranks
            for request in batch_requests(
                self.schedule,
                iteration,
                num_samples=self.num_samples,
                seed=self.seed,
                world_size=self.world_size,
                rank=rank,
            )
        ]

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        return map(self.at, self.iterations)


class MultigridLoader:
    """Gives every batch of the run in one virtual epoch.

    BasicSR's loop runs as many epochs as it computes from one batch size, and asks for a new iterator at each. The
    first epoch gives the whole run; the left-over ones are empty.

    Args:
        dataset: A :class:`BatchLoader`, or a :class:`DatasetAdapter`.
        requests: Which samples make each batch.
        epoch_sampler: BasicSR's sampler, which knows the epoch; ``None`` where every iteration gives the whole run.
        num_prefetch_queue: Batches of the full shape that a background thread may keep ready, or as many more as are
            smaller; 0 for no thread.
        pin_memory: Whether batches lie in memory from which a GPU copies faster; nothing without a GPU.
        options: Passed to ``torch.utils.data.DataLoader``.

    Attributes:
        before_failing: Called before a frame that cannot be read ends the run, so that the run is saved first. BasicSR
            shows neither loader nor model to the other.
        waiting: Entered while a batch is waited for.
    """

    before_failing: ClassVar[Callable[[], None]] = staticmethod(lambda: None)
    waiting: ClassVar[Callable[[], AbstractContextManager[None]]] = nullcontext

    def __init__(
        self,
        dataset: Any,
        requests: BatchRequests,
        epoch_sampler: Any = None,
        num_prefetch_queue: int = 0,
        pin_memory: bool = False,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.requests = requests
        self._epoch_sampler = epoch_sampler
        self._num_prefetch_queue = num_prefetch_queue
        self._pin_memory = pin_memory and torch.cuda.is_available()
        # A random state of its own: each start of an iterator draws from it, so a run that went on would otherwise have
        # other random numbers in its network than one that did not stop.
        self._options = {'generator': torch.Generator(), **options}

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Starts nothing before the first batch is asked for: BasicSR makes an iterator that it throws away."""
        if self._epoch_sampler is not None and self._epoch_sampler.epoch > 0:
            return
        batches = self._batches()
        if self._num_prefetch_queue > 0:
            batches = in_background(batches, self._pixels(), self._capacity)
        try:
            while True:
                with type(self).waiting():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except InputError:
            type(self).before_failing()
            raise
        except RuntimeError:
            error = dead_worker()
            if error is None:
                raise
            type(self).before_failing()
            raise error from None

    def _batches(self) -> Iterator[dict[str, Any]]:
        options = {'batch_size': None, 'collate_fn': _as_loaded, **self._options}
        num_workers = options.get('num_workers', 0)
        if num_workers == 0 or not isinstance(self.dataset, BatchLoader):
            fresh = _FreshBatches(self.dataset, self.requests.at)
            loader = DataLoader(fresh, sampler=self.requests.iterations, pin_memory=self._pin_memory, **options)
            for batch in start_workers(loader) if num_workers else loader:
                if isinstance(batch, InputError):
                    raise batch
                yield batch
            return
        slots = self._slots(num_workers)
        sampler = slots.assign(self.requests.iterations)
        for answer in start_workers(DataLoader(slots, sampler=sampler, prefetch_factor=PREFETCH_FACTOR, **options)):
            yield slots.take(answer, self._pin_memory)

    def _slots(self, num_workers: int) -> SharedSlots:
        largest = max(self.dataset.num_bytes(segment.shape) for segment in self.requests.schedule.segments)
        num_bytes = largest * len(self.requests.ranks)
        num_ahead = num_workers * PREFETCH_FACTOR + 1  # DataLoader asks for the next one before it gives one out
        num_held = self._num_prefetch_queue + 2  # the one that is trained on, and one on its way
        try:
            return SharedSlots(self.dataset, self.requests.at, num_bytes, num_ahead, num_held)
        except RuntimeError as error:
            raise InputError(
                f'datasets.train.num_worker_per_gpu: must leave {(num_ahead + num_held) * num_bytes / 1e9:.2f} GB of '
                f'shared memory for batches, got {num_workers} workers ({error}). Lower it, or give the container '
                'more (docker run --shm-size).'
            ) from None

    @property
    def _capacity(self) -> int:
        return self._num_prefetch_queue * self.requests.schedule.full_shape.pixels

    def _pixels(self) -> Iterator[int]:
        schedule = self.requests.schedule
        for iteration in self.requests.iterations:
            yield schedule.segment_at(iteration).shape.pixels


class _FreshBatches(Dataset):
    """A dataset whose index is an iteration; each batch has memory of its own."""

    def __init__(self, dataset: Any, requests_at: Callable[[int], Sequence[SampleRequest]]) -> None:
        self._dataset = dataset
        self._requests_at = requests_at

    def __getitem__(self, iteration: int) -> dict[str, Any] | InputError:
        try:
            return load_batch(self._dataset, self._requests_at(iteration), partial(torch.empty, dtype=torch.uint8))
        except InputError as error:  # raised in a worker, it would arrive as the text of a traceback
            return error


def _as_loaded(batch: Any) -> Any:
    return batch
