"""``multigrid-vsr bench gpu``: a dry run of all of it, its figures by hand, and what is left when it is cut off."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time

import pytest
from runs import processes_below, rest_of, run, started, still_running

from multigrid_vsr.bench import gpu
from multigrid_vsr.bench.gpu_hours import gpu_hours
from multigrid_vsr.bench.gpu_plan import FULL, IN_PARTS, OPTIONS, step_rows
from multigrid_vsr.bench.gpu_report import Report, Row, markdown, targets
from multigrid_vsr.bench.gpu_training import summary
from multigrid_vsr.bench.gpu_work import counts_of
from multigrid_vsr.bench.worker import CallError, Worker
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import BatchShape
from multigrid_vsr.report.log_file import parse_log

COMMAND = (sys.executable, '-m', 'multigrid_vsr.cli', 'bench', 'gpu')
ARCHS = ['BasicVSR', 'BasicVSRPlusPlus', 'EDVR', 'IconVSR']
HALF = {name for name, changes in OPTIONS.items() if 'amp' in changes}


@pytest.fixture(scope='module')
def dry(tmp_path_factory):
    """What a dry run prints, and its two files."""
    folder = tmp_path_factory.mktemp('bench_gpu')
    printed = run(*COMMAND, '--out', 'out', '--dry', cwd=folder, seconds=1200).stdout
    return printed, json.loads((folder / 'out/gpu.json').read_text()), (folder / 'out/gpu.md').read_text()


def rows_of(dry, part):
    return [row for row in dry[1]['rows'] if row['part'] == part]


@pytest.mark.heavy
def test_dry_run_tries_every_option_on_every_arch(dry):
    rows = rows_of(dry, 'options')
    assert [(row['name']['option'], row['name']['arch']) for row in rows] == [
        (option, arch) for option in (IN_PARTS, *OPTIONS) for arch in ARCHS
    ]
    for row in rows:
        # Deformable convolutions are in float32 alone on a CPU.
        fails = row['name']['option'] in HALF and row['name']['arch'] != 'BasicVSR'
        assert (row['error'] is not None) is fails, row
        assert fails or 0.2 < row['result']['loss'] < 0.4, row


@pytest.mark.heavy
def test_dry_run_times_every_iteration_loads_predicts_and_trains(dry):
    steps = rows_of(dry, 'steps')
    assert {row['name']['option'] for row in steps} == {'stock', *OPTIONS} - {
        'arch_checks: false',
        'optim_g.fused',
        'amp: fp16',
    }
    assert all(row['error'] is None and row['result']['ms'] > 0 for row in steps)
    assert all(row['result']['packed_ms'] < row['result']['stock_ms'] for row in rows_of(dry, 'loading'))
    ms = {(row['name']['option'], row['name']['shape']): row['result']['ms'] for row in steps}
    stock, *ours = rows_of(dry, 'hours')
    assert stock['result']['gpu_hours_of_steps'] == pytest.approx(4_800_000 * ms['stock', '1x7x64x64'] / 3_600_000)
    assert len(ours) == 4
    assert all(row['error'] is None for row in ours)
    runs = rows_of(dry, 'training')
    assert [row['name']['run'] for row in runs] == ['stock', 'paper', 'fast']
    assert all(row['error'] is None and row['result']['iterations'] == 12 for row in runs), runs


@pytest.mark.heavy
def test_dry_run_prints_every_row_and_says_that_it_measures_nothing(dry):
    printed, found, text = dry
    assert len(re.findall(r'^ *\d+ s  (?:options|steps|loading|hours|training): ', printed, re.MULTILINE)) == len(
        found['rows']
    )
    assert text.startswith('dry on the CPU: no figure means anything, date ')
    assert '| option | BasicVSR | BasicVSRPlusPlus | EDVR | IconVSR |\n' in text
    assert re.search(r'^\| none \|( passes, loss 0\.\d+ \|){4}$', text, re.MULTILINE)
    assert re.search(r'^\| 1x7x64x64 \| [\d.]+ \| [\d.]+ \([\d.]+x\) \|', text, re.MULTILINE)
    assert re.search(r'^- options: amp: bf16, EDVR: RuntimeError: .*not implemented for', text, re.MULTILINE)


def test_run_that_is_cut_off_keeps_its_rows_and_leaves_no_process(tmp_path):
    with started(*COMMAND, '--out', 'out', '--dry', cwd=tmp_path) as process:
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
    assert not list((tmp_path / 'out').glob('*.unfinished'))


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ((), '--dry: must be given on a machine without a GPU, got nothing. It tries all of it, tiny.\n'),
        (('--minutes', 0), '--minutes: must be a number above 0, got 0.0. Correct the value.\n'),
        (('--minutes', 'nan'), '--minutes: must be a number above 0, got nan. Correct the value.\n'),
    ],
)
def test_bad_arguments_give_one_line_and_write_nothing(arguments, line, tmp_path):
    done = run(*COMMAND, '--out', 'out', *arguments, cwd=tmp_path, ok=False, CUDA_VISIBLE_DEVICES='')
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, line, [])


class Told:
    """Stands for a worker: everything takes 4 s, and an error of its own is one of EDVR."""

    def __init__(self, begin, end):
        self.closed = False
        self.last = {}  # when each function was called last

    def call(self, function, *arguments, seconds):
        self.last[function.__name__] = Told.now
        Told.now += 4
        if seconds < 4:
            raise CallError(f'not done after {seconds:.0f} s')
        if function.__name__ == 'try_option' and arguments[1]['type'] == 'EDVR':
            raise CallError('RuntimeError: no EDVR')
        return {'device': 'H100'} if function.__name__ == 'device' else {'ms': 10.0, 'loss': 0.5}

    def close(self):
        self.closed = True


def test_parts_keep_to_their_shares_of_the_time_in_order_of_worth(tmp_path, monkeypatch):
    Told.now = 0.0
    monkeypatch.setattr(gpu, 'Worker', Told)
    monkeypatch.setattr(gpu.time, 'monotonic', lambda: Told.now)
    monkeypatch.setattr(gpu, 'prepare', lambda root: None)
    monkeypatch.setattr(gpu.gpu_training, 'train', lambda out, opt, left: {'left': left})
    bench = gpu.Bench(tmp_path, minutes=10, is_dry=False)
    bench.run()
    rows = json.loads((tmp_path / 'gpu.json').read_text())['rows']
    assert list(dict.fromkeys(row['part'] for row in rows)) == ['options', 'steps', 'loading', 'hours', 'training']
    errors = {part: {row['error'] for row in rows if row['part'] == part} for part in ('options', 'steps', 'loading')}
    assert 'RuntimeError: no EDVR' in errors['options']
    # A quarter of 600 s is for options; iterations are timed until 342 s, loading until 372 s.
    assert 130 < bench._worker.last['try_option'] < 150
    assert 330 < bench._worker.last['time_steps'] < 342
    assert 342 <= bench._worker.last['time_loading'] < 372
    assert 'no time left' in errors['steps']
    assert errors['loading'] == {None}
    assert [row['result']['left'] for row in rows if row['part'] == 'training'] == [600.0 - Told.now] * 3
    assert bench._worker.closed


# ---------------------------------------------------------------- a process for what may crash


def end():
    """What is called after an error."""


def end_badly():
    raise RuntimeError('the device is lost')


def divided(value):
    return os.getpid(), 12 / value


def ended(status):
    os._exit(status)


@pytest.mark.parametrize('is_usable', [True, False])
def test_worker_goes_on_after_an_error_in_its_process_or_in_another(is_usable):
    worker = Worker(end, end if is_usable else end_badly)
    try:
        first, value = worker.call(divided, 3, seconds=60)
        assert value == 4
        with pytest.raises(CallError, match=r'^ZeroDivisionError: division by zero$'):
            worker.call(divided, 0, seconds=60)
        assert (worker.call(divided, 3, seconds=60)[0] == first) is is_usable
    finally:
        worker.close()


def test_worker_that_crashes_or_hangs_costs_one_call():
    worker = Worker(end, end)
    try:
        with pytest.raises(CallError, match=r'^its process ended with status 7$'):
            worker.call(ended, 7, seconds=60)
        assert worker.call(divided, 4, seconds=60)[1] == 3
        with pytest.raises(CallError, match=r'^not done after 1 s$'):
            worker.call(time.sleep, 1000, seconds=1)
        assert worker.call(divided, 4, seconds=60)[1] == 3
    finally:
        worker.close()


# ---------------------------------------------------------------- figures, by hand


def test_counts_of_a_profile():
    events = [
        ('void cudnn::conv<float>', True, 40),
        ('Memcpy HtoD (Pinned -> Device)', True, 2),
        ('Memset (Device)', True, 5),
        ('cudaLaunchKernel', False, 30),
        ('cudaLaunchKernelExC', False, 6),
        ('cuLaunchKernel', False, 4),
        ('cudaGraphLaunch', False, 1),
        ('cudaMemcpyAsync', False, 2),
        ('cudaStreamSynchronize', False, 3),
        ('cudaDeviceSynchronize', False, 1),
        ('aten::conv2d', False, 9),
    ]
    assert counts_of(events) == {'launches': 41, 'kernels': 40, 'waits': 4}


def test_hours_follow_the_step_or_the_loading_whichever_is_longer():
    small, full = BatchShape(8, 7, 128), BatchShape(4, 15, 256)
    schedule = Schedule.from_shapes([(36_000, small), (72_000, full)], full)
    step_ms = {small: 100.0, full: 250.0}
    # 36,000 x 0.1 s is an hour, 72,000 x 0.25 s are five.
    assert gpu_hours(schedule, step_ms, {(7, 128): 1.0, (15, 256): 1.0}, workers=2) == pytest.approx(6)
    # 8 samples of 50 ms take two workers 200 ms: two hours in place of one.
    assert gpu_hours(schedule, step_ms, {(7, 128): 50.0, (15, 256): 1.0}, workers=2) == pytest.approx(7)
    with pytest.raises(KeyError):
        gpu_hours(schedule, {small: 100.0}, {(7, 128): 1.0, (15, 256): 1.0}, workers=2)


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
    rows = list(step_rows(FULL))
    assert len(rows) == len(set(rows))
    assert rows[0] == ('stock', BatchShape(4, 7, 128))
    assert rows[6] == ('none', BatchShape(4, 7, 128))
    assert [
        row[1].batch_size_per_gpu for row in rows if row[0] == 'none' and (row[1].num_frame, row[1].gt_size) == (7, 128)
    ] == [4, 8, 16, 32]


def test_report_has_both_files_after_every_row_with_errors_and_notes(tmp_path):
    report = Report(tmp_path, {'device': 'H100', 'date': '2027-01-01'}, FULL)
    for row in (
        Row(
            'options', {'option': 'none', 'arch': 'EDVR'}, {'loss': 0.25, 'notes': ['No CUDA graph of 4 x 7 x 128: x.']}
        ),
        Row('options', {'option': 'compile', 'arch': 'EDVR'}, error='RuntimeError: no compiler'),
        Row('hours', {'run': 'stock', 'option': 'stock', 'iterations': 9}, {'gpu_hours': 1.5}),
        Row('hours', {'run': 'fast', 'option': 'none', 'iterations': 5}, error='no time left'),
    ):
        report.add(row)
        assert len(json.loads((tmp_path / 'gpu.json').read_text())['rows']) == len(report.rows)
        assert (tmp_path / 'gpu.md').read_text() == markdown(
            {'device': 'H100', 'date': '2027-01-01'}, report.rows, FULL
        ) + '\n'
    assert report.figures('hours', 'gpu_hours') == {('stock', 'stock', 9): 1.5}
    assert (tmp_path / 'gpu.md').read_text() == (
        'device H100, date 2027-01-01.\n\n'
        '| option | EDVR |\n| --- | --- |\n| none | passes, loss 0.2500 |\n| compile | error |\n\n'
        '| run | option | iterations | gpu_hours |\n| --- | --- | --- | --- |\n| stock | stock | 9 | 1.5 |\n'
        '| fast | none | 5 | - |\n\n'
        'Errors:\n\n- options: compile, EDVR: RuntimeError: no compiler\n\n'
        'The log says:\n\n- No CUDA graph of 4 x 7 x 128: x.\n'
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
    assert summary(log, opt) == {
        'iterations': 8, 'of': 12, 'ms': 5000.0, 'samples_a_second': 0.6, 'waiting': 0.25, 'loss': 0.04,
    }  # fmt: skip
    assert summary(parse_log(line.format(10, 4, '5.0e-02')), opt) is None
