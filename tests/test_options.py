"""Every rule of the ``multigrid`` block, and the line that breaking it gets."""

from __future__ import annotations

import copy
import re

import pytest
from test_schedule import run_options

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.multigrid_block import schedule_from_options, uses_multigrid
from multigrid_vsr.options.option_file import settle

G = {'gt_size': [128, 256]}
KEYS = (
    'gt_size, num_frame, stage_iter, frame_ratio, share, batch_size_per_gpu, max_batch_size_per_gpu, '
    'micro_batch_size_per_gpu, lq_divisor, min_lq_size, min_num_frame, stages'
)
WHOLE = 'must be a whole number of at least 1'
VOLUME = {'batch_size_per_gpu': 'volume'}
BAD_BLOCKS = [
    ({'gt_sizes': [128, 256]}, f'gt_sizes: must be one of {KEYS}, got gt_sizes. Did you mean `gt_size`?'),
    # types
    ({'gt_size': 256}, 'gt_size: must be a list, got 256. Write it as [a, b, c].'),
    ({'gt_size': []}, 'gt_size: must be a list, got []. Write it as [a, b, c].'),
    ({'gt_size': [128.5, 256]}, f'gt_size[0]: {WHOLE}, got 128.5. Correct the value.'),
    ({'gt_size': [0, 256]}, f'gt_size[0]: {WHOLE}, got 0. Correct the value.'),
    ({'gt_size': ['128', 256]}, f"gt_size[0]: {WHOLE}, got '128'. Correct the value: remove the quotes."),
    ({'gt_size': [float('nan'), 256]}, f'gt_size[0]: {WHOLE}, got nan.'),
    # order and end
    ({'gt_size': [192, 128, 256]}, 'gt_size: must grow strictly, got [192, 128, 256]. Sort it, without'),
    ({'num_frame': [7, 7, 15]}, 'num_frame: must grow strictly, got [7, 7, 15]. Sort it, without repeats'),
    ({'gt_size': [128, 192]}, 'gt_size: must end with datasets.train.gt_size (256), got [128, 192]. A run'),
    ({'num_frame': [7, 11]}, 'num_frame: must end with datasets.train.num_frame (15), got [7, 11]. A run'),
    ({'gt_size': [130, 256]}, 'gt_size[0]: must be a multiple of scale (4), got 130. The nearest below is 128.'),
    # lengths and sums
    ({**G, 'stage_iter': [100, 100, 100]}, 'stage_iter: must have 2 entries, one for each stage, got [100, 100, 100] (3).'),
    ({**G, 'stage_iter': [100, 100]}, 'stage_iter: must add up to train.total_iter (300), got [100, 100] (sum 200). Change it by +100.'),
    ({**G, 'stage_iter': [0, 300]}, f'stage_iter[0]: {WHOLE}, got 0. Correct'),
    ({'num_frame': [7, 15], 'frame_ratio': [1, 1, 1]}, 'frame_ratio: must have 2 entries, one for each num_frame, got [1, 1, 1] (3). Add or remove entries.'),
    ({'num_frame': [7, 15], 'frame_ratio': [0, 1]}, 'frame_ratio[0]: must be a number above 0, got 0. Leave a frame count out of num_frame to skip it.'),
    ({**G, 'share': 'sample'}, 'share: must be iter or samples, got sample. Choose one of them.'),
    # batches
    ({**G, 'batch_size_per_gpu': 8}, 'batch_size_per_gpu: must be a list, got 8. Write it as [a, b, c].'),
    ({**G, 'batch_size_per_gpu': [8]}, 'batch_size_per_gpu: must have 2 entries, one for each stage, got [8] (1). Add or remove entries.'),
    ({**G, 'batch_size_per_gpu': [8, 0]}, f'batch_size_per_gpu[1]: {WHOLE}, got 0. Correct the value.'),
    ({'num_frame': [7, 15], 'batch_size_per_gpu': [[8, 4, 2]]}, 'batch_size_per_gpu[0]: must have 2 entries, one for each num_frame, got [8, 4, 2] (3).'),
    ({**G, 'batch_size_per_gpu': 'volumes'}, "batch_size_per_gpu: must be a list or the word 'volume', got volumes. Did you mean `volume`?"),
    ({**G, **VOLUME, 'max_batch_size_per_gpu': 0}, f'max_batch_size_per_gpu: {WHOLE}, got 0. Correct the value.'),
    ({**G, **VOLUME, 'max_batch_size_per_gpu': 2}, 'max_batch_size_per_gpu: must be at least datasets.train.batch_size_per_gpu (4), got 2. Raise it'),
    ({**G, 'max_batch_size_per_gpu': 2}, 'max_batch_size_per_gpu: must stand beside batch_size_per_gpu: volume, got 2. For micro-batches set'),
    # the explicit form
    ({**G, 'stages': [{'iter': 300}]}, 'stages: must be the only key of shapes in the block, got also gt_size. Keep'),
    ({'stages': []}, 'stages: must be a list of {iter, gt_size, num_frame, batch_size_per_gpu}, got []. Give at least one entry.'),
    ({'stages': [300]}, 'stages[0]: must be {iter, gt_size, num_frame, batch_size_per_gpu}, got 300. Name each value.'),
    ({'stages': [{'iters': 300}]}, 'stages[0].iters: must be one of iter, gt_size, num_frame, batch_size_per_gpu, got iters. Did you mean `iter`?'),
    ({'stages': [{'gt_size': 256}]}, 'stages[0].iter: must be given, got nothing. Say how many'),
    ({'stages': [{'iter': -5}, {'iter': 305}]}, f'stages[0].iter: {WHOLE}, got -5'),
    ({'stages': [{'iter': 100}, {'iter': 100}]}, 'stages: must have `iter` add up to train.total_iter (300), got 200. Change it by +100.'),
    ({'stages': [{'iter': 300, 'gt_size': 128}]}, 'stages[0].gt_size: must equal datasets.train.gt_size (256), got 128. A run ends with the full shape.'),
    ({'stages': [{'iter': 100, 'gt_size': 512}, {'iter': 200}]}, 'stages[0].gt_size: must be at most datasets.train.gt_size (256), got 512. Raise datasets.train.gt_size'),
    ({'stages': [{'iter': 100, 'gt_size': 130}, {'iter': 200}]}, 'stages[0].gt_size: must be a multiple of scale (4), got 130. The nearest below is 128.'),
]  # fmt: skip
EQUAL_SAMPLES = {**G, 'share': 'samples', 'stage_iter': [200, 100], 'batch_size_per_gpu': [16, 4]}
BAD_RUNS = [
    ({'multigrid': 'volume'}, 'multigrid: must be a block of options, got volume. Write one option a line below it.'),
    ({'multigrid': EQUAL_SAMPLES}, 'train.total_iter: must be 150 to have the samples of 300 iterations (stage_iter) of 4, got 300. Write 150, or'),
    ({'datasets': None}, 'datasets: must be a block of options, got nothing. A training run needs it.'),
    ({'datasets': {}}, 'datasets.train: must be a block of options, got nothing. A training run needs it.'),
    ({'train': {'total_iter': 'many'}}, f'train.total_iter: {WHOLE}, got many. Correct'),
    ({'train': {}}, f'train.total_iter: {WHOLE}, got nothing. Correct the value.'),
    ({'scale': 3}, 'datasets.train.gt_size: must be a multiple of scale (3), got 256. The nearest below is 255.'),
    ({'scale': 0}, f'scale: {WHOLE}, got 0. Correct the value.'),
    ({'model_type': 'VideoRecurrentModel'}, 'model_type: must be MultigridVideoModel'),
    ({'model_type': None}, 'model_type: must be MultigridVideoModel'),
    *(({'multigrid': block}, f'multigrid.{line}') for block, line in BAD_BLOCKS),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), BAD_RUNS)
def test_schedule_from_bad_options_says_what_to_change_and_leaves_them_alone(changes, line):
    options = {**run_options(G), **changes}
    before = copy.deepcopy(options)
    with pytest.raises(OptionError, match='^' + re.escape(line)) as error:
        schedule_from_options(options)
    assert '\n' not in str(error.value)
    assert repr(options) == repr(before)  # NaN is not itself


@pytest.mark.parametrize(
    ('model', 'dataset', 'block', 'expected'),
    [
        ('MultigridVideoModel', 'MultigridREDSDataset', None, True),
        ('MultigridVideoModel', 'REDSRecurrentDataset', None, False),
        ('VideoRecurrentModel', 'MultigridREDSDataset', None, False),
        ('VideoRecurrentModel', 'REDSRecurrentDataset', None, False),
        ('VideoRecurrentModel', 'REDSRecurrentDataset', G, True),
    ],
)
def test_uses_multigrid_needs_the_block_or_both_types(model, dataset, block, expected):
    options = run_options(block)
    options['model_type'], options['datasets']['train']['type'] = model, dataset
    assert uses_multigrid(options) is expected


def test_options_with_an_old_name_are_taken_under_their_new_one_with_a_line():
    opt = {'multigrid': {**G, 'lq_multiple': 8, 'lq_least': 16, 'num_frame_least': 2, 'max_batch_size_per_gpu': 1}}
    notes = settle(opt)
    new = {'lq_divisor': 8, 'min_lq_size': 16, 'min_num_frame': 2, 'micro_batch_size_per_gpu': 1}
    assert list(opt['multigrid'].items()) == list({**G, **new}.items())
    assert [note.partition('.')[2] for note in notes] == [
        f'{old}: is called multigrid.{name} now. The old name is taken until the next release.'
        for old, name in zip(('lq_multiple', 'lq_least', 'num_frame_least', 'max_batch_size_per_gpu'), new)
    ]


def test_cap_of_the_batch_beside_volume_keeps_its_name():
    opt = {'multigrid': {'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}}
    assert settle(opt) == []
    assert opt['multigrid']['max_batch_size_per_gpu'] == 8
