"""Runs on devices that this machine need not have: what is refused, what is said, and which ranks meet where."""

from __future__ import annotations

import re
import sys
from unittest import mock

import pytest
import torch
from basicsr.data import prefetch_dataloader
from basicsr.utils import dist_util
from runs import options, run, torchrun, write
from test_bad_option_files import EDVR
from test_distributed import COMMAND
from test_loader import Requests, keys, loader

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.host import checks

ICONVSR = {
    'network_g': {'type': 'IconVSR', 'num_feat': 8, 'num_block': 1},
    'multigrid__num_frame': None,
    'datasets__train__num_frame': 5,
}
BASICVSRPP = {'network_g': {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}}
ON_CPU = (
    r'train.amp: must be left out on a CPU for {}, whose deformable convolutions are in float32 only there, got {}. '
)
CUDA_PREFETCH = {'datasets__train__prefetch_mode': 'cuda', 'datasets__train__pin_memory': True}


@pytest.fixture
def gpus(monkeypatch):
    """Says how many GPUs torch finds."""

    def found(count):
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)

    return found


def line_of(folder, opt, *arguments):
    """What ``multigrid-vsr train`` ends with before anything is written."""
    argv = ['multigrid-vsr', 'train', '-opt', str(write(folder, opt)), *arguments]
    with mock.patch.object(sys, 'argv', argv), mock.patch.object(sys, 'excepthook'), pytest.raises(SystemExit) as ended:
        main(argv[1:])
    assert [path.name for path in folder.iterdir()] == ['run.yml']
    return str(ended.value)


@pytest.mark.parametrize(
    ('count', 'changes', 'line'),
    [
        (0, {**EDVR, 'train__amp': 'bf16'}, ON_CPU.format('EDVR', 'bf16')),
        (0, {**EDVR, 'train__amp': 'fp16'}, ON_CPU.format('EDVR', 'fp16')),
        (0, {**ICONVSR, 'train__amp': 'bf16'}, ON_CPU.format('IconVSR', 'bf16')),
        (0, {**BASICVSRPP, 'train__amp': 'bf16', 'num_gpu': 'auto'}, ON_CPU.format('BasicVSRPlusPlus', 'bf16')),
        (8, {**BASICVSRPP, 'train__amp': 'bf16', 'num_gpu': 0}, ON_CPU.format('BasicVSRPlusPlus', 'bf16')),
        (8, {'num_gpu': 'auto', 'train__amp': 'bf16'}, 'train.amp: must be left out where one process has 8 GPUs, got bf16. Start a process for each: torchrun --nproc_per_node=8 '),
        (8, {'num_gpu': 2, 'train__compile': True}, 'train.compile: must be left out where one process has 2 GPUs, got True.'),
        (8, {'num_gpu': 2, 'train__cuda_graph': True}, 'train.cuda_graph: must be left out where one process has 2 GPUs, got'),
        (1, {'num_gpu': 8}, 'num_gpu: must be at most the 1 GPUs of this machine, got 8. Set num_gpu: auto.'),
        (0, CUDA_PREFETCH, 'datasets.train.prefetch_mode: must be cpu or left out on a CPU, got cuda. Change it.'),
        (8, {**CUDA_PREFETCH, 'datasets__train__pin_memory': False}, 'datasets.train.pin_memory: must be true beside prefetch_mode: cuda, got nothing. BasicSR needs it.'),
    ],
)  # fmt: skip
def test_run_that_the_devices_cannot_do_says_so_in_one_line(count, changes, line, tmp_path, clips, gpus):
    gpus(count)
    assert re.match(line, line_of(tmp_path, options(clips, **changes)))


def test_gpu_without_bf16_refuses_it_in_one_line(tmp_path, clips, gpus, monkeypatch):
    gpus(1)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla V100-SXM2-16GB')
    assert line_of(tmp_path, options(clips, num_gpu=1, train__amp='bf16')) == (
        'train.amp: must be fp16 or left out on Tesla V100-SXM2-16GB, which has no bf16, got bf16. '
        'Or set auto, which takes what the GPU has.'
    )
    main(['plan', '-opt', str(tmp_path / 'run.yml')])  # for another machine


def test_ranks_refuse_bf16_for_the_gpu_of_another(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setattr(checks, 'has_bf16', lambda device: True)
    monkeypatch.setattr(checks, 'of_all_ranks', lambda name: [name, 'Tesla V100', name])
    with pytest.raises(OptionError, match=r'^train\.amp: must be fp16 or left out on Tesla V100, which has'):
        checks.check_bf16({'num_gpu': 1, 'train': {'amp': 'bf16'}})
    for taken in ('fp16', 'auto', None):
        checks.check_bf16({'num_gpu': 1, 'train': {'amp': taken}})


class Begun(Exception):
    """BasicSR is asked for its options: all checks are done."""


@pytest.mark.parametrize(
    ('count', 'changes', 'arguments', 'printed'),
    [
        (8, {'num_gpu': 'auto'}, (), '8 GPUs in one process, several times slower .* torchrun --nproc_per_node=8 '),
        (8, {'num_gpu': 2, 'train__amp': 'fp16'}, (), '2 GPUs in one process, several times slower'),
        (8, {'num_gpu': 1, 'train__amp': 'bf16'}, (), None),
        (8, {'num_gpu': 8, 'train__amp': 'bf16'}, ('--launcher', 'pytorch'), None),
        (8, {'num_gpu': 2, 'train__amp': 'auto'}, (), '2 GPUs in one process, several times slower'),
        (0, {**BASICVSRPP, 'train__amp': 'auto'}, (), None),
        # One GPU a task, or a node with fewer than the file says.
        (1, {'num_gpu': 8}, ('--launcher', 'slurm'), None),
        (4, {'num_gpu': 8}, ('--launcher', 'pytorch'), None),
        (8, {**BASICVSRPP, 'num_gpu': 'auto', 'train__amp': 'bf16'}, ('--launcher', 'pytorch'), None),
    ],
)
def test_run_that_the_devices_can_do_begins(
    count, changes, arguments, printed, tmp_path, clips, gpus, monkeypatch, capsys
):
    gpus(count)
    import basicsr.utils.options

    monkeypatch.setattr(basicsr.utils.options, 'ordered_yaml', mock.Mock(side_effect=Begun))  # the first that it does
    opt_file = write(tmp_path, options(clips, **changes))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(opt_file), *arguments])
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    with pytest.raises(Begun):
        basicsr.utils.options.parse_options(str(tmp_path), is_train=True)
    seen = capsys.readouterr().out
    assert re.search(printed, seen) if printed else 'several times slower' not in seen


@pytest.mark.parametrize(
    ('count', 'changes', 'backend'),
    [
        (8, {'num_gpu': 8}, 'nccl'),
        (8, {'num_gpu': 'auto'}, 'nccl'),
        (8, {'num_gpu': 0}, 'gloo'),
        (0, {'num_gpu': 0}, 'gloo'),
        (0, {'num_gpu': 'auto'}, 'gloo'),
    ],
)
def test_ranks_meet_over_gloo_where_they_train_on_cpus(count, changes, backend, tmp_path, clips, gpus, monkeypatch):
    gpus(count)
    asked = []
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: asked.append(device))
    monkeypatch.setattr(dist_util.dist, 'init_process_group', lambda backend, **_: asked.append(backend))
    monkeypatch.setenv('RANK', '3')
    opt_file = write(tmp_path, options(clips, **changes))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(opt_file), '--launcher', 'pytorch'])
    dist_util.init_dist('pytorch')
    assert asked == ([3, 'nccl'] if backend == 'nccl' else ['gloo'])


def test_ranks_end_where_rank_0_finds_no_whole_checkpoint(tmp_path, clips):
    opt_file = write(tmp_path, options(clips, network_g={'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
                                       path__experiments_root=str(tmp_path)))  # fmt: skip
    states = tmp_path / 'run/training_states'
    states.mkdir(parents=True)
    (states / '4.state').write_bytes(b'no state')
    printed = run(*torchrun(COMMAND, 'train', '-opt', opt_file, '--auto_resume'), cwd=tmp_path, ok=False).stdout
    assert printed.count('--auto_resume: must find a whole checkpoint in') == 1


class Stream:
    """Stands for a CUDA stream."""

    def wait_stream(self, stream):
        assert isinstance(stream, Stream)


@pytest.fixture
def streams(monkeypatch):
    for name, value in (('Stream', Stream), ('current_stream', Stream), ('stream', lambda stream: mock.MagicMock())):
        monkeypatch.setattr(torch.cuda, name, value)


def test_cuda_prefetcher_starts_the_workers_once_and_gives_every_batch(streams, monkeypatch):
    batches = loader(Requests(), num_workers=1)
    begun = mock.Mock(wraps=batches._batches)
    monkeypatch.setattr(batches, '_batches', begun)
    prefetcher = prefetch_dataloader.CUDAPrefetcher(batches, {'num_gpu': 0})
    assert begun.call_count == 0
    prefetcher.reset()
    assert keys(iter(prefetcher.next, None)) == keys(loader())
    assert begun.call_count == 1


def test_cuda_prefetcher_of_a_plain_run_is_basicsrs(streams):
    plain = [{'lq': torch.zeros(1)}, {'lq': torch.ones(1)}]
    assert prefetch_dataloader.CUDAPrefetcher(plain, {'num_gpu': 0}).batch is not None
