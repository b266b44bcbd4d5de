"""``multigrid-vsr fit``: option files at equal samples, against values written by hand."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
import yaml
from runs import options, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.conversion import convert
from multigrid_vsr.options.fitting import fit

# BasicVSR-M as the paper trains it: a batch of 16 on 4 GPUs, 300,000 iterations at 2e-4, no ramp.
BASELINE = """\
name: M
model_type: VideoRecurrentModel
scale: 4
num_gpu: 4  # of 32 GB
datasets:
  train:
    type: REDSRecurrentDataset
    num_frame: 15
    gt_size: 256
    batch_size_per_gpu: 4  # of each
network_g: {type: BasicVSR}
train:
  optim_g:
    type: Adam
    lr: !!float 2e-4  # the usual one
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [150000,  # a half
              150000]
    restart_weights: [1, 1]
    eta_min: !!float 1e-7
  total_iter: 300000
  warmup_iter: -1  # no warm up
  fix_flow: 5000
val:
  val_freq: !!float 5e3
logger:
  print_freq: 100  # lines
  save_checkpoint_freq: !!float 5e3
"""
CHANGED = """\
-name: M
+name: M_b64
-num_gpu: 4  # of 32 GB
+num_gpu: 16  # of 32 GB
+
+# the run that this file was made from: plan, log and report compare with it
+stock_run:
+  total_iter: 300000  # its iterations
+  batch_size: 16  # its samples an iteration, on all GPUs
-    lr: !!float 2e-4  # the usual one
+    lr: 0.0008  # the usual one
-    periods: [150000,  # a half
-              150000]
+    periods: [37500,  # a half
+              37500]
-  total_iter: 300000
-  warmup_iter: -1  # no warm up
-  fix_flow: 5000
+  total_iter: 75000
+  warmup_iter: 5000  # no warm up
+  fix_flow: 1250
-  val_freq: !!float 5e3
+  val_freq: 1250
-  print_freq: 100  # lines
-  save_checkpoint_freq: !!float 5e3
+  print_freq: 25  # lines
+  save_checkpoint_freq: 1250
"""


def fitted(folder: Path, text: str, *arguments: object) -> str:
    (folder / 'run.yml').write_text(text)
    main(['fit', '-opt', str(folder / 'run.yml'), '-o', str(folder / 'fit.yml'), *map(str, arguments)])
    return (folder / 'fit.yml').read_text()


def test_fit_of_the_paper_s_baseline_gives_its_large_batch_run_and_keeps_every_comment(tmp_path, capsys):
    after = fitted(tmp_path, BASELINE, '--gpus', 16, '--batch', 64)
    lines = difflib.unified_diff(BASELINE.splitlines(keepends=True), after.splitlines(keepends=True), n=0)
    assert ''.join(line for line in lines if not line.startswith(('---', '+++', '@@'))) == CHANGED
    printed = capsys.readouterr().out
    assert printed.startswith('Global batch 64 for 16, 75000 iterations for 300000: as many samples.\n')
    assert 'train.optim_g.lr: 0.0008 for 0.0002, linear in the batch\n' in printed
    assert "train.warmup_iter: 5000 for -1, linear, the paper's for a larger batch\n" in printed
    assert 'Warning' not in printed
    assert 'Data not checked.' in printed


def test_fit_of_the_paper_s_recipe_keeps_its_stages_at_equal_samples():
    new = fit(convert(yaml.safe_load(BASELINE)).options, gpus=16, batch=64)
    train_opt = new.options['train']
    assert (train_opt['total_iter'], train_opt['optim_g']['lr']) == (75000, 0.0008)
    assert (train_opt['scheduler']['warmup_iter'], train_opt['warmup_iter']) == (5000, -1)
    assert [s.num_iter for s in new.schedule.segments] == [12500] * 6
    assert [s.shape.batch_size_per_gpu for s in new.schedule.segments] == [4] * 6


def run_options(**changes):
    """Ours: 600 iterations of 4 on 8 GPUs, stages of 200 and 400, two frame counts."""
    block = {'gt_size': [128, 256], 'num_frame': [7, 15], 'stage_iter': [200, 400]}
    values = {
        'num_gpu': 8,
        'datasets__train__gt_size': 256,
        'datasets__train__num_frame': 15,
        'datasets__train__batch_size_per_gpu': 4,
        'multigrid': block,
        'train__total_iter': 600,
        'train__scheduler': {'type': 'MultigridCosineLR', 'restart': 'shape', 'anneal': 'last', 'warmup_iter': 40},
        **changes,
    }
    return options(Path('.'), **values)


def test_fit_to_fewer_gpus_keeps_the_batch_and_accumulates_where_memory_needs_it():
    new = fit(run_options(), gpus=2, fill=3).options
    assert (new['num_gpu'], new['datasets']['train']['batch_size_per_gpu']) == (2, 16)
    assert new['multigrid'] == {
        'gt_size': [128, 256], 'num_frame': [7, 15], 'stage_iter': [200, 400], 'micro_batch_size_per_gpu': 3,
    }  # fmt: skip
    assert new['train'] == run_options()['train']  # the global batch is what it was
    assert new['name'] == 'run_2gpus'


def test_fit_with_measured_batches_fills_small_shapes_at_equal_samples():
    new = fit(run_options(), fill=[[34, 9], [6, 2]], lr_scaling='sqrt')
    assert new.options['multigrid'] == {
        'gt_size': [128, 256],
        'num_frame': [7, 15],
        'stage_iter': [200, 400],
        'micro_batch_size_per_gpu': 2,
        'batch_size_per_gpu': [[16, 9], [6, 4]],  # at most 4 times 4, and 4 at the full shape
        'share': 'samples',
    }
    # 100/4 + 100/(9/4) + 200/(6/4) + 200 = 25 + 44.4 + 133.3 + 200 = 402.8
    assert new.options['train']['total_iter'] == 403
    assert [s.num_iter for s in new.schedule.segments] == [25, 44, 133, 201]
    assert new.options['train']['scheduler']['batch_scaling'] == 'sqrt'
    assert new.options['train']['scheduler']['warmup_iter'] == 26  # 403 / 15


def test_fit_of_a_converted_file_keeps_what_the_stock_run_was():
    converted = convert(yaml.safe_load(BASELINE), 'fast').options
    assert converted['stock_run'] == {'total_iter': 300000, 'batch_size': 16}
    for asked in (dict(gpus=2, batch=16), dict(gpus=16, batch=64), dict(sample_fraction=0.5)):
        assert fit(converted, **asked).options['stock_run'] == {'total_iter': 300000, 'batch_size': 16}
    # The file says 4 GPUs and its user 8, so the stock run had 8 times 4 samples too.
    new = fit(converted, file_gpus=8, gpus=4)
    assert new.options['stock_run'] == {'total_iter': 300000, 'batch_size': 32}


def test_fit_of_a_run_whose_stock_run_nobody_knows_writes_none():
    assert 'stock_run' not in fit(run_options(multigrid={'gt_size': [128, 256]}), sample_fraction=2).options


def test_fit_with_measured_batches_fills_the_entries_of_stages_at_equal_samples():
    stages = [{'iter': 300, 'gt_size': 128, 'num_frame': 7}, {'iter': 240, 'gt_size': 128}, {'iter': 60}]
    new = fit(run_options(multigrid={'stages': stages}), fill=[34, 9, 3], sample_fraction=2)
    assert new.options['multigrid'] == {
        'stages': [
            {'iter': 150, 'gt_size': 128, 'num_frame': 7, 'batch_size_per_gpu': 16},  # at most 4 times 4
            {'iter': 213, 'gt_size': 128, 'batch_size_per_gpu': 9},
            {'iter': 120},
        ],
        'micro_batch_size_per_gpu': 3,
    }
    assert new.options['train']['total_iter'] == 483  # 600/4 + 480/(9/4) + 120 = 483.3
    assert new.options['train']['scheduler']['batch_scaling'] == 'linear'


def test_fit_scales_batches_and_stages_that_the_file_writes_out():
    stages = [{'iter': 200, 'gt_size': 128, 'batch_size_per_gpu': 6}, {'iter': 400}]
    new = fit(run_options(multigrid={'stages': stages}), batch=64, sample_fraction=0.5)
    assert new.options['multigrid']['stages'] == [
        {'iter': 50, 'gt_size': 128, 'batch_size_per_gpu': 12}, {'iter': 100},
    ]  # fmt: skip
    assert new.options['name'] == 'run_b64_s0.5'
    volume = {'gt_size': [128, 256], 'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}
    new = fit(run_options(multigrid=volume), batch=64).options['multigrid']
    assert new == {**volume, 'max_batch_size_per_gpu': 16}


def test_fit_of_equal_samples_says_the_true_number_of_iterations():
    block = {'gt_size': [128, 256], 'stage_iter': [300, 300], 'share': 'samples', 'batch_size_per_gpu': [8, 4]}
    new = fit(run_options(multigrid=block, train__total_iter=450), batch=64).options
    assert new['multigrid']['stage_iter'] == [150, 150]
    assert new['multigrid']['batch_size_per_gpu'] == [16, 8]
    assert new['train']['total_iter'] == 225


@pytest.mark.parametrize(
    ('rate', 'lr', 'ramp'), [('linear', 0.008, 5), ('sqrt', 0.002828, 5), ('none', 0.001, 5)]
)  # 600 / 8 / 15 = 5
def test_fit_follows_the_batch_with_the_rate_as_asked(rate, lr, ramp):
    new = fit(run_options(), batch=256, lr_scaling=rate)
    assert new.options['train']['optim_g']['lr'] == lr
    assert new.options['train']['scheduler']['warmup_iter'] == ramp
    warning = (
        'Warning: a batch of 8 times the old one and a rate of as many; the paper went to 4. Consider --lr-scaling sqrt'
    )
    assert any(line.startswith(warning) for line in new.reasons) is (rate == 'linear')


def test_fit_keeps_a_ramp_where_the_rate_stays():
    new = fit(run_options(train__scheduler__warmup_iter=20), sample_fraction=2).options
    assert (new['train']['total_iter'], new['train']['scheduler']['warmup_iter']) == (1200, 20)


def test_fit_to_a_smaller_batch_makes_no_ramp():
    new = fit(run_options(train__scheduler__warmup_iter=-1), batch=16).options
    assert (new['train']['total_iter'], new['train']['optim_g']['lr']) == (1200, 0.0005)
    assert new['train']['scheduler']['warmup_iter'] == -1


STAGES = [{'iter': 200, 'gt_size': 128}, {'iter': 400}]
OF_ITS_OWN = '--fill: must be a number beside a block with batches of its own, got batch_size_per_gpu. Remove'
SENSELESS = [
    ({}, dict(gpus=3), '--batch: must be a multiple of the 3 GPUs, got 32. The nearest is 30 or 33.'),
    ({}, dict(gpus=64), '--batch: must be a multiple of the 64 GPUs, got 32. The nearest is 64.'),
    ({'num_gpu': 'auto'}, dict(gpus=2), 'num_gpu: must be a number to tell the global batch, got auto. Say which the file is for: --file-gpus 8.'),
    ({}, {}, 'fit: must change something, got what the run has already. Give --gpus, --batch or --sample-fraction.'),
    ({'multigrid': {'gt_size': [128, 256], 'batch_size_per_gpu': [5, 4]}}, dict(batch=16), '--batch: must keep multigrid.batch_size_per_gpu whole, got 5 x 1/2. Give another --batch, or change that'),
    ({'model_type': 'VideoRecurrentModel', 'multigrid': None}, dict(fill=4), '--fill: must stand beside a file of'),
    ({}, dict(fill=0), '--fill: must be a whole number of at least 1, got 0.'),
    ({}, dict(fill=[4, 4, 4]), '--fill: must be 2 entries, one for each stage, each a number or 2, one for each'),
    ({'multigrid': {'stages': STAGES}}, dict(fill=[4, 4, 4]), '--fill: must be 2 entries, one for each stage, each a number, got [4, 4, 4]. Take the line that'),
    ({'multigrid': {'stages': [{**STAGES[0], 'batch_size_per_gpu': 6}, STAGES[1]]}}, dict(fill=[8, 4]), OF_ITS_OWN),
    ({'multigrid': {'gt_size': [128, 256], 'batch_size_per_gpu': [8, 4]}}, dict(fill=[4, 4]), OF_ITS_OWN),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'asked', 'line'), SENSELESS)
def test_fit_of_what_makes_no_sense_says_why(changes, asked, line):
    with pytest.raises(OptionError, match='^' + re.escape(line)):
        fit(run_options(**changes), **asked)


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (['--gpus', 0], '--gpus: must be at least 1, got 0. Correct the value.'),
        (['--file-gpus', -1], '--file-gpus: must be at least 1, got -1. Correct the value.'),
        (['--sample-fraction', 0], '--sample-fraction: must be a number above 0, got 0.0. Half of them are 0.5.'),
        (['--fill', 'much'], '--fill: must be a number or a list, got much. Write it as'),
        (['--batch', 64], 'datasets.train.batch_size_per_gpu: must .*'),  # three clips of 22 frames have fewer samples
    ],
)
def test_fit_command_with_bad_input_exits_with_one_line_and_writes_nothing(arguments, line, tmp_path, clips):
    opt_file = write(tmp_path, options(clips, num_gpu=1))
    with pytest.raises(SystemExit, match=line) as error:
        main(['fit', '-opt', str(opt_file), '-o', str(tmp_path / 'fit.yml'), *map(str, arguments)])
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']
