"""What a run shows and when it is given up: NaN, gradients, progress, TensorBoard, wandb, and the plan of it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import cv2
import numpy as np
import pytest
import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from probe import NETWORK, train_here
from runs import METRICS, PROBE, TRAIN_PROBE, log_of, losses, options, run, torchrun, validation_set, write
from test_multigrid_video_gan_model import gan_options
from test_multigrid_video_model import build

from multigrid_vsr.cli import main
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models.run import GradClip, LossGuard
from multigrid_vsr.options.run_options import rate_of

LINE = r'l_pix: \S+ samples/s: [\d.]+ Mpixels/s: [\d.]+ waiting: \d+\.\d% peak_memory: \d+\.\d\d '


def test_guard_counts_losses_in_a_row_that_are_no_numbers():
    guard = LossGuard(torch.device('cpu'), is_dist=False)
    counts = []
    for value in (1.0, float('nan'), float('inf'), 2.0, float('-inf')):
        guard.add({'l_pix': torch.tensor(value), 'l_percep': torch.tensor(0.5)})
        counts.append(guard.count())
    assert counts == [0, 1, 2, 0, 1]


def test_run_with_a_loss_that_is_nan_ends_with_what_to_try_and_keeps_the_good_checkpoint(tmp_path, clips):
    """A rate that overflows from the fifth iteration on; checkpoints of weights that are NaN are not written."""
    scheduler = {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 1e38}
    opt = options(clips, network_g=NETWORK, train__scheduler=scheduler, train__stop_on_nan=4, logger__save_checkpoint_freq=2,
                  logger__keep_checkpoints=1)  # fmt: skip
    printed = run(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path, ok=False).stdout
    assert 'Traceback' not in printed
    line = re.search(r'^train\.stop_on_nan: .*$', printed, re.M)[0]
    assert re.match(
        r'train\.stop_on_nan: must see a finite loss within 4 iterations, got none for 4 at iteration 9 '
        r'\(\[1x3x128x128\], learning rate 1\.0e\+35\)\. Lower train\.optim_g\.lr, lengthen train\.scheduler\.warmup_iter, '
        r'or set train\.grad_clip_norm: 1; --auto_resume goes on from iteration 4\.', line,
    )  # fmt: skip
    assert 'Iteration 6 is not saved: its loss or weights are NaN or infinite.' in printed
    folder = tmp_path / 'experiments/run'
    assert [path.name for path in (folder / 'training_states').iterdir()] == ['4.state']
    assert {path.name for path in (folder / 'models').iterdir()} == {'net_g_4.pth'}


def test_nan_on_one_rank_ends_all_ranks(tmp_path, clips):
    opt = options(
        clips, train__scheduler={'type': 'MultiStepLR', 'milestones': [4], 'gamma': 1e38}, train__stop_on_nan=3
    )
    opt['network_g'] = NETWORK
    done = run(*torchrun(PROBE, 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path, ok=False)
    assert done.stdout.count('train.stop_on_nan: must see a finite loss within 3 iterations, got none for 3') == 1
    assert 'iter:       8' not in done.stdout


def test_gradient_is_clipped_to_the_norm_and_logged_for_any_number_of_parts(tmp_path, clips):
    def grads(folder, **changes):
        (tmp_path / folder).mkdir()
        opt = options(clips, train__grad_clip_norm=1e-3, train__optim_g={'type': 'Adam', 'lr': 1e-3}, **changes)
        model, _ = build(tmp_path / folder, opt)
        torch.manual_seed(5)
        model.feed_data({'lq': torch.rand(2, 2, 3, 16, 16), 'gt': torch.rand(2, 2, 3, 64, 64)})
        model.update(1)
        norm = torch.sqrt(
            sum(parameter.grad.pow(2).sum() for parameter in model.net_g.parameters() if parameter.grad is not None)
        )
        return float(norm), model.get_current_log()['grad_norm']

    whole = grads('whole', manual_seed=1)
    parts = grads('parts', manual_seed=1, multigrid__micro_batch_size_per_gpu=1)
    assert whole == pytest.approx((1e-3, whole[1]), rel=1e-3)
    assert whole[1] > 2e-3
    assert parts == pytest.approx(whole, rel=1e-3)


def test_clip_measures_gradients_without_the_factor_of_fp16():
    """Adam and its fused kernel, which divides by the factor itself."""
    for fused in (False, True):
        weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
        clip = GradClip([optimizer], 1.0)
        scaler.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
        scaler.unscale_(optimizer)  # as `update` does
        scaler.step(optimizer)
        assert clip.norms() == {'grad_norm': pytest.approx(5.0)}
        assert weight.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


@pytest.mark.filterwarnings('ignore')
def test_gan_run_logs_the_norms_of_both_networks(tmp_path, clips):
    train_here(tmp_path, gan_options(clips, train__grad_clip_norm=0.01))
    log = log_of(tmp_path / 'experiments/run')
    assert len(re.findall(r'grad_norm: \d\S+ grad_norm_d: \d', log)) == 6


def test_progress_bar_is_on_the_terminal_and_not_in_the_file(tmp_path, clips):
    """``auto`` on a pseudo-terminal and on a pipe; the lines have rates, waiting, memory and no negative time left."""
    path = write(tmp_path, options(clips, network_g=NETWORK))
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 160, 0, 0))
    process = subprocess.Popen([*TRAIN_PROBE, str(path)], cwd=tmp_path, stdout=end, stderr=end)
    os.close(end)
    shown = b''
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r'run: 100%\|.*13/13', text)
    assert re.search(r'\[1x4x128x128\], \d:\d\d:\d\d left', text)
    assert len(losses(text)) == 13  # lines go on above it
    log = log_of(tmp_path / 'experiments/run')
    assert len(re.findall(LINE, log)) == 13
    assert 'eta: -' not in log
    assert len(re.findall(r'Stage \d, segment \d of 6 done: \[', log)) == 6
    assert len(re.findall(r' GB\. Next: \[\dx\dx\d+x\d+\], iterations ', log)) == 5
    assert '%|' not in log
    assert '%|' not in run(*TRAIN_PROBE, path, cwd=tmp_path).stdout


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['VideoRecurrentTestDataset', 'MultigridVideoTestDataset'])
def test_tensorboard_gets_pictures_shapes_rates_and_losses(kind, tmp_path, clips):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    opt = options(clips, network_g=NETWORK, datasets__val=validation_set(clips, kind), train__total_iter=6,
                  val={'val_freq': 3, 'save_img': False, 'metrics': METRICS, 'tb_images': 2})  # fmt: skip
    opt['logger']['use_tb_logger'] = True
    train_here(tmp_path, opt)
    events = EventAccumulator(str(tmp_path / 'tb_logger/run'), size_guidance={'images': 0, 'scalars': 0})
    events.Reload()
    assert events.Tags()['images'] == ['REDS4/000', 'REDS4/001']
    pictures = events.Images('REDS4/000')
    assert [picture.step for picture in pictures] == [3, 6, 6]
    image = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, 'uint8'), cv2.IMREAD_COLOR)
    truth = cv2.imread(str(clips / 'gt/000/00000003.png'))  # the middle of 6
    assert image.shape == (144, 3 * 176, 3)
    assert (image[:, 352:] == truth).all()
    lq = cv2.imread(str(clips / 'lq/000/00000003.png'))
    assert (image[:, :176] == lq.repeat(4, 0).repeat(4, 1)).all()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()['scalars']}
    figures = ('samples_per_s', 'megapixels_per_s', 'waiting', 'peak_memory', 'seconds_left')
    assert {f'multigrid/{name}' for name in figures} <= values.keys()
    assert values['multigrid/gt_size'] == [64] * 3 + [128] * 3
    assert values['multigrid/num_frame'] == [2, 3, 4] * 2
    assert values['multigrid/batch_size_per_gpu'] == [2] * 3 + [1] * 3
    assert values['lr/group_0'][0] == pytest.approx(1e-3)
    assert len(values['losses/l_pix']) == 6


def test_wandb_records_a_run_offline(tmp_path, clips):
    """A real run of wandb without a network: its file has the losses that TensorBoard has."""
    pytest.importorskip('wandb', reason='wandb is not installed')
    opt = options(clips, network_g=NETWORK, train__total_iter=6)
    opt['logger'].update(use_tb_logger=True, wandb={'project': 'test', 'resume_id': None})
    printed = run(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path, WANDB_MODE='offline', WANDB_SILENT='true').stdout
    assert re.search(r'Use wandb logger with id=\w+; project=test\.', printed)
    content = next((tmp_path / 'wandb').glob('offline-run-*/*.wandb')).read_bytes()
    assert b'l_pix' in content
    assert b'megapixels_per_s' in content


SCHEDULE = Schedule.from_shapes([(20, BatchShape(8, 2, 64)), (20, BatchShape(2, 4, 128))], BatchShape(2, 4, 128))


@pytest.mark.parametrize(
    ('kind', 'scheduler'),
    [
        (CosineAnnealingRestartLR, {'periods': [10, 30], 'restart_weights': [1, 0.5], 'eta_min': 1e-5}),
        (MultiStepRestartLR, {'milestones': [5, 12, 12, 30], 'gamma': 0.5, 'restarts': [0, 20], 'restart_weights': [1, 0.5]}),
    ],
)  # fmt: skip
def test_rate_of_a_scheduler_of_basicsr_is_the_one_it_gives(kind, scheduler):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    real = kind(optimizer, **scheduler)
    given = []
    for _ in range(40):
        given.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        real.step()
    optimizer.param_groups[0].update(lr=0.1, initial_lr=0.1)
    real, warmed = kind(optimizer, **scheduler), []
    for current_iter in range(1, 41):  # as BasicSR's update_learning_rate does it
        if current_iter > 1:
            real.step()
        if current_iter < 5:
            optimizer.param_groups[0]['lr'] = 0.1 / 5 * current_iter
        warmed.append(optimizer.param_groups[0]['lr'])
    block = {'optim_g': {'lr': 0.1}, 'scheduler': {'type': kind.__name__, **scheduler}}
    assert [rate_of(block, SCHEDULE)(i) for i in range(40)] == pytest.approx(given)
    warm = rate_of({**block, 'warmup_iter': 5, 'scheduler': {**block['scheduler'], 'batch_scaling': 'sqrt'}}, SCHEDULE)
    assert [warm(i) for i in range(4)] == pytest.approx([0.04, 0.08, 0.12, 0.16])
    # twice the rate, at four times the batch
    assert [warm(i) for i in range(40)] == pytest.approx([2 * rate for rate in warmed[:20]] + warmed[20:])


def plan(capsys, *arguments):
    main(['plan', *map(str, arguments)])
    return capsys.readouterr().out


def test_plan_says_the_rate_of_each_shape_in_text_and_json(tmp_path, clips, capsys):
    scheduler = {'type': 'MultigridCosineLR', 'restart': 'none', 'anneal': 'each', 'eta_min': 0, 'warmup_iter': -1}
    path = write(tmp_path, options(clips, train__scheduler=scheduler, train__total_iter=12))
    assert re.search(r'1 +1-2 +2 +64 +2 +2 +4 .* 1\.00e-03 to 9\.83e-04\n', plan(capsys, '-opt', path))
    data = json.loads(plan(capsys, '-opt', path, '--json'))
    assert data['segments'][5] == {
        'stage': 2, 'first_iter': 11, 'last_iter': 12, 'batch_size_per_gpu': 1, 'num_frame': 4, 'gt_size': 128, 'samples': 2,
        'pixels': 131072, 'cost': 1.0, 'lr': [pytest.approx(1e-3 * 0.0669873), pytest.approx(1e-3 * 0.0170371)],
    }  # fmt: skip
    assert (data['total_iter'], data['samples'], data['gpus'], data['notes'][-1]) == (
        12,
        18,
        1,
        '3 clips of 22 frames.',
    )


@pytest.mark.filterwarnings('ignore')
def test_plan_draws_png_and_svg(tmp_path, clips, capsys):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed')
    path = write(tmp_path, options(clips))
    plan(capsys, '-opt', path, '--plot', tmp_path / 'plan.png')
    image = cv2.imread(str(tmp_path / 'plan.png'))
    assert image.shape == (930, 1500, 3)
    plan(capsys, '-opt', path, '--plot', tmp_path / 'plan.svg')
    assert '</svg>' in (tmp_path / 'plan.svg').read_text()[-20:]
    with pytest.raises(SystemExit, match=r'--plot: must end with \.png or \.svg, got plan\.pdf\.'):
        main(['plan', '-opt', str(path), '--plot', 'plan.pdf'])


def test_plan_measures_each_segment_the_run_and_stock(tmp_path, clips, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, options(clips, train__total_iter=12))
    printed = plan(capsys, '-opt', path, '--measure')
    rows = re.findall(r'^ +(\d+-\d+) +(\d+x\d+x\d+x\d+)? +([\d.e-]+)? +([\d.e-]+)? *([\d.e-]+)$', printed, re.M)
    assert [row[0] for row in rows] == ['1-2', '3-4', '5-6', '7-8', '9-10', '11-12', '1-12']
    assert 0 < float(rows[0][2]) < float(rows[5][2])
    assert re.search(r'The run takes \d:\d\d:\d\d, without validation and checkpoints\.', printed)
    assert re.search(
        r"BasicSR's own model, 18 iterations of the full shape .* at [\d.]+ s, .* times as long\.", printed
    )
    assert not (tmp_path / 'experiments').exists()
    data = json.loads(plan(capsys, '-opt', path, '--measure', '--json'))
    assert data['measured']['seconds'] == pytest.approx(sum(s['seconds'] for s in data['measured']['segments']))
