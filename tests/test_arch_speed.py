"""Archs with fewer kernels and no waits: the bits of BasicSR's own, and what they ask of a GPU, counted with fake tensors."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.archs import arch_util, basicvsr_arch, basicvsrpp_arch, spynet_arch, tof_arch
from basicsr.archs.arch_util import DCNv2Pack, ResidualBlockNoBN, flow_warp
from basicsr.archs.basicvsr_arch import BasicVSR, IconVSR
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.archs.edvr_arch import EDVR
from basicsr.losses.basic_loss import CharbonnierLoss
from runs import options, write
from test_multigrid_video_model import build

from benchmarks.launches import NETWORKS
from benchmarks.launches import measure as print_launches
from multigrid_vsr import launches
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models.acceleration import leave_out_checks
from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks/README.md'
ROWS = {
    (cells[0], cells[1]): tuple(map(int, cells[2:]))
    for cells in (
        [cell.strip() for cell in row.strip('|').split('|')]
        for row in BENCHMARKS.read_text().partition('### Launches and waits')[2].partition('\n## ')[0].splitlines()
        if re.match(r'\| \w+ \| \d', row)
    )
}

can_count = pytest.mark.skipif(
    torch.__version__ < launches.OLDEST_TORCH,
    reason=f'launches are counted with torch {launches.OLDEST_TORCH} or newer',
)


def test_every_name_of_flow_warp_is_the_one_without_waits():
    modules = (arch_util, basicvsr_arch, basicvsrpp_arch, spynet_arch, tof_arch)
    assert {module.flow_warp for module in modules} == {flow_warp}
    assert 'type_as' in flow_warp.__wrapped__.__code__.co_names


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    'options', [{}, {'interp_mode': 'nearest'}, {'padding_mode': 'border', 'align_corners': False}]
)
@pytest.mark.parametrize('size', [(1, 1), (7, 5), (3, 300)])  # bfloat16 has no 257
def test_flow_warp_gives_the_bits_of_basicsrs(size, options, dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # the second time with the grid that is kept
        x = torch.rand(2, 3, *size, generator=generator).to(dtype).requires_grad_()
        flow = (4 * torch.randn(2, *size, 2, generator=generator)).to(dtype).requires_grad_()
        found = []
        for warp in (flow_warp, flow_warp.__wrapped__):
            try:
                out = warp(x, flow, **options)
            except RuntimeError as error:  # a grid of another kind than the features
                found.append(str(error))
                continue
            found.append([out, *torch.autograd.grad(out.square().sum(), (x, flow))])
        assert type(found[0]) is type(found[1])
        assert found[0] == found[1] if isinstance(found[0], str) else all(map(torch.equal, *found))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_flow_warp_finds_each_pixel_of_a_wide_frame_in_bf16_too(dtype):
    """A flow of nothing gives the frame. BasicSR's grid is off from pixel 257 on, which bfloat16 does not have."""
    x, flow = torch.rand(1, 1, 2, 600).to(dtype), torch.zeros(1, 2, 600, 2)
    with torch.autocast('cpu', torch.bfloat16):
        ours, stock = (warp(x, flow) for warp in (flow_warp, flow_warp.__wrapped__))
    assert torch.allclose(ours, x.float(), atol=1e-4)
    assert torch.equal(ours, stock) is (dtype is torch.float32)
    assert torch.equal(ours[..., :257], stock[..., :257])


@pytest.mark.parametrize('scale', [1, 0.5])
def test_residual_block_gives_the_bits_of_basicsrs(scale):
    torch.manual_seed(0)
    block, x = ResidualBlockNoBN(4, res_scale=scale), torch.rand(2, 4, 8, 8, requires_grad=True)
    outs = [call(block, x) for call in (ResidualBlockNoBN.forward, ResidualBlockNoBN.forward.__wrapped__)]
    found = [[out, *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))] for out in outs]
    assert all(map(torch.equal, *found))


SMALL = {
    'BasicVSR': (BasicVSR, {'num_feat': 4, 'num_block': 1}, 3),
    'IconVSR': (IconVSR, {'num_feat': 8, 'num_block': 1}, 5),
    'IconVSR, padding 3': (IconVSR, {'num_feat': 8, 'num_block': 1, 'temporal_padding': 3}, 7),
    'BasicVSRPlusPlus': (BasicVSRPlusPlus, {'mid_channels': 16, 'num_blocks': 1}, 4),
    'EDVR': (EDVR, {'num_feat': 8, 'num_reconstruct_block': 1, 'num_extract_block': 1}, 5),
}


@pytest.mark.filterwarnings('ignore:distutils:DeprecationWarning')  # BasicSR looks at torchvision's version
@pytest.mark.parametrize('name', SMALL)
def test_arch_without_waits_gives_the_bits_of_basicsrs(name):
    kind, arguments, num_frame = SMALL[name]
    torch.manual_seed(0)
    network, lq = kind(**arguments), torch.rand(1, num_frame, 3, 24, 24)
    found = []
    for is_stock in (True, False):
        same = copy.deepcopy(network)
        if is_stock:
            with launches.as_basicsr_has_them():
                out = same(lq)
        else:
            leave_out_checks(same, is_mirrored=False)
            out = same(lq)
        out.square().mean().backward()
        found.append([out, *(weight.grad for weight in same.parameters() if weight.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    assert all(map(torch.equal, *found))


@pytest.mark.filterwarnings('ignore:distutils:DeprecationWarning')  # BasicSR looks at torchvision's version
def test_offsets_are_warned_of_unless_the_option_says_not_to(monkeypatch):
    warnings = []
    monkeypatch.setattr(arch_util, 'get_root_logger', lambda: SimpleNamespace(warning=warnings.append))
    pack = DCNv2Pack(8, 8, 3, padding=1, deformable_groups=8)
    torch.nn.init.constant_(pack.conv_offset.bias, 60)
    x = torch.rand(1, 8, 8, 8)
    pack(x, x)
    assert warnings == ['Offset abs mean is 60.0, larger than 50.']
    leave_out_checks(pack, is_mirrored=False)
    pack(x, x)
    assert len(warnings) == 1


@pytest.mark.parametrize(('arch_checks', 'flips'), [(None, False), (False, False), (False, True)])
def test_option_leaves_out_the_checks_of_the_network_that_trains(arch_checks, flips, tmp_path, clips):
    """Then the data say whether sequences are mirrored, and not their values."""
    network = {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}
    changes = {'datasets__train__flip_sequence': flips} if flips else {}
    opt = options(clips, network_g=network, train__arch_checks=arch_checks, train__ema_decay=0.9, **changes)
    model, _ = build(tmp_path, opt)
    mirrored = torch.zeros(1, 2, 3, 8, 8)
    for network, looks in ((model.net_g, arch_checks is None), (model.net_g_ema, True)):  # validation always looks
        assert network.checks_values is looks
        network.check_if_mirror_extended(mirrored)
        assert network.is_mirror_extended is (looks or flips)


# (frames, LQ side) whose count takes seconds; `python -m benchmarks.launches` counts the others.
COUNTED = [('BasicVSR', 7), ('IconVSR', 7), ('BasicVSRPlusPlus', 7), ('EDVR', 5), ('DUF', 7), ('TOFlow', 7)]


@can_count
@pytest.mark.parametrize(('name', 'num_frame'), COUNTED)
def test_forward_launches_no_more_than_the_docs_say_and_waits_for_nothing(name, num_frame):
    network_opt, shapes = next(entry for entry in NETWORKS if entry[0]['type'] == name)
    lq_size = dict(shapes)[num_frame]
    stock_forward, _, stock_waits, forward, iteration, waits = ROWS[name, f'{num_frame} x {lq_size}']
    counts = launches.count_forward(launches.builder(network_opt), (1, num_frame, 3, lq_size, lq_size))
    assert counts.launches <= forward <= stock_forward
    assert counts.waits == waits == 0 <= stock_waits
    assert forward < iteration


def test_table_of_the_docs_has_a_row_of_every_count():
    expected = {(opt['type'], f'{t} x {size}') for opt, shapes in NETWORKS for t, size in shapes}
    assert set(ROWS) == expected


@can_count
def test_backward_launches_no_more_than_the_docs_say():
    network_opt, _ = next(entry for entry in NETWORKS if entry[0]['type'] == 'EDVR')
    _, _, _, forward, iteration, _ = ROWS['EDVR', '5 x 64']
    assert launches.count_backward(launches.builder(network_opt), (1, 5, 3, 64, 64)).launches <= iteration - forward


@can_count
def test_operations_of_the_cpu_are_as_many_as_those_of_a_gpu():
    """What stands in for a backward on a GPU: the forward of each can be counted."""
    build_small = partial(BasicVSR, num_feat=4, num_block=1)
    on_gpu = launches.count_forward(build_small, (1, 3, 3, 64, 64))
    with launches.counted('cpu') as counts:
        network = build_small()
        lq = torch.empty(1, 3, 3, 64, 64)
        counts.launches = counts.waits = 0
        network(lq)
        made = counts.launches
    launches_once = 6 * 5  # grids: six sizes on the CPU as on the GPU
    assert abs(made - on_gpu.launches) <= launches_once
    assert on_gpu.waits == 0


@can_count
def test_counts_of_a_wait_and_a_launch_are_those_of_their_calls():
    with launches.counted() as counts:
        x = torch.empty(4, device='cuda')
        found = [(counts.launches, counts.waits)]
        for call in (
            lambda: x + 1,
            lambda: x.view(2, 2).add_(1),
            lambda: x.sum().item(),
            lambda: x.nonzero(),
            lambda: torch.empty(4).to('cuda'),
            lambda: torch.empty(4).to('cuda', non_blocking=True),
            lambda: x.copy_(torch.empty(4)),
            lambda: torch.empty(4) + 1,
        ):
            call()
            found.append((counts.launches, counts.waits))
    assert found == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 3), (7, 4), (7, 4)]


@can_count
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_feed_data_and_the_losses_wait_for_nothing(dtype):
    with launches.counted() as counts:
        model = object.__new__(MultigridVideoModel)  # BasicSR's own puts it on the GPU that there is not
        vars(model).update(device=torch.device('cuda'), _degradation=None)
        layout = (64, 64, 3) if dtype is torch.uint8 else (3, 64, 64)
        batch = {key: torch.empty(2, 7, *layout, dtype=dtype) for key in ('lq', 'gt')}
        model.feed_data(batch)
        assert model.lq.device.type == 'cuda'
        assert model.lq.shape == (2, 7, 3, 64, 64)
        CharbonnierLoss()(model.lq, model.gt)
    assert counts.waits == 0
    assert counts.launches > 0


@can_count
def test_frames_copied_on_another_stream_stay_until_they_are_read(monkeypatch):
    from multigrid_vsr.data.batches import to_device

    recorded = []
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: f'stream of {device}')
    monkeypatch.setattr(torch.Tensor, 'record_stream', lambda self, stream: recorded.append((self.shape, stream)))
    to_device(torch.zeros(3), torch.device('cpu'))
    assert recorded == []
    with launches.counted():
        to_device(torch.empty(4, device='cuda'), torch.device('cuda'))
    assert recorded == [((4,), 'stream of cuda:0')]


@can_count
def test_command_counts_the_network_and_the_shapes_of_a_file(tmp_path, clips, capsys):
    opt_file = write(tmp_path, options(clips, multigrid={'gt_size': [64, 128]}))
    print_launches(str(opt_file))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[:4] for row in rows] == [['BasicVSR', '4', 'x', side] for side in ('16', '32')]
    for row in rows:
        stock_forward, stock_iteration, stock_waits, forward, iteration, waits = map(int, row[4:])
        assert forward < stock_forward
        assert iteration < stock_iteration
        assert waits == 0 < stock_waits


def test_command_refuses_a_torch_that_counts_otherwise(monkeypatch, capsys):
    monkeypatch.setattr(launches, 'OLDEST_TORCH', '99.0')
    with pytest.raises(InputError) as error:
        print_launches()
    assert str(error.value) == (
        f'torch: must be 99.0 or newer to count launches, got {torch.__version__}. '
        'Run it in an environment of its own, on any machine.'
    )
