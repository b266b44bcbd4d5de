"""The packed store: exact, whole or not open, and honest about what it is made of."""

from __future__ import annotations

import filecmp
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from probe import NETWORK, train_here
from runs import TRAIN_PROBE, make_lmdbs, options, processes_below, rest_of, run, started, wait_for, write
from test_multigrid_reds_dataset import dataset_options
from test_multigrid_vimeo90k_dataset import septuplets, vimeo_options  # noqa: F401

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset, MultigridVimeo90KDataset
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store import STRIP, FrameStore, FrameStoreWriter, StoreInfo, frame_size, pack

PREPARE = (sys.executable, '-m', 'multigrid_vsr.cli', 'prepare')


@pytest.fixture(scope='module')
def store(clips, tmp_path_factory):
    """A pair of stores of the three clips."""
    root = tmp_path_factory.mktemp('store')
    run(*PREPARE, '--gt', clips / 'gt', '--lq', clips / 'lq', '-o', root, cwd=root)
    return root


def copy_of(store, folder):
    shutil.copytree(store, folder / 'store')
    return folder / 'store'


@pytest.mark.parametrize('width', [1, STRIP - 1, STRIP, STRIP + 1, 100])
def test_pack_puts_every_pixel_into_its_strip(width):
    frame = np.random.default_rng(0).integers(0, 256, (5, width, 3), np.uint8)
    strips = np.frombuffer(pack(frame), np.uint8).reshape(-1, 5, STRIP, 3)
    for x in range(strips.shape[0] * STRIP):
        expected = frame[:, x] if x < width else 0
        assert np.array_equal(strips[x // STRIP, :, x % STRIP], np.broadcast_to(expected, (5, 3)))


@pytest.mark.parametrize(
    'frames', [[0], [0, 1, 2], [4, 3, 2], [2, 1, 0], [0, 2, 4], [5, 3, 1], [3, 4, 4, 3], [0, 1, 4]]
)
def test_store_gives_the_pixels_of_the_files(frames, store, clips):
    gt = FrameStore(store / 'gt')
    images = {number: cv2.imread(str(clips / f'gt/001/{number:08d}.png')) for number in range(9)}
    for size, top, left in ((1, 0, 0), (16, 3, 31), (32, 0, 32), (64, 80, 112), (33, 5, 7), (144, 0, 32)):
        out = np.zeros((len(frames), size, size, 3), np.uint8)
        gt.crop('001', frames, top, left, out)
        for number, image in zip(frames, out):
            assert np.array_equal(image, images[number][top : top + size, left : left + size])


@pytest.mark.skipif(not hasattr(os, 'posix_fadvise'), reason='the system takes no advice on files')
def test_crop_asks_beforehand_for_the_bytes_that_it_reads_and_few_more(store, tmp_path, monkeypatch):
    asked = []

    def advise(file, start, length, advice):
        if advice == os.POSIX_FADV_WILLNEED:
            asked.append((start, start + length))

    monkeypatch.setattr(os, 'posix_fadvise', advise)
    crop = ('001', [4, 2, 7], 80, 40)
    whole, alone = (np.zeros((3, 64, 64, 3), np.uint8) for _ in range(2))
    FrameStore(store / 'gt').crop(*crop, whole)
    assert len(asked) == 9  # three frames of three strips
    assert sum(stop - start for start, stop in asked) == 9 * 64 * 96
    copy = copy_of(store, tmp_path)
    stored = bytearray((copy / 'gt/frames.bin').read_bytes())
    kept = bytearray(len(stored))
    for start, stop in asked:
        kept[start:stop] = stored[start:stop]
    (copy / 'gt/frames.bin').write_bytes(kept)
    FrameStore(copy / 'gt').crop(*crop, alone)
    assert np.array_equal(alone, whole)


def test_dataset_on_the_store_equals_the_one_on_files(store, clips):
    files, packed = MultigridREDSDataset(dataset_options(clips)), MultigridREDSDataset(dataset_options(store, 'packed'))
    assert packed.clips == files.clips
    for seed in range(40):
        request = [SampleRequest(seed % 22, 1 + seed % 5, 32 + 16 * (seed % 6), seed)]
        for key in ('lq', 'gt'):
            assert torch.equal(packed[request][key], files[request][key])


def test_dataset_on_a_store_of_septuplets_equals_the_one_on_files(septuplets, tmp_path):  # noqa: F811
    run(*PREPARE, '--gt', septuplets / 'gt', '--lq', septuplets / 'lq', '-o', tmp_path / 'store', cwd=tmp_path)
    files = MultigridVimeo90KDataset(vimeo_options(septuplets))
    packed = MultigridVimeo90KDataset(vimeo_options(tmp_path / 'store', io_backend={'type': 'packed'}))
    for seed in range(8):
        request = [SampleRequest(seed % 4, 5, 64, seed)]
        assert torch.equal(packed[request]['gt'], files[request]['gt'])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_run_on_the_store_trains_on_the_samples_of_the_files(num_workers, store, clips, tmp_path):
    opt = options(clips, network_g=NETWORK)
    fed = train_here(tmp_path, opt)
    opt = options(store, network_g=NETWORK, datasets__train__num_worker_per_gpu=num_workers)
    opt['datasets']['train']['io_backend'] = {'type': 'packed'}
    assert train_here(tmp_path, opt) == fed


def test_prepare_from_lmdb_equals_that_from_files(stock_clips, tmp_path):
    keys = [f'001/{number:08d}' for number in range(10)]
    for kind in ('gt', 'lq'):
        make_lmdb_from_imgs(str(stock_clips / kind), str(tmp_path / f'{kind}.lmdb'), [f'{k}.png' for k in keys], keys)
        (tmp_path / f'files/{kind}/001').mkdir(parents=True)
        for key in keys:
            shutil.copy(stock_clips / kind / f'{key}.png', tmp_path / f'files/{kind}/{key}.png')
    run(*PREPARE, '--gt', 'gt.lmdb', '--lq', 'lq.lmdb', '-o', 'a', cwd=tmp_path)
    run(*PREPARE, '--gt', 'files/gt', '--lq', 'files/lq', '-o', 'b', cwd=tmp_path)
    same(tmp_path / 'a', tmp_path / 'b')


def same(first, second):
    for kind in ('gt', 'lq'):
        names = ['frames.bin', 'checksums.bin']
        assert sorted(path.name for path in (first / kind).iterdir()) == sorted([*names, 'store.json'])
        assert filecmp.cmpfiles(first / kind, second / kind, names, shallow=False) == (names, [], [])
        assert FrameStore(first / kind).info == FrameStore(second / kind).info


def test_prepare_from_video_shrinks_by_basicsrs_imresize(tmp_path):
    from basicsr.utils.matlab_functions import imresize

    done = run(*PREPARE, '--gt', find_video('carphone_pristine.mp4'), '-o', 'store', cwd=tmp_path)
    assert 'io_backend: {type: packed}' in done.stdout
    gt, lq = FrameStore(tmp_path / 'store/gt'), FrameStore(tmp_path / 'store/lq')
    assert gt.info == StoreInfo((Clip('carphone_pristine', 120, 144, 176),), 4)
    frame, small = np.zeros((1, 144, 144, 3), np.uint8), np.zeros((1, 36, 36, 3), np.uint8)
    gt.crop('carphone_pristine', [50], 0, 16, frame)
    lq.crop('carphone_pristine', [50], 0, 4, small)
    image = list(read_frames(find_video('carphone_pristine.mp4')))[50]
    assert np.array_equal(frame[0], image[:, 16:160])
    expected = (imresize(image / 255.0, 0.25) * 255).round().clip(0, 255)
    assert np.array_equal(small[0], expected[:, 4:40])


def test_prepare_killed_and_run_again_equals_one_that_was_not(stock_clips, tmp_path):
    sources = ('--gt', str(stock_clips / 'gt'), '--workers', '1')  # LQ by imresize, so that it takes a while
    run(*PREPARE, *sources, '-o', 'whole', cwd=tmp_path)
    process = subprocess.Popen([*PREPARE, *sources, '-o', 'killed'], cwd=tmp_path, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    checksums = tmp_path / 'killed/lq/checksums.bin'
    while not (checksums.exists() and np.count_nonzero(np.fromfile(checksums, '<u8')) >= 5):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = np.count_nonzero(np.fromfile(checksums, '<u8'))
    assert 5 <= written < 100
    with pytest.raises(InputError, match='must be a finished frame store, got one that is not'):
        FrameStore(tmp_path / 'killed/gt')
    # A frame whose bytes the crash left half-written is written again, though its checksum is there.
    with open(tmp_path / 'killed/lq/frames.bin', 'r+b') as file:
        file.write(b'half')
    run(*PREPARE, *sources, '-o', 'killed', cwd=tmp_path)
    same(tmp_path / 'whole', tmp_path / 'killed')


def test_verify_finds_a_flipped_byte(store, clips, tmp_path):
    damaged = copy_of(store, tmp_path)
    assert 'All 22 frames of 3 clips are right.' in run(*PREPARE, '-o', damaged, '--verify', cwd=tmp_path).stdout
    sources = ('--gt', clips / 'gt', '--lq', clips / 'lq')
    assert 'All 22' in run(*PREPARE, *sources, '-o', damaged, '--verify', cwd=tmp_path).stdout
    with open(damaged / 'gt/frames.bin', 'r+b') as file:
        file.seek(144 * 192 * 3 * 7 + 1000)  # a frame of 176 columns takes 6 strips of 32: frame 1 of clip 001
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    for arguments in ((), sources):
        done = run(*PREPARE, *arguments, '-o', damaged, '--verify', cwd=tmp_path, ok=False)
        assert done.returncode == 1
        assert 'clip 001, frame 1: ' in done.stdout
        assert ': its checksum is wrong' in done.stdout
        assert '1 of 22 frames are wrong.' in done.stdout


def test_verify_finds_a_source_that_changed(store, clips, tmp_path):
    shutil.copytree(clips, tmp_path / 'clips')
    path = tmp_path / 'clips/gt/002/00000003.png'
    image = cv2.imread(str(path))
    image[100, 100, 1] ^= 1
    cv2.imwrite(str(path), image)
    done = run(*PREPARE, '--gt', 'clips/gt', '--lq', 'clips/lq', '-o', store, '--verify', cwd=tmp_path, ok=False)
    assert 'clip 002, frame 3: ' in done.stdout
    assert 'differs from its source' in done.stdout


def test_truncated_store_does_not_open(store, tmp_path):
    damaged = copy_of(store, tmp_path)
    os.truncate(damaged / 'gt/frames.bin', 1_000_000)
    with pytest.raises(InputError, match=r'must have 1824768 bytes in frames.bin, got 1000000. Prepare it anew.'):
        FrameStore(damaged / 'gt')


@pytest.mark.parametrize(
    ('text', 'line'),
    [('{"version": 9, "strip": 32}', 'must be a frame store of version 1, got 9.'), ('{', 'got something damaged')],
)
def test_store_of_another_version_does_not_open(text, line, store, tmp_path):
    damaged = copy_of(store, tmp_path)
    (damaged / 'gt/store.json').write_text(text)
    with pytest.raises(InputError, match=line):
        FrameStore(damaged / 'gt')


def test_store_without_the_clip_or_frame_names_them(store):
    out = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(FrameError, match=r'^clip 007, frame 0: not in \S+gt$'):
        FrameStore(store / 'gt').crop('007', [0], 0, 0, out)
    with pytest.raises(FrameError, match=r'^clip 000, frame 6: not in \S+gt$'):
        FrameStore(store / 'gt').crop('000', [6], 0, 0, out)
    with pytest.raises(FrameError, match=r'has 144x176, too small for a crop of 16 at \(130, 0\)'):
        FrameStore(store / 'gt').crop('000', [0], 130, 0, out)


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        (
            {'scale': 2},
            r'dataroot_lq: must be \S+dataroot_gt at 1/2, 72x88 for 144x176, got 36x44 in clip 000 in \S+lq.',
        ),
        ({'dataroot_lq': 'gt'}, r'dataroot_lq: must be \S+dataroot_gt at 1/4, .*, got 144x176 in clip 000 in \S+gt.'),
        (
            {'io_backend': {'type': 'pack'}},
            r'io_backend.type: must be disk, lmdb, packed, got pack. Did you mean `packed`?',
        ),
    ],
)
def test_run_with_stores_that_do_not_fit_says_so(changes, line, store, tmp_path):
    opt = options(store, network_g=NETWORK)
    opt['datasets']['train']['io_backend'] = {'type': 'packed'}
    if 'dataroot_lq' in changes:
        changes = {'dataroot_lq': str(store / 'gt')}
    opt['scale'] = changes.pop('scale', 4)
    opt['datasets']['train'].update(changes)
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt)


def test_prepare_names_every_frame_that_cannot_be_used(clips, tmp_path):
    shutil.copytree(clips, tmp_path / 'clips')
    (tmp_path / 'clips/gt/000/00000002.png').write_bytes(b'no image')
    cv2.imwrite(str(tmp_path / 'clips/gt/001/00000004.png'), np.zeros((100, 176, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'clips/lq/002/00000006.png'), np.zeros((36, 40, 3), np.uint8))
    done = run(*PREPARE, '--gt', 'clips/gt', '--lq', 'clips/lq', '-o', 'store', cwd=tmp_path, ok=False)
    assert done.returncode == 1
    for line in (
        'clip 000, frame 2: the ground truth is missing or cannot be decoded (clips/gt/000/00000002.png, clips/lq/000',
        'clip 001, frame 4: the ground truth is 100x176, not 144x176 as its clip (clips/gt/001/00000004.png, ',
        'clip 002, frame 6: the LQ frame is 36x40, not 36x44 as its clip (',
        '3 of 22 frames cannot be used: the store is not finished. Mend them and run it again with --rebuild.',
    ):
        assert line in done.stdout
    with pytest.raises(InputError, match='must be a finished frame store'):
        FrameStore(tmp_path / 'store/gt')
    for name in ('gt/000/00000002', 'gt/001/00000004', 'lq/002/00000006'):
        shutil.copy(clips / f'{name}.png', tmp_path / f'clips/{name}.png')
    run(*PREPARE, '--gt', 'clips/gt', '--lq', 'clips/lq', '-o', 'store', '--rebuild', cwd=tmp_path)
    assert FrameStore(tmp_path / 'store/gt').info.clips[0] == Clip('000', 6, 144, 176)


def test_prepare_into_a_folder_that_cannot_be_written_exits_with_one_line(clips, tmp_path):
    (tmp_path / 'file').write_text('')  # root may write into a read-only folder, but nobody below a file
    done = run(*PREPARE, '--gt', clips / 'gt', '-o', 'file/store', cwd=tmp_path, ok=False)
    assert done.stdout.splitlines()[-1].startswith(
        '-o: must be a folder with room for 0.00 GB, got file/store/gt (Not a dir'
    )


def test_prepare_onto_a_full_disk_says_so_and_goes_on_later(clips, tmp_path):
    """A limit on the size of files stands for a disk that fills up."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [*PREPARE, '--gt', str(clips / 'gt'), '--lq', str(clips / 'lq'), '-o', 'store']
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        '-o: must be a folder with room for 0.00 GB, got store/gt (File too large). Choose another.'
    )
    run(*command, cwd=tmp_path)
    assert 'All 22 frames' in run(*command, '--verify', cwd=tmp_path).stdout


def test_prepare_without_room_exits_before_it_writes(tmp_path, clips, monkeypatch):
    from multigrid_vsr.frames import prepare
    from multigrid_vsr.frames.pairs import open_sources

    monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    sources = open_sources(clips / 'gt', None, 4)
    with pytest.raises(InputError, match=r'-o: must have 0.00 GB free, got 0.00 GB in \S+. Make room.'):
        prepare.build(sources, tmp_path / 'store', 1)
    assert not (tmp_path / 'store').exists()


def test_prepare_into_a_store_of_other_clips_is_refused(store, stock_clips, tmp_path):
    begun = FrameStoreWriter(tmp_path / 'store/gt', StoreInfo((Clip('001', 3, 8, 8),), 4))
    begun.reserve()
    for root in (store, tmp_path / 'store'):
        done = run(*PREPARE, '--gt', stock_clips / 'gt', '-o', root, cwd=tmp_path, ok=False)
        assert f'must be the folder of the same frames, got {root}/gt, which is damaged, of other clip' in done.stdout
    run(*PREPARE, '--gt', stock_clips / 'gt', '-o', tmp_path / 'store', '--rebuild', cwd=tmp_path)
    assert FrameStore(tmp_path / 'store/gt').info.clips == (Clip('001', 100, 144, 176),)


def packed_options(store, folder, **changes):
    changes = {
        'datasets__train__io_backend': {'type': 'packed'},
        'path__experiments_root': str(folder / 'exp'),
        'network_g': {'type': 'ShapeProbe'},
        **changes,
    }
    return options(store, **changes)


@pytest.mark.parametrize(('kind', 'clip', 'frame'), [('gt', '000', 0), ('lq', '002', 6)])
def test_store_with_a_byte_of_another_value_is_refused_before_a_run(kind, clip, frame, store, tmp_path):
    copy = copy_of(store, tmp_path)
    info = FrameStore(copy / kind).info
    size = {c.name: frame_size(c) for c in info.clips}[clip]
    with open(copy / kind / 'frames.bin', 'r+b') as file:
        file.seek(info.offsets[clip] + frame * size + 7)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 255]))
    opt_file = write(tmp_path, packed_options(copy, tmp_path))
    for command in ('plan', 'train'):
        found = run(*TRAIN_PROBE[:-2], command, '-opt', opt_file, cwd=tmp_path, ok=False).stdout
        line = f'clip {clip}, frame {frame}: {copy}/{kind} does not have the bytes that it was written with, as 1 of '
        assert found.splitlines()[-1].startswith(line)
        assert 'Traceback' not in found
    assert not (tmp_path / 'exp').exists()


def rest_of_a_run_whose_file_is_cut(folder, opt, file):
    """What a run prints from then on; it has ended with 1, without a traceback, and with one checkpoint."""
    with started(*TRAIN_PROBE, write(folder, opt), cwd=folder) as process:
        wait_for(process, 3)
        os.truncate(file, 4096)
        rest = rest_of(process)
    assert process.returncode == 1
    assert 'Traceback' not in rest
    assert len(list((folder / 'exp/run/training_states').iterdir())) == 1
    return rest


@pytest.mark.parametrize('workers', [0, 1])
def test_store_that_is_cut_while_a_run_reads_it_is_one_line_after_the_run_is_saved(workers, store, tmp_path):
    copy = copy_of(store, tmp_path)
    opt = packed_options(copy, tmp_path, train__total_iter=100_000, train__scheduler={'type': 'MultigridCosineLR'},
                         datasets__train__num_worker_per_gpu=workers)  # fmt: skip
    rest = rest_of_a_run_whose_file_is_cut(tmp_path, opt, copy / 'gt/frames.bin')
    assert re.fullmatch(rf'clip 00\d, frame \d: cannot read {copy}/gt \(frames\.bin was cut\)', rest.splitlines()[-1])


@pytest.mark.parametrize('workers', [0, 1])
def test_lmdb_that_is_cut_while_a_run_reads_it_is_one_line_after_the_run_is_saved(workers, clips, tmp_path):
    make_lmdbs(clips, tmp_path)
    opt = options(
        clips, path__experiments_root=str(tmp_path / 'exp'), network_g={'type': 'ShapeProbe'},
        train__total_iter=100_000, train__scheduler={'type': 'MultigridCosineLR'},
        datasets__train__io_backend={'type': 'lmdb'}, datasets__train__num_worker_per_gpu=workers,
        datasets__train__dataroot_gt=f'{tmp_path}/gt.lmdb', datasets__train__dataroot_lq=f'{tmp_path}/lq.lmdb',
    )  # fmt: skip
    rest = rest_of_a_run_whose_file_is_cut(tmp_path, opt, tmp_path / 'gt.lmdb/data.mdb')
    assert re.fullmatch(
        rf'clip 00\d, frame \d: cannot read {tmp_path}/gt\.lmdb/\S+ \(data\.mdb was cut\)', rest.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ('number', 'reason'),
    [
        (signal.SIGBUS, 'a file that it read was cut, its disk has failed, or shared memory is full (/dev/shm)'),
        (signal.SIGKILL, 'memory is short, or somebody has ended it'),
    ],
)
def test_worker_that_dies_is_one_line_after_the_run_is_saved(number, reason, store, tmp_path):
    opt = packed_options(store, tmp_path, train__total_iter=100_000, train__scheduler={'type': 'MultigridCosineLR'},
                         datasets__train__num_worker_per_gpu=1, datasets__train__prefetch_mode='cpu')  # fmt: skip
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for(process, 3)
        ((worker, _),) = processes_below(process.pid)
        os.kill(worker, number)
        rest = rest_of(process)
    assert process.returncode == 1
    assert rest.splitlines()[-1] == f'A worker that loads data was ended by {number.name}: {reason}.'
    assert 'Traceback' not in rest
    assert len(list((tmp_path / 'exp/run/training_states').iterdir())) == 1
