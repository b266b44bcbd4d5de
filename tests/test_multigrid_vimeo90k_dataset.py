"""Septuplets against BasicSR's own dataset."""

from __future__ import annotations

import random
import shutil

import pytest
from basicsr.data.vimeo90k_dataset import Vimeo90KRecurrentDataset
from probe import NETWORK, refused, train_here
from runs import options
from test_multigrid_reds_dataset import assert_same_sample, dataset_options

from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.multigrid_dataset import MultigridVimeo90KDataset
from multigrid_vsr.frames.clip import Clip


@pytest.fixture(scope='module')
def septuplets(stock_clips, tmp_path_factory):
    """Four septuplets out of a real clip."""
    root = tmp_path_factory.mktemp('vimeo')
    lines = []
    for number, name in enumerate(('00001/0001', '00001/0002', '00002/0001', '00002/0002')):
        for kind in ('gt', 'lq'):
            (root / kind / name).mkdir(parents=True)
            for frame in range(7):
                source = stock_clips / kind / '001' / f'{number * 20 + frame:08d}.png'
                shutil.copy(source, root / kind / name / f'im{frame + 1}.png')
        lines.append(f'{name} 7 (144,176,3)\n')
    (root / 'meta_info.txt').write_text(''.join(lines))
    return root


def vimeo_options(root, **changes):
    changes = {'type': 'MultigridVimeo90KDataset', 'num_frame': 7, 'random_reverse': False, **changes}
    return dataset_options(root, **changes)


@pytest.mark.parametrize('flip_sequence', [False, True])
def test_dataset_with_int_index_equals_basicsrs(flip_sequence, septuplets):
    opt = vimeo_options(septuplets, flip_sequence=flip_sequence, num_frame=14 if flip_sequence else 7)
    opt['meta_info_file'] = str(septuplets / 'meta_info.txt')
    ours = MultigridVimeo90KDataset(opt)
    stock = Vimeo90KRecurrentDataset({**opt, 'io_backend': {'type': 'disk'}, 'num_frame': 7})
    assert len(ours) == len(stock) == 4
    for index in range(4):
        assert_same_sample(ours, stock, index)


def test_dataset_finds_septuplets_without_a_list(septuplets):
    assert MultigridVimeo90KDataset(vimeo_options(septuplets)).clips == [
        Clip(name, 7, 144, 176) for name in ('00001/0001', '00001/0002', '00002/0001', '00002/0002')
    ]


def test_dataset_with_fewer_frames_begins_at_any(septuplets):
    dataset = MultigridVimeo90KDataset(vimeo_options(septuplets, use_hflip=False, use_rot=False))
    starts = {tuple(dataset._draw_frames(0, 0, 3, random.Random(seed))[1]) for seed in range(100)}
    assert starts == {(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 6)}
    batch = dataset[[SampleRequest(2, 3, 64, seed=0)]]
    assert (tuple(batch['gt'].shape), batch['key']) == ((1, 3, 64, 64, 3), ['00002/0001'])


def test_run_on_septuplets_follows_the_schedule(tmp_path, septuplets):
    opt = options(septuplets, network_g=NETWORK, datasets__train__type='MultigridVimeo90KDataset')
    opt['datasets']['train'].update(num_frame=7)
    opt['multigrid']['num_frame'] = [3, 5, 7]
    assert [shape[1] for shape, _ in train_here(tmp_path, opt)] == [3, 3, 5, 5, 7, 7, 3, 3, 5, 5, 7, 7, 7]


@pytest.mark.parametrize(
    ('num_frame', 'flip_sequence', 'line'),
    [
        (
            [5, 9],
            False,
            r'datasets.train.num_frame: must fit every clip \(9 frames needed with an interval of 1\), got 9',
        ),
        (
            [7, 14],
            True,
            'datasets.train.num_frame: must be even, and so every multigrid.num_frame, beside flip_sequence',
        ),
        ([8, 16], True, r'datasets.train.num_frame: must fit every clip \(8 frames needed'),
    ],
)
def test_run_with_frames_that_septuplets_do_not_have_says_so(num_frame, flip_sequence, line, tmp_path, septuplets):
    opt = options(septuplets, network_g=NETWORK, datasets__train__type='MultigridVimeo90KDataset')
    opt['datasets']['train'].update(num_frame=num_frame[-1], flip_sequence=flip_sequence)
    opt['multigrid']['num_frame'] = num_frame
    refused(tmp_path, opt, line)
