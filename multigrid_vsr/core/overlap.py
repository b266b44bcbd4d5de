"""Overlapping windows over a sequence of any length, known or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')
# Without another: benchmarks/README.md has what they leave of a whole clip.
FRAMES_OVERLAP, TILE_OVERLAP = 28, 64


def windows(items: Iterable[T], size: int, overlap: int) -> Iterator[tuple[list[T], range]]:
    """Cuts a sequence into windows whose middles follow each other.

    Window k starts at ``k * (size - 2 * overlap)``. Of each window the places that lie within ``overlap`` of a cut are
    context and left to its neighbour; what is at an end of the sequence is kept. A sequence of at most ``size`` items
    is one window.

    Args:
        items: The sequence; it is read as far as the window that is asked for, and one item further.
        size: Items of a window.
        overlap: Items of context on each side.

    Yields:
        The items of a window, and which of their places to keep.

    Raises:
        ValueError: If no window would keep anything.
    """
    if overlap < 0 or size <= 2 * overlap:
        raise ValueError(f'a window of {size} keeps nothing beside an overlap of {overlap} on each side')
    source = iter(items)
    window: list[T] = []
    context = 0  # places at the start that the window before has kept
    has_more = True
    while has_more:
        for item in source:
            window.append(item)
            if len(window) > size:
                break
        has_more = len(window) > size
        if not window:
            return
        yield window[:size], range(context, size - overlap if has_more else len(window))
        window = window[size - 2 * overlap :]
        context = overlap
