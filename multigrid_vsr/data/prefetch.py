"""What is loaded ahead: by a thread, within a bound on memory, and onto the device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_LONGEST_END = 1.0  # seconds; a disk that does not answer may keep the thread for ever


def to_device(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies frames to the device without waiting for it.

    Frames that are there already were copied on another stream (``prefetch_mode: cuda``), whose memory would go to the
    next batch as soon as these are let go of, be they read or not: the host runs ahead of the device.
    """
    if frames.is_cuda:
        frames.record_stream(torch.cuda.current_stream(frames.device))
    return frames.to(device, non_blocking=True)


def in_background(batches: Iterable[Any], sizes: Iterator[int], capacity: int) -> Iterator[Any]:
    """Iterates in a thread, as far ahead as the sizes of what is ready stay within the capacity.

    So small batches are loaded many ahead and large ones few, and memory stays bounded whatever the shape. One batch is
    always allowed. An error in the thread is raised here; leaving the iterator ends the thread.

    Args:
        batches: What to iterate over.
        sizes: The size of each batch, in any unit.
        capacity: Sum of the sizes that may be ready at a time.
    """
    changed = threading.Condition()
    ready: deque[tuple[str, Any, int]] = deque()
    waiting = 0
    is_left = False

    def offer(kind: str, value: Any, size: int) -> bool:
        nonlocal waiting
        with changed:
            changed.wait_for(lambda: is_left or not ready or waiting + size <= capacity)
            ready.append((kind, value, size))
            waiting += size
            changed.notify_all()
            return not is_left

    def load() -> None:
        try:
            for batch in batches:
                if not offer('batch', batch, next(sizes)):
                    return
            offer('end', None, 0)
        except BaseException as error:  # handed over whatever it is: a thread that dies silently would hang the run
            offer('error', error, 0)

    thread = threading.Thread(target=load, name='multigrid_vsr prefetch', daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: ready)
                kind, value, size = ready.popleft()
                waiting -= size
                changed.notify_all()
            if kind == 'end':
                return
            if kind == 'error':
                raise value
            yield value
    finally:
        with changed:
            is_left = True
            changed.notify_all()
        thread.join(_LONGEST_END)
