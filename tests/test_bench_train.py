"""The matrix of runs: two real ones of 12 iterations; its options, verdicts and tables on literal numbers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import runpy
import statistics
import sys
from pathlib import Path

import pytest
from runs import refusal

from benchmarks.train import matrix, tables
from benchmarks.train.__main__ import main
from benchmarks.train.claims import CLAIMS, interval
from benchmarks.train.clips import BENCH_PARTS
from benchmarks.train.plot import draw
from benchmarks.train.results import read_runs, read_times
from benchmarks.train.runs import NETWORKS, VARIANTS, Run, options
from benchmarks.train.times import case_of
from multigrid_vsr.core.schedule import BatchShape
from multigrid_vsr.demo import prepare
from multigrid_vsr.options.run_options import checked_schedule

ROOT = Path(__file__).parents[1]
A_RUN = Run('paper', 'basicvsr', 128, 7, 0.002, 360, 3)


def run_line(run, curve, segments=((360, 2, 7, 128),), psnr_last=(30.0,)):
    """A line of results."""
    return {'kind': 'run', **run._asdict(), 'segments': segments, 'curve': curve, 'psnr_last': psnr_last, 'wall': None}


def time_line(shape, step_ms, load_ms):
    case = {'arch': 'basicvsr', 'is_stock': False, 'train': [], 'shape': shape}
    return {'kind': 'time', **case, 'step_ms': step_ms, 'load_ms': load_ms}


def write_lines(folder, *lines):
    path = folder / 'results.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def cells(table):
    """The rows below the header of a table."""
    return [re.split(r'  +', row.strip()) for row in table.splitlines()[2:]]


def test_bench_trains_what_is_missing_and_reads_its_results_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def bench(*arguments):
        main([str(word) for word in arguments])
        return ''.join(capsys.readouterr())

    (tmp_path / 'bench').mkdir()
    prepare(tmp_path / 'bench/data', [p if p.folder == 'train' else p._replace(num_frame=2) for p in BENCH_PARTS])
    short = '--iters 12 --seeds 1 --rounds 1 --flow_iters 2 --start_iters 12 --gt_size 64 --checkpoints 2 --data bench'
    small = (*short.split(), '--variants', 'stock', 'paper')
    interrupted = tmp_path / 'bench/experiments/stock_basicvsr_64_7_0.002_12_0/training_states'
    interrupted.mkdir(parents=True)
    (interrupted / '3.state').touch()  # BasicSR's own would resume from it, only on a GPU
    printed = bench(*small, '--jobs', 2)
    assert set(re.findall(r'(\d/\d \w+), seed 0: 100%', printed)) == {'1/2 stock', '2/2 paper'}
    path = tmp_path / 'bench/results.jsonl'
    runs, times = read_runs(path), read_times(path)
    assert {run_.variant for run_ in runs} == {'stock', 'paper'}
    for run_, result in runs.items():
        assert [iteration for iteration, _ in result.curve] == [6, 12]
        assert all(len(psnrs) == 3 for psnrs in (*(psnrs for _, psnrs in result.curve), result.psnr_last))
        assert all(20 < psnr < 35 for psnr in (result.psnr(), result.psnr(averaged=False)))
        assert result.psnr() != result.psnr(averaged=False)
        assert 0 < times.seconds(run_, result, 6) < times.seconds(run_, result)
        assert result.wall > 0
    paper = next(result for run_, result in runs.items() if run_.variant == 'paper')
    assert [(count, str(shape)) for count, shape in paper.segments] == [
        (2, '2x3x32x32'), (2, '2x5x32x32'), (2, '2x7x32x32'), (2, '2x3x64x64'), (2, '2x5x64x64'), (2, '2x7x64x64'),
    ]  # fmt: skip
    before = path.read_text()
    again = bench(*small)  # nothing is missing
    assert 'seed 0:' not in again
    assert path.read_text() == before
    assert bench('--table', '--results', path, '--plot', 'pictures') in again
    assert [p.name for p in (tmp_path / 'pictures').iterdir()] == ['basicvsr_64_7_0.002_12.png']
    assert not list((tmp_path / 'bench/experiments').iterdir())


@pytest.mark.parametrize('arch', [name for name in NETWORKS if name != 'basicvsr_64x30'])
@pytest.mark.parametrize('name', VARIANTS)
def test_options_of_every_variant_are_a_run_that_passes_the_checks(name, arch):
    opt = options(A_RUN._replace(variant=name, arch=arch))
    assert opt['train']['ema_decay'] == 0.95
    if VARIANTS[name].setup == 'stock':
        stock = ('EDVRModel', 'REDSDataset') if arch == 'edvr' else ('VideoRecurrentModel', 'REDSRecurrentDataset')
        assert (opt['model_type'], opt['datasets']['train']['type'], 'multigrid' in opt) == (*stock, False)
    else:
        full = checked_schedule(opt).segments[-1].shape
        assert (full.gt_size, full.num_frame) == (128, 5 if arch == 'edvr' else 7)


def test_options_of_all_runs_are_those_that_the_committed_results_were_trained_with():
    """A run that is added to them has to be comparable: where this fails, the demo's options or a variant has changed."""
    found = [options(run, 1) for run in sorted(read_runs(ROOT / 'benchmarks/results/train.jsonl'))]
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    assert (len(found), digest[:16]) == (301, 'ad5195b53b34e514')


def test_options_of_what_has_no_committed_results_are_those_that_it_says():
    mixed = options(A_RUN._replace(data='mixed'))
    assert mixed['datasets']['train']['dataroot_gt'] == 'data_mixed/store/gt'
    assert mixed['path']['pretrain_network_g'] == 'data_mixed/start_basicvsr.pth'
    assert mixed['network_g']['spynet_path'] == 'data_mixed/spynet.pth'
    late = options(A_RUN._replace(variant='fill4_late_options'))['multigrid']['stages']
    filled = [(entry['iter'], entry.get('batch_size_per_gpu')) for entry in late]
    assert filled == [(36, None), (72, 8), (81, 8), (18, None)]  # 324 are 36 and 288 / 4
    assert options(A_RUN._replace(variant='random_flow'))['network_g']['spynet_path'] is None
    more = A_RUN._replace(variant='more', gt_size=256)
    assert options(more)['train']['fix_flow'] == 720 + 324
    # An iteration of a small shape is timed with the flow network held, one of the full shape is not.
    held = [dict(case_of(more, BatchShape(2, frames, side)).train) for frames, side in ((5, 64), (7, 256))]
    assert held == [{'fix_flow': 10**9}, {}]
    assert options(A_RUN._replace(variant='full_muon'))['train']['optim_g']['type'] == 'benchmarks.train.muon.ConvMuon'


def test_interval_is_that_of_students_t():
    low, high = interval([0.1, 0.2, 0.3])  # t = 4.3027 for 2 degrees of freedom, 0.1 / sqrt 3
    assert (low, high) == pytest.approx((0.2 - 0.24842, 0.2 + 0.24842), abs=1e-4)
    assert interval([0.1]) == (-math.inf, math.inf)


def test_tables_pair_runs_inside_a_seed_and_add_up_times(tmp_path):
    shapes = {'full': [[10, 2, 7, 128]], 'paper': [[6, 2, 7, 64], [4, 2, 7, 128]], 'cosine': [[10, 2, 7, 128]]}
    psnrs = {'full': [30.0, 30.2, 30.4], 'paper': [30.1, 30.3, 30.6], 'cosine': [29.6, 29.9, 30.1]}
    runs = [
        run_line(
            A_RUN._replace(variant=name, seed=seed, iters=10),
            [[done, [psnr - loss - 1, psnr - loss + 1]] for done, loss in ((5, 1), (8, 0.05), (10, 0))],
            shapes[name],
            [psnr - 0.2 - 0.1 * seed, psnr - 0.2 + 0.1 * seed],
        )
        for name in shapes
        for seed, psnr in enumerate(psnrs[name])
    ]
    measured = time_line([2, 7, 64], [100, 500, 300], [1, 1, 1]), time_line([2, 7, 128], [1000], [2500])
    path = write_lines(tmp_path, *runs, *measured)
    results, times = read_runs(path), read_times(path)
    (group,) = tables.groups(results)
    assert cells(tables.variants_table(results, times, group)) == [
        # 10 s of steps, 25 s with loading that they do not hide
        ['full', '3', '10', '10', '25', '30.200', '0.200', '+0.000 [+0.000, +0.000]', '25 (3 of 3)'],
        # 6 x 0.3 s and 4 of the others; at iteration 8 two seeds have passed their baseline: 6 x 0.3 and 2 x 2.5
        ['paper', '3', '10', '6', '12', '30.333', '0.252', '+0.133 [-0.010, +0.277]', '7 (3 of 3)'],
        ['cosine', '3', '10', '10', '25', '29.867', '0.252', '-0.333 [-0.477, -0.190]', '-'],
    ]
    assert [(row[2], *row[4:]) for row in cells(tables.claims_table(results, group))] == [
        ('paper - cosine', '+0.467 [+0.323, +0.610]', 'supported'),
        ('paper - full', '+0.133 [-0.010, +0.277]', 'supported'),
    ]
    noise = cells(tables.noise_table(results, group))
    # full: its weights deviate by 0.2, the first clip's by 0.1 less for each seed, the other's by as much more
    assert noise[0] == ['full', '3', '0.200', '0.200', '0.200', '0.200']
    assert [row[0] for row in noise] == ['full', 'paper', 'cosine']
    loading = cells(tables.loading_table(results, times, group))
    assert loading == [['paper', 'the shape', '10.0', '6', '12'], ['paper', 'the full shape', '25.0', '6', '25']]


def test_run_is_measured_at_its_checkpoints_and_not_where_it_was_stopped(tmp_path, monkeypatch):
    (tmp_path / 'models').mkdir()
    for iteration in (90, 170, 180, 'latest'):
        (tmp_path / f'models/net_g_{iteration}.pth').touch()
    for name in ('train_1.log', 'train_2.log'):
        (tmp_path / name).touch()
    monkeypatch.setattr(matrix, 'trained', lambda *arguments: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(matrix, '_held_out', lambda folder: ({}, {}))
    monkeypatch.setattr(matrix, '_psnrs', lambda opt, weights, key, held_out: [weights.stem, key])
    matrix._train_one(tmp_path, A_RUN, '', tmp_path / 'results.jsonl', None, 2)
    line = json.loads((tmp_path / 'results.jsonl').read_text())
    assert line['curve'] == [[180, ['net_g_180', 'params_ema']], [360, ['net_g_latest', 'params_ema']]]
    assert line['psnr_last'] == ['net_g_latest', 'params']
    assert line['wall'] is None


def test_curve_has_the_iterations_that_all_seeds_were_measured_at(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    curves = [[[5, [29.0]], [7, [1.0]], [10, [30.0]]], [[5, [29.5]], [10, [31.0]]]]
    lines = [run_line(A_RUN._replace(seed=seed), curve, [[10, 2, 7, 128]]) for seed, curve in enumerate(curves)]
    path = write_lines(tmp_path, *lines, time_line([2, 7, 128], [1000], [1]))
    drawn = []
    monkeypatch.setattr(Axes, 'fill_between', lambda axes, *arguments, **options: drawn.append(arguments))
    results = read_runs(path)
    draw(tmp_path / 'picture.png', results, read_times(path), list(results))
    assert drawn == [([5.0, 10.0], [29.0, 30.0], [29.5, 31.0])]


def test_retime_replaces_all_times_and_keeps_the_runs(tmp_path, monkeypatch):
    done = run_line(A_RUN, [[12, [30.0]]], [[12, 2, 7, 128]])
    old, new = (time_line([2, 7, 128], [ms], [1.0]) for ms in (9000.0, 500.0))
    path = write_lines(tmp_path, old, done, old)
    measured = []
    monkeypatch.setattr(matrix, '_prepare', lambda *arguments: None)
    monkeypatch.setattr(matrix.times, 'measure', lambda *arguments: measured.append(arguments) or iter([new]))
    matrix.retime(tmp_path, path, 3, 1)
    assert measured == [(tmp_path, [A_RUN], 3)]
    assert path.read_text().splitlines() == [json.dumps(done), json.dumps(new)]
    assert [each.name for each in tmp_path.iterdir()] == ['results.jsonl']


DIFFERENCE = r'([+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\])'


def committed_tables(capsys):
    main(['--results', str(ROOT / 'benchmarks/results/train.jsonl'), '--table'])
    return capsys.readouterr().out


def test_committed_tables_are_those_of_the_committed_runs(capsys):
    assert (ROOT / 'benchmarks/results/train.txt').read_text() == committed_tables(capsys)


FILLED = {'options': 'all small shapes', 'late_options': 'after a tenth', 'second_options': 'the second'}


def filled_rows():
    """The rows of the table of filled small shapes: start, gt size, iterations of the full shape, what is filled, and
    differences."""
    results = read_runs(ROOT / 'benchmarks/results/fill.jsonl')
    differences = {}
    for one in sorted(results, key=lambda each: each.seed):
        start, _, filled = one.variant.rpartition('fill4_')
        other = one._replace(variant=f'{start}fast_options')
        if filled in FILLED and other in results:
            case = 'untrained' if start else 'trained', one.gt_size, one.iters, FILLED[filled]
            differences.setdefault(case, []).append(results[one].psnr() - results[other].psnr())
    for case, each in sorted(differences.items()):
        said = ', '.join(f'{difference:+.3f}' for difference in each)
        if len(each) > 2:
            low, high = interval(each)
            said += f'; mean {statistics.mean(each):+.3f} [{low:+.3f}, {high:+.3f}]'
        yield f'| {" | ".join(map(str, case))} | {said} |'


def test_table_of_filled_shapes_is_that_of_the_committed_runs():
    page = (ROOT / 'benchmarks/README.md').read_text()
    assert re.findall(r'^\| (?:un)?trained \|.*', page, re.MULTILINE) == list(filled_rows())


@pytest.mark.parametrize('page', ['docs/method.md', 'benchmarks/README.md', 'benchmarks/claims.md'])
def test_differences_that_are_quoted_are_those_of_the_committed_runs(page, capsys):
    printed = committed_tables(capsys) + ''.join(filled_rows())
    quoted = re.findall(DIFFERENCE, (ROOT / page).read_text())
    assert quoted
    assert [figure for figure in quoted if figure not in printed] == []


def test_figures_of_the_readme_are_those_of_the_committed_runs():
    path = ROOT / 'benchmarks/results/train.jsonl'
    runs, times = read_runs(path), read_times(path)
    seconds, psnr = {}, {}
    for variant in ('untrained_full', 'untrained_fast', 'untrained_fast_options', 'full', 'fast'):
        of_it = [one for one in runs if (one.variant, one.gt_size, one.iters) == (variant, 256, 360)]
        assert len(of_it) == 5
        seconds[variant] = times.seconds(of_it[0], runs[of_it[0]])
        psnr[variant] = f'{statistics.mean(runs[one].psnr() for one in of_it):.2f} dB'
    text = (ROOT / 'README.md').read_text()
    untrained, trained = (row for row in text.splitlines() if row.startswith('| `fast`'))
    for variant in ('untrained_fast', 'untrained_fast_options'):
        assert f'{seconds["untrained_full"] / seconds[variant]:.1f}' in untrained
    assert f'{psnr["untrained_fast"]}, baseline {psnr["untrained_full"].split()[0]} |' in untrained
    assert f'{seconds["full"] / seconds["fast"]:.1f} times less' in trained
    assert f'{psnr["fast"]}, baseline {psnr["full"].split()[0]} |' in trained


def test_verdicts_of_the_page_of_claims_are_those_of_the_committed_runs(capsys):
    decided = re.compile(DIFFERENCE + r'(?: \| |, |  +)(supported|refuted|cannot tell)')
    stated = decided.findall((ROOT / 'benchmarks/claims.md').read_text())
    assert len(stated) > 30
    assert set(stated) - set(decided.findall(committed_tables(capsys))) == set()


def test_claims_compare_variants_that_there_are():
    assert {name for claim in CLAIMS for name in (claim.variant, claim.against)} <= VARIANTS.keys()


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (('--seeds', 0), '--seeds: must be at least 1, got 0. Correct the value.'),
        (('--retime', '--rounds', 0), '--rounds: must be at least 1, got 0. Correct the value.'),
        (('--jobs', 0), '--jobs: must be at least 1, got 0. Correct the value.'),
        (('--iters', 5), '--iters: must be at least 12, got 5. Correct the value.'),
        (('--rates', '0'), '--rates: must be numbers above 0, got 0.0. Write them as 2e-3 5e-4.'),
        (('--arch', 'vsr'), '--arch: must be of basicvsr, basicvsr_48x10, basicvsr_64x30, basicvsrpp, edvr, got vsr. Choose among them.'),
        (('--rows', 10), '--rows: must be of 1, 2, 3, 4, 5, 6, 7, 8, 9, got 10. Choose among them.'),
        (('--retime',), '--results: must be a file with runs that are done, got bench/results.jsonl. Train first.'),
        (('--table',), '--results: must be a file with runs that are done, got bench/results.jsonl. Train first.'),
    ],
)  # fmt: skip
def test_bench_with_bad_option_exits_with_one_line(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert refusal(*arguments, '--data', 'bench', main=main) == line
    assert list(tmp_path.iterdir()) == []


def started(name, *arguments, monkeypatch):
    """Starts ``python -m benchmarks.NAME`` in this process; returns how it ends."""
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f'benchmarks.{name}', run_name='__main__')
    return end.value.code


STARTED = [path for path in (ROOT / 'benchmarks').rglob('*.py') if '\nif __name__' in path.read_text()]
BENCHMARKS = sorted(path.parent.name if path.stem == '__main__' else path.stem for path in STARTED)


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.parametrize('name', BENCHMARKS)
def test_help_of_a_benchmark_has_its_examples(name, monkeypatch, capsys):
    assert started(name, '--help', monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert f'  python -m benchmarks.{name}' in printed
    if '--rounds ROUNDS' in printed and name != 'train':
        assert started(name, '--rounds', '0', monkeypatch=monkeypatch) == (
            '--rounds: must be at least 1, got 0. Correct the value.'
        )
