"""Batches, from the shared memory of the workers to the input of the network."""

from __future__ import annotations

import math
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import Dataset

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.core.schedule import BatchShape, SampleRequest


def to_float_rgb(frames: torch.Tensor) -> torch.Tensor:
    """Turns uint8 BGR (..., h, w, 3) into float32 RGB (..., 3, h, w) in [0, 1], on the tensor's device.

    The bits are those of BasicSR's ``image.astype(float32) / 255.``. The divisor is a tensor, because CUDA would
    multiply by the rounded reciprocal of a Python number.
    """
    *lead, height, width, channels = frames.shape
    images = torch.empty(*lead, channels, height, width, device=frames.device)
    largest = torch.full((), 255.0, device=frames.device)  # made on the device, because a copy would wait for it
    for place in range(channels):
        torch.div(frames[..., channels - 1 - place], largest, out=images[..., place, :, :])
    return images


def to_device(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies frames to the device without waiting for it.

    ``prefetch_mode: cuda`` has copied them already, on another stream, which must not reuse their memory too early.
    """
    if frames.is_cuda:
        frames.record_stream(torch.cuda.current_stream(frames.device))
    return frames.to(device, non_blocking=True)


@contextmanager
def seeded(seed: int, device: torch.device | str = 'cpu') -> Iterator[None]:
    """Seeds the random states of Python, NumPy (by the lower 32 bits), torch and a GPU, and restores them."""
    device = torch.device(device)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.random.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed every GPU too
        if device.type == 'cuda':
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


Empty = Callable[..., torch.Tensor]  # takes a shape, gives a uint8 tensor to fill
Answer = tuple[int, dict[str, Any] | InputError]  # of a worker: its slot, and the batch or an error


def fresh(*shape: int) -> torch.Tensor:
    """A uint8 tensor in memory of its own."""
    return torch.empty(shape, dtype=torch.uint8)


@runtime_checkable
class BatchLoader(Protocol):
    """A dataset that loads a batch into given tensors; its length is the number of samples."""

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch.

        Args:
            requests: The index and seed of each sample, and the shape, which is the same for all.
            empty: Takes a shape, gives a uint8 tensor to fill.

        Returns:
            ``lq`` (b, t, h, w, 3) and ``gt`` (b, t, scale*h, scale*w, 3), or without t for one target frame, BGR:
            contiguous tensors that ``empty`` gave, or views of them. No other entry is a tensor.
        """

    def num_bytes(self, shape: BatchShape) -> int:
        """The bytes of a batch, at most."""


def load_batch(dataset: BatchLoader, requests: Sequence[SampleRequest], empty: Empty = fresh) -> dict[str, Any]:
    """Loads a batch, and adds the ``seed`` of each sample."""
    return {**dataset.load(requests, empty), 'seed': [request.seed for request in requests]}


class _Place(NamedTuple):
    """Where a tensor lies in its slot."""

    start: int
    shape: torch.Size


class SharedSlots(Dataset):
    """A dataset whose workers load batches into slots of shared memory that are mapped once.

    New memory for each batch would cost as much as loading, because the kernel clears it page by page. So each index
    names a free slot. The slot is free again when its last tensor is gone.

    Args:
        dataset: Loads the batches.
        requests_at: Gives the requests of an iteration; called in the workers.
        num_bytes: Bytes of the largest batch.
        num_ahead: Batches that may be requested and not taken.
        num_held: Batches that may stay in their slots after they are taken; :meth:`take` copies any beyond them.
    """

    def __init__(
        self,
        dataset: BatchLoader,
        requests_at: Callable[[int], Sequence[SampleRequest]],
        num_bytes: int,
        num_ahead: int,
        num_held: int,
    ) -> None:
        self._dataset = dataset
        self._requests_at = requests_at
        num_slots = num_ahead + num_held
        storage = torch.UntypedStorage._new_shared(num_slots * num_bytes)
        self._slots = torch.empty(0, dtype=torch.uint8).set_(storage).view(num_slots, num_bytes)
        self._free = deque(range(num_slots))

    def assign(self, iterations: Iterable[int]) -> Iterator[tuple[int, int]]:
        """The indices of this dataset: a free slot, found when the index is asked for, and an iteration."""
        for iteration in iterations:
            yield self._free.pop(), iteration

    def __getitem__(self, index: tuple[int, int]) -> Answer:
        """Loads a batch in a worker; returns the slot, and the batch with the places of its tensors, or an error."""
        place, iteration = index
        slot, start = self._slots[place], 0

        def empty(*shape: int) -> torch.Tensor:
            nonlocal start
            start += math.prod(shape)
            if start > len(slot):
                got = f'{start} or more of {type(self._dataset).__name__}'
                raise OptionError('datasets.train.type', f'load the {len(slot)} bytes of num_bytes', got, 'Correct it.')
            return slot[start - math.prod(shape) : start].view(shape)

        try:
            batch = load_batch(self._dataset, self._requests_at(iteration), empty)
            return place, {key: self._placed(key, value, slot) for key, value in batch.items()}
        except InputError as error:  # if it were raised, DataLoader would make a traceback of it
            return place, error

    def _placed(self, key: str, value: Any, slot: torch.Tensor) -> Any:
        if not torch.is_tensor(value):
            return value
        start = value.data_ptr() - slot.data_ptr()
        if not (value.dtype == torch.uint8 and value.is_contiguous() and 0 <= start <= len(slot) - value.numel()):
            name, fix = type(self._dataset).__name__, 'See docs/your_own_parts.md.'
            raise OptionError('datasets.train.type', 'load into the tensors of `empty`', f'{key} of {name}', fix)
        return _Place(start, value.shape)

    def take(self, answer: Answer, pin_memory: bool) -> dict[str, Any]:
        """The batch, in the process that trains. It is copied to be pinned, or if no other slot is free.

        Raises:
            InputError: If the worker could not load it.
        """
        place, batch = answer
        if isinstance(batch, InputError):
            raise batch
        places = {key: value for key, value in batch.items() if isinstance(value, _Place)}
        size = max((start + shape.numel() for start, shape in places.values()), default=0)
        array = self._slots[place, :size].numpy()
        if pin_memory or not self._free:
            own = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
            # Not by torch, whose OpenMP threads for this copy would slow down those of the training thread.
            np.copyto(own.numpy(), array)
            self._free.append(place)
        else:
            own = torch.from_numpy(array)  # its views keep the array alive
            weakref.finalize(array, self._free.append, place).atexit = False
        views = {key: own[start : start + shape.numel()].view(shape) for key, (start, shape) in places.items()}
        return {**batch, **views}
