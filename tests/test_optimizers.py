"""Optimizers by name: torch's, registered ones and those of a library, in runs that go on and end in the same bits."""

from __future__ import annotations

import re

import own_parts  # noqa: F401  # registers
import pytest
import torch
from probe import refused, resume_here, train_here
from runs import loaded, log_of, options, real_options, same_bits
from test_bad_option_files import GAN

from multigrid_vsr import OPTIMIZER_REGISTRY
from multigrid_vsr.models.optimizers import eval_weights, optimizer_class, torch_names

# BasicSR's order, when it goes on
pytestmark = pytest.mark.filterwarnings('ignore:Detected call of `lr_scheduler.step')
NETWORK = {'type': 'FlowLoopProbe'}


@OPTIMIZER_REGISTRY.register()
class SignSGD(torch.optim.Optimizer):
    """Steps of one length; remembers the sign before in each state."""

    def __init__(self, params, lr, decay=0.9):
        super().__init__(params, {'lr': lr, 'decay': decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault('mean', torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group['decay'])
                    parameter.sub_(mean.sign(), alpha=group['lr'])


@OPTIMIZER_REGISTRY.register()
class ClosureSGD(SignSGD):
    def step(self, closure):
        super().step()


# Those with a state of a kind of its own: none, moments, counts, a step size, factors.
NAMES = ['SGD', 'Adam', 'NAdam', 'ASGD', 'Rprop', 'Adafactor', 'SignSGD', 'schedulefree.AdamWScheduleFree']


def test_optimizers_of_this_torch_can_be_named():
    assert {'Adagrad', 'AdamW', 'RMSprop', *NAMES[:6]} <= set(torch_names())
    assert not {'LBFGS', 'SparseAdam', 'Optimizer'} & set(torch_names())


@pytest.mark.parametrize('name', NAMES)
def test_run_with_any_optimizer_goes_on_in_the_same_bits(name, tmp_path, clips):
    """Two groups with rates of their own, a flow network that is fixed first, an EMA, ramps and restarts."""
    opt = real_options(clips, tmp_path, network_g=NETWORK, train__optim_g={'type': name, 'lr': 1e-3})
    train_here(tmp_path, opt)
    folder = tmp_path / 'run'
    state = loaded(folder, '12.state')
    assert [len(optimizer['param_groups']) for optimizer in state['optimizers']] == [2]
    rates = [tuple(map(float, pair)) for pair in re.findall(r'lr:\((\S+),(\S+),\)', log_of(folder))]
    assert [slow / fast for fast, slow in rates] == pytest.approx([0.25] * 13, rel=1e-2)
    assert not same_bits(loaded(folder, 2)['params'], loaded(folder, 12)['params'])
    resume_here(tmp_path, opt, folder, 6, 8, 10, 12)  # it goes on inside the freeze
    assert same_bits(loaded(folder, '12.state'), state)


def test_schedule_free_optimizer_gives_its_averaged_weights_and_trains_on_in_the_same_bits():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = optimizer_class('schedulefree.AdamWScheduleFree')([parameter], lr=0.1)
    optimizer.train()
    for _ in range(3):
        parameter.grad = torch.randn(1000)
        optimizer.step()
    trained, z = parameter.detach().clone(), optimizer.state[parameter]['z'].clone()
    with eval_weights([optimizer]):
        assert not torch.equal(parameter, trained)
        # y = 0.9 x + 0.1 z, the interpolation of the paper with beta 0.9.
        torch.testing.assert_close(0.9 * parameter.detach() + 0.1 * z, trained)
    assert torch.equal(parameter, trained)
    optimizer.step()  # refuses outside of its training mode


def test_schedule_free_weights_are_what_is_saved(tmp_path, clips):
    optimizer = {'type': 'schedulefree.AdamWScheduleFree', 'lr': 1e-3}
    train_here(tmp_path, real_options(clips, tmp_path, network_g=NETWORK, train__optim_g=optimizer))
    state = loaded(tmp_path / 'run', '12.state')
    saved = loaded(tmp_path / 'run', 12)['params']
    trained = state['trained_weights'][0]
    z = [state['optimizers'][0]['state'][number]['z'] for number in range(len(trained))]
    names = [*(name for name in saved if 'spynet' not in name), *(name for name in saved if 'spynet' in name)]
    for name, y, mean in zip(names, trained, z, strict=True):
        torch.testing.assert_close(0.9 * saved[name] + 0.1 * mean, y)
    assert not torch.equal(saved[names[0]], trained[0])


def test_gan_run_has_any_optimizer_for_each_network(tmp_path, clips):
    optimizers = {'train__optim_g': {'type': 'NAdam', 'lr': 1e-3}, 'train__optim_d': {'type': 'SignSGD', 'lr': 1e-3}}
    opt = options(clips, **{**GAN, **optimizers}, network_g=NETWORK, multigrid={'num_frame': [2, 4]},
                  logger__save_checkpoint_freq=2, train__total_iter=4)  # fmt: skip
    train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    first, second = loaded(folder, '4.state')['optimizers']
    assert {'mu_product', 'exp_avg'} <= first['state'][0].keys()
    assert second['state'][0].keys() == {'mean'}
    end = torch.load(folder / 'models/net_d_4.pth', weights_only=True)
    resume_here(tmp_path, opt, folder, 4)
    assert same_bits(torch.load(folder / 'models/net_d_4.pth', weights_only=True), end)


WRONG = [
    ('AdamX', 'train.optim_g.type: must be one of .*AdamW, .*, got AdamX. Did you mean `Adam'),
    ('SignSDG', 'train.optim_g.type: must be one of .*SignSGD.*, got SignSDG. Did you mean `SignSGD`'),
    ('LBFGS', 'train.optim_g.type: must be one of .*, got LBFGS.'),
    ('ClosureSGD', 'train.optim_g.type: must be an optimizer whose step needs no closure, got ClosureSGD. A step has'),
    ('no_such.Adam', r"train.optim_g.type: must be an optimizer of torch, .*, got no_such.Adam \(No module named 'no_such'\)."),
    ('torch.optim.Adm', r'train.optim_g.type: .*, got torch.optim.Adm \(module .* has no attribute .Adm.\). Install'),
    ('json.loads', 'train.optim_g.type: .*, got json.loads'),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'line'), WRONG, ids=[name for name, _ in WRONG])
def test_optimizer_that_cannot_be_used_stops_the_run_before_anything_is_written(name, line, tmp_path, clips):
    refused(tmp_path, options(clips, network_g=NETWORK, train__optim_g={'type': name, 'lr': 1e-3}), line)
