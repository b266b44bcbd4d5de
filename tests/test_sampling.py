"""Which sample comes when: properties over many draws, and fixed points that must never move."""

from __future__ import annotations

from itertools import pairwise

import pytest
from test_schedule import run_options

from multigrid_vsr.core import sampling
from multigrid_vsr.core.sampling import batch_requests, mix, permute
from multigrid_vsr.options.multigrid_block import schedule_from_options


def indices(schedule, iteration, num_samples, world_size=1, rank=0, seed=0):
    requests = batch_requests(schedule, iteration, num_samples=num_samples, seed=seed, world_size=world_size, rank=rank)
    return [request.index for request in requests]


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 17, 64, 100, 1000, 4097])
def test_permute_is_a_permutation(size):
    assert sorted(permute(i, size, key=7) for i in range(size)) == list(range(size))


def test_permute_differs_with_the_key_and_spreads_neighbours():
    first, second = ([permute(i, 1000, key) for i in range(1000)] for key in (1, 2))
    assert sum(a == b for a, b in zip(first, second)) < 10  # about 1 expected
    assert sum(abs(a - b) == 1 for a, b in pairwise(first)) < 15  # about 2 expected


@pytest.mark.parametrize('position', [-1, 10])
def test_permute_outside_the_range_raises(position):
    with pytest.raises(IndexError, match=rf'position {position} is outside range\(10\)'):
        permute(position, 10, 0)


def test_mix_depends_on_every_value_and_their_order():
    values = [mix(*v) for v in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (-1,), (1 << 63,))]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 1 << 64 for value in values)


def test_mix_of_splitmix64_matches_its_published_sequence():
    # The first outputs of SplitMix64 seeded with 0 are mix(0) and, one step on, mix of the next state.
    assert mix(0) == 0xE220A8397B1DCDAF


def test_batch_requests_never_repeat_inside_a_pass():
    schedule = schedule_from_options(run_options(total_iter=20, batch=7))
    drawn = [indices(schedule, iteration, 45) for iteration in range(20)]
    for start in range(0, 18, 6):  # 45 samples are 6 batches of 7, and 3 that this pass leaves out
        assert len({index for batch in drawn[start : start + 6] for index in batch}) == 42
    assert drawn[:6] != drawn[6:12]


def test_batch_requests_cover_all_samples_over_passes():
    schedule = schedule_from_options(run_options(total_iter=60, batch=7))
    assert {index for iteration in range(60) for index in indices(schedule, iteration, 45)} == set(range(45))


@pytest.mark.parametrize('world_size', [2, 4, 8])
def test_batch_requests_of_ranks_are_the_parts_of_one_global_batch(world_size):
    whole, parts = (
        schedule_from_options(
            run_options({'gt_size': [128, 256], 'batch_size_per_gpu': [32 // n, 16 // n]}, total_iter=9, batch=16 // n)
        )
        for n in (1, world_size)
    )
    for iteration in range(9):
        ranks = [
            request
            for rank in range(world_size)
            for request in batch_requests(parts, iteration, num_samples=100, seed=5, world_size=world_size, rank=rank)
        ]
        assert ranks == batch_requests(whole, iteration, num_samples=100, seed=5)


def test_batch_requests_of_1024_ranks_are_disjoint_and_complete():
    schedule = schedule_from_options(run_options(total_iter=6, batch=4))
    drawn = [
        [index for rank in range(1024) for index in indices(schedule, iteration, 24000, 1024, rank)]
        for iteration in range(5)
    ]
    assert all(len(set(batch)) == 4096 for batch in drawn)
    assert len({index for batch in drawn for index in batch}) == 5 * 4096  # 24000 // 4096 = 5 batches a pass


def test_batch_requests_cost_neither_grows_with_the_ranks_nor_with_the_data(monkeypatch):
    """Counts hashes, the only work there is."""
    schedule = schedule_from_options(run_options(total_iter=1000, batch=4))
    hashes = []

    def counting_mix(*values):
        hashes.append(values)
        return mix(*values)

    monkeypatch.setattr(sampling, 'mix', counting_mix)
    costs = []
    for num_samples, world_size in ((5_000, 1), (5_000, 1024), (50_000_000, 1), (50_000_000, 1024)):
        hashes.clear()
        for iteration in range(200):
            indices(schedule, iteration, num_samples, world_size, world_size - 1)
        costs.append(len(hashes) / 200)
    assert costs[1] < 1.1 * costs[0]
    assert costs[3] < 1.1 * costs[2]
    assert max(costs) < 1 + 4 * (1 + 4 * 4)  # the pass; for each sample its seed and, on average, 4 walks of 4 rounds


def test_batch_requests_give_every_sample_its_own_seed():
    schedule = schedule_from_options(run_options(total_iter=500, batch=4))
    seeds = [r.seed for i in range(500) for r in batch_requests(schedule, i, num_samples=50, seed=0)]
    assert len(set(seeds)) == 2000


def test_batch_requests_of_a_fixed_seed_never_change():
    """A resumed run relies on these numbers: a change here changes the samples of every run that is under way."""
    schedule = schedule_from_options(run_options({'gt_size': [128, 256]}, total_iter=10, batch=2))
    assert [indices(schedule, iteration, 1000, seed=3) for iteration in (0, 1, 4, 5, 9)] == FIXED


def test_batch_requests_larger_than_the_data_raise():
    with pytest.raises(ValueError, match='a global batch of 8 cannot be drawn from 7 samples'):
        indices(schedule_from_options(run_options(batch=4)), 0, 7, world_size=2)


FIXED = [[679, 877], [998, 670], [573, 28], [630, 106], [153, 647]]
