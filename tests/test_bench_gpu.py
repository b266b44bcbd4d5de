"""``python -m benchmarks.gpu``: a dry run of all of it, its figures by hand, and what is left when it is cut off."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import typing
from pathlib import Path

import pytest
import torch
from basicsr.archs import spynet_arch
from graph_stand_in import StandIn, StandInGraph
from runs import CLONE, benchmark, processes_below, refusal, rest_of, started, still_running

from benchmarks import gpu, gpu_training, gpu_work
from benchmarks.gpu_plan import COLUMNS, DRY, FULL, LATE_COLUMNS, OPTIONS, STOCK, gpu_hours, schedules, step_rows
from benchmarks.gpu_report import Report, Row, markdown, targets
from benchmarks.worker import CallError
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.report.read import parse_log

ARCHS = ['BasicVSR', 'BasicVSRPlusPlus', 'EDVR', 'IconVSR']


@pytest.mark.heavy
def test_dry_run_tries_everything_and_says_that_it_measures_nothing(tmp_path):
    printed = benchmark('gpu', '--out', 'out', '--dry', cwd=tmp_path, seconds=1200).stdout
    text = (tmp_path / 'out/gpu.md').read_text()
    every = json.loads((tmp_path / 'out/gpu.json').read_text())['rows']
    assert len(re.findall(r'^ *\d+ s  [a-z ]+: ', printed, re.MULTILINE)) == len(every)
    rows = {part: [row for row in every if row['part'] == part] for part in dict.fromkeys(row['part'] for row in every)}
    options = [(row['name']['option'], row['name']['arch']) for row in rows['options']]
    assert sorted(options) == sorted((option, arch) for option in OPTIONS for arch in ARCHS)
    for row in rows.pop('options'):
        option, arch = row['name'].values()
        fails = 'amp' in OPTIONS[option] and arch != 'BasicVSR'  # on a CPU, deformable convolutions take only float32
        assert (row['error'] is not None) is fails, row
        verdict = 'stays eager' if 'cuda_graph' in OPTIONS[option] else 'passes'
        assert fails or row['result']['verdict'] == verdict, row
    assert [row for part in rows.values() for row in part if row['error'] is not None] == []
    ms = {(row['name']['option'], row['name']['shape']): row['result']['ms'] for row in rows['steps']}
    assert {option for option, _ in ms} == {STOCK, *COLUMNS, *LATE_COLUMNS}
    assert all(row['result']['packed_ms'] < row['result']['stock_ms'] for row in rows['loading'])
    assert len(rows['hours']) == len(rows['hours with loading']) == 10
    hours = rows['hours'][0]['result']['gpu_hours']
    assert hours == pytest.approx(4_800_000 * ms['stock', '1x7x128x128'] / 3_600_000)
    assert [row['name']['run'] for row in rows['training']] == ['stock', 'fast']
    assert all(row['result']['iterations'] >= 12 for row in rows['training'])
    assert text.startswith('dry on the CPU: no figure means anything, date ')
    assert re.search(r'^\| none \|( passes, 0 \|){4}$', text, re.MULTILINE)
    assert re.search(r'^- options: amp: bf16, EDVR: RuntimeError: .*not implemented for', text, re.MULTILINE)


def test_run_that_is_cut_off_keeps_its_rows_and_leaves_no_process(tmp_path):
    with started(
        sys.executable, '-m', 'benchmarks.gpu', '--out', 'out', '--dry', cwd=tmp_path, PYTHONPATH=str(CLONE)
    ) as process:
        seen = []
        while sum(' s  options: ' in line for line in seen) < 2:
            seen.append(process.stdout.readline())
            assert seen[-1], seen
        below = processes_below(process.pid)
        process.send_signal(signal.SIGTERM)
        rest_of(process, 30)
    assert process.returncode == 128 + signal.SIGTERM
    assert below
    assert still_running(below, 10) == set()
    assert len(json.loads((tmp_path / 'out/gpu.json').read_text())['rows']) >= 2
    assert not list((tmp_path / 'out').glob('.*.unfinished'))


@pytest.mark.parametrize(('arguments', 'line'), [
    ((), '--dry: must be given on a machine without a GPU, got nothing. It tries all of it, tiny.'),
    (('--minutes', 0), '--minutes: must be a number above 0, got 0.0. Correct the value.'),
    (('--minutes', 'nan'), '--minutes: must be a number above 0, got nan. Correct the value.'),
])  # fmt: skip
def test_bad_arguments_give_one_line_and_write_nothing(arguments, line, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert refusal('--out', tmp_path / 'out', *arguments, main=gpu.main) == line
    assert list(tmp_path.iterdir()) == []


class Simulated:
    """Stands for a worker on an H200 with 16 cores: a clock of its own, and figures of the right size.

    Launches are those of benchmarks/README.md at 5.5 us each, 3 us in a graph; cuDNN tunes each convolution that is new to
    a process for ``tuning`` seconds: 15 at each level of the flow network, 20 in the trunks and behind.
    """

    now = tuning = 0.0
    launches: typing.ClassVar = {'BasicVSR': 3000, 'BasicVSRPlusPlus': 7000, 'EDVR': 1500, 'IconVSR': 7000}
    hangs: typing.ClassVar = ()  # names of options

    def __init__(self, begin, end):
        self.closed, self.known, self.ready = True, set(), 0.0

    def call(self, function, *arguments, seconds):
        took = (8.0 if self.closed else 0.0) + getattr(self, function.__name__)(*arguments)
        self.closed = False
        if took > seconds:
            Simulated.now += seconds
            self.close()
            raise CallError(f'not done after {seconds:.0f} s')
        Simulated.now += took
        return {'device': 'H200', 'ms': 30.0, 'graph': None, 'peak_gib': 9.0, 'verdict': 'passes', 'difference': 1e-5}

    def send(self, function, root, sizes, shapes, seconds):
        self.ready, self.loaded = Simulated.now + 25 + 2.5 * len(shapes), shapes

    def result(self, seconds):
        assert seconds >= self.ready - Simulated.now
        return {name: [1.0] * len(self.loaded) for name in ('stock_ms', 'packed_ms')}

    def close(self):
        self.closed, self.known = True, set()

    def device(self):
        return 0.0

    def try_option(self, root, network, shapes, option, count):
        runs = 1 if network['type'] in self.known else 2  # eager float32 comes first
        self.known.add(network['type'])
        iterations = runs * len(shapes) * (count + 3) * self.launches[network['type']] * 5.5e-6
        return runs * 0.7 + iterations + self.extra(option, 40.0)

    def time_steps(self, root, sizes, option, shape):
        half = 'amp' in OPTIONS.get(option, {})
        samples, side = shape.batch_size_per_gpu, max(shape.gt_size // 4, 32)
        new = {(half, 'flow', samples * (shape.num_frame - 1), side >> level): 15 for level in range(6)}
        new[half, 'trunk', samples, shape.gt_size] = 20
        convolutions = sum(count for name, count in new.items() if name not in self.known)
        self.known |= set(new)
        launches = 1250 * shape.num_frame
        launched = launches * (3e-6 if 'graph' in option or 'together' in option else 5.5e-6)
        computed = shape.pixels / (4 * 15 * 256**2) * (0.055 if half else 0.1)
        return 1.0 + convolutions * self.tuning + 20 * max(launched, computed) + self.extra(option, 60.0)

    def extra(self, option, compiling):
        if option in self.hangs:
            return math.inf
        return (1.0 if 'graph' in option or 'together' in option else 0.0) + compiling * ('compile' in option)


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """Runs the planner; returns the rows with figures and without, by part, and the seconds at its end."""
    benches = []

    def simulate(minutes, tuning, hangs=()):
        monkeypatch.setattr(Simulated, 'now', 0.0)
        monkeypatch.setattr(Simulated, 'tuning', tuning)
        monkeypatch.setattr(Simulated, 'hangs', hangs)
        monkeypatch.setattr(gpu, 'Worker', Simulated)
        monkeypatch.setattr(gpu.time, 'monotonic', lambda: Simulated.now)
        monkeypatch.setattr(gpu.gpu_training, 'train', train)
        monkeypatch.setattr(os, 'fsync', lambda file: None)  # the files are written 100 times
        benches.append(gpu.Bench(tmp_path, minutes=minutes, is_dry=False))
        benches[0].run()
        assert benches[0]._worker.closed
        done, rest = {}, {}
        for row in json.loads((tmp_path / 'gpu.json').read_text())['rows']:
            kind = done if row['error'] is None else rest
            kind.setdefault(row['part'], []).append((*row['name'].values(), row['error']))
        return done, rest, Simulated.now

    def train(out, opt, is_stock, seconds):
        assert is_stock is (opt['name'] == 'stock')
        assert benches[0]._worker.closed, 'it holds memory of the GPU'
        Simulated.now += seconds
        return {'seconds': seconds}

    return simulate


def names(rows):
    return [row[:2] for row in rows]


def grown_shapes(run):
    """The shapes of a recipe at the full shape 4 x 15 x 256."""
    return {str(s.shape) for s in schedules(FULL, 12_000)[run].segments}


@pytest.mark.parametrize('tuning', [0.02, 0.05, 0.1])
def test_four_minutes_have_gradients_steps_and_hours(tuning, simulated):
    done, rest, end = simulated(4, tuning)
    assert names(done['options'])[:3] == [(column, 'BasicVSR') for column in COLUMNS]
    sizes = {f'4x{num_frame}x{side}x{side}' for num_frame in (7, 15) for side in (128, 256)}
    assert set(names(done['steps'])) >= {(column, shape) for column in ('stock', *COLUMNS) for shape in sizes}
    shapes = grown_shapes('fast') | grown_shapes('paper')
    assert set(names(done['steps'])) >= {(column, shape) for column in COLUMNS for shape in shapes}
    ours = [(run, column) for run in ('plain', 'paper', 'fast') for column in COLUMNS]
    assert names(done['hours']) == [('stock', 'stock'), *ours]
    assert {error for rows in rest.values() for *_, error in rows} == {'no time left'}
    assert end <= 240


@pytest.mark.parametrize('tuning', [0.02, 0.05, 0.1])
def test_nine_minutes_have_the_other_archs_loading_and_training_too(tuning, simulated):
    done, rest, end = simulated(9, tuning)
    others = [(column, arch) for column in COLUMNS for arch in ARCHS[1:]]
    assert names(done['options'])[:12] == [*((column, 'BasicVSR') for column in COLUMNS), *others]
    compiled = ('4x7x128x128', '4x15x256x256')[: 1 if tuning == 0.1 else 2]  # what time is left for
    assert set(names(done['steps'])) >= {('together, compile', shape) for shape in compiled}
    loaded = {shape.split('x', 1)[1] for run in ('paper', 'fast') for shape in grown_shapes(run)}  # whatever the batch
    assert len(done['loading']) == len(loaded)
    assert len(done['hours']) == len(done['hours with loading']) == 10
    assert names(done['training']) == [('stock', 'stock'), ('fast', 'together')]
    assert {error for rows in rest.values() for *_, error in rows} <= {'no time left'}
    assert list(done)[-1] == 'training'
    assert end <= 540


def test_option_that_hangs_costs_its_rows_once_and_no_other_answer(simulated):
    done, rest, end = simulated(9, 0.05, hangs=('cuda_graph',))
    assert rest['options'][0] == ('cuda_graph', 'BasicVSR', 'not done after 32 s')
    errors = {error for rows in rest.values() for option, *_, error in rows if option == 'cuda_graph'}
    assert errors == {'not done after 32 s', 'given up: a row of this option was not done in time'}
    assert [name for name in names(done['hours']) if name[1] != 'cuda_graph'] == names(done['hours'])
    assert len(done['hours']) == len(done['hours with loading']) == 7
    assert len(done['training']) == 2
    assert end <= 540


# ---------------------------------------------------------------- gradients, and what is BasicSR's own

SHAPES = (BatchShape(2, 2, 32), BatchShape(2, 3, 32))


@pytest.fixture
def compare(monkeypatch):
    """Compares an option's gradients with those of eager float32, after the iterations that a GPU runs."""
    monkeypatch.setattr(gpu_work, '_eager_float32', {})
    monkeypatch.setattr(spynet_arch, 'BasicModule', lambda: torch.nn.Conv2d(8, 2, 3, 1, 1))
    return lambda option: gpu_work.try_option(Path(), DRY.archs[0][0], SHAPES, option, FULL.tried)


def test_graph_passes_when_its_gradient_is_near(compare, monkeypatch):
    StandIn(monkeypatch)
    found = compare('cuda_graph')
    assert (found['verdict'], found['difference'] < 1e-5) == ('passes', True)
    captured = [f'Captured an iteration of {shape}' for shape in ('2 x 2 x 32', '2 x 3 x 32')]
    assert [note[:35] for note in found['notes']] == captured


def test_graph_that_keeps_its_first_gradient_is_wrong(compare, monkeypatch):
    stand_in, replay = StandIn(monkeypatch), StandInGraph.replay
    monkeypatch.setattr(StandInGraph, 'replay', lambda self: stand_in.log[-1] == 'capture' and replay(self))
    assert compare('cuda_graph')['verdict'] == 'WRONG'


def test_graph_that_cannot_be_captured_stays_eager(compare, monkeypatch):
    assert compare('cuda_graph')['verdict'] == 'stays eager'  # there is no GPU
    StandIn(monkeypatch).fails = RuntimeError('operation not permitted when stream is capturing')
    assert compare('cuda_graph')['verdict'] == 'stays eager'


def test_gradients_are_compared_without_tuning_and_tensorfloat32(compare, monkeypatch):
    step, seen = gpu_work.train_next, []

    def seeing(*args):
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32))
        step(*args)

    monkeypatch.setattr(gpu_work, 'train_next', seeing)
    compare('none')
    assert seen == [(False, False)] * 20
    assert torch.backends.cudnn.allow_tf32


def test_part_of_little_weight_in_the_gradient_is_compared_too_and_has_to_be_a_number(compare):
    found = compare('channels_last')
    assert (found['verdict'], found['difference'] < 1e-3) == ('passes', True)
    expected = gpu_work._eager_float32['BasicVSR'][0]
    trunk = expected['backward_trunk']
    assert trunk.norm() < 0.05 * torch.cat(list(expected.values())).norm()
    trunk *= 1.01
    assert compare('channels_last')['verdict'] == 'WRONG'
    trunk /= 1.01
    expected['fusion'][0] = math.nan
    assert compare('none')['verdict'] == 'WRONG'


def test_half_precision_has_a_limit_of_its_own(compare, monkeypatch):
    found = compare('amp: bf16')
    assert found['verdict'] == 'passes'
    assert 0.005 < found['difference'] < 0.25
    monkeypatch.setattr(gpu_work, '_HALF_LIMIT', 0.005)
    assert compare('amp: bf16')['verdict'] == 'WRONG'


def test_stock_has_the_archs_of_basicsr_in_steps_and_in_training(monkeypatch):
    import basicsr.train
    from basicsr.archs.arch_util import ResidualBlockNoBN

    seen = []

    def see(*arguments):
        seen.append(hasattr(ResidualBlockNoBN.forward, '__wrapped__'))

    monkeypatch.setattr(gpu_work, 'train_next', see)
    monkeypatch.setattr(basicsr.train, 'train_pipeline', see)
    for column in (STOCK, 'none'):
        gpu_work.time_steps(Path(), DRY, column, BatchShape(1, 2, 64))
    gpu_training.train_stock()
    assert seen == [False, True, False]


# ---------------------------------------------------------------- figures, by hand


def test_hours_follow_the_step_or_the_loading_whichever_is_longer():
    small, full = BatchShape(8, 7, 128), BatchShape(4, 15, 256)
    schedule = Schedule.from_shapes([(36_000, small), (72_000, full)], full)
    step_ms = {small: 100.0, full: 250.0}
    # 36,000 x 0.1 s is an hour, 72,000 x 0.25 s are five.
    assert gpu_hours(schedule, step_ms, {(7, 128): 1.0, (15, 256): 1.0}, workers=2) == pytest.approx(6)
    # 8 samples of 50 ms take two workers 200 ms: two hours in place of one.
    assert gpu_hours(schedule, step_ms, {(7, 128): 50.0, (15, 256): 1.0}, workers=2) == pytest.approx(7)
    assert gpu_hours(schedule, step_ms) == pytest.approx(6)
    with pytest.raises(KeyError):
        gpu_hours(schedule, {small: 100.0})


def test_targets_are_compared_with_the_best_option():
    ms = {
        ('stock', '4x7x128x128'): 100.0,
        ('none', '4x7x128x128'): 80.0,
        ('cuda_graph', '4x7x128x128'): 32.0,
        ('cuda_graph', '4x7x256x256'): 80.0,
        ('stock', '4x15x256x256'): 300.0,
        ('none', '4x15x256x256'): 250.0,
    }
    assert targets(ms, FULL)[2:] == [
        '| small shape against stock, same batch | at least 2.5x | 3.12x |',
        '| LQ 32 against LQ 64, same frames and batch | at most 0.35 | 0.40 |',
        '| full shape against stock | at least 1.5x | 1.20x |',
    ]
    assert [line.split(' | ')[-1] for line in targets({}, FULL)[2:]] == ['- |'] * 3


def test_iterations_are_timed_once_the_most_telling_first():
    (first, late), (small, full) = step_rows(FULL), FULL.shapes[:2]
    assert len(first + late) == len(set(first + late))
    assert first[:5] == [*((column, small) for column in ('stock', 'none', 'cuda_graph', 'together')), ('stock', full)]
    assert late[:2] == [('together, compile', small), ('together, compile', full)]


def test_report_has_both_files_after_every_row_with_errors_and_notes(tmp_path):
    about = {'device': 'H100', 'date': '2027-01-01'}
    note = 'No CUDA graph of 4 x 7 x 128: x.'
    eager = {'verdict': 'stays eager', 'difference': 3e-6, 'notes': [note]}
    shape = '4x7x128x128'
    graph = {'ms': 45.0, 'peak_gib': None, 'graph': 'stays eager'}
    report = Report(tmp_path, about, FULL)
    for row in (
        Row('options', {'option': 'cuda_graph', 'arch': 'EDVR'}, eager),
        Row('options', {'option': 'compile', 'arch': 'EDVR'}, error='RuntimeError: no compiler'),
        Row('steps', {'option': 'stock', 'shape': shape}, {'ms': 90.0, 'peak_gib': 9.5, 'graph': None}),
        Row('steps', {'option': 'cuda_graph', 'shape': shape}, graph),
        Row('hours', {'run': 'stock', 'option': 'stock', 'iterations': 9}, {'gpu_hours': 1.5}),
        Row('hours', {'run': 'fast', 'option': 'none', 'iterations': 5}, error='no time left'),
    ):
        report.add(row)
        assert len(json.loads((tmp_path / 'gpu.json').read_text())['rows']) == len(report.rows)
        assert (tmp_path / 'gpu.md').read_text() == markdown(about, report.rows, FULL) + '\n'
    assert report.figures('hours', 'gpu_hours') == {('stock', 'stock', 9): 1.5}
    assert (
        (tmp_path / 'gpu.md').read_text()
        == f"""device H100, date 2027-01-01.

The gradient against eager float32's, the largest difference of a part of the network:

| option | EDVR |
| --- | --- |
| cuda_graph | stays eager, 3e-06 |
| compile | error |

ms an iteration, and how many times faster than stock at the same shape:

| batch x frames x gt | stock | cuda_graph |
| --- | --- | --- |
| {shape} | 90.0 | 45.0 (2.00x) stays eager |

GiB at the peak:

| batch x frames x gt | stock | cuda_graph |
| --- | --- | --- |
| {shape} | 9.5 | - |

| the best option | aimed at | found |
| --- | --- | --- |
| small shape against stock, same batch | at least 2.5x | 2.00x |
| LQ 32 against LQ 64, same frames and batch | at most 0.35 | - |
| full shape against stock | at least 1.5x | - |

| run | option | iterations | gpu_hours |
| --- | --- | --- | --- |
| stock | stock | 9 | 1.5 |
| fast | none | 5 | - |

Errors:

- options: compile, EDVR: RuntimeError: no compiler

The log says:

- {note}
"""
    )


def test_summary_of_a_run_leaves_its_start_out():
    line = '2026-11-25 10:00:{:02},000 INFO: [run..][epoch:  0, iter: {:7,}, lr:(1.000e-03,)] [eta: 0:00:20, time (data): 2.000 (0.500)] l_pix: {} \n'
    opt = {
        'scale': 4, 'model_type': 'MultigridVideoModel', 'train': {'total_iter': 12},
        'datasets': {'train': {'type': 'MultigridREDSDataset', 'num_frame': 7, 'gt_size': 128, 'batch_size_per_gpu': 2}},
        'multigrid': {'stages': [{'iter': 6, 'gt_size': 64, 'batch_size_per_gpu': 4}, {'iter': 6}]},
    }  # fmt: skip
    log = parse_log(line.format(10, 4, '5.0e-02') + line.format(30, 8, '4.0e-02'))
    # Iterations 5 and 6 have 4 samples, 7 and 8 have 2: 12 samples and 4 iterations in 20 s.
    assert gpu_training.summary(log, opt) == {
        'iterations': 8, 'of': 12, 'ms': 5000.0, 'samples_a_second': 0.6, 'waiting': 0.25, 'loss': 0.04,
    }  # fmt: skip
    assert gpu_training.summary(parse_log(line.format(10, 4, '5.0e-02')), opt) is None
