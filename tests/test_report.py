"""The page that compares runs: real runs of BasicSR and of this project, their logs cut, their files taken away."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from probe import train_here
from runs import log_of, options, refusal, validation_set, write_images, write_video

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.report import page
from multigrid_vsr.report.read import Point, parse_log, parse_options, read_experiment

METRICS = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}, 'ssim': {'type': 'calculate_ssim', 'crop_border': 0}}


@pytest.fixture(scope='module')
def runs_folder(tmp_path_factory, clips, stock_clips) -> Path:
    """Two runs of 12 iterations: BasicSR's image model, and multigrid with pictures."""
    root = tmp_path_factory.mktemp('runs')
    short = {'train__total_iter': 12, 'logger__save_checkpoint_freq': 6, 'logger__print_freq': 2}
    image = options(stock_clips, name='image', model_type='SRModel', multigrid=None, **short)
    pairs = {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
    roots = {f'dataroot_{kind}': str(stock_clips / kind / '001') for kind in ('gt', 'lq')}
    image['datasets']['train'] = {'name': 'pairs', **pairs, **roots, 'gt_size': 64, 'use_hflip': True, 'use_rot': True,
                                  'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 10}  # fmt: skip
    few = {f'dataroot_{kind}': str(clips / kind / '000') for kind in ('gt', 'lq')}
    image['datasets']['val'] = {'name': 'few', **pairs, **few}
    image['network_g'] = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1}
    image['val'] = {'val_freq': 4, 'save_img': False, 'metrics': METRICS}
    image['logger']['use_tb_logger'] = True
    multigrid = options(clips, name='multigrid', logger__use_tb_logger=True, **short)
    multigrid['datasets']['val'] = validation_set(clips)
    multigrid['val'] = {'val_freq': 4, 'save_img': True, 'metrics': METRICS}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what torch and BasicSR say to each other
        for opt in (image, multigrid):
            train_here(root, opt)
    return root


def psnrs(*points: tuple[int, float, float]) -> tuple[Point, ...]:
    """Validations: iteration, seconds of training and PSNR."""
    return tuple(Point(n, datetime.min, {'psnr': value}, seconds=seconds) for n, seconds, value in points)


def test_run_of_multigrid_is_read_whole(runs_folder):
    found = read_experiment(runs_folder / 'experiments/multigrid')
    assert [point.iteration for point in found.lines] == [2, 4, 6, 8, 10, 12]
    assert [str(s.shape) for s in found.schedule.segments] == [
        '2x2x64x64', '2x3x64x64', '2x4x64x64', '1x2x128x128', '1x3x128x128', '1x4x128x128']  # fmt: skip
    assert [point.iteration for point in found.validations['REDS4']] == [4, 8, 12]
    assert (found.has_ended, found.iteration, found.checkpoints, found.starts) == (True, 12, (6, 12), ())
    assert [found.samples(n) for n in (0, 1, 6, 7, 12)] == [0, 2, 12, 13, 18]
    assert found.parameters > 1_000_000
    assert (found.options['root_path'], found.options['datasets']['train']['phase']) == (str(runs_folder), 'train')
    seconds = [point.seconds for point in found.lines]
    assert seconds == sorted(seconds)
    assert found.lines[-1].seconds == found.validations['REDS4'][-1].seconds


def test_run_whose_log_is_cut_anywhere_is_still_read(runs_folder, tmp_path):
    """A run under way: whatever is written so far is there, up to the last whole line."""
    folder = shutil.copytree(runs_folder / 'experiments/multigrid', tmp_path / 'multigrid')
    for weights in folder.glob('models/*12.pth'):
        weights.unlink()
    path = next(folder.glob('train_*.log'))
    text = path.read_bytes()
    fifth = text.index(b'iter:      10,')
    for end in (fifth, fifth + 5, fifth + 60, text.index(b'\n', fifth)):
        path.write_bytes(text[:end])
        found = read_experiment(folder)
        assert [point.iteration for point in found.lines] == [2, 4, 6, 8]
        assert [point.iteration for point in found.validations['REDS4']] == [4, 8]
        assert not found.has_ended
    html = page.render([found])
    assert 'under way or stopped: 67%' in html
    assert '<dt>iterations</dt><dd>8 of 12</dd>' in html
    for end in range(0, len(text), 997):
        path.write_bytes(text[:end])
        assert '<h1>multigrid</h1>' in page.render([read_experiment(folder)])


def test_report_has_the_figures_of_the_logs(runs_folder, tmp_path, capsys):
    folders = [runs_folder / 'experiments' / name for name in ('image', 'multigrid')]
    out = tmp_path / 'page.html'
    main(['report', *map(str, folders), '-o', str(out)])
    verdict, written = capsys.readouterr().out.splitlines()
    assert verdict.startswith('multigrid has not reached the PSNR that image ended with, ')  # it was not measured there
    assert written == f'Report: {out}'
    html = out.read_text()
    psnr, ssim = re.findall(r'# (?:psnr|ssim): (\d+\.\d+)', log_of(folders[1]))[-2:]
    assert f'{float(psnr):.2f} dB' in html
    assert ssim in html
    assert html.count('<section class="card') == 2
    assert html.count('x fewer than as many iterations of the full shape</dd>') == 1  # of the run that grows
    assert '<td>1–12</td><td>64</td><td>1</td><td>2</td>' in html  # gt_size, num_frame and batch of the run on images
    assert '<td>model_type</td><td>SRModel</td><td>MultigridVideoModel</td>' in html
    assert '<td>multigrid.gt_size</td><td>–</td><td>[64, 128]</td>' in html
    assert 'manual_seed' not in html  # the same in both
    assert html.count('alt="ground truth"') == 3  # of each clip
    assert html.count('data:image/png;base64,') == 9  # LQ, the run, ground truth
    assert [path.name for path in tmp_path.iterdir()] == ['page.html']


def test_verdict_tells_runs_of_the_same_name_apart_by_their_folders(runs_folder):
    found = read_experiment(runs_folder / 'experiments/multigrid')

    def of(folder, *points):
        return replace(found, folder=Path(folder), validations={'A': psnrs(*points)})

    runs = [of('a', (1, 60, 20.0), (2, 120, 22.0), (3, 180, 21.0)), of('b', (2, 40, 21.0)), of('c', (3, 30, 20.9))]
    assert page.verdict(runs) == [
        'multigrid (b) reached the PSNR that multigrid (a) ended with, 21, after 40 s of training (multigrid (a): 2 min): '
        '3.00 times as fast.',
        'multigrid (c) has not reached the PSNR that multigrid (a) ended with, 21.',
    ]


BAD = [
    (['gone'], 'EXPERIMENT: must be the folder of a run, got gone. Correct the path.'),
    (['empty'], 'EXPERIMENT: must be the folder of a run with a train_*.log or an option file, got empty. Give one of the folders below experiments/.'),
    (['empty', '-o', 'no/page.html'], '-o: must lie in a folder that exists, got no/page.html. Make no first.'),
    (['empty', '-o', 'empty'], '-o: must be a file, got the folder empty. Give the name of a file.'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), BAD, ids=[' '.join(row[0]) for row in BAD])
def test_report_of_what_is_no_run_exits_with_one_line(arguments, message, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    assert refusal('report', *arguments) == message
    assert [path.name for path in tmp_path.iterdir()] == ['empty']


# What BasicSR and this project write, word for word.
LINES = [
    (
        '2026-11-24 10:00:10,500 INFO: [demo_..][epoch: 12, iter:   1,234, lr:(2.000e-04,2.500e-05,)] [eta: 1 day, 2:03:04, time (data): 0.500 (0.025)] l_pix: 3.2197e-02 \n',
        {'lr': 2e-4, 'time': 0.5, 'data_time': 0.025, 'l_pix': 3.2197e-2}, '1 day, 2:03:04',
    ),
    (
        '2026-11-24 10:00:10,500 INFO: [multi..][epoch:  0, iter:   1,234, lr:(1.000e-04,)] [eta: -1 day, 23:59:58, time (data): 1.000 (0.000)] gt_size: 64 num_frame: 4 batch_size_per_gpu: 2 peak_memory: 12.25 l_pix: nan \n',
        {'lr': 1e-4, 'time': 1.0, 'data_time': 0.0, 'gt_size': 64, 'num_frame': 4, 'batch_size_per_gpu': 2, 'peak_memory': 12.25, 'l_pix': pytest.approx(float('nan'), nan_ok=True)}, '-1 day, 23:59:58',
    ),
]  # fmt: skip


@pytest.mark.parametrize(('text', 'values', 'eta'), LINES)
def test_log_line_gives_its_values(text, values, eta):
    (line,) = parse_log(text).lines
    assert (line.iteration, line.time) == (1234, datetime(2026, 11, 24, 10, 0, 10, 500000))
    assert (line.values, line.eta) == (values, eta)


OPTIONS = (
    '\n  name: x\n  val:[\n    val_freq: 100\n  ]\n  train:[\n    total_iter: 1000\n  ]\n  datasets:[\n    train:[\n'
    '      batch_size_per_gpu: 2\n      gt_size: 64\n      num_frame: 5\n    ]\n  ]\n'
)


def log_text(*records: tuple[int, str], val_freq: int = 100) -> str:
    """A log whose records come so many seconds after ten o'clock."""
    start = datetime(2026, 11, 24, 10)
    stamps = [f'{start + timedelta(seconds=second):%Y-%m-%d %H:%M:%S},000 INFO: ' for second, _ in records]
    banner = '\n                ____\n               / __ )\nVersion Information: \n\tBasicSR: 1.4.2\n'
    head = OPTIONS.replace('val_freq: 100', f'val_freq: {val_freq}')
    return f'{stamps[0]}{banner}{stamps[0]}{head}\n' + ''.join(
        f'{stamp}{text}\n' for stamp, (_, text) in zip(stamps, records)
    )


def iteration(number: int) -> str:
    return f'[x..][epoch:  0, iter:{number:8,d}, lr:(1.000e-04,)] [eta: 0:00:01, time (data): 1.000 (0.100)] l_pix: 1.0000e-02 '


def validation(psnr: float, name: str = 'A') -> str:
    return f'Validation {name}\n\t # psnr: {psnr:.4f}\t # 000: 1.0000\n\t    Best: 99.0000 @ 5 iter\n'


# (val_freq, what the log has, iterations of the validations)
VALIDATED = [
    (100, [iteration(100), validation(20), iteration(200), validation(21)], [100, 200]),
    (20, [validation(20), validation(21), iteration(100)], [20, 40]),
    (20, [iteration(100), validation(20), validation(21)], [100, 120]),
    (50, [iteration(30), iteration(40), validation(20), iteration(110), iteration(140), validation(21)], [50, 150]),
    (100, [iteration(100), validation(20), validation(19, 'B'), iteration(200), validation(21), validation(18, 'B')], [100, 100, 200, 200]),
    (100, [iteration(900), validation(20), 'End of training. Time consumed: 0:00:01', validation(21)], [900, 1000]),
]  # fmt: skip


@pytest.mark.parametrize(('val_freq', 'records', 'expected'), VALIDATED)
def test_validation_gets_the_iteration_that_the_log_leaves_out(val_freq, records, expected):
    log = parse_log(log_text(*enumerate(records), val_freq=val_freq))
    assert [found.iteration for _, found in log.validations] == expected
    assert log.validations[0][1].values == {'psnr': 20.0}


def test_options_in_a_log_are_read_as_blocks():
    text = (
        '\n  name: a: b\n  datasets:[\n    train:[\n      interval_list: [1, 2]\n      io_backend:[\n'
        "        type: disk\n      ]\n    ]\n  ]\n  multigrid:[\n    stages: [OrderedDict([('iter', 2)])]\n  ]\n  path:[\n    resume_state: None\n  ]\n  lr: 1e-07\n  empty: \n"
    )
    assert parse_options(text) == {
        'name': 'a: b',
        'datasets': {'train': {'interval_list': [1, 2], 'io_backend': {'type': 'disk'}}},
        'multigrid': {'stages': [{'iter': 2}]},
        'path': {'resume_state': None},
        'lr': 1e-7,
        'empty': '',
    }


def test_clock_of_a_resumed_run_leaves_out_the_break_and_the_lost_work(tmp_path):
    """A run that was killed after iteration 400 and went on from 200, half a day later.

    Its cost is of 100 iterations in 50 s and in 100 s: neither with a checkpoint between, nor from a start.
    """
    first = [(5, 'Start training from epoch: 0, iter: 0'), (105, iteration(100)), (155, 'Saving models and training states.'),
             (205, iteration(200)), (405, iteration(300)), (505, iteration(400))]  # fmt: skip
    later = [(43210, 'Start training from epoch: 0, iter: 200'), (43260, iteration(300)), (43310, iteration(400)),
             (43410, iteration(500))]  # fmt: skip
    for name, records in (('train_x_1.log', first), ('train_x_2.log', later)):
        (tmp_path / name).write_text(log_text(*records))
    found = read_experiment(tmp_path)
    assert [(p.iteration, p.seconds) for p in found.lines] == [
        (100, 100),
        (200, 200),
        (300, 250),
        (400, 300),
        (500, 400),
    ]
    assert (found.starts, found.iteration, found.seconds) == ((200,), 500, 400)
    (cost,) = page.segment_costs(found)
    assert cost.seconds_per_iter == pytest.approx((50 + 100) / 200)
    assert cost.samples_per_second == pytest.approx(2 / 0.75)
    assert cost.megapixels_per_second == pytest.approx(2 * 5 * 64 * 64 / 0.75 / 1e6)
    assert (cost.waiting, cost.peak_memory) == (pytest.approx(0.1), None)


@pytest.mark.parametrize(('better', 'value', 'reached', 'best'), [
    ('higher', 21.5, 2, ''), ('higher', 23.5, None, ''), ('lower', 21.5, 1, ', best 20.00 dB at 1'),
])  # fmt: skip
def test_first_reaching_takes_the_first_validation_as_good(better, value, reached, best, runs_folder):
    found = read_experiment(runs_folder / 'experiments/multigrid')
    opt = {**found.options, 'val': {'metrics': {'psnr': {'better': better}}}}
    points = psnrs((1, 10, 20), (2, 20, 22), (3, 30, 21), (4, 40, 23))
    found = replace(found, options=opt, validations={'A': points})
    point = page.first_reaching(found, ('A', 'psnr'), value)
    assert (point and point.iteration) == reached
    assert f'<dt>PSNR on A</dt><dd>23.00 dB{best}</dd>' in page.render([found])


def test_folder_with_an_option_file_alone_is_a_run_that_has_not_begun(tmp_path):
    (tmp_path / 'run.yml').write_text(
        'name: x\ntrain: {total_iter: 1000}\ndatasets: {train: {batch_size_per_gpu: 2, gt_size: 64, num_frame: 5}}\n'
    )
    found = read_experiment(tmp_path)
    assert (found.iteration, found.lines, found.schedule.total_iter) == (0, (), 1000)
    assert 'under way or stopped: 0%' in page.render([found])
    (tmp_path / 'run.yml').write_text('name: x\n')
    with pytest.raises(InputError, match=r': train: must be a block of options, got nothing'):
        read_experiment(tmp_path)


def numbered(count: int, grey: int = 40) -> list[np.ndarray]:
    """Frames of 64 x 96 pixels, each of a grey of its own."""
    return [np.full((64, 96, 3), grey + 10 * number, np.uint8) for number in range(count)]


def reported(root: Path, monkeypatch, val: dict[str, str], frames, name: str) -> tuple[str, dict[str, int]]:
    """The page of a run that saved the frames of clip a, and the mean of each picture on it by its caption."""
    train = {'batch_size_per_gpu': 2, 'gt_size': 64, 'num_frame': 5}
    opt = {'name': 'x', 'scale': 4, 'train': {'total_iter': 8}, 'datasets': {'train': train, 'val': val}}
    write_images(root / 'x/visualization' / val['name'] / 'a', f'{name}_8.png', frames)
    (root / 'x/run.yml').write_text(yaml.safe_dump(opt))
    monkeypatch.chdir(root)
    main(['report', 'x', '-o', 'page.html'])
    html = (root / 'page.html').read_text()
    found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', html)
    means = {
        label: round(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).mean()) for label, data in found
    }
    return html, means


@pytest.mark.parametrize('kind', ['unpadded', 'cropped', 'video', 'of BasicSR'])
def test_report_shows_the_frames_that_the_test_set_reads(kind, tmp_path, monkeypatch):
    gt, lq = numbered(13), [frame[::4, ::4] for frame in numbered(13)]
    if kind == 'cropped':
        gt = [np.pad(frame, ((0, 2), (0, 3), (0, 0))) for frame in gt]
    for root, frames in (('gt', gt), ('lq', lq)):
        if kind == 'video':
            write_video(tmp_path / root / 'a.mkv', frames, 'FFV1')
            continue
        write_images(tmp_path / root / 'a', '{}.png' if kind == 'unpadded' else '{:08d}.png', frames)
        (tmp_path / root / 'a/._00000000.png').write_bytes(b'of macOS')
    type_ = 'VideoRecurrentTestDataset' if kind == 'of BasicSR' else 'MultigridVideoTestDataset'
    val = {'name': 'mine', 'type': type_, 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
    html, shown = reported(tmp_path, monkeypatch, val, numbered(13, 41), '{:08d}')
    assert '<p class="dim">mine/a/00000006</p>' in html
    assert shown == {'LQ': 100, 'x, 8': 101, 'ground truth': 100}


def test_report_of_a_set_of_windows_finds_a_frame_by_its_name(tmp_path, monkeypatch):
    """BasicSR names the picture after the LQ frame, and pairs frames by the alphabet."""
    write_images(tmp_path / 'gt/a', '{:04d}.png', numbered(5))
    write_images(tmp_path / 'lq/a', 'frame{}.png', numbered(5), 4)
    val = {'name': 'Vid4', 'type': 'VideoTestDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
    _, shown = reported(tmp_path, monkeypatch, val, numbered(5, 41), 'frame{}')
    assert shown == {'LQ': 60, 'x, 8': 61, 'ground truth': 60}


@pytest.mark.parametrize(('root', 'reason'), [
    ('gone', 'datasets.val.dataroot_gt: must be a folder of clips, an LMDB or a video, got gone. Correct the path.'),
    ('other', 'the test set has no clip a'),
])  # fmt: skip
def test_report_says_why_there_is_no_ground_truth(root, reason, tmp_path, monkeypatch):
    write_images(tmp_path / 'other/b', '{}.png', numbered(3))
    val = {'name': 'mine', 'type': 'MultigridVideoTestDataset', 'dataroot_gt': root}
    html, shown = reported(tmp_path, monkeypatch, val, numbered(3), '{:08d}')
    assert f'<p class="dim">mine/a/00000001, without ground truth: {reason}</p>' in html
    assert shown == {'x, 8': 50}


DURATIONS = [(0.0, '0.0 s'), (9.96, '10.0 s'), (42.4, '42 s'), (60, '1 min'), (61, '1 min 1 s'), (3599.7, '1 h'),
             (3661, '1 h 1 min'), (90000, '1 d 1 h'), (86400, '1 d'), (1036800, '12 d')]  # fmt: skip


@pytest.mark.parametrize(('seconds', 'text'), DURATIONS)
def test_duration_has_its_two_largest_units(seconds, text):
    assert page.duration(seconds) == text


def test_chart_puts_points_and_ticks_where_they_belong():
    drawn = page.draw([page.Series(1, [0, 50, 100], [20.0, 22.0, 24.0], 'dots')], 'iterations', 100)
    (curve,) = drawn['curves']
    assert curve['path'] == 'M0 1000L500 500L1000 0'
    assert curve['dots'][1] == (500, 500, '22 · iteration 50')
    assert drawn['y_ticks'] == [(100, '20'), (75, '21'), (50, '22'), (25, '23'), (0, '24')]
    assert drawn['x_ticks'] == [(0, '0'), (20, '20'), (40, '40'), (60, '60'), (80, '80'), (100, '100')]


@pytest.mark.parametrize(('ys', 'labels'), [
    ([0.0, 0.002], ['0', '0.5e-3', '1e-3', '1.5e-3', '2e-3']),  # one power on the axis
    ([1e6, *[1.0, 2.0] * 499, 1.0], ['1.00', '1.25', '1.50', '1.75', '2.00']),  # what is wild runs out of the frame
])  # fmt: skip
def test_axis_of_a_chart_fits_its_values(ys, labels):
    drawn = page.draw([page.Series(0, range(len(ys)), ys)], 'iterations', len(ys))
    assert [label for _, label in drawn['y_ticks']] == labels


CHROMIUM = next((path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None)  # fmt: skip
# Runs in the page: what a reader would see of it.
PROBE = """<script>
const seen = selector => [...document.querySelectorAll(selector)].filter(e => e.offsetParent || e.getClientRects().length).length;
const state = () => [innerWidth, document.documentElement.scrollWidth - document.documentElement.clientWidth, seen('.view.iterations'), seen('.view.time'),
  seen('.view.samples'), [...document.images].filter(i => !i.naturalWidth).length,
  getComputedStyle(document.body).backgroundColor, performance.getEntriesByType('resource').length,
  Math.max(...[...document.querySelectorAll('.plot svg')].map(e => Math.round(e.getBoundingClientRect().width)))].join('|');
addEventListener('load', () => {
  const before = state();
  document.querySelector('label[for=over-samples]').click();
  parent.document.body.insertAdjacentHTML('beforeend', `<pre id="probe">${before};${state()}</pre>`);
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed; .ci/run installs one')
@pytest.mark.parametrize(('width', 'scheme', 'background'), [
    (1200, 1, 'rgb(246, 247, 249)'), (1200, 0, 'rgb(16, 19, 24)'), (390, 1, 'rgb(246, 247, 249)'),
])  # fmt: skip
def test_page_opens_in_a_browser(width, scheme, background, runs_folder, tmp_path):
    """Light, dark and narrow: nothing wider than the window, one axis at a time, pictures there, nothing fetched."""
    html = page.render([read_experiment(runs_folder / 'experiments' / name) for name in ('multigrid', 'image')])
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', html)
    framed = escape(html.replace('</body>', PROBE))  # in a frame, which may be narrower than Chromium's window
    (tmp_path / 'page.html').write_text(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{framed}"></iframe>'
    )
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
             '--disable-background-networking', '--disable-component-update', f'--user-data-dir={tmp_path}/profile',
             '--window-size=1300,950', f'--blink-settings=preferredColorScheme={scheme}', '--dump-dom',
             '--enable-logging=stderr']  # fmt: skip
    done = subprocess.run(
        [str(CHROMIUM), *flags, (tmp_path / 'page.html').as_uri()], capture_output=True, text=True, timeout=120
    )
    assert 'CONSOLE' not in done.stderr
    before, after = (part.split('|') for part in re.search('<pre id="probe">([^$]*?)</pre>', done.stdout)[1].split(';'))
    charts = str(html.count('<figcaption>') - html.count('alt="'))
    # several runs are compared over time first
    assert before[:8] == [str(width), '0', '0', charts, '0', '0', background, '0']
    assert after[1:5] == ['0', '0', '0', charts]
    assert int(before[8]) > 0.7 * min(width, 1080)
