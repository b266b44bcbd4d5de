"""What stays in float32 in half precision."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from runs import options
from test_multigrid_video_model import build

from multigrid_vsr.models.precision import keep_float32

NETWORKS = [
    ({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}, ['spynet'], 'conv_last', 'fusion', (1, 2, 3, 32, 32)),
    ({'type': 'DUF', 'num_layer': 16}, ['dynamic_filter'], 'dynamic_filter', 'conv3d2', (1, 7, 3, 8, 8)),
    ({'type': 'TOFlow'}, ['spynet'], None, 'conv_2', (1, 7, 3, 16, 16)),
]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(('network', 'whole', 'last', 'half', 'shape'), NETWORKS, ids=[n[0]['type'] for n in NETWORKS])
def test_flow_and_last_sum_are_in_float32_and_the_rest_is_not(network, whole, last, half, shape, dtype):
    torch.manual_seed(0)
    net = build_network(dict(network)).eval()
    lq = torch.rand(shape)
    exact = net(lq).detach()
    with torch.autocast('cpu', dtype):
        plain = net(lq).detach().float()
    keep_float32(net)
    seen: dict[str, set[torch.dtype]] = {}
    for name, module in net.named_modules():
        if list(module.parameters(recurse=False)) or name == last:
            module.register_forward_hook(
                lambda _, inputs, output, name=name: seen.setdefault(name, set()).add(output.dtype)
            )
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


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_run_in_half_precision_estimates_flows_and_adds_up_images_in_float32(amp, tmp_path, clips):
    model, _ = build(tmp_path, options(clips, train__amp=amp))
    seen = {}
    for name in ('spynet.basic_module.0.basic_module.0', 'conv_hr', 'conv_last'):
        module = model.net_g.get_submodule(name)
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output.dtype}))
    model.backward(torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 3, 64, 64))
    half = {'bf16': torch.bfloat16, 'fp16': torch.float16}[amp]
    assert list(seen.values()) == [torch.float32, half, torch.float32]
    assert model.output.dtype == torch.float32


def test_network_without_autocast_computes_the_same_bits():
    torch.manual_seed(0)
    net = build_network({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1})
    lq = torch.rand(1, 2, 3, 32, 32)
    before = net(lq)
    keep_float32(net)
    assert torch.equal(net(lq), before)
    assert not torch.is_autocast_enabled('cpu')


def test_error_in_the_flow_network_leaves_autocast_as_it_was(monkeypatch):
    net = build_network({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1})
    keep_float32(net)
    monkeypatch.setattr(type(net.spynet), 'forward', lambda *_: 1 / 0)
    with torch.autocast('cpu', torch.bfloat16):
        with pytest.raises(ZeroDivisionError):
            net(torch.rand(1, 2, 3, 32, 32))
        assert torch.is_autocast_enabled('cpu')
