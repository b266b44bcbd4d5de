"""The training set is what the options say: seen before the run, by header, and while it trains, frame by frame."""

from __future__ import annotations

import json
import shutil
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from probe import NETWORK, refused_by_plan_too, train_here
from runs import make_lmdbs, options
from test_multigrid_reds_dataset import dataset_options

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.check import check_data
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset
from multigrid_vsr.frames.images import image_size
from multigrid_vsr.frames.pairs import open_sources
from multigrid_vsr.frames.prepare import build
from multigrid_vsr.frames.sources import in_threads
from multigrid_vsr.frames.training import training_sets
from multigrid_vsr.options.run_options import checked_schedule

BACKENDS = ('disk', 'lmdb', 'packed')


@pytest.fixture(scope='module')
def layouts(clips, septuplets, tmp_path_factory):
    """The clips and the septuplets as folders, LMDBs and stores."""
    made = {}
    for name, source in (('reds', clips), ('vimeo', septuplets)):
        root = tmp_path_factory.mktemp(name)
        made[name, 'disk'] = source
        make_lmdbs(source, root)
        build(open_sources(source / 'gt', source / 'lq', 4), root / 'store', 1)
        made[name, 'lmdb'], made[name, 'packed'] = root, root / 'store'
    return made


def run_options(root, backend='disk', layout='reds', **changes):
    opt = options(root, network_g=NETWORK, datasets__train__io_backend={'type': backend})
    suffix = '.lmdb' if backend == 'lmdb' else ''
    opt['datasets']['train'].update(dataroot_gt=f'{root}/gt{suffix}', dataroot_lq=f'{root}/lq{suffix}')
    if layout == 'vimeo':
        opt['datasets']['train']['type'] = 'MultigridVimeo90KDataset'
    opt['datasets']['train'].update(changes)
    return opt


def check(opt):
    return check_data(opt, checked_schedule(opt), 1)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(('layout', 'num_clips', 'num_frame'), [('reds', 3, 22), ('vimeo', 4, 28)])
def test_check_of_a_right_training_set_says_nothing(layout, num_clips, num_frame, backend, layouts):
    summary = f'{num_clips} clips of {num_frame} frames.'
    assert check(run_options(layouts[layout, backend], backend, layout)) == (summary, [])


# What is wrong, for each layout and back end: the list, and the line.
LISTS = [
    ('reds', '009 6 (144,176,3)', r'(hold frames of each clip, got none of 009 in|must name clips of \S+dataroot_gt, got 009)'),
    ('reds', '000 7 (144,176,3)', r'meta_info_file: must agree with \S+dataroot_gt, clip 000 with 6 frames of .*, got .* 7 f'),
    ('reds', '000 6 (176,144,3)', r'dataroot_gt, clip 000 with 6 frames of 144x176, got clip 000 with 6 frames of 176x144.'),
    ('vimeo', '00003/0001 7 (144,176,3)', r'(hold frames of each clip, got none of 00003/0001|must name .*, got 00003/0001)'),
    ('vimeo', '00001/0001 8 (144,176,3)', r'clip 00001/0001 with 7 frames of 144x176, got clip 00001/0001 with 8 frames'),
]  # fmt: skip


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(('layout', 'text', 'line'), LISTS)
def test_check_of_a_list_that_disagrees_names_both(layout, text, line, backend, layouts, tmp_path):
    (tmp_path / 'list.txt').write_text(f'{text}\n')
    opt = run_options(layouts[layout, backend], backend, layout, meta_info_file=str(tmp_path / 'list.txt'))
    with pytest.raises(OptionError, match=line) as error:
        check(opt)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('backend', BACKENDS)
def test_check_of_a_list_of_fewer_frames_is_a_note(backend, layouts, tmp_path):
    (tmp_path / 'list.txt').write_text('000 5 (144,176,3)\n002 7 (144,176,3)\n')
    opt = run_options(layouts['reds', backend], backend, meta_info_file=str(tmp_path / 'list.txt'))
    _, (note,) = check(opt)
    assert note.startswith(
        'datasets.train.meta_info_file: lists fewer frames than there are of 1 clips, 5 of the 6 of 000'
    )


def of_half_size(root):
    for path in (root / 'lq/001').iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:18, :22])


# A frame or a folder that is removed, one that is added, or what is done with the LQ frames; and the line.
HARM = [
    ('-lq/002', r'dataroot_lq: must hold frames of each clip, got none of 002 in \S+lq'),
    ('-lq/001/00000008.png', r'dataroot_lq: must have as many frames as \S+dataroot_gt, 9 in .*, got 8 in .*, \S+00000008\S* too many'),
    ('+lq/001/00000009.png', r'dataroot_lq: must have as many frames as .*, got 10 in .*, \S+00000009\S* too many'),
    ('-gt/001/00000004.png', r'must hold folders of frames numbered without a gap, got \S+001 without 00000004'),
    ('+gt/001/cover.png', r'must have as many frames as .*, 10 in .*, \S+/001/cover\S* too many'),
    ('+gt/003/frame_0001.png', r'dataroot_lq: must hold frames of each clip, got none of 003 in \S+lq.'),
    (of_half_size, r'dataroot_lq: must be \S+dataroot_gt at 1/4, 36x44 for 144x176, got 18x22 in .*001/00000000'),
]  # fmt: skip


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
@pytest.mark.parametrize(('harm', 'line'), HARM)
def test_check_of_frames_that_do_not_pair_names_them(harm, line, backend, clips, tmp_path):
    root = shutil.copytree(clips, tmp_path / 'clips')
    if callable(harm):
        harm(root)
    elif harm[0] == '+':
        (root / harm[1:]).parent.mkdir(exist_ok=True)
        shutil.copy(root / harm[1:3] / '001/00000008.png', root / harm[1:])
    else:
        path = root / harm[1:]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if backend == 'lmdb':
        make_lmdbs(root, root)
    with pytest.raises(OptionError, match=line):
        check(run_options(root, backend))


def test_run_and_plan_on_the_ground_truth_as_lq_stop_before_anything_is_written(clips, tmp_path):
    opt = run_options(clips, dataroot_lq=str(clips / 'gt'))
    line = r'dataroot_lq: must be \S+dataroot_gt at 1/4, .*, got 144x176 in \S+gt/000/00000000.png. Correct datasets.tr'
    refused_by_plan_too(tmp_path, opt, line)


def test_training_takes_the_names_and_depths_that_prepare_takes(clips, tmp_path):
    """The same samples as from frames under BasicSR's names, if the clips come in the same order."""
    for kind in ('gt', 'lq'):
        for clip in ('000', '001', '002'):
            for number, path in enumerate(sorted((clips / kind / clip).iterdir()), 8):
                image, suffix = cv2.imread(str(path)), 'bmp' if number % 2 else 'png'
                (tmp_path / kind / 'day' / clip).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / kind / 'day' / clip / f'f_{number}_x.{suffix}'), image)
    opt = run_options(tmp_path)
    assert check(opt) == ('3 clips of 22 frames.', [])
    requests = [SampleRequest(index, 3, 64, seed=index) for index in range(22)]
    one, other = (MultigridREDSDataset(dataset_options(root))[requests] for root in (clips, tmp_path))
    assert all(torch.equal(one[key], other[key]) for key in ('lq', 'gt'))
    assert other['key'][6] == 'day/001/00000000'


@pytest.mark.parametrize('backend', BACKENDS)
def test_short_clips_stop_the_run_or_are_skipped(backend, layouts):
    opt = run_options(layouts['reds', backend], backend, num_frame=7)
    opt['multigrid']['num_frame'] = [3, 7]
    with pytest.raises(
        OptionError, match=r'got 7 for clip 000 of 6 frames. Lower it, or set .*skip_short_clips: true.'
    ):
        check(opt)
    opt['datasets']['train']['skip_short_clips'] = True
    note = 'datasets.train.skip_short_clips: 1 clips of fewer than 7 frames left out.'
    assert check(opt) == ('2 clips of 16 frames.', [note])


def test_run_without_its_short_clips_trains_on_the_others(clips, tmp_path):
    opt = run_options(clips, num_frame=7, skip_short_clips=True)
    opt['multigrid']['num_frame'] = [3, 5, 7]
    assert len(train_here(tmp_path, opt)) == 13


def test_short_clips_are_skipped_with_the_largest_interval(clips):
    opt = dataset_options(clips, num_frame=3, interval_list=[1, 4], skip_short_clips=True)
    assert [clip.name for clip in training_sets(opt)[0].clips] == ['001']  # 2 x 4 + 1 = 9 frames


def test_lmdb_whose_list_has_two_sizes_in_a_clip_names_the_frame(clips, tmp_path):
    make_lmdbs(clips, tmp_path)
    path = tmp_path / 'gt.lmdb/meta_info.txt'
    path.write_text(path.read_text().replace('001/00000004.png (144,', '001/00000004.png (100,'))
    line = r'must have frames of one size in a clip \(144x176 in 001\), got 100x176 for 001/00000004 in line 11 of'
    with pytest.raises(OptionError, match=line):
        check(run_options(tmp_path, 'lmdb'))


@pytest.mark.parametrize('kind', ['gt', 'lq'])
@pytest.mark.parametrize('larger', [True, False])
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_dataset_compares_every_decoded_frame_with_its_clip(kind, larger, suffix, clips, tmp_path):
    root = shutil.copytree(clips, tmp_path / 'clips')
    height, width = {'gt': (144, 176), 'lq': (36, 44)}[kind]
    wrong = (height + 8, width) if larger else (height, width - 4)
    frame = np.random.default_rng(0).integers(0, 256, (*wrong, 3), np.uint8)
    (root / kind / '000/00000003.png').write_bytes(cv2.imencode(suffix, frame)[1].tobytes())
    dataset = MultigridREDSDataset(dataset_options(root, random_reverse=False))
    line = (
        rf'^clip 000, frame 3: \S+{kind}/000/00000003.png is {wrong[0]}x{wrong[1]}, not {height}x{width} as its clip$'
    )
    with pytest.raises(FrameError, match=line):
        dataset[[SampleRequest(3, 1, 32, seed=1)]]


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif', '.webp', '.ppm', '.jp2', '.hdr', '.gif'])
def test_image_size_is_that_of_the_decoded_image(suffix, tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / f'frame{suffix}'
    if suffix == '.gif' and not cv2.haveImageWriter(str(path)):
        pytest.skip(f'OpenCV {cv2.__version__} writes no GIF')
    assert cv2.imwrite(str(path), frame.astype(np.float32) if suffix == '.hdr' else frame)
    assert image_size(path) == image_size(path.read_bytes()) == cv2.imread(str(path)).shape[:2] == (40, 60)


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90 degrees


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_image_size_of_a_turned_image_is_that_of_the_decoded_one(suffix, tmp_path):
    path = tmp_path / f'frame{suffix}'
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, exif=EXIF)
    leaves_it = suffix == '.webp' and cv2.__version__ < '5'  # as OpenCV 4.11 does
    turned = (40, 60) if leaves_it else (60, 40)
    assert image_size(path) == cv2.imread(str(path)).shape[:2] == turned


def test_image_size_of_no_image_is_none(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'<!DOCTYPE html>')
    assert image_size(tmp_path / 'a.png') is None


def test_turned_png_is_decoded_whole(tmp_path, clips):
    """OpenCV, and so BasicSR, turns it: its first rows are not those of the file."""
    for kind, size in (('gt', (144, 176)), ('lq', (36, 44))):
        (tmp_path / kind / '000').mkdir(parents=True)
        frame = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(frame).save(tmp_path / kind / '000/00000000.png', exif=EXIF)
    dataset = MultigridREDSDataset(dataset_options(tmp_path, use_hflip=False, use_rot=False))
    batch = dataset[[SampleRequest(0, 1, 144, seed=3)]]  # frames are 176x144 as decoded
    image = cv2.imread(str(tmp_path / 'gt/000/00000000.png'))
    assert any(np.array_equal(batch['gt'][0, 0].numpy(), image[top : top + 144]) for top in range(33))


def test_check_stops_at_the_first_clip_that_differs_and_leaves_no_thread():
    seen = []

    def find(item):
        seen.append(item)
        time.sleep(0.01)
        raise OptionError('a', 'b', item, 'c')

    with pytest.raises(OptionError, match='got 0'):
        list(in_threads(find, range(1000), 'Check'))
    assert len(seen) < 1000


def test_store_of_before_sources_were_recorded_opens_as_it_did(clips, tmp_path):
    build(open_sources(clips / 'gt', clips / 'lq', 4), tmp_path / 'store', 1)
    for path in (tmp_path / 'store').glob('*/store.json'):
        described = json.loads(path.read_text())
        del described['sources']
        path.write_text(json.dumps(described))
    opt = run_options(tmp_path / 'store', 'packed')
    assert check(opt) == ('3 clips of 22 frames.', [])
    assert len(train_here(tmp_path, opt)) == 13
