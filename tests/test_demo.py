"""The demo, short, on its real clips."""

from __future__ import annotations

import contextlib
import io
import re

import cv2
import numpy as np
import pytest
import yaml
from runs import refusal

from multigrid_vsr import demo as the_demo
from multigrid_vsr.cli import main

ROW = re.compile(r'^ *(bicubic|full|multigrid) +(\d\d\.\d\d) +(-|\d+ s) +(-|\d+)$', re.MULTILINE)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Folder and output of ``multigrid-vsr demo --quick --iters 12``, with 3 frames in place of 7."""
    folder = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(the_demo, 'NUM_FRAME', 3)
        main(['demo', '--quick', '--iters', '12', '--out', 'out'])
    return folder / 'out', printed.getvalue()


def test_demo_prints_a_row_for_each_method_and_says_that_it_shows_no_more(demo):
    _, printed = demo
    rows = ROW.findall(printed)
    named = [(name, iterations) for name, _, _, iterations in rows]
    assert named == [('bicubic', '-'), ('full', '12'), ('multigrid', '23')]
    assert 'So short a run shows that the parts work, and no more: 12 iterations train nothing.\n' in printed


def test_demo_measures_bicubic_as_the_files_say(demo):
    """PSNR by its definition, from the frames on disk and OpenCV's bicubic, which is within 0.3 dB of BasicSR's."""
    out, printed = demo
    means = []
    for clip in ('000', '001'):
        values = []
        for path in sorted((out / f'data/val/gt/{clip}').iterdir()):
            gt = cv2.imread(str(path)).astype(float)
            lq = cv2.imread(str(out / f'data/val/lq/{clip}' / path.name))
            enlarged = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_CUBIC)
            values.append(10 * np.log10(255**2 / np.mean((enlarged - gt) ** 2)))
        means.append(np.mean(values))
    assert float(ROW.findall(printed)[0][1]) == pytest.approx(np.mean(means), abs=0.3)


def test_demo_ends_with_its_picture_and_the_page_of_report(demo):
    out, printed = demo
    assert cv2.imread(str(out / 'demo.png')).std() > 10
    html = (out / 'report.html').read_text()
    for name, psnr, _, iterations in ROW.findall(printed)[1:]:
        assert f'<dt>PSNR on held_out</dt><dd>{psnr} dB' in html
        assert f'<dd>{iterations} of {iterations}</dd>' in html
        assert f'alt="{name}, {iterations}"' in html
    assert html.count('alt="ground truth"') == 2


def test_demo_holds_out_frames_that_are_not_trained_on(demo):
    out, _ = demo
    trained = {path.read_bytes() for path in (out / 'data/train/gt').rglob('*.png')}
    held_out = {path.read_bytes() for path in (out / 'data/val/gt').rglob('*.png')}
    assert (len(trained), len(held_out)) == (300, 10)
    assert not trained & held_out


def test_runs_of_the_demo_differ_in_their_shapes_alone():
    full, multigrid = (yaml.safe_load(the_demo.options(name, 300, 0)) for name in ('full', 'multigrid'))
    assert full['multigrid'] == {'stages': [{'iter': 50, 'gt_size': 256, 'num_frame': 7}] * 6}
    assert multigrid['multigrid']['stages'] == [
        {'iter': 270, 'gt_size': 64, 'num_frame': 5},
        {'iter': 270, 'gt_size': 128, 'num_frame': 5},
        {'iter': 15, 'gt_size': 256, 'num_frame': 7},
    ]
    assert [(opt['train']['total_iter'], opt['val']['val_freq']) for opt in (full, multigrid)] == [(300, 50), (555, 93)]
    for opt in (full, multigrid):  # what follows from the number of iterations
        total = opt['train'].pop('total_iter')
        assert opt['train']['scheduler'].pop('warmup_iter') == total // 15
        del opt['name'], opt['multigrid'], opt['val']['val_freq'], opt['logger']['save_checkpoint_freq']
    assert full == multigrid


def test_demo_data_is_reused_when_whole_and_made_anew_when_not(demo, tmp_path):
    out, _ = demo
    frame = out / 'data/val/gt/000/00000000.png'
    written = frame.stat().st_mtime_ns
    the_demo.prepare(out / 'data')
    assert frame.stat().st_mtime_ns == written
    (tmp_path / 'data.unfinished/left').mkdir(parents=True)
    the_demo.prepare(tmp_path / 'data', [the_demo.Part('train', '001', 'bikes.mp4', None, 0, 2)])
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    assert len(list((tmp_path / 'data/train/gt/001').iterdir())) == 2
    assert (tmp_path / 'data/train/meta_info.txt').read_text() == '001 2 (272,640,3)\n'


def test_demo_with_too_few_iterations_exits_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal('demo', '--iters', 5) == '--iters: must be at least 12, got 5. Correct the value.'
    assert list(tmp_path.iterdir()) == []
