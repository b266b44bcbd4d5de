"""``python -m benchmarks.growth``, ``scale``, ``plan`` and the clips of ``train``: what they work out, on figures by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import cv2
import numpy as np
import pytest

from benchmarks import scale, time_predicted
from benchmarks.frames import dataset_options, ours, write_black_store
from benchmarks.growth import Curve, draw
from benchmarks.scale import slow_folder
from benchmarks.train import clips, made_motion
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.report.read import Log, Point


@pytest.mark.parametrize(('values', 'exponent'), [((3, 6, 12), 1), ((3, 12, 48), 2), ((5, 5, 5), 0), ((8, 4, 2), -1)])
def test_curve_over_doubled_sizes_has_the_power_of_its_values(values, exponent):
    assert Curve('ms', 'frames', (10, 20, 40), values).exponent == pytest.approx(exponent, abs=1e-12)


def test_curves_are_drawn_into_one_picture(tmp_path):
    curve = Curve('iteration / ms', 'frames', (3, 5, 7), (30.0, 50.0, 70.0))
    draw(tmp_path / 'growth.svg', [curve] * 4)
    text = (tmp_path / 'growth.svg').read_text()
    assert text.count('<!-- power 1.00 -->') == 4


def test_black_store_loads_as_a_data_set_of_its_size(tmp_path):
    write_black_store(tmp_path, 300, num_frame=10, height=96, width=160)
    load = ours(tmp_path, 'packed', 64, 7)
    batch = load(1)
    assert batch['lq'].shape == (1, 7, 16, 16, 3)
    assert batch['gt'].shape == (1, 7, 64, 64, 3)
    assert not np.any(batch['gt'].numpy())
    assert dataset_options(tmp_path, 'packed', 64, 7)['dataroot_gt'] == str(tmp_path / 'store/gt')


@pytest.mark.parametrize('ranks', [1, 3, 64])
def test_shares_of_ranks_have_no_sample_twice_in_a_pass(ranks):
    count, _, twice = scale.shares(ranks)
    assert (count, twice) == (str(ranks), '0')


def test_shares_that_overlap_are_counted(monkeypatch):
    of_rank = scale.batch_requests
    monkeypatch.setattr(scale, 'batch_requests', lambda *args, rank, **options: of_rank(*args, rank=0, **options))
    assert scale.shares(2)[2] == str(26600 // 8 * 4)


def test_slow_folder_shows_the_files_and_lets_each_read_wait(tmp_path):
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root/frames.bin').write_bytes(bytes(range(200)))
    try:
        with slow_folder(tmp_path / 'root', tmp_path / 'slow', latency_ms=200, mb_per_second=1000):
            start = time.perf_counter()
            assert (tmp_path / 'slow/frames.bin').read_bytes() == bytes(range(200))
            assert time.perf_counter() - start >= 0.2
            assert not (tmp_path / 'slow/other').exists()
    except InputError as error:
        pytest.skip(str(error))  # no FUSE here
    assert not (tmp_path / 'slow').is_mount()


def log_of(*lines: tuple[int, float, str]) -> Log:
    start = datetime(2026, 11, 25, 10)
    found = [Point(iteration, start + timedelta(seconds=seconds), {}, eta) for iteration, seconds, eta in lines]
    return Log(start=start, lines=found, last_time=found[-1].time)


def test_predicted_seconds_stand_beside_those_between_the_lines_of_the_log(tmp_path):
    path = tmp_path / 'run.yml'
    path.write_text(
        'model_type: MultigridVideoModel\nscale: 4\nnetwork_g: {type: BasicVSR}\ntrain: {total_iter: 30}\n'
        'datasets: {train: {type: MultigridREDSDataset, batch_size_per_gpu: 2, gt_size: 128, num_frame: 7}}\n'
        'multigrid: {stages: [{iter: 10, gt_size: 64}, {iter: 20, gt_size: 128}]}\n'
    )
    log = log_of((5, 4.0, '0:00:40'), (10, 10.0, '0:00:35'), (20, 30.0, '0:00:25'), (30, 50.0, '0:00:00'))
    table = time_predicted.compared(path, [11.0, 36.0], log).splitlines()
    assert [row.split()[-3:] for row in table[2:]] == [
        ['11.0', '10.0', '1.100'],
        ['36.0', '40.0', '0.900'],
        ['47.0', '50.0', '0.940'],
    ]


def test_time_left_of_lines_stands_beside_when_the_log_ends():
    etas = {1: '1 day, 0:00:10', 2: '0:01:00', 5: '0:00:40', 10: '0:00:30', 15: '0:00:15', 20: '0:00:00'}
    log = log_of(*((iteration, 2.0 * iteration, eta) for iteration, eta in etas.items()))
    rows = [row.split() for row in time_predicted.time_left(log).splitlines()[2:]]
    assert rows == [
        ['1', '86410.0', '38.0', '2273.947'],
        ['2', '60.0', '36.0', '1.667'],
        ['5', '40.0', '30.0', '1.333'],
        ['10', '30.0', '20.0', '1.500'],
        ['15', '15.0', '10.0', '1.500'],
    ]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Motion and frames of a clip whose layers are two frames of real video."""
    folder = tmp_path_factory.mktemp('packages')
    pictures = []
    for name in ('bikes.mp4', 'bigbuckbunny.mp4'):
        path = folder / 'photographs/usr/share' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), next(read_frames(find_video(name), 1088)))
        pictures.append(('photographs', path.name, 'none', 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_motion, 'NUM_FRAME', 6)
        return next(made_motion.clips(folder, pictures))


def test_flow_of_made_motion_takes_a_frame_to_the_next(made):
    motion, frames = made
    places = np.stack(np.meshgrid(np.arange(made_motion.WIDTH), np.arange(made_motion.HEIGHT)), -1)
    for at in range(5):
        flow = motion.flow(at, at + 1)
        assert 0.1 < np.hypot(*np.moveaxis(flow, -1, 0)).mean() < 20
        warped = cv2.remap(frames[at + 1], (places + flow).astype(np.float32), None, cv2.INTER_CUBIC)
        inside = slice(24, -24), slice(24, -24)
        errors = [abs(image.astype(float) - frames[at])[inside] for image in (warped, frames[at + 1])]
        assert np.median(errors[0]) <= 2
        assert errors[0].mean() < errors[1].mean() / 2
        there_and_back = flow + cv2.remap(
            motion.flow(at + 1, at), (places + flow).astype(np.float32), None, cv2.INTER_LINEAR
        )
        assert np.median(abs(there_and_back[inside])) < 1e-3


def test_whole_sources_are_held_out():
    names = [{name for _, name, *_ in pictures} for pictures in (made_motion.TRAINED, made_motion.HELD_OUT)]
    assert not names[0] & names[1]
    films = [{part.video for part in clips._HALVED if part.folder == kind} for kind in ('train', 'val')]
    assert not films[0] & films[1]
