"""What ``train.amp`` takes on a device, and what stays in float32 in half precision."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import torch
from basicsr.archs import build_network
from probe import NETWORK, resume_here, train_here
from runs import PROBE, TRAIN_PROBE, log_of, options, run, same_bits, torchrun, write
from test_multigrid_video_model import build

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models import acceleration
from multigrid_vsr.models.acceleration import keep_float32

NETWORKS = [
    ({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}, ['spynet'], 'conv_last', 'fusion', (1, 2, 3, 32, 32)),
    ({'type': 'DUF', 'num_layer': 16}, ['dynamic_filter'], 'dynamic_filter', 'conv3d2', (1, 7, 3, 8, 8)),
    ({'type': 'TOFlow'}, ['spynet'], None, 'conv_2', (1, 7, 3, 16, 16)),
]


@pytest.mark.parametrize(('network', 'whole', 'last', 'half', 'shape'), NETWORKS, ids=[n[0]['type'] for n in NETWORKS])
def test_flow_and_last_sum_are_in_float32_and_the_rest_is_not(network, whole, last, half, shape):
    torch.manual_seed(0)
    dtype = torch.bfloat16
    net = build_network(dict(network)).eval()
    lq = torch.rand(shape)
    exact = net(lq).detach()
    with torch.autocast('cpu', dtype):
        plain = net(lq).detach().float()
    keep_float32(net)
    seen: dict[str, set[torch.dtype]] = {}
    for name, module in net.named_modules():
        if list(module.parameters(recurse=False)) or name == last:
            dtypes = seen.setdefault(name, set())
            module.register_forward_hook(lambda _, inputs, output, dtypes=dtypes: dtypes.add(output.dtype))
    with torch.autocast('cpu', dtype):
        output = net(lq).detach()
        assert torch.is_autocast_enabled('cpu')
    assert seen[half] == {dtype}
    for name, dtypes in seen.items():
        if name == last or name.split('.')[0] in whole:
            assert dtypes == {torch.float32}, name
    assert output.dtype == torch.float32
    if last is not None:  # TOFlow's sum makes a new tensor, in float32
        assert (output - exact).abs().mean() < 0.5 * (plain - exact).abs().mean()


@pytest.mark.parametrize(('amp', 'half'), [('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_run_in_half_precision_estimates_flows_and_adds_up_images_in_float32(amp, half, tmp_path, clips):
    model, _ = build(tmp_path, options(clips, train__amp=amp))
    seen = {}
    for name in ('spynet.basic_module.0.basic_module.0', 'conv_hr', 'conv_last'):
        module = model.net_g.get_submodule(name)
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output.dtype}))
    model.backward(torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 3, 64, 64))
    assert list(seen.values()) == [torch.float32, half, torch.float32]
    assert model.output.dtype == torch.float32


def test_network_without_autocast_computes_the_same_bits_and_an_error_leaves_autocast_as_it_was(monkeypatch):
    torch.manual_seed(0)
    net, lq = build_network({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}), torch.rand(1, 2, 3, 32, 32)
    before = net(lq)
    keep_float32(net)
    assert torch.equal(net(lq), before)
    assert not torch.is_autocast_enabled('cpu')
    monkeypatch.setattr(type(net.spynet), 'forward', lambda *_: 1 / 0)
    with torch.autocast('cpu', torch.bfloat16):
        with pytest.raises(ZeroDivisionError):
            net(lq)
        assert torch.is_autocast_enabled('cpu')


V100, GTX, A100 = ('Tesla V100', False, (7, 0)), ('GTX 1080', False, (6, 1)), ('A100', True, (8, 0))


def settled(network, device, gpus=1):
    """What ``auto`` is in the options after it, and the log's line."""
    train_opt = {'amp': 'auto'}
    with mock.patch.object(acceleration, 'get_root_logger') as logger:
        acceleration.settle_amp(train_opt, network, torch.device(device), gpus)
    (line,) = logger().info.call_args.args
    return train_opt['amp'], line


@pytest.mark.parametrize(
    ('gpu', 'gpus', 'amp', 'line'),
    [
        (A100, 1, 'bf16', 'bf16, which A100 has.'),
        (V100, 1, 'fp16', 'fp16, as Tesla V100 has no bf16.'),
        (GTX, 1, None, 'float32, as GTX 1080 has no bf16 and no tensor cores for fp16.'),
        (A100, 2, 'fp16', 'fp16, as one process with several GPUs has no bf16.'),
        (GTX, 2, None, 'float32, as GTX 1080 has no bf16 and no tensor cores for fp16.'),
    ],
)
def test_auto_takes_what_the_gpu_has(gpu, gpus, amp, line, monkeypatch):
    name, has_bf16, capability = gpu
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: name)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    assert settled(torch.nn.Conv2d(3, 3, 3), 'cuda', gpus) == (amp, f'train.amp: auto takes {line}')


BASICVSRPP = {'type': 'BasicVSRPlusPlus', 'mid_channels': 8, 'num_blocks': 1}


@pytest.mark.parametrize(
    ('network', 'has_bf16', 'amp', 'line'),
    [
        ({'type': 'TOFlow'}, True, 'bf16', 'bf16, which the CPU has.'),
        ({'type': 'TOFlow'}, False, None, 'float32, as the CPU has no bf16 instructions.'),
        (BASICVSRPP, True, None, 'float32, as deformable convolutions are in float32 on a CPU.'),
    ],
)
def test_auto_takes_what_the_cpu_has(network, has_bf16, amp, line, monkeypatch):
    monkeypatch.setattr(acceleration, 'has_bf16', lambda device: has_bf16)
    assert settled(build_network(dict(network)), 'cpu') == (amp, f'train.amp: auto takes {line}')


@pytest.mark.parametrize('has_bf16', [True, False])
def test_run_with_auto_has_the_bits_of_what_it_takes_and_resumes_in_it(has_bf16, tmp_path, clips, monkeypatch):
    monkeypatch.setattr(acceleration, 'has_bf16', lambda device: has_bf16)
    opt = options(clips, network_g=NETWORK, train__amp='auto', logger__save_checkpoint_freq=6)
    named = options(clips, network_g=NETWORK, train__amp='bf16' if has_bf16 else None, name='named')
    train_here(tmp_path, opt)
    train_here(tmp_path, named)
    run_folder = tmp_path / 'experiments/run'
    ours, theirs = (tmp_path / f'experiments/{name}/models/net_g_latest.pth' for name in ('run', 'named'))
    assert same_bits(ours, theirs)
    resume_here(tmp_path, opt, run_folder, 12)
    assert same_bits(ours, theirs)
    assert f'train.amp: auto takes {"bf16" if has_bf16 else "float32"}, ' in log_of(run_folder)
    assert 'train.amp is' not in log_of(run_folder)
    if has_bf16:
        monkeypatch.setattr(acceleration, 'has_bf16', lambda device: False)
        train_here(tmp_path, opt, '--auto_resume')
        assert 'train.amp is float32 now, and was bf16.' in log_of(run_folder)


def test_ranks_take_what_the_least_of_them_has(tmp_path, clips):
    (tmp_path / 'train.py').write_text(
        f'import os, sys; sys.path.append({str(PROBE.parent)!r}); import probe; '
        'from multigrid_vsr.models import acceleration; acceleration.has_bf16 = lambda _: os.environ["RANK"] == "0"; '
        'probe.main()'
    )
    opt_file = write(tmp_path, options(clips, network_g=NETWORK, train__amp='auto', train__total_iter=2))
    printed = run(*torchrun('train.py', 'train', '-opt', opt_file), cwd=tmp_path).stdout
    assert 'train.amp: auto takes float32, as the CPU has no bf16 instructions.' in printed


def test_cpu_without_bf16_trains_in_float32_with_auto_and_says_what_bf16_costs(tmp_path, clips):
    """oneDNN goes without the instructions that it is told to."""
    printed = {}
    for amp in ('auto', 'bf16'):
        opt = options(clips, name=amp, network_g=NETWORK, train__amp=amp, train__total_iter=1)
        done = run(*TRAIN_PROBE, write(tmp_path, opt), cwd=tmp_path, ONEDNN_MAX_CPU_ISA='AVX2')
        printed[amp] = done.stdout
    assert 'train.amp: auto takes float32, as the CPU has no bf16 instructions.' in printed['auto']
    assert re.search(
        r'train\.amp: this CPU has no bf16 instructions\. A small convolution, forward and backward, takes \d+\.\d times as '
        r'long in bf16 as in float32 \(measured\)\. Leave amp out, or set auto\.', printed['bf16'],
    )  # fmt: skip
    assert all(' iter:       1,' in text for text in printed.values())


@pytest.mark.parametrize(('has_bf16', 'way'), [(True, 'use train.amp: bf16'), (False, 'leave train.amp out')])
def test_run_in_fp16_that_ends_with_nan_names_what_the_device_has(has_bf16, way, tmp_path, clips, monkeypatch):
    model, _ = build(tmp_path, options(clips, network_g=NETWORK, train__amp='fp16'))
    monkeypatch.setattr('multigrid_vsr.models.run.has_bf16', lambda device: has_bf16)
    model.run.begin_iteration(3)
    model.run.end_iteration()
    with pytest.raises(OptionError, match=f'or {way}; there is no checkpoint yet'):
        model.run.give_up(3)
