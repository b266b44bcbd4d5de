"""The schedule against tables written by hand."""

from __future__ import annotations

import pytest

from multigrid_vsr.core.plan import remaining_pixels, shape_notes, total_pixels
from multigrid_vsr.core.schedule import BatchShape, Schedule, split
from multigrid_vsr.options.multigrid_block import schedule_from_options


def run_options(block=None, total_iter=300, batch=4):
    """Options of a run that ends with 15 frames of 256 pixels at scale 4."""
    return {
        'model_type': 'MultigridVideoModel',
        'scale': 4,
        'train': {'total_iter': total_iter},
        'datasets': {
            'train': {'type': 'MultigridREDSDataset', 'gt_size': 256, 'num_frame': 15, 'batch_size_per_gpu': batch}
        },
        **({'multigrid': block} if block is not None else {}),
    }


def rows(schedule):
    """(stage, start, end, batch, num_frame, gt_size) of each segment."""
    return [
        (s.stage, s.start, s.end, s.shape.batch_size_per_gpu, s.shape.num_frame, s.shape.gt_size)
        for s in schedule.segments
    ]


NESTED = {'gt_size': [128, 192, 256], 'num_frame': [7, 11, 15]}
TWO_BY_TWO = {'gt_size': [128, 256], 'num_frame': [7, 15]}
SAMPLES = {**TWO_BY_TWO, 'share': 'samples'}
STAGES = [
    {'iter': 5, 'gt_size': 128, 'num_frame': 7, 'batch_size_per_gpu': 16},
    {'iter': 5, 'gt_size': 192}, {'iter': 10, 'gt_size': 128}, {'iter': 10},
]  # fmt: skip
LAID_OUT = [  # the block, total_iter, and the segments
    (None, 300, [(0, 0, 300, 4, 15, 256)]),
    ({**NESTED, 'stage_iter': [90, 90, 120], 'frame_ratio': [1, 1, 1], 'batch_size_per_gpu': [16, 8, 4]}, 300, [
        (0, 0, 30, 16, 7, 128), (0, 30, 60, 16, 11, 128), (0, 60, 90, 16, 15, 128),
        (1, 90, 120, 8, 7, 192), (1, 120, 150, 8, 11, 192), (1, 150, 180, 8, 15, 192),
        (2, 180, 220, 4, 7, 256), (2, 220, 260, 4, 11, 256), (2, 260, 300, 4, 15, 256),
    ]),
    # 100 iterations: stage boundaries floor(100/3) = 33, floor(200/3) = 66; in the first, floor(33/3) = 11, 22; in
    # the last of 34 iterations, 66 + floor(34/3) = 77, 66 + floor(68/3) = 88.
    (NESTED, 100, [
        (0, 0, 11, 4, 7, 128), (0, 11, 22, 4, 11, 128), (0, 22, 33, 4, 15, 128),
        (1, 33, 44, 4, 7, 192), (1, 44, 55, 4, 11, 192), (1, 55, 66, 4, 15, 192),
        (2, 66, 77, 4, 7, 256), (2, 77, 88, 4, 11, 256), (2, 88, 100, 4, 15, 256),
    ]),
    # shares 1:2:1 of 10 iterations: floor(10/4) = 2, floor(30/4) = 7
    ({'num_frame': [7, 11, 15], 'frame_ratio': [1, 2, 1]}, 10,
     [(0, 0, 2, 4, 7, 256), (0, 2, 7, 4, 11, 256), (0, 7, 10, 4, 15, 256)]),
    ({'gt_size': [128, 256]}, 10, [(0, 0, 5, 4, 15, 128), (1, 5, 10, 4, 15, 256)]),
    # a batch for each frame count of a stage
    ({**TWO_BY_TWO, 'batch_size_per_gpu': [[9, 8], 4]}, 4,
     [(0, 0, 1, 9, 7, 128), (0, 1, 2, 8, 15, 128), (1, 2, 3, 4, 7, 256), (1, 3, 4, 4, 15, 256)]),
    # volume: floor(4 * 256^2 * 15 / (128^2 * 7)) = floor(34.3) = 34, and so on
    ({**TWO_BY_TWO, 'batch_size_per_gpu': 'volume'}, 4,
     [(0, 0, 1, 34, 7, 128), (0, 1, 2, 16, 15, 128), (1, 2, 3, 8, 7, 256), (1, 3, 4, 4, 15, 256)]),
    ({**TWO_BY_TWO, 'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 12}, 4,
     [(0, 0, 1, 12, 7, 128), (0, 1, 2, 12, 15, 128), (1, 2, 3, 8, 7, 256), (1, 3, 4, 4, 15, 256)]),
    # shares of samples, of the run: 1/4 each, so 1/8, 1/4, 1/4, 1/4 of a batch of 4's iterations: 2 + 4 + 4 + 4 = 14
    ({**SAMPLES, 'batch_size_per_gpu': [[8, 4], 4]}, 14,
     [(0, 0, 2, 8, 7, 128), (0, 2, 6, 4, 15, 128), (1, 6, 10, 4, 7, 256), (1, 10, 14, 4, 15, 256)]),
    # stages of 60 and 30 iterations of 4 samples, halves of them at batch 16, 8 and 4: 30/4 + 30/2 + 15 + 15 = 52.5,
    # rounded to even; boundaries floor(52 * 7.5 / 52.5) = 7, floor(52 * 22.5 / 52.5) = 22, floor(52 * 37.5 / 52.5) = 37
    ({**SAMPLES, 'stage_iter': [60, 30], 'batch_size_per_gpu': [[16, 8], 4]}, 52,
     [(0, 0, 7, 16, 7, 128), (0, 7, 22, 8, 15, 128), (1, 22, 37, 4, 7, 256), (1, 37, 52, 4, 15, 256)]),
    # one batch throughout: as with shares of iterations
    ({**SAMPLES, 'stage_iter': [4, 8], 'frame_ratio': [1, 3]}, 12,
     [(0, 0, 1, 4, 7, 128), (0, 1, 4, 4, 15, 128), (1, 4, 6, 4, 7, 256), (1, 6, 12, 4, 15, 256)]),
    # any order of shapes; what an entry leaves out is the full shape's
    ({'stages': STAGES}, 30,
     [(0, 0, 5, 16, 7, 128), (1, 5, 10, 4, 15, 192), (2, 10, 20, 4, 15, 128), (3, 20, 30, 4, 15, 256)]),
    # fewer iterations than parts: those that would be empty vanish, and the run still ends with the full shape
    (NESTED, 2, [(0, 0, 1, 4, 15, 192), (1, 1, 2, 4, 15, 256)]),
    # what YAML reads of 1e5 written as !!float
    ({'gt_size': [128, 256], 'stage_iter': [4.0, 6.0]}, 1e1, [(0, 0, 4, 4, 15, 128), (1, 4, 10, 4, 15, 256)]),
]  # fmt: skip


@pytest.mark.parametrize(('block', 'total_iter', 'expected'), LAID_OUT)
def test_schedule_from_options_lays_out_the_segments(block, total_iter, expected):
    assert rows(schedule_from_options(run_options(block, total_iter))) == expected


def test_schedule_segment_at_boundaries_is_half_open():
    schedule = schedule_from_options(run_options({'gt_size': [128, 256]}, total_iter=10))
    assert [schedule.segment_at(i).shape.gt_size for i in range(10)] == [128] * 5 + [256] * 5
    assert [schedule.at_current_iter(i).shape.gt_size for i in range(1, 11)] == [128] * 5 + [256] * 5


@pytest.mark.parametrize('iteration', [-1, 10])
def test_schedule_segment_at_outside_the_run_raises(iteration):
    with pytest.raises(IndexError, match=rf'iteration {iteration} is outside \[0, 10\)'):
        schedule_from_options(run_options(total_iter=10)).segment_at(iteration)


@pytest.mark.parametrize(
    ('length', 'shares', 'expected'),
    [
        (9, [1, 1, 1], [3, 3, 3]),
        (10, [1, 1, 1], [3, 3, 4]),
        (11, [1, 1, 1], [3, 4, 4]),
        (1, [1, 1, 1], [0, 0, 1]),
        (10, [0.1, 0.2, 0.7], [1, 2, 7]),
        (300000, [0.3, 0.3, 0.4], [90000, 90000, 120000]),
    ],
)
def test_split_gives_floors_of_the_cumulated_shares(length, shares, expected):
    assert split(length, shares) == expected


def test_pixels_of_the_rest_are_counted_from_any_iteration():
    # 2 iterations of 1 x 2 x 64^2 = 8192 pixels, then 3 of 1 x 4 x 128^2 = 65536
    schedule = Schedule.from_shapes([(2, BatchShape(1, 2, 64)), (3, BatchShape(1, 4, 128))], BatchShape(1, 4, 128))
    assert total_pixels(schedule) == 212992
    assert [remaining_pixels(schedule, i) for i in range(6)] == [212992, 204800, 196608, 131072, 65536, 0]


@pytest.mark.parametrize(
    ('shapes', 'full', 'expected'),
    [
        ([(6, 128), (15, 256)], (15, 256), []),
        ([(3, 128), (15, 256)], (15, 256), ['Note: 3 frames. The paper']),
        ([(6, 124), (15, 256)], (15, 256), ['Note: LQ frames of 31 pixels. The paper']),
        ([(5, 128), (5, 256)], (5, 256), []),  # EDVR has 5 frames built in
        ([(4, 96), (5, 112)], (5, 112), ['Note: LQ frames of 24 pixels.', 'Note: 4 frames.']),
    ],
)
def test_notes_name_shapes_below_the_paper_s_that_the_full_shape_does_not_have(shapes, full, expected):
    schedule = Schedule.from_shapes([(1, BatchShape(1, *shape)) for shape in shapes], BatchShape(1, *full))
    lines = shape_notes(schedule, 4)
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected))
