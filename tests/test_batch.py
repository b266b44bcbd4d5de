"""``multigrid-vsr batch``: the search by tables, and real iterations on the CPU."""

from __future__ import annotations

import re
import signal
import sys

import pytest
import torch
import yaml
from runs import options, refusal, rest_of, run, started, write

from benchmarks import step
from multigrid_vsr import measure
from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.measure import enough, try_batches
from multigrid_vsr.models.preflight import is_out_of_memory
from multigrid_vsr.options.multigrid_block import schedule_from_options


@pytest.mark.parametrize(
    ('largest', 'limit', 'tried'),
    [
        (0, 8, [1]),
        (1, 8, [1, 2]),
        (5, 8, [1, 2, 4, 8, 6, 5]),
        (9, 8, [1, 2, 4, 8]),
        (6, 6, [1, 2, 4, 6]),
        (11, 100, [1, 2, 4, 8, 16, 12, 10, 11]),
    ],
)
def test_try_batches_finds_the_largest_that_fits_in_few_tries(largest, limit, tried):
    asked = []

    def rate_of(batch):
        asked.append(batch)
        return batch * 1.5 if batch <= largest else None

    rates = try_batches(rate_of, limit)
    assert asked == tried
    assert rates == {batch: batch * 1.5 for batch in sorted(tried) if batch <= largest}


@pytest.mark.parametrize(
    ('rates', 'expected'),
    [
        ({1: 10, 2: 18, 4: 30, 8: 31, 16: 31.5}, 4),  # 95 % of 31.5 is 29.9
        ({1: 10, 2: 18, 4: 29.9, 8: 31, 16: 31.5}, 8),
        ({1: 10, 2: 9, 4: 8}, 1),
    ],
)
def test_enough_is_the_smallest_batch_near_the_largest_throughput(rates, expected):
    assert enough(rates) == expected


class Fake:
    """A device that holds 60 times 64x64 pixels, and on which an iteration takes as long as its batch."""

    device = torch.device('cpu')
    optimizers = ()

    def __init__(self):
        self.opt = {'scale': 4, 'datasets': {'train': {}}}

    def update(self, current_iter):
        self.output = None
        if self.gt.numel() > 60 * 64 * 64 * 3:
            raise torch.cuda.OutOfMemoryError


def test_measure_prints_what_fits_and_the_lines_to_paste(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(measure, 'enough', max)
    schedule = schedule_from_options(options(clips))
    printed = '\n'.join(measure.batch_lines(Fake(), schedule, False, limit=12, iters=1))
    rows = [line.split()[:3] for line in printed.splitlines()[2:8]]
    # 60 pixels of 64x64 hold 60 / (frames * (gt_size / 64)^2) samples, rounded down.
    assert rows == [
        ['64', '2', '12'], ['64', '3', '12'], ['64', '4', '12'],
        ['128', '2', '7'], ['128', '3', '5'], ['128', '4', '3'],
    ]  # fmt: skip
    assert '12 or more' in printed.splitlines()[2]
    assert printed.splitlines()[-1] == '  batch_size_per_gpu: [12, [7, 5, 3]]'
    assert yaml.safe_load(printed.splitlines()[-1]) == {'batch_size_per_gpu': [12, [7, 5, 3]]}


def test_measure_of_other_schedules_prints_their_stages(clips, monkeypatch):
    monkeypatch.setattr(measure, 'enough', max)
    stages = [{'iter': 3, 'gt_size': 128, 'num_frame': 2}, {'iter': 4, 'gt_size': 64}, {'iter': 6}]
    schedule = schedule_from_options(options(clips, multigrid={'stages': stages}))
    printed = '\n'.join(measure.batch_lines(Fake(), schedule, True, limit=12, iters=1))
    assert yaml.safe_load('\n'.join(printed.splitlines()[-5:])) == {
        'stages': [
            {'iter': 3, 'gt_size': 128, 'num_frame': 2, 'batch_size_per_gpu': 7},
            {'iter': 4, 'gt_size': 64, 'num_frame': 4, 'batch_size_per_gpu': 12},
            {'iter': 6, 'gt_size': 128, 'num_frame': 4, 'batch_size_per_gpu': 3},
        ]
    }
    assert printed.splitlines()[-1] == '  # with as many samples as now: multigrid-vsr fit --fill "[7, 12, 3]"'


def test_measure_of_a_shape_that_never_fits_says_so(clips):
    opt = options(clips, multigrid={'num_frame': [4]}, datasets__train__gt_size=320)
    with pytest.raises(
        InputError, match=r'multigrid: must have shapes of which the GPU holds one sample, got num_frame 4'
    ):
        list(measure.batch_lines(Fake(), schedule_from_options(opt), False, limit=4, iters=1))


def test_batch_command_measures_a_real_model(tmp_path, clips):
    opt = options(clips, multigrid={'gt_size': [64, 128]}, datasets__train__num_frame=2, train__ema_decay=0.9)
    command = [sys.executable, '-m', 'multigrid_vsr.cli', 'batch', '-opt', write(tmp_path, opt)]
    printed = run(*command, '--limit', 2, '--iters', 1, cwd=tmp_path).stdout
    rows = re.findall(r'^ *(\d+) +(\d+) +(\d) or more +[\d.]+ +(\d) +[\d.]+$', printed, re.MULTILINE)
    assert [row[:3] for row in rows] == [('64', '2', '2'), ('128', '2', '2')]
    assert re.search(r'^  batch_size_per_gpu: \[\d, \d\]$', printed, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


@pytest.mark.parametrize(
    ('arguments', 'changes', 'line'),
    [
        (['--limit', 0], {}, '--limit: must be at least 1, got 0. Correct the value.'),
        ([], {'multigrid': None, 'model_type': 'VideoRecurrentModel'}, 'multigrid: must be a block of options, got nothing.'),
    ],
)  # fmt: skip
def test_batch_command_with_bad_input_exits_with_one_line(arguments, changes, line, tmp_path, clips):
    opt_file = write(tmp_path, options(clips, **changes))
    printed = refusal('batch', '-opt', opt_file, *arguments)
    assert printed.startswith(line)
    assert '\n' not in printed


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.'), True),
        (MemoryError(), True),
        (RuntimeError('CUDA error: out of memory'), True),
        (RuntimeError('cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if'), True),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'), True),
        (RuntimeError('[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory'), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError('CUDA error: an illegal memory access was encountered'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_error_means_that_memory_is_full(error, expected):
    assert is_out_of_memory(error) is expected


def test_measure_takes_any_word_for_full_memory_and_keeps_its_rows_at_another_error(clips, monkeypatch):
    monkeypatch.setattr(measure, 'enough', max)
    schedule = schedule_from_options(options(clips))

    class Unusual(Fake):
        def update(self, current_iter):
            if self.lq.shape[:2] == (1, 4):
                raise RuntimeError('an illegal memory access')
            if len(self.lq) > 3:
                raise RuntimeError('cuDNN error: CUDNN_STATUS_NOT_SUPPORTED')

    printed = measure.batch_lines(Unusual(), schedule, False, limit=12, iters=1)
    rows = [next(printed).split()[:3] for _ in range(3)]
    with pytest.raises(RuntimeError, match='an illegal memory access'):
        next(printed)
    assert rows[1:] == [['64', '2', '3'], ['64', '3', '3']]


def test_batch_command_on_a_schedule_without_a_block_ends_at_sigterm_with_its_rows(tmp_path, clips):
    """`multigrid: ~` beside the Multigrid types is a run of one shape; one of three shapes shows its rows."""
    one = write(
        tmp_path, {**options(clips, datasets__train__num_frame=2, datasets__train__gt_size=64), 'multigrid': None}
    )
    command = [sys.executable, '-m', 'multigrid_vsr.cli', 'batch', '-opt']
    printed = run(*command, one, '--limit', 1, '--iters', 1, cwd=tmp_path).stdout
    assert re.search(r'^ +64 +2 +1 or more ', printed, re.MULTILINE)
    several = write(tmp_path, options(clips), 'several.yml')
    with started(*command, several, '--limit', 2, '--iters', 1000, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('---'):  # the model is there
                break
        process.send_signal(signal.SIGTERM)
        rest_of(process, 20)
    assert process.returncode == -signal.SIGTERM


def test_batch_command_measures_one_gpu_of_many_with_cudnn_as_in_training(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    built = []
    monkeypatch.setattr('basicsr.models.build_model', lambda opt: built.append(opt['num_gpu']))
    monkeypatch.setattr(measure, 'batch_lines', lambda *_: iter(()))
    for num_gpu in (8, 'auto', 0):
        opt_file = write(tmp_path, options(clips, num_gpu=num_gpu, train__amp='bf16'))
        with monkeypatch.context() as patched:
            patched.setattr(sys, 'argv', ['multigrid-vsr'])
            patched.setattr(sys, 'excepthook', sys.excepthook)
            main(['batch', '-opt', str(opt_file)])
    assert built == [1, 1, 0]
    assert torch.backends.cudnn.benchmark


def test_bench_models_have_one_device_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    built = []
    monkeypatch.setattr('basicsr.models.build_model', lambda opt: built.append(opt['num_gpu']))
    step.model_of(tmp_path, 'VideoRecurrentModel')
    assert built == [1]
