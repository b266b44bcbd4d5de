"""Models of the user's own and of other projects under the schedule: accepted by class, whole in each iteration."""

from __future__ import annotations

import re

import own_parts  # noqa: F401  # registers
import pytest
from probe import NETWORK, refused, resume_here, train_here
from runs import log_of, options
from test_own_dataset import LQ_SHAPES


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
