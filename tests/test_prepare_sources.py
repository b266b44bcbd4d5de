"""What ``prepare`` takes: images and videos as people have them, and a line for what it does not take."""

from __future__ import annotations

import os
import shutil
import unicodedata
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from runs import make_lmdbs, write_images, write_video
from test_multigrid_reds_dataset import dataset_options

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import open_eval_clips, open_sources
from multigrid_vsr.frames.prepare import build, tasks
from multigrid_vsr.frames.sequence import open_clip
from multigrid_vsr.frames.sources import default_workers
from multigrid_vsr.frames.store import FrameStore
from multigrid_vsr.frames.training import training_sets


@pytest.fixture(scope='module')
def frames():
    """Twelve frames of carphone, 144x176."""
    return list(islice(read_frames(find_video('carphone_pristine.mp4')), 12))


def decoded(sources):
    """All pairs of frames that would be stored."""
    return [task.decode(sources.scale) for task in tasks(sources)]


def test_store_is_a_source_too_with_the_same_frames(frames, tmp_path):
    gt = write_images(tmp_path / 'gt/clip', [f'{n}.png' for n in range(12)], frames).parent
    lq = write_images(tmp_path / 'lq/clip', [f'{n}.png' for n in range(12)], frames, 4).parent
    build(open_sources(gt, lq, 4), tmp_path / 'store', workers=1)
    sources = open_sources(tmp_path / 'store/gt', tmp_path / 'store/lq', 4)
    assert sources.clips == (Clip('clip', 12, 144, 176),)
    for pair, frame in zip(decoded(sources), frames):
        assert np.array_equal(pair['gt'], frame)
        assert np.array_equal(pair['lq'], cv2.resize(frame, (44, 36)))


NAMES = {
    'frame_0001.png': [f'frame_{n:04d}.png' for n in range(1, 13)],
    'unpadded': [f'{n}.png' for n in range(1, 13)],
    'five digits': [f'{n:05d}.jpg' for n in range(12)],
    'x4 behind': [f'{n:08d}x4.png' for n in range(12)],
    'capitals': [f'IMG{n:02d}.PNG' for n in range(12)],
    'mixed kinds': [f'{n}.{"bmp" if n % 2 else "tif"}' for n in range(8, 20)],
    'every fifth': [f'{n * 5:06d}.webp' for n in range(12)],
}


@pytest.mark.parametrize('names', NAMES.values(), ids=NAMES)
def test_images_under_any_names_come_in_natural_order(names, frames, tmp_path):
    gt = write_images(tmp_path / 'gt/clip', names, frames).parent
    lq = write_images(tmp_path / 'lq/clip', [f'{n:08d}x4.png' for n in range(12)], frames, 4).parent
    sources = open_sources(gt, lq, 4)
    assert sources.clips == (Clip('clip', 12, 144, 176),)
    for pair, name, frame in zip(decoded(sources), names, frames):
        assert np.array_equal(pair['gt'], cv2.imread(str(gt / 'clip' / name)))
        assert np.array_equal(pair['lq'], cv2.resize(frame, (44, 36)))


@pytest.mark.parametrize('kind', ['gray', 'alpha', '16 bit', 'without suffix'])
def test_images_of_any_kind_are_read_as_opencv_reads_them(kind, frames, tmp_path):
    image = {
        'gray': frames[0][..., 0],
        'alpha': cv2.cvtColor(frames[0], cv2.COLOR_BGR2BGRA),
        '16 bit': frames[0].astype(np.uint16) * 257,
        'without suffix': frames[0],
    }[kind]
    path = write_images(tmp_path / 'gt/clip', ['a.png'], [frames[0]]) / 'a.png'
    cv2.imwrite(str(path), image)
    expected = cv2.imread(str(path))
    if kind == 'without suffix':
        path.rename(path.with_suffix(''))
    lq = write_images(tmp_path / 'lq/clip', ['a.png'], frames, 4).parent
    (pair,) = decoded(open_sources(tmp_path / 'gt', lq, 4))
    assert np.array_equal(pair['gt'], expected)


def test_clips_lie_at_any_depth_or_are_the_folder_itself(frames, tmp_path):
    write_images(tmp_path / 'gt/day/street', ['1.png', '2.png'], frames)
    write_images(tmp_path / 'gt/night', ['1.png'], frames)
    assert [clip.name for clip in open_sources(tmp_path / 'gt', None, 4).clips] == ['day/street', 'night']
    hr = write_images(tmp_path / 'hr', ['a.png', 'b.png'], frames)
    lr = write_images(tmp_path / 'lr', ['c.png', 'd.png'], frames, 4)
    sources = open_sources(hr, lr, 4)
    assert sources.clips == (Clip('hr', 2, 144, 176),)
    assert np.array_equal(decoded(sources)[1]['lq'], cv2.imread(str(lr / 'd.png')))


@pytest.mark.parametrize(
    ('name', 'codec'),
    [('a.ts', 'mp4v'), ('a.mpg', 'PIM1'), ('a.mkv', 'MJPG'), ('a.avi', 'MJPG'), ('A.MOV', 'mp4v'),
     ('a.wmv', 'WMV2'), ('a.odd', 'MJPG')],
)  # fmt: skip
def test_videos_of_any_kind_are_clips(name, codec, frames, tmp_path):
    suffix = '.avi' if name == 'a.odd' else Path(name).suffix.lower()
    write_video(tmp_path / f'in{suffix}', frames, codec).rename(tmp_path / name)
    sources = open_sources(tmp_path / name, None, 4)
    assert sources.clips == (Clip(Path(name).stem, 12, 144, 176),)


@pytest.mark.parametrize('said', [0, 7, 13, 200])
def test_video_is_counted_by_decoding_whatever_its_header_says(said, frames, tmp_path):
    path = write_video(tmp_path / 'a.avi', frames)
    data = bytearray(path.read_bytes())
    for chunk, offset in ((b'avih', 16), (b'strh', 32)):  # dwTotalFrames, dwLength
        place = data.index(chunk) + 8 + offset
        assert int.from_bytes(data[place : place + 4], 'little') == 12
        data[place : place + 4] = said.to_bytes(4, 'little')
    path.write_bytes(data)
    sources = open_sources(path, None, 4)
    assert sources.clips == (Clip('a', 12, 144, 176),)
    line = f'--gt: {path}: 12 of {said} frames decode, the others are damaged or cut off.'
    assert sources.notes == ((line,) if said > 12 else ())


def test_video_that_does_not_decode_gets_a_line(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'<html>')
    for path in (tmp_path / 'a.mp4', tmp_path):
        line = r'--gt: must hold videos that decode, got \S+a.mp4: does not open as a video \(Invalid .*\). Mend or remove it.'
        with pytest.raises(OptionError, match=line):
            open_sources(path, None, 4)
    (tmp_path / 'a.png').write_bytes(b'<html>')
    with pytest.raises(OptionError, match=r'--gt: must be a video, or a folder of images, got \S+png. Give the folder'):
        open_sources(tmp_path / 'a.png', None, 4)


def test_pair_of_videos_of_different_lengths_gets_a_line(frames, tmp_path):
    hr = write_video(tmp_path / 'hr.avi', frames)
    lr = write_video(tmp_path / 'lr.avi', [cv2.resize(frame, (44, 36)) for frame in frames[1:]])
    with pytest.raises(
        OptionError, match=r'as many frames as --gt, 12 in \S+hr.avi, got 11 in \S+lr.avi. Add or remove'
    ):
        open_sources(hr, lr, 4)


def test_two_single_videos_are_a_pair(frames, tmp_path, capsys):
    write_video(tmp_path / 'hr.avi', frames)
    small = [cv2.resize(frame, (44, 36)) for frame in frames]
    write_video(tmp_path / 'lr.mkv', small)
    main(['prepare', '--gt', str(tmp_path / 'hr.avi'), '--lq', str(tmp_path / 'lr.mkv'), '-o', str(tmp_path / 'store'),
          '--workers', '1'])  # fmt: skip
    store = FrameStore(tmp_path / 'store/lq')
    assert store.info.clips == (Clip('hr', 12, 36, 44),)
    out = np.zeros((1, 36, 36, 3), np.uint8)
    store.crop('hr', [11], 0, 0, out)
    assert np.array_equal(out[0], list(read_frames(tmp_path / 'lr.mkv'))[11][:, :36])


def test_hidden_and_system_files_are_left_out_with_a_count(frames, tmp_path):
    gt = write_images(tmp_path / 'gt/000', ['0.png', '1.png', '2.png'], frames).parent
    write_images(gt / '.ipynb_checkpoints', ['0-checkpoint.png'], frames)
    write_images(gt / '__MACOSX/000', ['._0.png'], frames)
    for name in ('000/._0.png', '000/Thumbs.db', 'desktop.ini', '.DS_Store'):
        (gt / name).write_bytes(b'x')
    (gt / 'readme.txt').write_text('about')
    sources = open_sources(gt, None, 4)
    assert sources.clips == (Clip('000', 3, 144, 176),)
    assert sources.notes == (
        '--gt: 6 left out, hidden or of the system: .DS_Store, .ipynb_checkpoints, __MACOSX, ....',
        '--gt: 1 left out, neither image nor video: readme.txt.',
    )


@pytest.mark.parametrize(
    ('shape', 'lq_shape', 'scale', 'stored'),
    [
        ((72, 128), None, 3, (72, 126)),  # as 720x1280 at x3
        ((71, 125), (17, 31), 4, (68, 124)),
        ((71, 125), (18, 32), 4, (68, 124)),  # LQ rounded up, as by imresize
        ((71, 125), (17, 32), 4, (68, 124)),
    ],
)
def test_sizes_are_cropped_to_a_multiple_of_the_scale_with_a_line(shape, lq_shape, scale, stored, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    gt = write_images(tmp_path / 'gt/a', ['0.png'], [image]).parent
    lq = None
    if lq_shape:
        small = np.random.default_rng(1).integers(0, 256, (*lq_shape, 3), np.uint8)
        lq = write_images(tmp_path / 'lq/a', ['0.png'], [small]).parent
    sources = open_sources(gt, lq, scale)
    assert sources.notes == (
        f'--scale: 1 clips cropped to a multiple of it at the right and the bottom, a from {shape[0]}x{shape[1]} to '
        f'{stored[0]}x{stored[1]}.',
    )
    (pair,) = decoded(sources)
    assert np.array_equal(pair['gt'], image[: stored[0], : stored[1]])
    height, width = stored[0] // scale, stored[1] // scale
    assert pair['lq'].shape == (height, width, 3)
    if lq_shape:
        assert np.array_equal(pair['lq'], small[:height, :width])


LISTS = {
    'names': '000\n002\n',
    'names with a mark': '\ufeff000\n002\n',
    'names of windows': '002\r\n000\r\n\r\n',
    'of basicsr': '000 6 (144,176,3)\n002 7 (144,176,3)\n',
    'folders': '000/\n002/\n',
}


@pytest.mark.parametrize('text', LISTS.values(), ids=LISTS)
@pytest.mark.parametrize('is_lmdb', [False, True])
def test_list_names_the_clips_to_take(text, is_lmdb, clips, tmp_path):
    (tmp_path / 'list.txt').write_text(text, encoding='utf-8', newline='')
    root, suffix = clips, ''
    if is_lmdb:
        make_lmdbs(clips, tmp_path)
        root, suffix = tmp_path, '.lmdb'
    sources = open_sources(root / f'gt{suffix}', root / f'lq{suffix}', 4, list_file=tmp_path / 'list.txt')
    assert [clip.name for clip in sources.clips] == ['000', '002']


def test_septuplets_without_a_list_get_a_note(septuplets, tmp_path):
    sources = open_sources(septuplets / 'gt', septuplets / 'lq', 4)
    assert sources.notes == (
        "--gt: has the names of Vimeo90K's sequences: without --list the test septuplets are in too. Give --list "
        'sep_trainlist.txt.',
    )
    (tmp_path / 'sep_trainlist.txt').write_text('00001/0001\n00002/0002\n')
    sources = open_sources(septuplets / 'gt', septuplets / 'lq', 4, list_file=tmp_path / 'sep_trainlist.txt')
    assert [clip.name for clip in sources.clips] == ['00001/0001', '00002/0002']
    assert sources.notes == ()


def test_short_clips_are_left_out_with_their_number(clips):
    sources = open_sources(clips / 'gt', clips / 'lq', 4, min_frames=7)
    assert [clip.name for clip in sources.clips] == ['001', '002']
    assert sources.notes == ('--min-frames: 1 of 3 clips left out, shorter than 7.',)
    with pytest.raises(OptionError, match=r'--min-frames: must leave a clip, got 50 for 3 shorter ones\. Lower it\.'):
        open_sources(clips / 'gt', None, 4, min_frames=50)


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


def two_videos_of_a_name(gt, lq, frames):
    empty(gt)
    for name in ('a.avi', 'a.mkv'):
        write_video(gt / name, frames)


def a_frame_less_in_both_under_other_names(gt, lq, frames):
    for root, scale in ((gt, 1), (lq, 4)):
        shutil.rmtree(root / '001')
        write_images(root / '001', [f'frame_{n:04d}.png' for n in range(1, 10) if n != 4], frames, scale)


REFUSED = [
    (two_videos_of_a_name, r'--gt: must hold each name once, whatever the suffix, got \S+a.avi and \S+a.mkv. Rename one'),
    (lambda gt, lq, frames: write_images(gt / '000', ['00000001.jpg'], frames),
     r'--gt: must hold each name once, .*, got \S+00000001.jpg and \S+00000001.png. Rename one'),
    (lambda gt, lq, frames: write_images(gt, ['cover.png'], frames),
     r'--gt: must hold only images or only folders, got \S+cover.png beside \S+000'),
    (lambda gt, lq, frames: write_video(gt / '000/a.avi', frames),
     r'--gt: must hold only images or only folders, got \S+00000000.png beside \S+000/a.avi. Move it'),
    (lambda gt, lq, frames: write_video(gt / 'a.avi', frames),
     r'--gt: must hold images or videos, got both, \S+000/00000000.png and \S+a.avi. Prepare one kind'),
    (lambda gt, lq, frames: (gt / '003').mkdir(), r'--gt: must hold folders of frames, got \S+003 empty. Fill it, or'),
    (lambda gt, lq, frames: (gt / '001/00000004.png').unlink(),
     r'--gt: must hold .* without a gap, got \S+001 without 00000004.png. Add the frame, or renumber'),
    (a_frame_less_in_both_under_other_names, r'--gt: must hold .* without a gap, got \S+001 without frame_0004.png. Add'),
    (lambda gt, lq, frames: shutil.copy(lq / '001/00000000.png', lq / '001/cover.png'),
     r'--lq: must have as many .*, 9 in \S+gt/001, got 10 in \S+lq/001, \S+lq/001/cover.png too many.'),
    (lambda gt, lq, frames: shutil.rmtree(lq / '002'),
     r'--lq: must hold the clips of --gt, got \S+lq without 002 \(1 missing\). Add it, or name the clips to'),
    (lambda gt, lq, frames: shutil.copytree(lq / '002', lq / '009'),
     r'--lq: must hold only the clips of --gt, got 009 too, which is not in \S+gt \(1 too many\). Move it'),
    (lambda gt, lq, frames: (gt / '001/00000000.png').write_bytes(b'<html>'),
     r'--gt: must hold images, got \S+001/00000000.png, which is no image. Replace or remove it.'),
    (lambda gt, lq, frames: empty(gt), r'--gt: must hold at least one clip, got none in \S+gt. Correct the path.'),
]  # fmt: skip


@pytest.mark.parametrize(('change', 'line'), REFUSED)
def test_source_that_cannot_be_used_gets_a_line(change, line, clips, frames, tmp_path):
    root = shutil.copytree(clips, tmp_path / 'clips')
    change(root / 'gt', root / 'lq', frames)
    with pytest.raises(OptionError, match=line) as error:
        open_sources(root / 'gt', root / 'lq', 4)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('text', 'encoding', 'line'),
    [
        ('000\n007\n', 'utf-8', r'--list: must name clips of --gt, got 007 \(1 of 2 names are not in \S+gt, which has 000\)'),
        ('000 9 (144,176,3)', 'utf-8', r'must agree with --gt, clip 000 with 6 frames of 144x176, got clip 000 with 9 fr'),
        ('000 6 (176,144,3)', 'utf-8', r'must agree with --gt, clip 000 .* of 144x176, got .* of 176x144. Correct'),
        ('000\n', 'utf-16', r'--list: must be text in UTF-8, got \S+list.txt in another encoding. Save it as UTF-8.'),
        ('000\n000\n', 'utf-8', r'--list: must name each clip once, got 000 again in line 2. Correct \S+list.txt.'),
        ('\n', 'utf-8', r'--list: must name clips, one a line, got \S+list.txt without any.'),
    ],
)  # fmt: skip
def test_list_that_cannot_be_used_gets_a_line(text, encoding, line, clips, tmp_path):
    (tmp_path / 'list.txt').write_text(text, encoding=encoding)
    with pytest.raises(OptionError, match=line):
        open_sources(clips / 'gt', clips / 'lq', 4, list_file=tmp_path / 'list.txt')


def test_store_is_built_where_the_system_lacks_calls_of_linux(clips, tmp_path, monkeypatch):
    for name in ('sched_getaffinity', 'posix_fallocate', 'posix_fadvise'):  # as on macOS
        monkeypatch.delattr(os, name)
    assert default_workers() == os.cpu_count()
    build(open_sources(clips / 'gt', clips / 'lq', 4), tmp_path / 'store', 1)
    assert FrameStore(tmp_path / 'store/gt').read('002', 6) is not None


def test_folder_that_links_to_one_above_is_left_out_with_a_line(frames, tmp_path):
    gt = write_images(tmp_path / 'gt/000', ['0.png', '1.png'], frames).parent
    (gt / 'again').symlink_to('.')
    (gt / '000/up').symlink_to('../..')
    (gt / 'itself').symlink_to('itself')
    (gt / 'twice').symlink_to('000')  # this one is no loop
    sources = open_sources(gt, None, 4)
    assert [clip.name for clip in sources.clips] == ['000', 'twice']
    assert sources.notes == (
        '--gt: 1 left out, neither image nor video: itself.',
        '--gt: 3 left out, links to a folder above: again, 000/up, twice/up.',
    )


def test_names_pair_in_either_form_of_unicode(frames, tmp_path):
    """macOS writes the accents of a name apart from its letters."""
    apart, together = (unicodedata.normalize(form, 'Café') for form in ('NFD', 'NFC'))
    gt = write_images(tmp_path / 'gt' / together, ['0.png', '1.png'], frames).parent
    write_images(tmp_path / 'gt/001', ['0.png'], frames)
    lq = write_images(tmp_path / 'lq' / apart, ['0.png', '1.png'], frames, 4).parent
    write_images(tmp_path / 'lq/001', ['0.png'], frames, 4)
    for name in (apart, together):
        (tmp_path / 'list.txt').write_text(f'{name} 2 (144,176,3)\n')
        sources = open_sources(gt, lq, 4, list_file=tmp_path / 'list.txt')
        assert sources.clips == (Clip(together, 2, 144, 176),)
    assert [clip.name for clip in open_sources(gt, lq, 4).clips] == ['001', together]
    assert len(decoded(open_sources(gt, lq, 4))) == 3
    write_images(tmp_path / 'lq' / together, ['0.png', '1.png'], frames, 4)
    with pytest.raises(
        OptionError, match=r"--lq: must hold each name once, in whichever form of Unicode, got 'Cafe.*' and"
    ):
        open_sources(gt, lq, 4)


def write_deep(folder, suffix, factor, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f'{number:08d}.{suffix}'), frame.astype(np.uint16) * factor)


@pytest.mark.parametrize(('suffix', 'factor'), [('tif', 4), ('png', 16), ('ppm', 4)])
def test_10_or_12_bits_in_16_are_refused_before_they_are_black(suffix, factor, frames, tmp_path, clips):
    write_deep(tmp_path / 'gt/000', suffix, factor, frames[:9])
    line = rf'must use all bits, got no value above \d+ of 65535 in \S+00000000.{suffix}, which becomes black in 8 bits. Mult'
    with pytest.raises(OptionError, match=f'^--gt: {line}'):
        open_sources(tmp_path / 'gt', None, 4)
    with pytest.raises(OptionError, match=f'^INPUT: {line}'):
        open_clip(tmp_path / 'gt/000')
    with pytest.raises(OptionError, match=f'^datasets.val.dataroot_gt: {line}'):
        open_eval_clips('datasets.val', {'dataroot_gt': str(tmp_path / 'gt')})
    if suffix == 'png':
        write_deep(tmp_path / 'lq/000', suffix, factor, [frame[::4, ::4] for frame in frames[:9]])
        with pytest.raises(OptionError, match=f'^datasets.train.dataroot_gt: {line}'):
            training_sets(dataset_options(tmp_path))[0].check(0)


def test_images_of_16_bits_are_read_that_begin_in_the_dark(frames, tmp_path):
    dark, bright = np.zeros((144, 176, 3), np.uint8), frames[0]
    write_deep(tmp_path / 'gt/000', 'tif', 257, [dark, dark, bright])
    write_deep(tmp_path / 'gt/001', 'tif', 257, [dark] * 3)
    assert [clip.num_frame for clip in open_sources(tmp_path / 'gt', None, 4).clips] == [3, 3]


@pytest.mark.parametrize('suffix', ['tif', 'webp', 'png'])
def test_file_of_several_frames_is_refused(suffix, frames, tmp_path):
    first, *others = [Image.fromarray(frame[..., ::-1]) for frame in frames[:5]]
    (tmp_path / 'gt/000').mkdir(parents=True)
    first.save(tmp_path / f'gt/000/all.{suffix}', save_all=True, append_images=others)
    with pytest.raises(
        OptionError, match=rf'^--gt: must hold a frame a file, got \S+all.{suffix} with 5. Write each frame'
    ):
        open_sources(tmp_path / 'gt', None, 4)
    with pytest.raises(OptionError, match=r'^INPUT: must hold a frame a file'):
        open_clip(tmp_path / 'gt/000')
