"""The datasets against BasicSR's own, bit by bit, and against the frames on disk."""

from __future__ import annotations

import pickle
import random
import shutil

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.reds_dataset import REDSRecurrentDataset
from basicsr.data.vimeo90k_dataset import Vimeo90KRecurrentDataset
from probe import NETWORK, refused, train_here
from runs import make_lmdbs, options

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.batches import to_float_rgb
from multigrid_vsr.data.multigrid_dataset import Crop, MultigridREDSDataset, MultigridVimeo90KDataset
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.images import first_rows
from multigrid_vsr.frames.training import training_sets


def dataset_options(root, backend='disk', **changes):
    return {
        'name': 'clips',
        'dataroot_gt': str(root / 'gt'),
        'dataroot_lq': str(root / 'lq'),
        'io_backend': {'type': backend},
        'scale': 4,
        'num_frame': 5,
        'gt_size': 96,
        'interval_list': [1],
        'random_reverse': True,
        'use_hflip': True,
        'use_rot': True,
        **changes,
    }


@pytest.fixture(scope='module')
def lmdb_clips(stock_clips, tmp_path_factory):
    """BasicSR's LMDBs of the stock clip, made by BasicSR."""
    root = tmp_path_factory.mktemp('lmdb')
    make_lmdbs(stock_clips, root)
    return root


def options_of(backend, stock_clips, lmdb_clips, **changes):
    if backend == 'lmdb':
        changes.update(dataroot_gt=str(lmdb_clips / 'gt.lmdb'), dataroot_lq=str(lmdb_clips / 'lq.lmdb'))
    return dataset_options(stock_clips, backend, **changes)


def assert_same_sample(ours, stock, index):
    """Both datasets, drawing from the same random numbers, give the same bits."""
    samples = []
    for dataset in (ours, stock):
        random.seed(index)
        samples.append(dataset[index])
    assert torch.equal(samples[0]['lq'], samples[1]['lq'])
    assert torch.equal(samples[0]['gt'], samples[1]['gt'])
    assert samples[0]['key'] == samples[1]['key']


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
@pytest.mark.parametrize('intervals', [[1], [1, 2, 3]])
def test_dataset_with_int_index_equals_basicsrs(backend, intervals, stock_clips, lmdb_clips, tmp_path):
    opt = options_of(backend, stock_clips, lmdb_clips, interval_list=intervals)
    ours = MultigridREDSDataset(opt)
    for name in ('dataroot_gt', 'dataroot_lq') if backend == 'lmdb' else ():  # LMDB opens a file once in a process
        shutil.copytree(opt[name], tmp_path / name)
        opt = {**opt, name: str(tmp_path / name.replace('dataroot', 'copy')) + '.lmdb'}
        (tmp_path / name).rename(opt[name])
    stock = REDSRecurrentDataset(
        {
            **opt,
            'io_backend': {'type': backend},  # BasicSR takes the type out of it
            'meta_info_file': str(stock_clips / 'meta_info.txt'),
            'val_partition': 'REDS4',
            'test_mode': False,
        }
    )
    assert len(ours) == len(stock) == 100
    for index in range(1, 100, 7):
        assert_same_sample(ours, stock, index)


@pytest.mark.parametrize('hflip', [False, True])
@pytest.mark.parametrize('vflip', [False, True])
@pytest.mark.parametrize('rot90', [False, True])
def test_dataset_flips_and_turns_as_basicsr(hflip, vflip, rot90, stock_clips, monkeypatch):
    cut = Crop(3, 5, hflip, vflip, rot90)
    monkeypatch.setattr('multigrid_vsr.data.multigrid_dataset.draw_crop', lambda *_: cut)
    batch = MultigridREDSDataset(dataset_options(stock_clips, random_reverse=False))[[SampleRequest(40, 2, 68, seed=1)]]
    for key, scale in (('lq', 1), ('gt', 4)):
        top, left, size = 3 * scale, 5 * scale, 17 * scale
        for number, sample in zip((40, 41), batch[key][0]):
            image = cv2.imread(str(stock_clips / f'{key}/001/{number:08d}.png'))[top : top + size, left : left + size]
            # The order of `basicsr.data.transforms.augment`.
            image = image[:, ::-1] if hflip else image
            image = image[::-1] if vflip else image
            image = image.transpose(1, 0, 2) if rot90 else image
            assert np.array_equal(sample.numpy(), image)


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
def test_dataset_with_requests_gives_a_batch_of_their_shape(backend, stock_clips, lmdb_clips):
    dataset = MultigridREDSDataset(options_of(backend, stock_clips, lmdb_clips))
    batch = dataset[[SampleRequest(index, 3, 64, seed=index) for index in (5, 98)]]
    assert (batch['lq'].dtype, tuple(batch['lq'].shape)) == (torch.uint8, (2, 3, 16, 16, 3))
    assert (batch['gt'].dtype, tuple(batch['gt'].shape)) == (torch.uint8, (2, 3, 64, 64, 3))
    assert batch['key'] == ['001/00000005', '001/00000098']


def test_dataset_draws_flips_directions_and_places(stock_clips):
    dataset = MultigridREDSDataset(dataset_options(stock_clips))
    batch = dataset[[SampleRequest(40, 2, 32, seed=seed) for seed in range(64)]]
    assert len({sample.numpy().tobytes() for sample in batch['gt']}) == 64
    again = dataset[[SampleRequest(40, 2, 32, seed=seed) for seed in range(64)]]
    assert torch.equal(batch['gt'], again['gt'])


def test_dataset_takes_clips_of_any_length(clips):
    dataset = MultigridREDSDataset(dataset_options(clips))
    assert dataset.clips == [Clip('000', 6, 144, 176), Clip('001', 9, 144, 176), Clip('002', 7, 144, 176)]
    assert len(dataset) == 22
    keys = [dataset[[SampleRequest(index, 5, 64, seed=0)]]['key'][0] for index in (0, 5, 6, 14, 15, 21)]
    assert keys == ['000/00000000', '000/00000005', '001/00000000', '001/00000008', '002/00000000', '002/00000006']


@pytest.mark.parametrize('index', [-1, 22])
def test_dataset_outside_its_samples_raises(index, clips):
    with pytest.raises(IndexError, match=rf'sample {index} is outside \[0, 22\)'):
        MultigridREDSDataset(dataset_options(clips))[[SampleRequest(index, 5, 64, seed=0)]]


def test_dataset_survives_pickling_after_use(stock_clips, lmdb_clips):
    dataset = MultigridREDSDataset(options_of('lmdb', stock_clips, lmdb_clips))
    request = [SampleRequest(3, 5, 64, seed=0)]
    batch = dataset[request]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[request]['gt'], batch['gt'])


def test_dataset_with_missing_frame_names_clip_and_frame(tmp_path, clips):
    for name in ('gt', 'lq'):
        (tmp_path / name).symlink_to(clips / name)
    (tmp_path / 'meta_info.txt').write_text('000 9 (144,176,3)\n')
    opt = dataset_options(tmp_path, meta_info_file=str(tmp_path / 'meta_info.txt'), random_reverse=False)
    with pytest.raises(FrameError, match=r'^clip 000, frame 6: not in \S+lq, where the clip has 6$'):
        MultigridREDSDataset(opt)[[SampleRequest(6, 3, 64, seed=0)]]


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_dataset_with_damaged_frame_names_clip_and_frame(content, tmp_path):
    for name in ('gt', 'lq'):
        (tmp_path / name / '000').mkdir(parents=True)
        (tmp_path / name / '000/00000000.png').write_bytes(content)
    (tmp_path / 'meta_info.txt').write_text('000 1 (144,176,3)\n')
    opt = dataset_options(tmp_path, meta_info_file=str(tmp_path / 'meta_info.txt'))
    with pytest.raises(FrameError, match=r'^clip 000, frame 0: \S+ holds no image that can be decoded$'):
        MultigridREDSDataset(opt)[[SampleRequest(0, 1, 64, seed=0)]]


@pytest.mark.parametrize('rows', [1, 16, 100, 143, 144])
def test_first_rows_of_a_png_are_those_of_the_whole(rows, stock_clips):
    encoded = (stock_clips / 'gt/001/00000030.png').read_bytes()
    image = cv2.imdecode(np.frombuffer(first_rows(encoded, rows), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image[:rows], cv2.imread(str(stock_clips / 'gt/001/00000030.png'))[:rows])


def test_first_rows_of_a_png_with_a_flipped_byte_are_none(stock_clips):
    encoded = bytearray((stock_clips / 'gt/001/00000030.png').read_bytes())
    encoded[3000] ^= 1
    assert first_rows(bytes(encoded), 16) == b''
    assert first_rows(bytes(encoded[:2000]), 16) == b''


def test_first_rows_of_another_kind_of_image_are_the_file(stock_clips):
    gray = cv2.imread(str(stock_clips / 'gt/001/00000030.png'), cv2.IMREAD_GRAYSCALE)
    for suffix, image in (('.png', gray), ('.jpg', gray)):
        encoded = cv2.imencode(suffix, image)[1].tobytes()
        assert first_rows(encoded, 16) == encoded


def test_dataset_with_key_missing_in_lmdb_names_clip_and_frame(stock_clips, lmdb_clips, tmp_path):
    (tmp_path / 'meta_info.txt').write_text('002 9 (144,176,3)\n')
    opt = options_of('lmdb', stock_clips, lmdb_clips, meta_info_file=str(tmp_path / 'meta_info.txt'))
    with pytest.raises(FrameError, match=r'^clip 002, frame \d: not in \S+lq.lmdb, where the clip has 0$'):
        MultigridREDSDataset(opt)[[SampleRequest(0, 3, 64, seed=0)]]


def test_to_float_rgb_equals_basicsrs_conversion():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    values[..., 1] += 7
    values[..., 2] += 101
    from basicsr.utils import img2tensor

    expected = img2tensor(values.astype(np.float32) / 255.0)
    assert torch.equal(to_float_rgb(torch.from_numpy(values)), expected)


@pytest.mark.parametrize(
    ('lines', 'line'),
    [
        ('000 100\n', r"must have lines like '000 100 \(720,1280,3\)', got '000 100' in line 1. Correct"),
        ('000 100 (720,1280,3)\n\n', "got '' in line 2. Correct"),
        ('', r'datasets.train: must hold at least one clip for training, got 0. Check meta_info_file'),
    ],
)
def test_training_clips_with_bad_meta_info_says_where(lines, line, tmp_path, clips):
    (tmp_path / 'meta_info.txt').write_text(lines)
    with pytest.raises(OptionError, match=line):
        training_sets(dataset_options(clips, meta_info_file=str(tmp_path / 'meta_info.txt')))


def test_training_clips_leave_the_validation_partition_out(clips):
    names = {
        partition: [clip.name for clip in training_sets(dataset_options(clips, val_partition=partition))[0].clips]
        for partition in (None, 'REDS4', 'official')
    }
    assert names == {None: ['000', '001', '002'], 'REDS4': ['001', '002'], 'official': ['000', '001', '002']}
    held_out = training_sets(dataset_options(clips, val_partition='REDS4', test_mode=True))[0].clips
    assert [clip.name for clip in held_out] == ['000']


def vimeo_options(root, **changes):
    changes = {'type': 'MultigridVimeo90KDataset', 'num_frame': 7, 'random_reverse': False, **changes}
    return dataset_options(root, **changes)


@pytest.mark.parametrize('flip_sequence', [False, True])
def test_septuplets_with_int_index_equal_basicsrs(flip_sequence, septuplets):
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
        ([5, 9], False, r'datasets.train.num_frame: must fit every clip \(9 frames needed with an interval of 1\), got 9'),
        ([7, 14], True, 'datasets.train.num_frame: must be even, and so every multigrid.num_frame, beside flip_sequence'),
        ([8, 16], True, r'datasets.train.num_frame: must fit every clip \(8 frames needed'),
    ],
)  # fmt: skip
def test_run_with_frames_that_septuplets_do_not_have_says_so(num_frame, flip_sequence, line, tmp_path, septuplets):
    opt = options(septuplets, network_g=NETWORK, datasets__train__type='MultigridVimeo90KDataset')
    opt['datasets']['train'].update(num_frame=num_frame[-1], flip_sequence=flip_sequence)
    opt['multigrid']['num_frame'] = num_frame
    refused(tmp_path, opt, line)
