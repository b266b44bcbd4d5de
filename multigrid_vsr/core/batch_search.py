"""The batch that a GPU holds and the one that keeps it busy, from a function that tries one: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

ENOUGH = 0.95  # share of the largest throughput from which on a larger batch is not worth its memory


def try_batches(rate_of: Callable[[int], float | None], limit: int) -> dict[int, float]:
    """Tries batches up to the largest that fits: doubling first, then halving the gap.

    Args:
        rate_of: Gives the samples a second of a batch, or ``None`` where the memory does not hold it.
        limit: Largest batch to try.

    Returns:
        Samples a second of each batch that fits; empty where one sample does not.
    """
    rates: dict[int, float] = {}
    fits, too_large, batch = 0, limit + 1, 1
    while fits + 1 < too_large:
        rate = rate_of(batch)
        if rate is None:
            too_large = batch
        else:
            fits, rates[batch] = batch, rate
        batch = min(2 * fits, limit) if too_large > limit and fits else (fits + too_large) // 2
    return dict(sorted(rates.items()))


def enough(rates: Mapping[int, float]) -> int:
    """The smallest batch past which throughput hardly grows."""
    return min(batch for batch, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
