"""How long a run still takes: the prediction against a table, and the clock against runs made up by hand."""

from __future__ import annotations

import logging

import pytest
import torch

from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models.clock import Clock, Pace, StepTime, iteration_seconds, segment_seconds, span

SMALL, TALL = BatchShape(1, 2, 10), BatchShape(1, 4, 10)  # 200 and 400 pixels
WIDE, LARGE = BatchShape(1, 2, 20), BatchShape(1, 4, 20)  # 800 and 1600 pixels


@pytest.mark.parametrize(
    ('seen', 'tried', 'expected'),
    [
        ({LARGE: Pace(5.0, 0.25)}, {LARGE: 9.0}, 5.25),  # its own, waiting included
        ({SMALL: Pace(2.0)}, {}, 16.0),  # eight times the pixels
        ({SMALL: Pace(2.0), TALL: Pace(3.0)}, {SMALL: 1.0, TALL: 1.5, LARGE: 2.5}, 3.75),  # 1.25 more than tried
        ({SMALL: Pace(0.8)}, {SMALL: 1.0, LARGE: 2.5}, 2.5),  # by graphs: the trial, which is less than eight times 0.8
        ({SMALL: Pace(0.2)}, {SMALL: 1.0, LARGE: 2.5}, 1.6),  # eight times the pixels, which is less than the trial
        ({SMALL: Pace(0.5), WIDE: Pace(0.8)}, {SMALL: 1.0, WIDE: 1.6, LARGE: 3.0}, 1.6),  # twice the last shape
        ({SMALL: Pace(0.5), WIDE: Pace(0.8)}, {SMALL: 1.0, WIDE: 1.6, LARGE: 1.5}, 1.5),
        ({}, {SMALL: 1.0, LARGE: 2.5}, 2.5),
        ({SMALL: Pace(1.0, 3.0)}, {SMALL: 1.0, LARGE: 2.5}, 8.0),  # loading binds: twice the frames
        ({SMALL: Pace(1.0, 0.1)}, {SMALL: 1.0, LARGE: 2.5}, 2.5),  # it does not
    ],
)
def test_iteration_of_a_shape_takes_what_the_run_or_the_trial_says(seen, tried, expected):
    assert iteration_seconds(LARGE, seen, tried) == pytest.approx(expected)


def test_seconds_of_segments_are_those_of_the_iterations_that_are_not_done():
    schedule = Schedule.from_shapes([(3, SMALL), (2, LARGE)], LARGE)
    seconds = {SMALL: 1.0, LARGE: 10.0}.__getitem__
    expected = [[3, 20], [2, 20], [1, 20], [0, 20], [0, 10], [0, 0]]
    assert [segment_seconds(schedule, seconds, done) for done in range(6)] == expected


@pytest.mark.parametrize(('seconds', 'expected'), [(-3.0, '0:00:00'), (59.6, '0:01:00'), (200000.0, '2 days, 7:33:20')])
def test_span_is_never_below_zero(seconds, expected):
    assert span(seconds) == expected


class Clocked:
    """A run of 600 iterations whose steps, loading, checkpoints and validations take what a table says."""

    SHAPES = (BatchShape(4, 7, 128), BatchShape(4, 15, 128), BatchShape(4, 7, 256), BatchShape(4, 15, 256))
    EVERY = 50  # iterations between checkpoints, and between validations

    def __init__(self, seconds, waiting=0.0, saving=0.0, validating=0.0, tried=None):
        self.time = 1000.0
        self.seconds = dict(zip(self.SHAPES, seconds))
        self.waiting, self.saving, self.validating = waiting, saving, validating
        self.schedule = Schedule.from_shapes([(150, shape) for shape in self.SHAPES], self.SHAPES[-1])
        opt = {
            'datasets': {'train': {}, 'val': {}}, 'val': {'val_freq': self.EVERY}, 'world_size': 2, 'dist': True, 'num_gpu': 1,
            'logger': {'save_checkpoint_freq': self.EVERY},
        }  # fmt: skip
        self.clock = Clock(self.schedule, opt, torch.device('cpu'), now=lambda: self.time)
        self.clock.tried = {shape: StepTime(s, 0.0) for shape, s in zip(self.SHAPES, tried or ())}

    def lines(self):
        """(iteration, figures of its line, the time at it) every 10 iterations, and the time at the end."""
        found = []
        for i in range(1, 601):
            self.clock.begin(i)
            self.time += self.seconds[self.schedule.at_current_iter(i).shape] * (5 if i == 1 else 1)
            self.clock.end(i)
            if i % 10 == 0:
                found.append((i, self.clock.line(i), self.time))
            if i % self.EVERY == 0:
                self._spend()
            self.time += self.waiting
        self._spend()
        self.clock.finish()
        return found, self.time

    def _spend(self):
        for on, seconds in (('saving', self.saving), ('validation', self.validating)):
            with self.clock.counted_as(on):
                self.time += seconds


LAUNCH_BOUND = (0.070, 0.150, 0.075, 0.160)  # what a fast GPU makes of it: time follows frames
PIXEL_BOUND = (0.030, 0.064, 0.120, 0.257)


@pytest.mark.parametrize('seconds', [LAUNCH_BOUND, PIXEL_BOUND])
@pytest.mark.parametrize('others', [{}, {'saving': 0.4, 'validating': 6.0}, {'waiting': 0.004}])
def test_time_left_is_right_within_15_percent_from_5_percent_of_the_run_on(seconds, others):
    tried = [0.93 * s for s in seconds]  # a trial has no optimizer's step in it
    found, end = Clocked(seconds, tried=tried, **others).lines()
    # Until the first validation is over, nobody knows what one takes.
    judged = [(i, line, at) for i, line, at in found if i >= (60 if 'validating' in others else 30)]
    errors = {i: line['seconds_left'] / (end - at) - 1 for i, line, at in judged if end - at > 1}
    assert len(errors) > 50
    assert {i: error for i, error in errors.items() if abs(error) > 0.15} == {}
    assert min(line['seconds_left'] for _, line, _ in found) >= 0


def test_time_left_by_graphs_is_bounded_by_the_eager_trial_until_shapes_seen_tell():
    graphs = (0.026, 0.055, 0.030, 0.067)
    for tried, least, most in ((None, 2.3, 2.4), ((0.050, 0.105, 0.052, 0.104), 1.3, 1.4)):
        found, end = Clocked(graphs, tried=tried).lines()
        i, line, at = found[4]
        assert i == 50
        assert least < line['seconds_left'] / (end - at) < most
        i, line, at = found[30]  # the third shape: as many frames as the first, four times the pixels
        assert i == 310
        assert line['seconds_left'] == pytest.approx(end - at, rel=0.05)


def test_line_says_rates_of_all_ranks_and_the_share_of_waiting():
    run = Clocked((0.3, 0.3, 0.3, 0.3), waiting=0.1)
    found, _ = run.lines()
    _, line, _ = found[1]
    assert line['samples_per_s'] == pytest.approx(2 * 4 / 0.4)
    assert line['megapixels_per_s'] == pytest.approx(2 * 4 * 7 * 128 * 128 / 0.4 / 1e6)
    assert line['waiting'] == pytest.approx(0.25)
    assert line['peak_memory'] > 0


def test_boundary_line_says_what_is_done_and_what_comes_next(caplog):
    caplog.set_level(logging.INFO, logger='basicsr')
    Clocked((0.3, 0.6, 1.2, 2.4), waiting=0.1, saving=9.0, validating=20.0).lines()
    lines = [record.message for record in caplog.records if ' done: ' in record.message]
    assert len(lines) == 4
    # 149 iterations of 0.4 s and the first of 1.5 s; 150 of 0.7 s, three checkpoints and validations among them.
    assert lines[0].startswith(
        'Stage 1, segment 1 of 4 done: [4x7x128x128], iterations 1-150, 0:01:01, 0.4 s an iteration, 25.0% of it waiting '
        'for data, peak memory '
    )
    assert ' GB. Next: [4x15x128x128], iterations 151-300, about 0:0' in lines[0]
    assert lines[3].startswith('Stage 2, segment 4 of 4 done: [4x15x256x256], iterations 451-600, ')
    assert 'Next' not in lines[3]
    hints = [record.message for record in caplog.records if record.message.startswith('Data loading is')]
    assert hints[0].startswith(
        'Data loading is the bottleneck at [4x7x128x128]: 25% of the time is spent waiting for data. Pack'
    )
    assert not any('256x256' in hint for hint in hints)  # 0.1 s of 1.3 s and less


def test_launches_that_bind_are_said_with_what_to_do(caplog):
    caplog.set_level(logging.INFO, logger='basicsr')
    run = Clocked(LAUNCH_BOUND)
    run.clock.tried = {SMALL: StepTime(0.070, 0.068), LARGE: StepTime(0.160, 0.080)}
    run.clock.log_tried()
    assert caplog.records == []  # a CPU has nothing to launch
    run.clock._device = torch.device('cuda')
    run.clock.log_tried()
    assert [record.message.split(':')[0] for record in caplog.records] == [
        'Kernel launches are the bottleneck at [1x2x10x10]'
    ]
    assert 'train.cuda_graph: true' in caplog.text
