"""Batches that cross from the workers to the process that trains, in shared memory that is used again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from multigrid_vsr.core.shapes import BatchShape, SampleRequest

PREFETCH_FACTOR = 2  # batches that a worker may be ahead; DataLoader's own default

Empty = Callable[..., torch.Tensor]  # shape to a uint8 tensor to fill


class BatchLoader(Protocol):
    """A dataset that loads a batch into tensors that it is given."""

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch; its tensors are those of ``empty``, in the order in which it asked for them."""

    def num_bytes(self, shape: BatchShape) -> int:
        """The bytes of a batch, at most."""


class SharedSlots(Dataset):
    """A dataset whose workers load into slots of shared memory, mapped once by all.

    Fresh shared memory for each batch costs more than loading into it: the kernel clears it page by page, and both
    sides map it. A worker's n-th batch goes into its slot n modulo ``PREFETCH_FACTOR + 1``. DataLoader gives batches
    out in order and has a worker at most ``PREFETCH_FACTOR`` ahead of what it has given out, so a slot is written again
    only after the batch in it has been taken, if :meth:`take` is called before the next batch is asked for.

    Args:
        dataset: Loads the batches.
        num_bytes: Bytes of the largest batch.
        num_workers: Workers of the one ``DataLoader`` that it is for.
    """

    def __init__(self, dataset: BatchLoader, num_bytes: int, num_workers: int) -> None:
        self._dataset = dataset
        self._count = 0  # batches that this process has loaded
        storage = torch.UntypedStorage._new_shared(num_workers * (PREFETCH_FACTOR + 1) * num_bytes)
        self._slots = torch.empty(0, dtype=torch.uint8).set_(storage).view(num_workers, PREFETCH_FACTOR + 1, num_bytes)

    def __getitem__(self, requests: Sequence[SampleRequest]) -> tuple[int, int, dict[str, Any]]:
        """Loads a batch, in a worker; gives its place and, for each tensor, its shape."""
        info = get_worker_info()
        assert info is not None
        worker, place = info.id, self._count % (PREFETCH_FACTOR + 1)
        self._count += 1
        slot, start = self._slots[worker, place], 0

        def empty(*shape: int) -> torch.Tensor:
            nonlocal start
            start += math.prod(shape)
            return slot[start - math.prod(shape) : start].view(shape)

        batch = self._dataset.load(requests, empty)
        return worker, place, {key: value.shape if torch.is_tensor(value) else value for key, value in batch.items()}

    def take(self, answer: tuple[int, int, dict[str, Any]], pin_memory: bool) -> dict[str, Any]:
        """Copies a batch out of its slot, in the process that trains."""
        worker, place, batch = answer
        slot, start = self._slots[worker, place], 0
        for key, shape in batch.items():
            if isinstance(shape, torch.Size):
                stop = start + shape.numel()
                own = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
                # Not by torch: a second thread with an OpenMP team of its own slows down that of the one that trains.
                np.copyto(own.numpy(), slot[start:stop].view(shape).numpy())
                batch[key] = own
                start = stop
        return batch
