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
from probe import NETWORK, train_here
from runs import TRAIN_PROBE, make_lmdbs, options, processes_below, refusal, rest_of, run, started, wait_for, write
from test_multigrid_reds_dataset import dataset_options, vimeo_options
from test_store_update import in_this_process, paint  # noqa: F401

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset, MultigridVimeo90KDataset
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store import STRIP, FrameStore, FrameStoreWriter, StoreInfo, pack

PREPARE = (sys.executable, '-m', 'multigrid_vsr.cli', 'prepare')
packs_here = pytest.mark.usefixtures('in_this_process')


def prepare(*arguments):
    main(['prepare', *map(str, arguments)])


@pytest.fixture(scope='module')
def store(clips, tmp_path_factory):
    """A pair of stores of the three clips."""
    root = tmp_path_factory.mktemp('store')
    run(*PREPARE, '--gt', clips / 'gt', '--lq', clips / 'lq', '-o', root, cwd=root)
    return root


def copy_of(store, folder):
    return shutil.copytree(store, folder / 'store')


def flip(path, place):
    """Changes a byte of a file."""
    with open(path, 'r+b') as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize('width', [1, STRIP, 100])
def test_pack_puts_every_pixel_into_its_strip(width):
    frame = np.random.default_rng(0).integers(0, 256, (5, width, 3), np.uint8)
    strips = np.frombuffer(pack(frame), np.uint8).reshape(-1, 5, STRIP, 3)
    for x in range(strips.shape[0] * STRIP):
        assert np.array_equal(strips[x // STRIP, :, x % STRIP], frame[:, x] if x < width else np.zeros((5, 3)))


def test_frames_of_clips_of_several_sizes_have_places_of_their_own():
    info = StoreInfo((Clip('a', 2, 4, 40), Clip('b', 3, 5, 10)), 4)
    # A frame of a takes 2 strips of 4 rows of 96 bytes, one of b takes a strip of 5.
    assert [info.place('a', 1), info.place('b', 2)] == [(768, 768, 1), (2 * 768 + 2 * 480, 480, 4)]
    assert (info.size, info.num_frame) == (2976, 5)


@pytest.mark.parametrize('frames', [[0], [4, 3, 2], [0, 2, 4], [3, 4, 4, 3], [0, 1, 4]])
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


@packs_here
def test_dataset_on_a_store_of_septuplets_equals_the_one_on_files(septuplets, tmp_path):
    prepare('--gt', septuplets / 'gt', '--lq', septuplets / 'lq', '-o', tmp_path / 'store')
    files = MultigridVimeo90KDataset(vimeo_options(septuplets))
    packed = MultigridVimeo90KDataset(vimeo_options(tmp_path / 'store', io_backend={'type': 'packed'}))
    for seed in range(8):
        request = [SampleRequest(seed % 4, 5, 64, seed)]
        assert torch.equal(packed[request]['gt'], files[request]['gt'])


def test_run_on_the_store_trains_on_the_samples_of_the_files(store, clips, tmp_path):
    fed = train_here(tmp_path, options(clips, network_g=NETWORK))
    opt = packed_options(store, tmp_path, network_g=NETWORK, datasets__train__num_worker_per_gpu=2)
    assert train_here(tmp_path, opt) == fed


@packs_here
def test_prepare_from_lmdb_equals_that_from_files(store, clips, tmp_path):
    make_lmdbs(clips, tmp_path)
    prepare('--gt', tmp_path / 'gt.lmdb', '--lq', tmp_path / 'lq.lmdb', '-o', tmp_path / 'store')
    same(store, tmp_path / 'store')


def same(first, second):
    for kind in ('gt', 'lq'):
        names = ['frames.bin', 'checksums.bin']
        assert sorted(path.name for path in (first / kind).iterdir()) == sorted([*names, 'store.json'])
        assert filecmp.cmpfiles(first / kind, second / kind, names, shallow=False) == (names, [], [])
        assert FrameStore(first / kind).info == FrameStore(second / kind).info


@packs_here
def test_prepare_from_video_shrinks_by_basicsrs_imresize(tmp_path, capsys):
    from basicsr.utils.matlab_functions import imresize

    prepare('--gt', find_video('carphone_pristine.mp4'), '-o', tmp_path / 'store')
    assert 'io_backend: {type: packed}' in capsys.readouterr().out
    gt, lq = FrameStore(tmp_path / 'store/gt'), FrameStore(tmp_path / 'store/lq')
    assert gt.info == StoreInfo((Clip('carphone_pristine', 120, 144, 176),), 4)
    image = list(read_frames(find_video('carphone_pristine.mp4')))[50]
    assert np.array_equal(list(gt.frames('carphone_pristine'))[50], image)
    expected = (imresize(image / 255.0, 0.25) * 255).round().clip(0, 255)
    assert np.array_equal(list(lq.frames('carphone_pristine'))[50], expected)


@packs_here
def test_prepare_killed_and_run_again_equals_one_that_was_not(stock_clips, tmp_path):
    sources = ('--gt', stock_clips / 'gt')  # LQ by imresize, so that it takes a while
    checksums = tmp_path / 'killed/lq/checksums.bin'
    with started(*PREPARE, *sources, '-o', 'killed', '--workers', 1, cwd=tmp_path) as process:
        while not (checksums.exists() and np.count_nonzero(np.fromfile(checksums, '<u8')) >= 5):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 5 <= np.count_nonzero(np.fromfile(checksums, '<u8')) < 100
    with pytest.raises(InputError, match='must be a finished frame store, got one that is not'):
        FrameStore(tmp_path / 'killed/gt')
    # A frame whose bytes the crash left half-written is written again, though its checksum is there.
    with open(tmp_path / 'killed/lq/frames.bin', 'r+b') as file:
        file.write(b'half')
    for name in ('killed', 'whole'):
        prepare(*sources, '-o', tmp_path / name)
    same(tmp_path / 'whole', tmp_path / 'killed')


@packs_here
def test_verify_finds_a_flipped_byte(store, clips, tmp_path, capsys):
    damaged, sources = copy_of(store, tmp_path), ('--gt', clips / 'gt', '--lq', clips / 'lq')
    for arguments in ((), sources):
        prepare(*arguments, '-o', damaged, '--verify')
        assert 'All 22 frames of 3 clips are right.' in capsys.readouterr().out
    flip(damaged / 'gt/frames.bin', 144 * 192 * 3 * 7 + 1000)  # 176 columns take 6 strips of 32: frame 1 of clip 001
    for arguments in ((), sources):
        printed = refusal('prepare', *arguments, '-o', damaged, '--verify')
        assert 'clip 001, frame 1: ' in printed
        assert ': its checksum is wrong' in printed
        assert '1 of 22 frames are wrong.' in printed


@packs_here
def test_verify_finds_a_source_that_changed(store, clips, tmp_path):
    root = shutil.copytree(clips, tmp_path / 'clips')
    paint(root / 'gt/002/00000003.png', 77)
    printed = refusal('prepare', '--gt', root / 'gt', '--lq', root / 'lq', '-o', store, '--verify')
    assert 'clip 002, frame 3: ' in printed
    assert 'differs from its source' in printed


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
        ({'scale': 2}, r'dataroot_lq: must be \S+dataroot_gt at 1/2, 72x88 for 144x176, got 36x44 in clip 000 in \S+lq.'),
        ({'dataroot_lq': 'gt'}, r'dataroot_lq: must be \S+dataroot_gt at 1/4, .*, got 144x176 in clip 000 in \S+gt.'),
        ({'io_backend': {'type': 'pack'}}, r'io_backend.type: must be disk, lmdb, packed, got pack. Did you mean `packed`?'),
    ],
)  # fmt: skip
def test_run_with_stores_that_do_not_fit_says_so(changes, line, store, tmp_path):
    opt = packed_options(store, tmp_path, network_g=NETWORK)
    if 'dataroot_lq' in changes:
        changes = {'dataroot_lq': str(store / 'gt')}
    opt['scale'] = changes.pop('scale', 4)
    opt['datasets']['train'].update(changes)
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt)


@packs_here
def test_prepare_names_every_frame_that_cannot_be_used(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clips, 'clips')
    (tmp_path / 'clips/gt/000/00000002.png').write_bytes(b'no image')
    cv2.imwrite('clips/gt/001/00000004.png', np.zeros((100, 176, 3), np.uint8))
    cv2.imwrite('clips/lq/002/00000006.png', np.zeros((36, 40, 3), np.uint8))
    command = ('--gt', 'clips/gt', '--lq', 'clips/lq', '-o', 'store')
    printed = refusal('prepare', *command)
    for line in (
        'clip 000, frame 2: the ground truth is missing or cannot be decoded (clips/gt/000/00000002.png, clips/lq/000',
        'clip 001, frame 4: the ground truth is 100x176, not 144x176 as its clip (clips/gt/001/00000004.png, ',
        'clip 002, frame 6: the LQ frame is 36x40, not 36x44 as its clip (',
        '3 of 22 frames cannot be used: the store is not finished. Mend them and run it again with --rebuild.',
    ):
        assert line in printed
    with pytest.raises(InputError, match='must be a finished frame store'):
        FrameStore('store/gt')
    for name in ('gt/000/00000002', 'gt/001/00000004', 'lq/002/00000006'):
        shutil.copy(clips / f'{name}.png', f'clips/{name}.png')
    prepare(*command, '--rebuild')
    assert FrameStore('store/gt').info.clips[0] == Clip('000', 6, 144, 176)


def test_prepare_into_a_folder_that_cannot_be_written_exits_with_one_line(clips, tmp_path):
    (tmp_path / 'file').write_text('')  # root may write into a read-only folder, but nobody below a file
    line = refusal('prepare', '--gt', clips / 'gt', '-o', tmp_path / 'file/store').splitlines()[-1]
    assert line.startswith(f'-o: must be a folder with room for 0.00 GB, got {tmp_path}/file/store/gt (Not a dir')


@packs_here
def test_prepare_onto_a_full_disk_says_so_and_goes_on_later(clips, tmp_path):
    """A limit on the size of files stands for a disk that fills up."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = ['--gt', str(clips / 'gt'), '--lq', str(clips / 'lq'), '-o', str(tmp_path / 'store')]
    done = subprocess.run([*PREPARE, *command], preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f'-o: must be a folder with room for 0.00 GB, got {tmp_path}/store/gt (File too large). Choose another.'
    )
    prepare(*command)
    prepare(*command, '--verify')


def test_prepare_without_room_exits_before_it_writes(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    line = refusal('prepare', '--gt', clips / 'gt', '-o', tmp_path / 'store').splitlines()[-1]
    assert re.fullmatch(r'-o: must have 0.00 GB free, got 0.00 GB in \S+. Make room.', line)
    assert not (tmp_path / 'store').exists()


@packs_here
def test_prepare_into_an_unfinished_store_of_other_clips_is_refused(septuplets, tmp_path):
    FrameStoreWriter(tmp_path / 'store/gt', StoreInfo((Clip('001', 3, 8, 8),), 4)).reserve()
    command = ('--gt', septuplets / 'gt', '-o', tmp_path / 'store')
    assert f'got {tmp_path}/store/gt, which is damaged, has other clips' in refusal('prepare', *command)
    prepare(*command, '--rebuild')
    assert len(FrameStore(tmp_path / 'store/gt').names) == 4


def packed_options(store, folder, **changes):
    changes = {
        'datasets__train__io_backend': {'type': 'packed'},
        'path__experiments_root': str(folder / 'exp'),
        'network_g': {'type': 'ShapeProbe'},
        **changes,
    }
    return options(store, **changes)


@pytest.mark.parametrize(('kind', 'clip', 'frame'), [('gt', '000', 0), ('lq', '002', 6)])
def test_store_with_a_byte_of_another_value_is_refused_before_a_run(kind, clip, frame, store, tmp_path, monkeypatch):
    monkeypatch.setattr('multigrid_vsr.frames.store._DRAWN', 0)  # so the first and the last frame are found by rule
    copy = copy_of(store, tmp_path)
    info = FrameStore(copy / kind).info
    flip(copy / kind / 'frames.bin', info.place(clip, frame)[0] + 7)
    opt = packed_options(copy, tmp_path)
    line = f'clip {clip}, frame {frame}: {copy}/{kind} does not have the bytes that it was written with: 1 of '
    assert refusal('plan', '-opt', write(tmp_path, opt)).splitlines()[-1].startswith(line)
    with pytest.raises(InputError, match=f'^{line}'):
        train_here(tmp_path, opt)
    assert not (tmp_path / 'exp').exists()


_LONG = {'train__total_iter': 100_000, 'train__scheduler': {'type': 'MultigridCosineLR'}}


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


def test_store_that_is_cut_while_a_run_reads_it_is_one_line_after_the_run_is_saved(store, tmp_path):
    copy = copy_of(store, tmp_path)
    opt = packed_options(copy, tmp_path, **_LONG, datasets__train__num_worker_per_gpu=1)
    rest = rest_of_a_run_whose_file_is_cut(tmp_path, opt, copy / 'gt/frames.bin')
    assert re.fullmatch(rf'clip 00\d, frame \d: cannot read {copy}/gt \(frames\.bin was cut\)', rest.splitlines()[-1])


def test_lmdb_that_is_cut_while_a_run_reads_it_is_one_line_after_the_run_is_saved(clips, tmp_path):
    make_lmdbs(clips, tmp_path)
    opt = packed_options(
        clips, tmp_path, **_LONG, datasets__train__io_backend={'type': 'lmdb'}, datasets__train__num_worker_per_gpu=0,
        datasets__train__dataroot_gt=f'{tmp_path}/gt.lmdb', datasets__train__dataroot_lq=f'{tmp_path}/lq.lmdb',
    )  # fmt: skip
    rest = rest_of_a_run_whose_file_is_cut(tmp_path, opt, tmp_path / 'gt.lmdb/data.mdb')
    line = rf'clip 00\d, frame \d: cannot read {tmp_path}/gt\.lmdb/\S+ \(data\.mdb was cut\)'
    assert re.fullmatch(line, rest.splitlines()[-1])


@pytest.mark.parametrize(
    ('number', 'reason'),
    [
        (signal.SIGBUS, 'a file that it read was cut, its disk has failed, or shared memory is full (/dev/shm)'),
        (signal.SIGKILL, 'memory is short, or somebody has ended it'),
    ],
)
def test_worker_that_dies_is_one_line_after_the_run_is_saved(number, reason, store, tmp_path):
    opt = packed_options(store, tmp_path, **_LONG, datasets__train__num_worker_per_gpu=1)
    opt['datasets']['train']['prefetch_mode'] = 'cpu'
    with started(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path) as process:
        wait_for(process, 3)
        ((worker, _),) = processes_below(process.pid)
        os.kill(worker, number)
        rest = rest_of(process)
    assert process.returncode == 1
    assert rest.splitlines()[-1] == f'A worker that loads data was ended by {number.name}: {reason}.'
    assert 'Traceback' not in rest
    assert len(list((tmp_path / 'exp/run/training_states').iterdir())) == 1
