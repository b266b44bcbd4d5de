"""``prepare`` into a store that is there: it goes on, or refuses what has changed, or rebuilds it."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from multigrid_vsr.core.errors import FrameError, InputError
from multigrid_vsr.frames import prepare
from multigrid_vsr.frames.pairs import open_sources
from multigrid_vsr.frames.prepare import build, verify
from multigrid_vsr.frames.store import FrameStore, checksum

pytestmark = pytest.mark.usefixtures('in_this_process')


@pytest.fixture
def in_this_process(monkeypatch):
    """Decodes and packs without processes; gives the tasks."""
    seen = []

    def one_after_another(work, tasks, workers):
        prepare._take_work(work)
        for task in tasks:
            seen.append(task)
            yield task, prepare._do_work(task)

    monkeypatch.setattr(prepare, 'in_processes', one_after_another)
    return seen


@pytest.fixture
def made(clips, tmp_path, capsys):
    """A copy of the clips, and a store of them."""
    root = shutil.copytree(clips, tmp_path / 'clips')
    again(root)
    capsys.readouterr()
    return root


def again(root, rebuild=False, **changes):
    """``prepare`` from the same folders into the same store."""
    sources = open_sources(root / 'gt', root / 'lq', 4, **changes)
    build(sources, root.parent / 'store', 1, rebuild)
    return sources


def paint(path, value):
    image = cv2.imread(str(path))
    image[:] = value
    cv2.imwrite(str(path), image)


def test_store_records_what_it_is_made_of(made):
    path = made / 'lq/001/00000003.png'
    described = json.loads((made.parent / 'store/lq/store.json').read_text())
    assert described['sources']['root'] == str(made / 'lq')
    assert described['sources']['is_shrunk'] is False
    assert described['sources']['files']['001'][3] == ['001/00000003.png', path.stat().st_size, path.stat().st_mtime_ns]
    assert [len(files) for files in described['sources']['files'].values()] == [6, 9, 7]
    assert described['version'] == 1
    sums = np.fromfile(made.parent / 'store/lq/checksums.bin', '<u8')
    store = FrameStore(made.parent / 'store/lq')
    assert sums[9] == checksum(store.read('001', 3))


@pytest.mark.parametrize('rebuild', [False, True])
def test_nothing_changed_is_said_and_nothing_is_packed(rebuild, made, capsys, in_this_process):
    in_this_process.clear()
    before = (made.parent / 'store/gt/frames.bin').stat()
    again(made, rebuild)
    assert f'{made.parent}/store: whole already.' in capsys.readouterr().out
    assert in_this_process == []
    assert (made.parent / 'store/gt/frames.bin').stat() == before


def a_frame(root):
    paint(root / 'gt/001/00000004.png', 77)


def a_clip_less(root):
    for kind in ('gt', 'lq'):
        shutil.rmtree(root / kind / '000')


def under_another_name(root):
    for kind in ('gt', 'lq'):
        for path in list((root / kind / '001').iterdir()):
            path.rename(path.with_stem(f'{path.stem}_'))


def without_a_record(root):
    for kind in ('gt', 'lq'):
        path = root.parent / 'store' / kind / 'store.json'
        described = json.loads(path.read_text())
        del described['sources']
        path.write_text(json.dumps(described))


def damaged(root):
    (root.parent / 'store/gt/store.json').write_text('{')


CHANGES = [a_frame, a_clip_less, under_another_name, without_a_record, damaged]
REFUSED = (
    r'^-o: must hold the same frames, got \S+store/{}, which is damaged, has other clips, or was made from files that have '
    r'changed. Add --rebuild, or take another folder.$'
)


@pytest.mark.parametrize('change', CHANGES)
def test_store_of_other_sources_is_refused_or_rebuilt(change, made):
    store = made.parent / 'store'
    change(made)
    with pytest.raises(InputError, match=REFUSED.format('gt')):
        again(made)
    sources = again(made, rebuild=True)
    verify(store, sources, 1)
    assert {path.name for path in store.rglob('*')} == {'gt', 'lq', 'frames.bin', 'checksums.bin', 'store.json'}


def test_lq_shrunk_instead_of_given_is_refused_and_the_rebuilt_one_keeps_the_ground_truth(made):
    store, sources = made.parent / 'store', open_sources(made / 'gt', None, 4)
    before = (store / 'gt/frames.bin').stat().st_mtime_ns
    with pytest.raises(InputError, match=REFUSED.format('lq')):
        build(sources, store, 1)
    build(sources, store, 1, rebuild=True)
    verify(store, sources, 1)
    assert (store / 'gt/frames.bin').stat().st_mtime_ns == before


def test_store_that_moved_with_its_sources_is_the_same(made, capsys, tmp_path):
    moved = shutil.move(made, tmp_path / 'elsewhere')
    build(open_sources(moved / 'gt', moved / 'lq', 4), tmp_path / 'store', 1)
    assert 'whole already.' in capsys.readouterr().out


def test_interrupted_rebuild_does_not_open_and_goes_on(made, monkeypatch):
    store = made.parent / 'store'
    paint(made / 'gt/000/00000001.png', 200)
    original = prepare._write

    def stop():
        raise FrameError('stopped')

    monkeypatch.setattr(
        prepare, '_write', lambda stores, scale, task: original(stores, scale, task) if task.frame < 5 else stop()
    )
    with pytest.raises(InputError, match='cannot be used: the store is not finished'):
        again(made, rebuild=True)
    with pytest.raises(InputError, match='must be a finished frame store'):
        FrameStore(store / 'gt')
    written = (store / 'gt/frames.bin').stat().st_ino
    monkeypatch.undo()
    verify(store, again(made, rebuild=True), 1)
    assert (store / 'gt/frames.bin').stat().st_ino == written


def test_verify_says_what_it_compared_with(made, capsys):
    verify(made.parent / 'store', None, 1)
    assert (
        "All 22 frames of 3 clips are right. Compared with the store's own checksums only: give --gt and --lq to compare "
        'with the sources.'
    ) in capsys.readouterr().out


def test_verify_without_the_lq_frames_that_were_given_asks_for_them(made):
    line = r'--lq: must be given for \S+store, whose LQ frames are not shrunk, got nothing. It was \S+clips/lq.'
    with pytest.raises(InputError, match=line):
        verify(made.parent / 'store', open_sources(made / 'gt', None, 4), 1)
