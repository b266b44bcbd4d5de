"""The options of the bench; that of learning rates with one real variant of 12 iterations and made-up results."""

from __future__ import annotations

import json
import re
import sys

import pytest
from runs import run

from multigrid_vsr.bench import learning_rate


def bench(cwd, *arguments, ok=True):
    return run(sys.executable, '-m', 'multigrid_vsr.cli', 'bench', 'lr', *arguments, cwd=cwd, ok=ok).stdout


def test_bench_goes_on_after_an_interruption_and_trains_only_what_is_missing(tmp_path):
    made_up = {(name, 0, 12): 20.0 + number for number, name in enumerate(learning_rate.VARIANTS)}
    del made_up['stage_half', 0, 12]
    made_up['stage_half', 0, 360] = made_up['stage_half', 1, 12] = 99.0  # other runs
    (tmp_path / 'bench').mkdir()
    for run_, psnr in made_up.items():
        learning_rate.add_result(tmp_path / 'bench', *run_, psnr)
    printed = bench(tmp_path, '--seeds', 1, '--iters', 12, '--data', 'bench')
    assert '5/9 stage_half, seed 0: 100%' in printed
    assert set(re.findall(r'\d/9 (\w+)', printed)) == {'stage_half'}
    last = json.loads((tmp_path / 'bench/learning_rate.jsonl').read_text().splitlines()[-1])
    assert (last['variant'], last['seed'], last['iters']) == ('stage_half', 0, 12)
    assert 26 < last['psnr'] < 28.5  # bicubic has 27.7
    assert (
        f'stage_half     45%  {last["psnr"]:.3f}  {last["psnr"]:.3f}          -      {last["psnr"] - 21:+.3f}          -\n'
        in printed
    )
    assert not list((tmp_path / 'bench/experiments').iterdir())


def test_table_has_mean_and_sample_deviation_of_made_up_results():
    results = {(name, seed, 360): 28.0 for name in learning_rate.VARIANTS for seed in (0, 1)}
    # deviations 0.6 / sqrt 2 = 0.424 of the values and 0.5 / sqrt 2 = 0.354 of their distance from 28.0 and 28.1
    results['shape', 0, 360], results['shape', 1, 360], results['stage', 1, 360] = 27.9, 28.5, 28.1
    lines = learning_rate.table(results, seeds=2, iters=360, bicubic=27.7129).splitlines()
    assert lines[0] == '      variant  pixels  seed 0  seed 1    mean  deviation  from stage  deviation'
    assert lines[2:6] == [
        '      bicubic       -       -       -  27.713          -           -          -',
        # 15 frames of 21 and 5 quarters of 8 quarters: 75 / 168 of the pixels
        '         none     45%  28.000  28.000  28.000      0.000      -0.050      0.071',
        '        stage     45%  28.000  28.100  28.050      0.071      +0.000      0.000',
        '        shape     45%  27.900  28.500  28.200      0.424      +0.150      0.354',
    ]
    assert lines[-1] == '        stock    100%  28.000  28.000  28.000      0.000      -0.050      0.071'


def test_variant_differs_from_the_demo_in_scheduler_and_batch_alone():
    plain, volume = (learning_rate.options(name, 3, 360) for name in ('stage', 'volume_linear'))
    assert plain['train']['scheduler'] == {'type': 'MultigridCosineLR', 'warmup_iter': 15, 'restart': 'stage'}
    assert volume['train']['scheduler'] == {**plain['train']['scheduler'], 'batch_scaling': 'linear'}
    assert (plain['train']['warmup_iter'], plain['manual_seed'], plain['train']['total_iter']) == (-1, 3, 360)
    assert volume['multigrid'] == {
        'gt_size': [64, 128],
        'num_frame': [3, 5, 7],
        'batch_size_per_gpu': 'volume',
        'max_batch_size_per_gpu': 8,
    }
    assert learning_rate.options('stage_no_ramp', 0, 12)['train']['scheduler']['warmup_iter'] == -1


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (('--seeds', 0), '--seeds: must be at least 1, got 0. Each seed trains every variant once.\n'),
        (('--iters', 5), '--iters: must be at least 12, got 5. Two stages of three frame counts need as many.\n'),
    ],
)
def test_bench_with_bad_option_exits_with_one_line(tmp_path, arguments, line):
    assert bench(tmp_path, *arguments, '--data', 'bench', ok=False) == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('what', ['loader', 'step', 'options', 'run'])
def test_bench_without_rounds_exits_with_one_line(tmp_path, what):
    done = run(sys.executable, '-m', 'multigrid_vsr.cli', 'bench', what, '--rounds', 0, cwd=tmp_path, ok=False)
    assert done.stdout == '--rounds: must be at least 1, got 0. Medians are taken over the rounds.\n'
