"""The batches of a run, in the schedule's order, from any start iteration."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from multigrid_vsr.core.errors import FrameError
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import SampleRequest
from multigrid_vsr.data.prefetch import in_background

LEFT_TO_THE_RUN = (signal.SIGTERM, signal.SIGINT)  # what workers ignore
_FRAME_ERROR = f'{FrameError.__module__}.{FrameError.__qualname__}: '


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

    def __len__(self) -> int:
        return self.schedule.total_iter - self.start_iter

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for iteration in range(self.start_iter, self.schedule.total_iter):
            yield [
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


class MultigridLoader:
    """Gives every batch of the run in one virtual epoch.

    BasicSR's loop runs as many epochs as it computes from one batch size, and asks for a new iterator at each. The
    first epoch gives the whole run; the left-over ones are empty.

    Args:
        dataset: Takes a list of requests as index and gives the batch.
        requests: Which samples make each batch.
        epoch_sampler: BasicSR's sampler, which knows the epoch; ``None`` where every iteration gives the whole run.
        num_prefetch_queue: Batches of the full shape that a background thread may keep ready, or as many more as are
            smaller; 0 for no thread.
        options: Passed to ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset,
        requests: BatchRequests,
        epoch_sampler: Any = None,
        num_prefetch_queue: int = 0,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.requests = requests
        self._epoch_sampler = epoch_sampler
        self._num_prefetch_queue = num_prefetch_queue
        # A random state of its own: each start of an iterator draws from it, so a run that went on would otherwise have
        # other random numbers in its network than one that did not stop.
        options['generator'] = torch.Generator()
        self._loader = _Loader(dataset, batch_size=None, sampler=requests, collate_fn=_as_loaded, **options)

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Starts nothing before the first batch is asked for: BasicSR makes an iterator that it throws away."""
        if self._epoch_sampler is not None and self._epoch_sampler.epoch > 0:
            return
        try:
            if self._num_prefetch_queue > 0:
                yield from in_background(self._loader, self._pixels(), self._capacity)
            else:
                yield from self._loader
        except FrameError as error:  # a worker's comes wrapped in the text of its traceback
            traceback.clear_frames(error.__traceback__)  # they hold the workers, which end in time only if told to now
            raise FrameError(str(error).strip().splitlines()[-1].removeprefix(_FRAME_ERROR)) from None

    @property
    def _capacity(self) -> int:
        return self._num_prefetch_queue * self.requests.schedule.full_shape.pixels

    def _pixels(self) -> Iterator[int]:
        schedule = self.requests.schedule
        for iteration in range(self.requests.start_iter, schedule.total_iter):
            yield schedule.segment_at(iteration).shape.pixels


class _Loader(DataLoader):
    def __iter__(self) -> Any:
        context = self.multiprocessing_context or multiprocessing
        is_forked = context.get_start_method(allow_none=True) in (None, 'fork')  # with this process's handlers
        with nullcontext() if is_forked or self.num_workers == 0 else _signals_held():
            return super().__iter__()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keeps the processes that are started meanwhile from being ended by a signal before they can ignore it.

    A launcher's ranks spawn theirs, which import for seconds, and a run whose worker has died ends with its error.
    """
    resource_tracker.ensure_running()  # it would let the signals through in the middle
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RUN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _as_loaded(batch: Any) -> Any:
    return batch
