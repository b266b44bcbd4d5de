"""Modules by name: those that stay fixed for a while, and those that are computed again for the gradient."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.utils.registry import ARCH_REGISTRY
from probe import NoisyProbe, ShapeProbe, ThinBasicVSR, refused, resume_here, train_here
from runs import PROBE, assert_same_end, loaded, log_of, losses, options, real_options, run, same_bits, torchrun, write

from benchmarks.checkpointing import kept_bytes
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models.acceleration import checkpoint_modules, matching

FIXED = {'fix_modules': ['spynet', 'upconv1'], 'fix_flow': 6, 'flow_lr_mul': 0.25}


def gradients(network, lq, dtype=None):
    """The output, the gradients, the buffers afterwards and the next random number, from one random state on."""
    torch.manual_seed(3)
    network.train()
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        output = network(lq)
    output.float().pow(2).mean().backward()
    buffers = [buffer.clone() for buffer in network.buffers()]
    return output, [parameter.grad for parameter in network.parameters()], buffers, torch.rand(1)


class Dropping(torch.nn.Module):
    """Drops at random inside of the module."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(24, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 24))

    def forward(self, lq):
        return self.body(self.body(lq))


CASES = [
    (ThinBasicVSR, ['*_trunk', 'spynet'], None),
    (ThinBasicVSR, ['forward_trunk.main.*'], torch.bfloat16),
    (NoisyProbe, ['norm'], None),
    (Dropping, ['body'], None),
]


@pytest.mark.parametrize(('kind', 'patterns', 'dtype'), CASES, ids=[f'{c[0].__name__} {c[1]}' for c in CASES])
def test_checkpointed_modules_give_the_same_gradient_buffers_and_random_state_to_the_last_bit(kind, patterns, dtype):
    torch.manual_seed(0)
    plain, checkpointed = kind(), kind()
    checkpointed.load_state_dict(plain.state_dict())
    checkpoint_modules(checkpointed, patterns)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    lq = torch.rand(2, 3, 3, 24, 24)
    assert same_bits(*(gradients(network, lq, dtype) for network in (plain, checkpointed)))


def test_checkpointed_modules_keep_less_and_nothing_changes_in_validation():
    plain = BasicVSR(num_feat=8, num_block=4)
    checkpointed = BasicVSR(num_feat=8, num_block=4)
    checkpointed.load_state_dict(plain.state_dict())
    checkpoint_modules(checkpointed, ['backward_trunk', 'forward_trunk'])
    lq = torch.rand(1, 3, 3, 64, 64)
    # A trunk keeps 11 maps of 8 channels in its 9 convolutions, a 64x64 one 131 kB; there are 2 trunks and 3 frames.
    kept = [kept_bytes(SimpleNamespace(net_g=network, lq=lq)) for network in (plain, checkpointed)]
    assert kept[0] - kept[1] > 2 * 3 * 8 * 131_000
    with torch.no_grad():
        assert torch.equal(plain.eval()(lq), checkpointed.eval()(lq))


def test_pattern_fits_the_outermost_modules_and_the_entries_of_lists():
    network = BasicVSR(num_feat=4, num_block=2)
    names = {module: name for name, module in network.named_modules()}
    levels = [f'spynet.basic_module.{level}' for level in range(6)]
    assert [names[module] for module in matching(network, ['spynet.basic_module'])] == levels
    found = [names[module] for module in matching(network, ['*_trunk*', 'spynet'])]
    assert found == ['backward_trunk', 'forward_trunk', 'spynet']


WRONG = [
    ({'checkpoint_modules': ['forward_trunk', 'backwards_trunk']}, r'checkpoint_modules\[1\]: must fit the name of a module with weights of ThinBasicVSR, got backwards_trunk. Did you mean `backward_trunk`'),
    ({'fix_flow': 3, 'fix_modules': ['spynt']}, r'fix_modules\[0\]: must be part of the name of a parameter of ThinBasicVSR, got spynt. Did you mean `spynet`'),
    ({'fix_modules': ['spynet']}, r"fix_modules: must stand beside fix_flow or flow_lr_mul, got \['spynet'\]."),
    ({'fix_flow': -1}, 'fix_flow: must be a whole number of at least 0, got -1. Write 0 for none. BasicSR takes -1 for all'),
    ({'checkpoint_modules': 'spynet'}, 'checkpoint_modules: must be a list, got spynet. Write it as'),
    ({'checkpoint_modules': ['spynet'], 'compile': True}, r"checkpoint_modules: must be left out beside train.compile, got \['spynet'\]."),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), WRONG, ids=[str(changes) for changes, _ in WRONG])
def test_module_that_is_not_there_stops_the_run_before_anything_is_written(changes, line, tmp_path, clips):
    opt = options(clips, network_g={'type': 'ThinBasicVSR'})
    opt['train'].update(changes)
    refused(tmp_path, opt, f'^train.{line}')


@ARCH_REGISTRY.register()
class InPlaceArch(ShapeProbe):
    """Its tail changes what it is given."""

    def __init__(self):
        super().__init__()
        self.tail = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Conv2d(3, 3, 1))

    def forward(self, lq):
        frames = super().forward(lq)
        return self.tail((frames * 1).flatten(0, 1)).view_as(frames)


def test_module_that_changes_its_input_is_named_before_iteration_1(tmp_path, clips):
    line = (
        r"train.checkpoint_modules: must name modules that can be computed again, got \['tail'\] \(one of the variables"
    )
    with pytest.raises(InputError, match=line) as error:
        train_here(tmp_path, options(clips, network_g={'type': 'InPlaceArch'}, train__checkpoint_modules=['tail']))
    assert str(error.value).count('\n') == 0
    assert 'iter:       1' not in log_of(tmp_path / 'experiments/run')


def changed(run_folder, first, second):
    """The modules whose weights differ between two checkpoints."""
    old, new = (loaded(run_folder, iteration)['params'] for iteration in (first, second))
    return {name.split('.')[0] for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.filterwarnings('ignore:Detected call of `lr_scheduler.step')  # BasicSR's order, when it goes on
def test_modules_stay_fixed_train_slower_and_a_run_that_goes_on_ends_in_the_same_bits(tmp_path, clips):
    opt = real_options(clips, tmp_path, network_g={'type': 'ThinBasicVSR'})
    opt['train'].update(FIXED, checkpoint_modules=['*_trunk'])
    opt['logger']['save_checkpoint_freq'] = 1
    train_here(tmp_path, opt)
    folder = tmp_path / 'run'
    log = log_of(folder)
    assert 'Frozen: spynet, upconv1.' in log
    assert 'Compute 2 modules again for the gradient: *_trunk.' in log
    rates = [line.split('lr:(')[1].split(',)')[0].split(',') for line in log.splitlines() if 'lr:(' in line]
    assert [float(slow) / float(fast) for fast, slow in rates] == pytest.approx([0.25] * 13, rel=1e-2)
    assert not {'spynet', 'upconv1'} & changed(folder, 1, 5)
    assert {'spynet', 'upconv1', 'upconv2'} <= changed(folder, 5, 6)  # iteration 6 is the first that trains them
    resume_here(tmp_path, opt, folder, *range(4, 14))  # it goes on inside the freeze


def test_ranks_with_fixed_and_checkpointed_modules_train_as_without_checkpoints(tmp_path, clips):
    logs = {}
    for name, option, patterns in (
        ('without', 'find_unused_parameters', None),
        ('with', 'find_unused_parameters', ['*_trunk', 'spynet']),
        ('static', 'use_static_graph', ['*_trunk', 'spynet']),
    ):
        folder = tmp_path / name
        folder.mkdir()
        opt = {**real_options(clips, folder, network_g={'type': 'ThinBasicVSR'}), option: True}
        opt['train'].update(FIXED, checkpoint_modules=patterns, total_iter=12)
        logs[name] = run(*torchrun(PROBE, 'train', '-opt', write(folder, opt)), cwd=folder).stdout
        assert len(losses(logs[name])) == 12
        assert losses(logs[name]) == losses(logs['without'])
        assert_same_end(folder, tmp_path / 'without')
