"""Models and archs of the user's own under the schedule, and the examples of docs/your_own_parts.md, trained."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import own_parts  # noqa: F401  # registers
import pytest
from probe import NETWORK, refused, resume_here, train_here
from runs import LQ_SHAPES, log_of, options
from test_archs import ARCHS, arch_options

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models import preflight
from multigrid_vsr.options.archs import leaves_doubt


def of_model(clips, model, **changes):
    return options(
        clips, model_type=model, network_g=NETWORK, train__scheduler={'type': 'MultigridCosineLR', 'warmup_iter': 3},
        train__ema_decay=0.9, logger__save_checkpoint_freq=4, **{'train__pixel_opt': {'type': 'L1Loss'}, **changes},
    )  # fmt: skip


@pytest.mark.parametrize('model', ['OwnStepModel', 'MultigridTheirModel'])
def test_model_with_a_step_of_its_own_follows_the_schedule_and_resumes_exactly(model, tmp_path, clips):
    opt = of_model(clips, model)
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    folder = tmp_path / 'experiments/run'
    log = log_of(folder)
    assert len(re.findall(r'gt_size: \d+ num_frame: \d+ batch_size_per_gpu: \d l_own: \d', log)) == 13
    rates = re.findall(r'lr:\((\S+),\)', log)
    assert rates[0] == '3.333e-04'  # a third of the ramp
    assert resume_here(tmp_path, opt, folder, 8, 12) == fed[4:]


@pytest.mark.parametrize('model', ['OwnStepModel', 'MultigridTheirModel'])
def test_model_with_a_step_of_its_own_saves_before_it_stops(model, tmp_path, clips):
    opt = of_model(clips, model)
    opt['train']['stop_at'] = 6
    with pytest.raises(SystemExit, match='143'):
        train_here(tmp_path, opt)
    states = {path.stem for path in (tmp_path / 'experiments/run/training_states').iterdir()}
    assert states == {'4', '6'}


def test_model_that_adds_to_our_step_logs_both(tmp_path, clips):
    train_here(tmp_path, of_model(clips, 'AddedLogModel'))
    assert len(re.findall(r'l_added: \d\S+ l_pix: \d', log_of(tmp_path / 'experiments/run'))) == 13


@pytest.mark.parametrize(
    ('model', 'changes', 'line'),
    [
        ('TheirModel', {}, r'model_type: must be Multigrid.* or derived from .* MultigridMixin .*, got TheirModel. Set model_'),
        ('OwnStepModl', {}, 'model_type: must be registered in BasicSR, got OwnStepModl. Did you mean `OwnStepModel`?'),
        ('MultigridTheirModel', {'train__amp': 'bf16'}, 'train.amp: must be left out for MultigridTheirModel, which has a'),
        ('MultigridTheirModel', {'multigrid__micro_batch_size_per_gpu': 1}, 'micro_batch_size_per_gpu: must be left out for'),
        ('OwnStepModel', {'train__pixel_opt': None}, 'train.pixel_opt: must be given, or train.perceptual_opt, got nothing.'),
    ],
)  # fmt: skip
def test_model_that_cannot_follow_stops_the_run_before_anything_is_written(model, changes, line, tmp_path, clips):
    refused(tmp_path, of_model(clips, model, **changes), line)


def test_arch_with_a_least_size_keeps_it_and_the_line_says_the_smallest(tmp_path, clips):
    """As BasicVSR++'s assertion of 64 LQ pixels in an arch of the user's own."""
    line = (
        r'gt_size 64 \(at least 24, got 16\). The smallest gt_size that it takes is 96: .*multigrid.min_lq_size: 24\).'
    )
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, options(clips, network_g={'type': 'WindowedArch'}))


LIMITS = [
    ({'min_lq_size': 24}, 'multigrid.gt_size: must be at least 96 for ShapeProbe, got 64. Leave smaller ones out.'),
    ({'lq_divisor': 24}, 'multigrid.gt_size: must be a multiple of 96 for ShapeProbe, got 64.'),
    ({'min_num_frame': 3}, 'multigrid.num_frame: must be at least 3 for ShapeProbe, got 2.'),
    ({'min_lq_size': 0}, 'multigrid.min_lq_size: must be a whole number of at least 1, got 0.'),
]


@pytest.mark.parametrize(('limits', 'line'), LIMITS, ids=str)
def test_limit_that_the_file_states_holds_before_anything_is_written(limits, line, tmp_path, clips):
    opt = options(clips, network_g=NETWORK)
    opt['multigrid'].update(limits)
    refused(tmp_path, opt, line)


def test_limits_may_stand_beside_stages_and_a_known_arch(tmp_path, clips):
    stages = [{'iter': 2, 'gt_size': 64, 'num_frame': 3}, {'iter': 11}]
    opt = options(clips, multigrid={'stages': stages, 'min_lq_size': 20, 'min_num_frame': 3})
    refused(tmp_path, opt, 'multigrid.gt_size: must be at least 80 for BasicVSR, got 64.')


@pytest.mark.parametrize(
    ('network', 'doubtful'),
    [
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, False),
        ({'type': 'EDVR', 'num_feat': 8, 'hr_in': True}, False),
        ({'type': 'EDVR', 'num_feat': 8, 'with_predeblur': True}, True),
        ({'type': 'MyArch'}, True),
    ],
)
def test_unusual_option_of_a_known_arch_leaves_doubt(network, doubtful):
    assert leaves_doubt(network) is doubtful


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('unusual', 'tried'), [({}, []), ({'center_frame_idx': 1}, [(5, 64), (5, 128)])])
def test_known_arch_is_tried_where_its_options_leave_doubt(unusual, tried, tmp_path, stock_clips, monkeypatch):
    shapes, failure = [], preflight._failure
    monkeypatch.setattr(preflight, '_failure', lambda model, *shape: shapes.append(shape) or failure(model, *shape))
    edvr, *shapes_of_edvr = ARCHS[2]
    opt = arch_options(stock_clips, {**edvr, **unusual}, *shapes_of_edvr, train__total_iter=2)
    train_here(tmp_path, opt)
    assert sorted(shapes) == tried


PAGE = Path(__file__).parents[1] / 'docs/your_own_parts.md'


@pytest.fixture(scope='module')
def registered():
    """What the examples define."""
    names = {'__name__': 'my_parts'}
    examples = re.findall(r'<!-- tested -->\n```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    for example in examples:
        exec(compile(example, str(PAGE), 'exec'), names)
    assert len(examples) == 3
    return names


def test_examples_of_dataset_degradation_and_model_train(registered, tmp_path, stock_clips):
    for kind in ('gt', 'lq'):
        files = sorted((stock_clips / kind / '001').iterdir())
        for part in range(4):
            frames = [cv2.imread(str(path)) for path in files[part * 20 : part * 20 + 20]]
            np.save(tmp_path / f'clip{part}_{kind}.npy', np.stack(frames))
    opt = options(stock_clips, network_g=NETWORK, model_type='FourthPowerModel')
    for key in ('dataroot_gt', 'dataroot_lq', 'io_backend', 'interval_list', 'random_reverse', 'use_hflip', 'use_rot'):
        del opt['datasets']['train'][key]
    opt['datasets']['train'].update(type='ArraysDataset', clips=[str(tmp_path / f'clip{part}') for part in range(4)])
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    assert train_here(tmp_path, opt) == fed
    assert 'l_fourth: ' in log_of(tmp_path / 'experiments/run')


def test_example_of_a_degradation_trains(registered, tmp_path, clips):
    opt = options(clips, network_g=NETWORK, train__degradation={'type': 'shrunk_and_noisy', 'sigma': 3})
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    assert train_here(tmp_path, opt) == fed
