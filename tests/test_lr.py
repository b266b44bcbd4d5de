"""The learning rate against values computed by hand."""

from __future__ import annotations

import re

import pytest
import torch
from probe import NETWORK, train_here
from runs import log_of, options

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.lr import CosineOptions, CosineSchedule
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models.optimizers import MultigridCosineLR
from multigrid_vsr.options.run_options import cosine_options


def schedule(*shapes):
    """``(iterations, batch, num_frame, gt_size)`` of each segment; the full batch is 1."""
    return Schedule.from_shapes([(n, BatchShape(b, t, g)) for n, b, t, g in shapes], BatchShape(1, 2, 128))


STAGES = schedule((4, 1, 2, 64), (4, 1, 2, 128))
FRAMES = schedule((2, 1, 1, 64), (2, 1, 2, 64), (2, 1, 1, 128), (2, 1, 2, 128))
BATCHES = schedule((4, 4, 2, 64), (4, 1, 2, 128))
SHRINKING = schedule((4, 1, 2, 128), (4, 4, 2, 64))
UNEQUAL = schedule((5, 1, 2, 64), (3, 1, 2, 128))
PAPER = schedule(*((2, 1, t, g) for g in (64, 128) for t in (1, 2, 3)))  # p = 6
PEAK = schedule((2, 1, 2, 64), (2, 4, 2, 64), (4, 1, 2, 128))

# (1 + cos(pi k / 4)) / 2 = 1, (2 + sqrt 2) / 4, 1/2, (2 - sqrt 2) / 4; and for eighths cos(pi/8) = 0.92388,
# cos(3 pi/8) = 0.38268
QUARTERS = [1, 0.853553, 0.5, 0.146447]
EIGHTHS = [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]


@pytest.mark.parametrize(
    ('shapes', 'values', 'expected'),
    [
        (STAGES, {'restart': 'none'}, EIGHTHS),
        (STAGES, {'restart': 'stage'}, QUARTERS * 2),
        (FRAMES, {'restart': 'stage'}, QUARTERS * 2),
        (FRAMES, {'restart': 'shape'}, [1, 0.5] * 4),
        (STAGES, {'restart_weights': (1, 0.5)}, [*QUARTERS, 0.5, 0.426777, 0.25, 0.073223]),
        (STAGES, {'eta_min': 0.5}, [1, 0.926777, 0.75, 0.573223] * 2),
        # equation 1 of the paper: cos(pi/12) = 0.96593 at most before the last period, whose own half wave follows
        (PAPER, {'restart': 'shape', 'anneal': 'last'}, [1, 0.982963] * 5 + [1, 0.5]),
        (PAPER, {'restart': 'shape', 'anneal': 'each'}, [1, 0.5] * 6),
        (
            PAPER,
            {'restart': 'shape', 'anneal': 'last', 'eta_min': 0.2, 'warmup_iter': 3},
            [0.333333, 0.657580, *[1, 0.986370] * 4, 1, 0.6],
        ),
        (UNEQUAL, {'anneal': 'last'}, [*EIGHTHS[:5], 1, 0.75, 0.25]),
        (UNEQUAL, {'anneal': 'each'}, [1, 0.904508, 0.654508, 0.345492, 0.095492, 1, 0.75, 0.25]),
        (STAGES, {'restart': 'none', 'anneal': 'last'}, EIGHTHS),
        (UNEQUAL, {'anneal': 'linear'}, [1, 1, 1, 1, 1, 1, 0.666667, 0.333333]),
        (STAGES, {'anneal': 'linear', 'eta_min': 0.2, 'restart_weights': (0.5, 1)}, [0.5] * 4 + [1, 0.8, 0.6, 0.4]),
        # weights of the spatial stages, of the periods
        (
            STAGES,
            {'restart': 'shape', 'anneal': 'last', 'restart_weights': (0.5, 1)},
            [0.5, 0.480970, 0.426777, 0.345671, *QUARTERS],
        ),
        (FRAMES, {'restart': 'shape', 'restart_weights': (0.5, 1)}, [0.5, 0.25] * 2 + [1, 0.5] * 2),
        (FRAMES, {'restart': 'shape', 'restart_weights': (1, 0.5, 0.25, 1)}, [1, 0.5, 0.5, 0.25, 0.25, 0.125, 1, 0.5]),
        (STAGES, {'restart': 'none', 'restart_weights': (0.5, 1)}, [0.5, 0.480970, 0.426777, 0.345671, *EIGHTHS[4:]]),
        # a ramp of 3 at the start; at the boundary too, from 0.146 to what the rate would be
        (STAGES, {'warmup_iter': 3}, [0.333333, 0.569036, 0.5, 0.146447, *QUARTERS]),
        (
            STAGES,
            {'warmup_iter': 3, 'warmup_at': 'boundaries'},
            [0.333333, 0.569036, 0.5, 0.146447, 0.430964, 0.617851, 0.5, 0.146447],
        ),
        # ramps that a boundary cuts short: each goes on from the rate that was reached
        (
            FRAMES,
            {'restart': 'shape', 'warmup_iter': 3, 'warmup_at': 'boundaries'},
            [0.333333, 0.333333, 0.555556, 0.444444, 0.629630, 0.481481, 0.654321, 0.493827],
        ),
        # where the rate falls below that before the ramp, there is nothing left to ramp
        (
            PEAK,
            {'restart': 'none', 'batch_scaling': 'linear', 'warmup_iter': 5, 'warmup_at': 'boundaries'},
            [0.2, 0.384776, 0.990664, 1.337012, 0.453910, *EIGHTHS[5:]],
        ),
        # no ramp where the rate goes on falling
        (STAGES, {'restart': 'none', 'warmup_iter': 2, 'warmup_at': 'boundaries'}, [0.5, *EIGHTHS[1:]]),
        (BATCHES, {'batch_scaling': 'linear'}, [4, 3.414214, 2, 0.585786, *QUARTERS]),
        (BATCHES, {'batch_scaling': 'sqrt'}, [2, 1.707107, 1, 0.292893, *QUARTERS]),
        # the batch alone makes the rate jump from 0.691 to 4 x 0.5: a ramp there too
        (
            SHRINKING,
            {'restart': 'none', 'batch_scaling': 'linear', 'warmup_iter': 2, 'warmup_at': 'boundaries'},
            [0.5, 0.961940, 0.853553, 0.691342, 1.345671, 1.234633, 0.585786, 0.152241],
        ),
    ],
)
def test_cosine_schedule_gives_the_rates_computed_by_hand(shapes, values, expected):
    rates = CosineSchedule(shapes, CosineOptions(**{'eta_min': 0, **values}))
    assert [rates.at(i, 1.0) for i in range(shapes.total_iter)] == pytest.approx(expected, abs=2e-6)


def test_cosine_schedule_never_rises_above_a_small_base():
    rates = CosineSchedule(STAGES, CosineOptions(eta_min=0.1))
    assert [rates.at(i, 0.01) for i in range(8)] == [0.01] * 8


def test_cosine_schedule_anneals_a_group_with_flow_lr_mul_to_the_same_least_rate():
    rates = CosineSchedule(PAPER, CosineOptions(eta_min=0.025, restart='shape', anneal='last'))
    # 0.025 + 0.1 x 0.982963, and 0.025 + 0.1 x 0.5
    assert [rates.at(i, 0.125) for i in (0, 1, 9, 10, 11)] == pytest.approx(
        [0.125, 0.123296, 0.123296, 0.125, 0.075], abs=2e-6
    )


def test_scheduler_sets_every_group_in_its_ratio_and_resumes_at_any_iteration():
    def optimizer():
        groups = [{'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': lr} for lr in (1.0, 0.125)]
        return torch.optim.Adam(groups)

    options = CosineOptions(eta_min=0, warmup_iter=2, warmup_at='boundaries', batch_scaling='linear')
    whole = optimizer()
    scheduler = MultigridCosineLR(whole, BATCHES, options)
    rates, states = [], []
    for _ in range(8):
        rates.append([group['lr'] for group in whole.param_groups])
        states.append((whole.state_dict(), scheduler.state_dict()))
        whole.step()
        scheduler.step()
    assert [rate for rate, _ in rates] == pytest.approx(
        [2, 3.414214, 2, 0.585786, 0.792893, 0.853553, 0.5, 0.146447], abs=2e-6
    )
    assert [flow / rate for rate, flow in rates] == pytest.approx([0.125] * 8)
    for place, (optimizer_state, scheduler_state) in enumerate(states[:-1]):
        resumed = optimizer()
        scheduler = MultigridCosineLR(resumed, BATCHES, options)
        resumed.load_state_dict(optimizer_state)
        scheduler.load_state_dict(scheduler_state)
        resumed.step()
        scheduler.step()
        assert [group['lr'] for group in resumed.param_groups] == rates[place + 1]


@pytest.mark.parametrize('last_epoch', [0, 1, 5])
def test_scheduler_that_goes_on_steps_before_the_optimizer_without_a_warning(last_epoch):
    """BasicSR's order in the first iteration of a run that goes on; warnings are errors here."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = MultigridCosineLR(optimizer, BATCHES, CosineOptions(eta_min=0))
    scheduler.load_state_dict({'last_epoch': last_epoch})
    scheduler.step()
    assert scheduler.state_dict() == {'last_epoch': last_epoch + 1}


BAD = [
    ({'eta_mim': 0}, 'eta_mim: must be one of type, eta_min, .*Did you mean `eta_min`?'),
    ({'anneal': 'first'}, 'anneal: must be last, each, linear, got first. Choose one of them.'),
    ({'warmup_at': 'stages'}, 'warmup_at: must be start or boundaries, got stages. Choose one of'),
    ({'restart': 'none', 'restart_weights': [1, 1, 1]}, r'restart_weights: must be 1 numbers, one for each period, or 2, one for each spatial stage, got \[1, 1, 1\].'),
    ({'restart_weights': [1]}, r'restart_weights: must be 2 numbers, one for each period, got \[1\].'),
    ({'restart_weights': '12'}, "restart_weights: must be a list, got '12'."),
    ({'batch_scaling': True}, 'batch_scaling: must be none, sqrt, linear, got True. Choose'),
    ({'eta_min': '1e-7'}, 'eta_min: must be a number of at least 0, got 1e-7. Write it as !!float'),
    ({'warmup_iter': 1.5}, 'warmup_iter: must be a whole number, or -1 for none, got 1.5. Correct'),
]  # fmt: skip


@pytest.mark.parametrize(('values', 'line'), BAD)
def test_cosine_options_with_bad_value_says_what_to_change(values, line):
    with pytest.raises(OptionError, match=f'^train.scheduler.{line}'):
        cosine_options({'type': 'MultigridCosineLR', **values}, STAGES)


def test_cosine_options_of_a_run_without_its_block_keep_the_weight_of_the_full_shape():
    weights = {'type': 'MultigridCosineLR', 'restart_weights': [0.5, 0.8]}
    assert cosine_options(weights, schedule((8, 1, 2, 128))).restart_weights == (0.8,)


COSINE = [1.0, 0.985471, 0.942728, 0.87426, 0.784032, 0.677303, 0.560268, 0.439732, 0.322698, 0.215968, 0.12574]
BASICSRS = {  # the factor of the batch is 2 in the first six iterations, 1 after
    'MultiStepLR': ({'milestones': [3, 9], 'gamma': 0.5}, [2, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]),
    'CosineAnnealingRestartLR': (
        {'periods': [13], 'restart_weights': [1], 'eta_min': 0},
        [2 * rate for rate in COSINE[:6]] + COSINE[6:],
    ),
}


@pytest.mark.parametrize('scheduler', BASICSRS)
def test_scheduler_of_basicsr_with_batch_scaling_neither_compounds_nor_drifts(scheduler, tmp_path, clips):
    scheduler_opt, expected = BASICSRS[scheduler]
    opt = options(clips, network_g=NETWORK, multigrid__batch_size_per_gpu=[4, 1], logger__save_checkpoint_freq=4)
    opt['train']['scheduler'] = {'type': scheduler, 'batch_scaling': 'sqrt', **scheduler_opt}

    def rates():
        log = log_of(tmp_path / 'experiments/run')
        return [float(rate) * 1000 for rate in re.findall(r'lr:\((\S+),\)', log)]

    train_here(tmp_path, opt)
    assert rates()[:11] == pytest.approx(expected, abs=1e-3)
    (tmp_path / 'experiments/run/training_states/8.state').unlink()
    (tmp_path / 'experiments/run/training_states/12.state').unlink()
    train_here(tmp_path, opt, '--auto_resume')
    assert rates()[-9:][:7] == pytest.approx(expected[4:], abs=1e-3)


@pytest.mark.parametrize(('total_iter', 'expected'), [(13, 0), (48, 2), (360, 15), (119_999, 4999), (300_000, 5000)])
def test_cosine_options_without_a_warmup_take_a_part_of_the_run(total_iter, expected):
    run = schedule((total_iter, 4, 7, 64))
    assert cosine_options({'type': 'MultigridCosineLR'}, run).warmup_iter == expected
    assert cosine_options({'type': 'MultigridCosineLR', 'warmup_iter': -1}, run).warmup_iter == 0
