"""Which sample comes at an iteration: a pure function of (seed, iteration, place in the global batch).

Nothing is stored and nothing is drawn in order, so a run can start at any iteration, on any number of ranks and
workers, and gets the same samples. The cost of a batch depends on its own size alone: neither on the number of
ranks nor on the size of the data.
"""

from __future__ import annotations

from multigrid_vsr.core.schedule import SampleRequest, Schedule

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Hashes integers to 64 bits with the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = 0
    for value in values:
        state = (state + (value & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def permute(position: int, size: int, key: int) -> int:
    """The element at ``position`` of a pseudo-random permutation of ``range(size)``.

    A four-round Feistel network on the smallest even number of bits that holds ``size``, walked until the value
    falls into the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002): at most four
    walks on average, no table.

    Raises:
        IndexError: If ``position`` is outside ``range(size)``.
    """
    if not 0 <= position < size:
        raise IndexError(f'position {position} is outside range({size})')
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for round_ in range(4):
            left, right = right, left ^ (mix(key, round_, right) & mask)
        position = left << half | right
        if position < size:
            return position


def batch_requests(
    schedule: Schedule, iteration: int, *, num_samples: int, seed: int, world_size: int = 1, rank: int = 0
) -> list[SampleRequest]:
    """The requests of one rank at an iteration (counted from 0).

    The global batch of ``b * world_size`` places is cut into ranks in order: rank r has the places ``[r*b, (r+1)*b)``.
    A pass over the data is a permutation of all samples, dealt out in whole global batches; what does not fill one
    is left to the next pass, which has a permutation of its own. A segment begins a new pass.

    Args:
        schedule: Shapes of the run.
        iteration: Iteration, counted from 0.
        num_samples: Samples in the dataset.
        seed: Seed of the run.
        world_size: Number of ranks.
        rank: This rank.

    Raises:
        ValueError: If the global batch holds more than ``num_samples``.
    """
    segment = schedule.segment_at(iteration)
    shape = segment.shape
    global_batch = shape.batch_size_per_gpu * world_size
    if global_batch > num_samples:
        raise ValueError(f'a global batch of {global_batch} cannot be drawn from {num_samples} samples')
    batch_in_pass = (iteration - segment.start) % (num_samples // global_batch)
    pass_key = mix(seed, iteration - batch_in_pass)  # a pass is known by its first iteration
    first = rank * shape.batch_size_per_gpu
    return [
        SampleRequest(
            index=permute(batch_in_pass * global_batch + place, num_samples, pass_key),
            num_frame=shape.num_frame,
            gt_size=shape.gt_size,
            seed=mix(seed, iteration, place),
        )
        for place in range(first, first + shape.batch_size_per_gpu)
    ]
