"""The demo, short, on its real clips."""

from __future__ import annotations

import re
import sys

import cv2
import numpy as np
import pytest
from runs import run

from multigrid_vsr.demo import evaluation, training


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Folder and output of ``multigrid-vsr demo --iters 12``."""
    folder = tmp_path_factory.mktemp('demo')
    done = run(sys.executable, '-m', 'multigrid_vsr.cli', 'demo', '--iters', 12, '--out', 'out', cwd=folder)
    return folder / 'out', done.stdout


def test_demo_prints_a_row_for_each_method_and_keeps_it_in_the_report(demo):
    out, printed = demo
    rows = re.findall(r'^ *(bicubic|stock|multigrid) +(-|\d+ s) +(\d\d\.\d\d) +(0\.\d{4})$', printed, re.MULTILINE)
    assert [row[0] for row in rows] == ['bicubic', 'stock', 'multigrid']
    assert rows == re.findall(
        r'^ *(bicubic|stock|multigrid) +(-|\d+ s) +(\d\d\.\d\d) +(0\.\d{4})$',
        (out / 'report.md').read_text(),
        re.MULTILINE,
    )


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
    printed_psnr = float(re.search(r'bicubic +- +(\d\d\.\d\d)', printed).group(1))
    assert printed_psnr == pytest.approx(np.mean(means), abs=0.3)


def test_demo_draws_pictures(demo):
    out, _ = demo
    for name in ('psnr_over_time.png', 'crops.png'):
        assert cv2.imread(str(out / name)).std() > 10


def test_demo_ends_with_the_page_of_report(demo):
    out, printed = demo
    html = (out / 'report.html').read_text()
    assert 'Report: out/report.html and out/report.md' in printed
    for name in ('stock', 'multigrid'):
        psnr = re.search(rf'^ *{name} .* (\d\d\.\d\d) ', printed, re.MULTILINE)[1]
        assert f'<dt>PSNR on held_out</dt><dd>{psnr} dB' in html
    assert html.count('alt="ground truth"') == 2
    assert '<td>model_type</td><td>VideoRecurrentModel</td><td>MultigridVideoModel</td>' in html


def test_demo_holds_out_frames_that_are_not_trained_on(demo):
    out, _ = demo
    trained = {path.read_bytes() for path in (out / 'data/train/gt').rglob('*.png')}
    held_out = {path.read_bytes() for path in (out / 'data/val/gt').rglob('*.png')}
    assert (len(trained), len(held_out)) == (300, 20)
    assert not trained & held_out


def test_demo_runs_differ_in_the_lines_of_the_method_alone(demo):
    out, _ = demo
    stock, multigrid = ((out / f'train_{name}.yml').read_text().splitlines() for name in ('stock', 'multigrid'))
    changed = {line.split(':')[0].strip('# ') for line in set(stock) ^ set(multigrid)}
    methods = {
        'name',
        'model_type',
        'type',
        'multigrid',
        'gt_size',
        'num_frame',
        'periods',
        'restart_weights',
        'restart',
        'anneal',
        'warmup_iter',
    }
    methods |= {'dataroot_gt', 'dataroot_lq', 'prefetch_mode'}  # the multigrid run reads the packed store
    assert changed - methods <= {'Stock BasicSR', 'The same run with a growing shape.', ''}


def test_demo_data_is_reused_when_whole_and_made_anew_when_not(demo, tmp_path, monkeypatch):
    out, _ = demo
    frame = out / 'data/val/gt/000/00000000.png'
    written = frame.stat().st_mtime_ns
    training.prepare(out / 'data')
    assert frame.stat().st_mtime_ns == written
    (tmp_path / 'data.unfinished/left').mkdir(parents=True)
    monkeypatch.setattr(training, 'PARTS', [training.Part('train', '001', 'bikes.mp4', None, 0, 2)])
    training.prepare(tmp_path / 'data')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data']
    assert len(evaluation.read_clips(tmp_path / 'data/train/gt')['001']) == 2
    assert (tmp_path / 'data/train/meta_info.txt').read_text() == '001 2 (272,640,3)\n'


def test_demo_with_too_few_iterations_exits_with_one_line(tmp_path):
    done = run(sys.executable, '-m', 'multigrid_vsr.cli', 'demo', '--iters', 5, cwd=tmp_path, ok=False)
    assert done.stdout == '--iters: must be at least 12, got 5. Two stages of three frame counts need as many.\n'
    assert list(tmp_path.iterdir()) == []
