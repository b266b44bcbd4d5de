"""What stands beside training: a run goes on where it fails, and says so."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from probe import train_here
from runs import log_of, options, own_set, refusal, run, torchrun, write

from multigrid_vsr.core.errors import InputError


@METRIC_REGISTRY.register()
def calculate_picky(img, img2, **kwargs):
    if os.environ.get('RANK') == '0':
        return 1.0
    raise ValueError('no picture\nof this size')


CALLS = itertools.count()


@METRIC_REGISTRY.register()
def calculate_late(img, img2, **kwargs):
    if next(CALLS) < 2:
        raise ValueError('not yet')
    return 1.0


SCRIPT = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import test_beside
from multigrid_vsr.cli import main
main()
"""
FULL_DISK = """
import builtins
import io
import pathlib


def full(where, write):
    def writing(file, *args, **kwargs):
        if where in str(file) and args != ('rb',):
            raise OSError(28, 'No space left on device')
        return write(file, *args, **kwargs)

    return writing


builtins.open = io.open = full("events.out", open)
pathlib.Path.write_bytes = full('.png', pathlib.Path.write_bytes)
main()
"""
VALIDATION = {'val_freq': 1, 'save_img': False}
PSNR = {'type': 'calculate_psnr', 'crop_border': 0}


def beside_options(clips, folder, val, **changes):
    changes = {
        'path__experiments_root': str(folder),
        'network_g': {'type': 'ShapeProbe'},
        'train__total_iter': 6,
        'train__scheduler': {'type': 'MultigridCosineLR'},
        'datasets__val': own_set(clips, 'clips'),
        'val': {**VALIDATION, **val},
        **changes,
    }
    return options(clips, **changes)


def script(folder, text=SCRIPT):
    path = folder / 'script.py'
    path.write_text(text)
    return path


def trained(folder, opt):
    """The log of a run in this process."""
    train_here(folder, opt)
    return log_of(folder / 'run')


def test_metric_that_raises_is_left_out_after_three_times_and_the_run_ends_well(tmp_path, clips):
    metrics = {'picky': {'type': 'calculate_picky'}, 'psnr': PSNR, 'late': {'type': 'calculate_late'}}
    opt = beside_options(clips, tmp_path, {'metrics': metrics}, logger__keep_best='picky')
    log = trained(tmp_path, opt)
    failures = [line.partition('ERROR: ')[2] for line in log.splitlines() if 'Metric ' in line]
    why = 'ValueError: no picture of this size'
    assert failures == [
        'Metric late of clips failed: ValueError: not yet. Training goes on.',
        f'Metric picky of clips failed: {why}. Training goes on.',
        'Metric late of clips failed, 2 times in a row: ValueError: not yet. Training goes on.',
        f'Metric picky of clips failed, 2 times in a row: {why}. Training goes on.',
        f'Metric picky of clips failed, 3 times in a row: {why}. Training goes on.',
        'Metric picky of clips is left out from here on: it failed 3 times in a row.',
    ]
    assert (log.count('# psnr: '), log.count('# late: 1.0000')) == (7, 5)
    assert 'Traceback' not in log
    assert (tmp_path / 'run/models/net_g_latest.pth').is_file()


def test_only_metric_that_raises_does_not_end_a_run(tmp_path, clips):
    opt = beside_options(clips, tmp_path, {'metrics': {'picky': {'type': 'calculate_picky'}}}, train__total_iter=1)
    assert [line.partition('ERROR: ')[2] for line in trained(tmp_path, opt).splitlines() if 'ERROR' in line] == [
        'Metric picky of clips failed: ValueError: no picture of this size. Training goes on.',
        'Metric picky of clips failed, 2 times in a row: ValueError: no picture of this size. Training goes on.',
    ]


def test_metric_that_raises_on_one_rank_holds_no_other(tmp_path, clips):
    metrics = {'picky': {'type': 'calculate_picky'}, 'psnr': PSNR}
    opt = beside_options(clips, tmp_path, {'metrics': metrics}, train__total_iter=2)
    log = run(*torchrun(script(tmp_path), 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path, seconds=120).stdout
    assert 'Metric picky of clips failed: on another rank. Training goes on.' in log
    assert '# picky' not in log
    assert log.count('# psnr: ') == 3


def test_validation_whose_frame_is_missing_is_tried_again_by_every_rank(tmp_path, clips):
    shutil.copytree(clips, tmp_path / 'v')
    damaged = tmp_path / 'v/gt/001/00000004.png'  # the second rank reads this clip
    damaged.write_bytes(damaged.read_bytes()[:300])
    opt = beside_options(tmp_path / 'v', tmp_path, {'metrics': {'psnr': PSNR}}, train__total_iter=2)
    opt['datasets']['train'].update(dataroot_gt=str(clips / 'gt'), dataroot_lq=str(clips / 'lq'))
    log = run(*torchrun(script(tmp_path), 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path, seconds=120).stdout
    assert log.count('Validation of clips failed: RuntimeError: on another rank. Training goes on.') == 1
    assert log.count('Validation of clips failed, 2 times in a row: RuntimeError: on another rank. ') == 1
    assert f'{damaged}' in log  # by the rank that met it
    assert (tmp_path / 'run/models/net_g_latest.pth').is_file()


def test_pictures_and_tensorboard_that_cannot_be_written_do_not_end_a_run(tmp_path, clips):
    """As on a full disk."""
    opt = beside_options(clips, tmp_path, {'metrics': {'psnr': PSNR}, 'save_img': True, 'tb_images': 1},
                         train__total_iter=3, logger__use_tb_logger=True, logger__save_checkpoint_freq=2)  # fmt: skip
    path = script(tmp_path, SCRIPT.replace('main()\n', FULL_DISK))
    log = run(sys.executable, path, 'train', '-opt', write(tmp_path, opt), cwd=tmp_path).stdout
    assert f'Saving a picture failed: {tmp_path}/run/visualization/clips/' in log
    assert (
        'cannot be written (No space left on device). Make room, or set val.save_img: false. Training goes on.' in log
    )
    assert 'Saving a picture failed, 3 times in a row' in log
    assert 'TensorBoard failed: OSError: [Errno 28] No space left on device. Training goes on.' in log
    assert 'Traceback' not in log
    assert {path.name for path in (tmp_path / 'run/training_states').iterdir()} == {'2.state'}
    assert (tmp_path / 'run/models/net_g_latest.pth').is_file()


def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')


def test_figures_of_frames_that_are_equal_are_numbers(tmp_path, clips):
    """A network of zeros gives black frames, as two of the clip are: their PSNR is infinite."""
    shutil.copytree(clips, tmp_path / 'v')
    for number in (0, 1):
        for kind in ('gt', 'lq'):
            frame = tmp_path / f'v/{kind}/000/{number:08d}.png'
            cv2.imwrite(str(frame), np.zeros_like(cv2.imread(str(frame))))
    opt = beside_options(tmp_path / 'v', tmp_path, {'metrics': {'psnr': PSNR}}, logger__keep_best='psnr',
                         train__total_iter=1, train__optim_g__lr=1e-20, path__pretrain_network_g=str(tmp_path / 'w.pth'))  # fmt: skip
    opt['datasets']['train'].update(dataroot_gt=str(clips / 'gt'), dataroot_lq=str(clips / 'lq'))
    weights = {'conv.weight': torch.zeros(48, 3, 1, 1), 'conv.bias': torch.zeros(48)}
    torch.save({'params': weights}, tmp_path / 'w.pth')
    log = trained(tmp_path, opt)
    assert 'psnr of clips is infinite or NaN for frames, as PSNR is for equal ones (2 of 000): the mean is' in log
    assert not re.search(r'\b(inf|nan)\b', log)
    best = json.loads((tmp_path / 'run/models/best.json').read_text(), parse_constant=refuse)
    assert 0 < best['value'] < 20
    done = run(sys.executable, script(tmp_path), 'test', '-opt', tmp_path / 'run.yml', '--json', cwd=tmp_path).stdout
    found = json.loads(done[done.index('{\n') :], parse_constant=refuse)
    assert found['datasets']['clips']['psnr']['mean'] == pytest.approx(best['value'])


PSNR_OF_NOTHING = {'type': 'calculate_psnr', 'crop_border': 72}
SSIM_OF_NOTHING = {'type': 'calculate_ssim', 'crop_border': 67}
LEAVE = 'in clip 000. Lower it, or leave the metric or the clip out.'


@pytest.mark.parametrize(
    ('metric', 'names', 'line'),
    [
        (PSNR_OF_NOTHING, ['clips'], f'val.metrics.m.crop_border: must leave 1 pixels or more of each side for calculate_psnr, got 72 for frames of 144x176 {LEAVE}'),
        (SSIM_OF_NOTHING, ['clips'], f'val.metrics.m.crop_border: must leave 11 pixels or more of each side for calculate_ssim, got 67 for frames of 144x176 {LEAVE}'),
        (PSNR, ['clips', 'clips'], 'datasets.val_2.name: must differ from the name of datasets.val, got clips. Give each test set a name of its own.'),
    ],
)  # fmt: skip
def test_metric_of_nothing_or_name_given_twice_is_refused_before_a_run(metric, names, line, tmp_path, clips):
    opt = beside_options(clips, tmp_path / 'exp', {'metrics': {'m': metric}})
    for key, name in zip(('val', 'val_2'), names):
        opt['datasets'][key] = {**opt['datasets']['val'], 'name': name}
    assert refusal('plan', '-opt', write(tmp_path, opt)) == line
    with pytest.raises(InputError, match=re.escape(line)):
        train_here(tmp_path, opt)
    assert not (tmp_path / 'exp').exists()
