"""``prepare`` into a store that is there: what changed is packed anew, and no store holds two versions of the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_prepare_sources import write_video

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames import pairs, prepare
from multigrid_vsr.frames.pairs import open_sources
from multigrid_vsr.frames.prepare import build, verify
from multigrid_vsr.frames.store import FrameStore, checksum, read_origin

KEPT = {'gt': ['checksums.bin', 'frames.bin', 'store.json'], 'lq': ['checksums.bin', 'frames.bin', 'store.json']}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Decodes and packs without processes; gives the tasks whose frames were decoded."""
    seen = []

    def one_after_another(work, tasks, workers):
        for task in tasks:
            seen.append(task)
            yield task, work(task)

    monkeypatch.setattr(pairs, 'in_processes', one_after_another)
    return seen


@pytest.fixture
def made(clips, tmp_path, capsys):
    """A copy of the clips, and a store of them."""
    root = shutil.copytree(clips, tmp_path / 'clips')
    again(root)
    capsys.readouterr()
    return root


def again(root, **changes):
    """``prepare`` from the same folders into the same store."""
    sources = open_sources(root / 'gt', root / 'lq', 4, **changes)
    build(sources, root.parent / 'store', 1)
    return sources


def paint(path, value):
    image = cv2.imread(str(path))
    image[:] = value
    cv2.imwrite(str(path), image)


def listing(store):
    return {folder.name: sorted(path.name for path in folder.iterdir()) for folder in store.iterdir()}


def is_pair_open(store):
    try:
        return bool(FrameStore(store / 'gt')) and bool(FrameStore(store / 'lq'))
    except InputError:
        return False


def test_store_records_what_it_is_made_of(made):
    path = made / 'lq/001/00000003.png'
    described = json.loads((made.parent / 'store/lq/store.json').read_text())
    assert described['sources']['root'] == str(made / 'lq')
    assert described['sources']['files']['001'][3] == ['001/00000003.png', path.stat().st_size, path.stat().st_mtime_ns]
    assert [len(files) for files in described['sources']['files'].values()] == [6, 9, 7]
    assert described['version'] == 1
    sums = np.fromfile(made.parent / 'store/lq/checksums.bin', '<u8')
    store = FrameStore(made.parent / 'store/lq')
    assert sums[9] == checksum(store.read('001', 3))


def test_nothing_changed_is_said_and_nothing_is_packed(made, capsys, in_this_process):
    in_this_process.clear()
    before = (made.parent / 'store/gt/frames.bin').stat()
    again(made)
    out = capsys.readouterr().out
    assert f'{made.parent}/store/gt: whole already.' in out
    assert 'Both stores are whole already.' in out
    assert in_this_process == []
    assert (made.parent / 'store/gt/frames.bin').stat() == before


def test_lq_made_anew_is_packed_anew_and_the_ground_truth_stays(made, capsys):
    before = (made.parent / 'store/gt/frames.bin').stat()
    for number, path in enumerate(sorted((made / 'lq').rglob('*.png'))):
        paint(path, number)
    sources = again(made)
    out = capsys.readouterr().out
    assert f'{made.parent}/store/gt: whole already.' in out
    assert f'{made.parent}/store/lq: 0 frames are the same, 22 to pack anew, 0 dropped.' in out
    assert (made.parent / 'store/gt/frames.bin').stat() == before
    assert listing(made.parent / 'store') == KEPT
    verify(made.parent / 'store', sources, 1)


def test_one_changed_frame_is_packed_anew_and_the_others_are_copied(made, capsys, in_this_process):
    paint(made / 'gt/001/00000004.png', 77)
    in_this_process.clear()
    sources = again(made)
    out = capsys.readouterr().out
    assert f'{made.parent}/store/gt: 21 frames are the same, 1 to pack anew, 0 dropped.' in out
    assert [task.frame for task in in_this_process if 'gt' not in task.copied] == [4]
    assert all(task.gt is None for task in in_this_process if task.pair.clip.name != '001')  # not even read
    assert listing(made.parent / 'store') == KEPT
    verify(made.parent / 'store', sources, 1)
    assert 'All 22 frames of 3 clips are right. Compared with the sources.' in capsys.readouterr().out


def test_clips_that_came_went_or_grew_are_packed_and_dropped(made, capsys):
    for kind in ('gt', 'lq'):
        shutil.rmtree(made / kind / '000')
        shutil.copytree(made / kind / '002', made / kind / '0015')
        shutil.copy(made / kind / '001/00000000.png', made / kind / '001/00000009.png')
    sources = again(made)
    # Written by hand: 9 of 001 and 7 of 002 stay; one of 001 and the 7 of 0015 are new; the 6 of 000 are gone.
    assert f'{made.parent}/store/gt: 16 frames are the same, 8 to pack anew, 6 dropped.' in capsys.readouterr().out
    stored = FrameStore(made.parent / 'store/gt').info.clips
    assert [(clip.name, clip.num_frame) for clip in stored] == [('001', 10), ('002', 7), ('0015', 7)]
    verify(made.parent / 'store', sources, 1)


def test_list_into_a_store_of_all_keeps_those_that_are_listed(made, capsys, tmp_path):
    (tmp_path / 'list.txt').write_text('000\n002\n')
    verify(made.parent / 'store', again(made, list_file=tmp_path / 'list.txt'), 1)
    assert '/store/lq: 13 frames are the same, 0 to pack anew, 9 dropped.' in capsys.readouterr().out


def test_lq_shrunk_instead_of_given_is_packed_anew(made, capsys):
    build(open_sources(made / 'gt', None, 4), made.parent / 'store', 1)
    out = capsys.readouterr().out
    assert '/store/gt: whole already.' in out
    assert '/store/lq: 0 frames are the same, 22 to pack anew, 0 dropped.' in out
    paint(made / 'gt/002/00000001.png', 3)
    build(open_sources(made / 'gt', None, 4), made.parent / 'store', 1)
    assert '/store/lq: 21 frames are the same, 1 to pack anew' in capsys.readouterr().out


def test_video_that_changed_is_packed_anew_and_the_other_is_copied(tmp_path, capsys):
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    for name in ('a', 'b'):
        write_video(tmp_path / f'in/{name}.avi' if (tmp_path / 'in').mkdir(exist_ok=True) is None else '', frames)
    build(open_sources(tmp_path / 'in', None, 4), tmp_path / 'store', 1)
    write_video(tmp_path / 'in/b.avi', [*frames, frames[0]])
    build(open_sources(tmp_path / 'in', None, 4), tmp_path / 'store', 1)
    assert '/store/gt: 2 frames are the same, 3 to pack anew, 0 dropped.' in capsys.readouterr().out
    verify(tmp_path / 'store', open_sources(tmp_path / 'in', None, 4), 1)


def test_store_that_moved_with_its_sources_is_the_same(made, capsys, tmp_path):
    moved = shutil.move(made, tmp_path / 'elsewhere')
    build(open_sources(moved / 'gt', moved / 'lq', 4), tmp_path / 'store', 1)
    assert 'Both stores are whole already.' in capsys.readouterr().out
    assert read_origin(tmp_path / 'store/gt/store.json').root == str(moved / 'gt')


def test_store_of_before_sources_were_recorded_is_packed_anew(made, capsys):
    path = made.parent / 'store/gt/store.json'
    described = json.loads(path.read_text())
    del described['sources']
    path.write_text(json.dumps(described))
    again(made)
    assert '22 to pack anew, 0 dropped (an earlier version wrote it, which did not say' in capsys.readouterr().out
    assert len(read_origin(path).files['001']) == 9


def test_update_interrupted_anywhere_leaves_one_version_or_none(made, monkeypatch):
    """Killed after each step of an update: the pair is the old one, the new one, or does not open; then it goes on."""
    store, old = made.parent / 'store', made.parent / 'old'
    shutil.copytree(store, old)
    for path in (made / 'gt/001/00000004.png', made / 'lq/001/00000004.png'):
        paint(path, 200)
    seen, killed_at = set(), 0

    class Killed(BaseException):
        pass

    while True:
        killed_at += 1
        shutil.rmtree(store)
        shutil.copytree(old, store)
        left = [killed_at]

        def dies_after(original, left=left):
            def dying_step(*args, **kwargs):
                result = original(*args, **kwargs)
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return result

            return dying_step

        with monkeypatch.context() as patch:
            patch.setattr(prepare.FrameStoreWriter, 'sync', dies_after(prepare.FrameStoreWriter.sync))
            for step in ('rename', 'replace'):
                patch.setattr(Path, step, dies_after(getattr(Path, step)))
            try:
                again(made)
            except Killed:
                pass
            else:
                break
        if is_pair_open(store):
            values = {FrameStore(store / kind).read('001', 4)[0] == 200 for kind in ('gt', 'lq')}
            assert len(values) == 1
            seen.add('new' if values == {True} else 'old')
        else:
            seen.add('none')
        verify(store, again(made), 1)
        assert listing(store) == KEPT
    # Of either store: the plan, the new one on the disk, the old one away, the new one in its place, its name.
    assert killed_at > 2 * 5
    assert seen == {'old', 'none', 'new'}


def test_unfinished_store_whose_sources_change_holds_none_of_the_old(clips, tmp_path, monkeypatch):
    root = shutil.copytree(clips, tmp_path / 'clips')
    original = prepare._write
    monkeypatch.setattr(
        prepare, '_write', lambda stores, scale, task: original(stores, scale, task) if task.frame < 5 else 'stopped'
    )
    with pytest.raises(InputError, match='cannot be used: the store is not finished'):
        again(root)
    monkeypatch.undo()
    assert not is_pair_open(tmp_path / 'store')
    for path in sorted((root / 'lq').rglob('*.png'))[::2]:
        paint(path, 9)
    verify(tmp_path / 'store', again(root), 1)
    assert listing(tmp_path / 'store') == KEPT


def test_source_that_changes_while_it_is_packed_leaves_the_store_unfinished(clips, tmp_path, monkeypatch):
    root = shutil.copytree(clips, tmp_path / 'clips')
    original = prepare._write

    def write(stores, scale, task):
        if (task.pair.clip.name, task.frame) == ('002', 0):
            paint(root / 'lq/000/00000001.png', 50)
        return original(stores, scale, task)

    monkeypatch.setattr(prepare, '_write', write)
    with pytest.raises(
        InputError, match=r'lq/000/00000001.png changed while it was packed: .* not finished. Run it again.'
    ):
        again(root)
    assert not is_pair_open(tmp_path / 'store')
    monkeypatch.setattr(prepare, '_write', original)
    verify(tmp_path / 'store', again(root), 1)


def test_update_without_room_keeps_the_old_store_and_says_what_to_do(made, monkeypatch):
    paint(made / 'gt/001/00000004.png', 1)
    monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r'Make room, or delete \S+store, which stays until the new store is whole.'):
        again(made)
    assert is_pair_open(made.parent / 'store')


def test_damaged_description_gets_a_line(made):
    (made.parent / 'store/gt/store.json').write_text('{')
    with pytest.raises(InputError, match='must be a frame store of version 1, got something damaged'):
        again(made)


def test_verify_says_what_it_compared_with(made, capsys):
    verify(made.parent / 'store', None, 1)
    assert (
        "All 22 frames of 3 clips are right. Compared with the store's own checksums alone: give --gt and --lq to compare "
        'with the sources.'
    ) in capsys.readouterr().out


def test_verify_without_the_lq_frames_that_were_given_asks_for_them(made):
    line = r'--lq: must be given for \S+store, whose LQ frames are not shrunk, got nothing. It was \S+clips/lq.'
    with pytest.raises(InputError, match=line):
        verify(made.parent / 'store', open_sources(made / 'gt', None, 4), 1)
