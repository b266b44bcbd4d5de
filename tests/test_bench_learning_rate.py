"""The options of the bench; that of learning rates with two real variants of 12 iterations and made-up results."""

from __future__ import annotations

import json
import re
import sys

import pytest
from runs import run

from multigrid_vsr.bench import learning_rate
from multigrid_vsr.bench.learning_rate import Run


def bench(cwd, *arguments, ok=True):
    return run(sys.executable, '-m', 'multigrid_vsr.cli', 'bench', 'lr', *arguments, cwd=cwd, ok=ok).stdout


def test_bench_goes_on_after_an_interruption_and_trains_only_what_is_missing_at_once(tmp_path):
    runs = [Run(name, rate, 0, 12) for name in ('stage', 'paper', 'stage_half') for rate in (0.002, 0.0005)]
    made_up = {run: 20.0 + number for number, run in enumerate(runs)}
    missing = [Run('stage_half', 0.002, 0, 12), Run('paper', 0.0005, 0, 12)]
    for run_ in missing:
        del made_up[run_]
    made_up[Run('paper', 0.0005, 0, 360)] = made_up[Run('paper', 0.0005, 1, 12)] = 99.0  # other runs
    (tmp_path / 'bench').mkdir()
    older = {'variant': 'paper', 'seed': 0, 'iters': 12, 'psnr': 98.0}  # has no rate
    (tmp_path / 'bench/learning_rate.jsonl').write_text(json.dumps(older) + '\n')
    for run_, psnr in made_up.items():
        learning_rate.add_result(tmp_path / 'bench', run_, psnr)
    names = ('--variants', 'stage', 'paper', 'stage_half')
    printed = bench(tmp_path, '--seeds', 1, '--iters', 12, '--data', 'bench', '--jobs', 2, *names)
    assert '3/6 stage_half at 0.002, seed 0: 100%' in printed
    assert set(re.findall(r'\d/6 (\w+ at [\d.]+)', printed)) == {'stage_half at 0.002', 'paper at 0.0005'}
    results = learning_rate.read_results(tmp_path / 'bench')
    assert results.keys() == made_up.keys() | set(missing)
    half, paper = (results[run_] for run_ in missing)
    assert all(26 < psnr < 28.5 for psnr in (half, paper))  # bicubic has 27.7
    rows = [line.split() for line in printed.splitlines() if re.match(r' *(stage_half|paper) .*%', line)]
    assert [row for row in rows if row[:2] == ['stage_half', '0.002']] == [
        ['stage_half', '0.002', '45%', f'{half:.3f}', f'{half:.3f}', '-', f'{half - 20:+.3f}', '-']
    ]
    assert [row for row in rows if row[:2] == ['paper', '0.0005']] == [
        ['paper', '0.0005', '45%', f'{paper:.3f}', f'{paper:.3f}', '-', f'{paper - 21:+.3f}', '-']
    ]
    assert not list((tmp_path / 'bench/experiments').iterdir())


def test_table_has_mean_and_sample_deviation_of_made_up_results():
    runs = [
        Run(name, rate, seed, 360) for seed in (0, 1) for rate in (0.002, 0.0005) for name in ('paper', 'paper_full')
    ]
    results = dict.fromkeys(runs, 28.0)
    # deviations 0.6 / sqrt 2 = 0.424 of the values and 0.5 / sqrt 2 = 0.354 of their distance from 28.0 and 28.1
    for run_, psnr in (
        (Run('paper_full', 0.002, 0, 360), 27.9),
        (Run('paper_full', 0.002, 1, 360), 28.5),
        (Run('paper', 0.002, 1, 360), 28.1),
    ):
        results[run_] = psnr
    assert learning_rate.table(results, runs, bicubic=27.7129).splitlines()[:1] == [
        '   variant    rate  pixels  seed 0  seed 1    mean  deviation  from paper  deviation'
    ]
    assert learning_rate.table(results, runs, bicubic=27.7129).splitlines()[2:] == [
        '   bicubic       -       -       -       -  27.713          -           -          -',
        # 15 frames of 21 and 5 quarters of 8 quarters: 75 / 168 of the pixels
        '     paper   0.002     45%  28.000  28.100  28.050      0.071      +0.000      0.000',
        'paper_full   0.002    100%  27.900  28.500  28.200      0.424      +0.150      0.354',
        '     paper  0.0005     45%  28.000  28.000  28.000      0.000      +0.000      0.000',
        'paper_full  0.0005    100%  28.000  28.000  28.000      0.000      +0.000      0.000',
    ]


def test_variant_differs_from_the_demo_in_scheduler_shapes_and_rate_alone():
    def of(name):
        return learning_rate.options(Run(name, 0.0005, 3, 360))

    cosine = {'type': 'MultigridCosineLR', 'warmup_iter': 24}
    paper, volume, full, stock = (of(name) for name in ('paper', 'volume_linear', 'paper_full', 'stock'))
    assert paper['train']['scheduler'] == {**cosine, 'restart': 'shape', 'anneal': 'last'}
    assert of('each')['train']['scheduler'] == {**cosine, 'restart': 'shape', 'anneal': 'each'}
    assert of('cosine')['train']['scheduler'] == {**cosine, 'restart': 'none'}
    assert volume['train']['scheduler'] == {**cosine, 'restart': 'stage', 'batch_scaling': 'linear'}
    assert (paper['train']['warmup_iter'], paper['manual_seed'], paper['train']['total_iter']) == (-1, 3, 360)
    assert volume['multigrid'] == {
        'gt_size': [64, 128],
        'num_frame': [3, 5, 7],
        'batch_size_per_gpu': 'volume',
        'max_batch_size_per_gpu': 8,
    }
    assert full['multigrid'] == {'stages': [{'iter': 60}] * 6}
    assert full['train'] == paper['train']
    assert stock['train']['scheduler']['type'] == 'CosineAnnealingRestartLR'
    assert 'multigrid' not in stock
    assert [opt['train']['optim_g']['lr'] for opt in (paper, full, stock)] == [0.0005] * 3
    assert of('stage_no_ramp')['train']['scheduler']['warmup_iter'] == -1


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (('--seeds', 0), '--seeds: must be at least 1, got 0. Each seed trains every variant once.\n'),
        (('--jobs', 0), '--jobs: must be at least 1, got 0. Leave it out for one run with all threads.\n'),
        (('--rates', '0'), '--rates: must be numbers above 0, got 0.0. Write them as 2e-3 5e-4.\n'),
        (
            ('--variants', 'papers'),
            '--variants: must be of paper, each, cosine, paper_full, stock, stage, stage_no_ramp, stage_ramps, '
            'stage_half, volume, volume_sqrt, volume_linear, got papers. Choose among them.\n',
        ),
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
