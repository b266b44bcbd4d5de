"""``train.cuda_graph``: when an iteration is captured, replayed and left eager, on a stand-in for torch's graphs."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from unittest import mock

import probe
import pytest
import torch
from basicsr.archs import build_network
from graph_stand_in import StandIn
from probe import train_here
from runs import loaded, log_of, options, run, same_bits, torchrun, validation_set, write
from test_multigrid_video_model import build

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.models import cuda_graph
from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel
from multigrid_vsr.models.wrapping import buffers_may_differ

CAPTURED = ['tried', 'capture', *['replay'] * 4, 'drop', 'empty']  # seven iterations of a kind, the first three warm up
NOT_PERMITTED = 'operation not permitted when stream is capturing'
FULL = torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
ONE_SHAPE = {'multigrid': {'num_frame': [4]}}


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(cuda_graph, 'LEAST_ITERATIONS', 5)
    return StandIn(monkeypatch)


def end_of(folder, clips, *arguments, **changes):
    """The weights, EMA and optimizer after 28 iterations: 7 of each of four shapes.

    No output of another iteration may be alive in a forward. It would hold a second set of activations where memory is
    full, and parameters on the stream of the warm-up.
    """
    changes = {'train__total_iter': 28, 'multigrid__num_frame': [3, 4], 'multigrid__gt_size': [64, 128], **changes}
    opt = options(clips, name='a', **{'network_g': {'type': 'NoisyProbe'}, 'train__ema_decay': 0.9, **changes})
    opt['logger']['save_checkpoint_freq'] = 28
    random.seed(0)
    backward = MultigridVideoModel.backward

    def backward_that_looks(self, lq, gt):
        assert self._graph is None or getattr(self, 'output', None) is None
        return backward(self, lq, gt)

    with mock.patch.object(MultigridVideoModel, 'backward', backward_that_looks):
        train_here(folder, opt, *arguments)
    state = loaded(folder / 'experiments/a', '28.state')
    return loaded(folder / 'experiments/a', 28), state['optimizers'], state['rng']


def assert_graphs_end_as_eager(folder, clips, **changes):
    (folder / 'eager').mkdir(exist_ok=True)
    eager = end_of(folder / 'eager', clips, **changes)
    assert same_bits(end_of(folder, clips, **changes, train__cuda_graph=True), eager)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'network_g': {'type': 'ThinBasicVSR'}, 'train__channels_last': True},
        {'train__amp': 'bf16'},
        {'train__amp': 'fp16', 'multigrid__batch_size_per_gpu': [4, 2], 'multigrid__micro_batch_size_per_gpu': 1},
    ],
    ids=['batch norm', 'BasicVSR, channels_last', 'bf16', 'fp16, parts'],
)
def test_run_by_graphs_ends_with_the_bits_of_an_eager_one(changes, tmp_path, clips, stand_in):
    assert_graphs_end_as_eager(tmp_path, clips, **changes)
    assert stand_in.log == CAPTURED * 3 + CAPTURED[:-2]  # nothing is dropped at the end of the run
    found = re.findall(r'Captured an iteration of (\d x \d x \d+) as', log_of(tmp_path / 'experiments/a'))
    assert [shape[4:] for shape in found] == ['3 x 64', '4 x 64', '3 x 128', '4 x 128']


def test_gradients_that_somebody_lets_go_of_are_there_again(tmp_path, clips, stand_in, monkeypatch):
    update = MultigridVideoModel.update
    monkeypatch.setattr(
        MultigridVideoModel, 'update', lambda self, number: (self.optimizer_g.zero_grad(), update(self, number))
    )
    assert_graphs_end_as_eager(tmp_path, clips, **ONE_SHAPE)
    assert 'replay' in stand_in.log


def test_thaw_captures_anew_and_a_short_rest_stays_eager(tmp_path, clips, stand_in):
    """``fix_flow: 8`` freezes iterations 1 to 7 of 28 of the one shape, ``fix_flow: 5`` only four."""
    for fix_flow, expected in (
        (8, [*CAPTURED, 'tried', 'capture', *['replay'] * 18]),
        (5, ['tried', 'capture', *['replay'] * 21]),
    ):
        stand_in.log.clear()
        network = {'type': 'ThinBasicVSR'}
        assert_graphs_end_as_eager(tmp_path, clips, **ONE_SHAPE, network_g=network, train__fix_flow=fix_flow)
        assert stand_in.log == expected


@pytest.mark.parametrize(
    ('asks', 'reason'),
    [
        ('value', r'called a synchronizing CUDA operation \(\w+\.py, line \d+\)'),
        ('random', 'it draws random numbers on the CPU, which a graph would repeat'),
        ('', rf'{NOT_PERMITTED} \(\w+\.py, line \d+\)'),
    ],
)
def test_arch_that_cannot_be_captured_stays_eager_and_says_why(asks, reason, tmp_path, clips, stand_in, monkeypatch):
    monkeypatch.setattr(probe.NoisyProbe, 'asks', asks)
    stand_in.fails = None if asks else RuntimeError(NOT_PERMITTED)
    assert_graphs_end_as_eager(tmp_path, clips, **ONE_SHAPE)
    assert 'replay' not in stand_in.log
    assert stand_in.log.count('tried') == 1
    lines = re.findall(r'No CUDA graph of 1 x 4 x 128: (.*)\.\n', log_of(tmp_path / 'experiments/a'))
    assert len(lines) == 1
    assert re.fullmatch(reason, lines[0])


@pytest.mark.parametrize('where', ['fails', 'fails_at_end'])
def test_capture_that_memory_does_not_hold_leaves_the_run_eager(where, tmp_path, clips, stand_in):
    """The stand-in looks that nobody holds the graph any more when its memory is given back."""
    setattr(stand_in, where, FULL)
    assert_graphs_end_as_eager(tmp_path, clips, **ONE_SHAPE)
    assert stand_in.log == (['tried', 'capture', 'empty'] if where == 'fails' else ['tried', 'empty'])
    line = r'No CUDA graph of 1 x 4 x 128: CUDA out of memory\. Tried to allocate 2\.00 GiB\. \(graph_stand_in\.py, line \d+\)\.'
    assert len(re.findall(line, log_of(tmp_path / 'experiments/a'))) == 1


BROKEN = RuntimeError('CUDA error: operation failed due to a previous error during capture')


@pytest.mark.parametrize(
    ('first', 'reason'),
    [
        (RuntimeError('the first\nerror'), r'the first error \(graph_stand_in\.py, line \d+\)'),
        (None, rf'{BROKEN} \(.*\)'),
    ],
    ids=['in the capture', 'at its end'],
)
def test_capture_that_cuda_cannot_end_ends_the_run_saved(first, reason, tmp_path, clips, stand_in):
    (tmp_path / 'eager').mkdir()
    eager = end_of(tmp_path / 'eager', clips, **ONE_SHAPE)
    stand_in.fails, stand_in.fails_at_end, before = first, BROKEN, stand_in.stream
    line = (
        r'^train\.cuda_graph: must be left out for this network, got True \(CUDA cannot go on after the capture of '
        rf'1 x 4 x 128: {reason}\)\. Leave it out and go on with --auto_resume\.$'
    )
    with pytest.raises(OptionError, match=line):
        end_of(tmp_path, clips, **ONE_SHAPE, train__cuda_graph=True)
    assert stand_in.log == ['tried']  # and nothing asks for `empty_cache`, which would raise
    assert stand_in.stream is before
    assert [path.name for path in (tmp_path / 'experiments/a/training_states').iterdir()] == ['3.state']
    assert same_bits(end_of(tmp_path, clips, '--auto_resume', **ONE_SHAPE), eager)


@pytest.mark.parametrize('graph', [True, False])
def test_shapes_are_timed_without_a_graph_and_none_is_advised_beside_one(graph, tmp_path, clips, stand_in, monkeypatch):
    opt = options(clips, network_g=probe.NETWORK, train__cuda_graph=graph, train__total_iter=400)
    model, _ = build(tmp_path, {**opt, 'multigrid': {'gt_size': [64, 128]}})
    said = []
    monkeypatch.setattr(type(model.run.clock), 'log_tried', lambda self: said.append(list(self.tried)))
    model.run.try_shapes(1)
    assert list(model.run.clock.tried) == [BatchShape(1, 4, 64), BatchShape(1, 4, 128)]
    assert said == ([] if graph else [list(model.run.clock.tried)])


def test_validation_gets_the_memory_of_the_graph_back(tmp_path, clips, stand_in):
    val = {'val_freq': 7, 'save_img': False}
    assert_graphs_end_as_eager(tmp_path, clips, **ONE_SHAPE, datasets__val=validation_set(clips), val=val)
    assert stand_in.log == CAPTURED * 4


def test_without_a_gpu_an_iteration_is_eager_and_says_so(tmp_path, clips):
    opt = options(clips, name='a', network_g=probe.NETWORK, train__cuda_graph=True, train__total_iter=2, multigrid=None)
    train_here(tmp_path, opt)
    assert log_of(tmp_path / 'experiments/a').count('train.cuda_graph is off: there is no GPU.\n') == 1


def test_model_that_a_graph_does_not_fit_is_left_eager(tmp_path, clips, stand_in, caplog, monkeypatch):
    model, _ = build(tmp_path, options(clips, network_g=probe.NETWORK, train__cuda_graph=True))
    assert isinstance(model._graph, cuda_graph.IterationGraph)

    class OtherModel(MultigridVideoModel):
        def optimize_parameters(self, current_iter: int) -> None:
            pass

    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
    other = OtherModel.__new__(OtherModel)
    vars(other).update(opt=model.opt, device=model.device)
    with caplog.at_level('INFO'):
        assert other._graph is None
        model.opt['train']['checkpoint_modules'] = ['conv']
        assert cuda_graph.graph_of(model, MultigridVideoModel) is None
    assert list(dict.fromkeys(line for line in caplog.messages if line.startswith('train.cuda_graph'))) == [
        'train.cuda_graph is off: OtherModel has its own optimize_parameters.',
        'train.cuda_graph is off: checkpoint_modules set the random state again, which a graph cannot.',
    ]


@pytest.mark.parametrize(
    ('network', 'may_differ'),
    [
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, False),  # a mean and a deviation that stay
        ({'type': 'DUF', 'num_layer': 16}, True),  # BatchNorm
        (probe.NETWORK, True),  # an arch that nobody knows
    ],
    ids=['BasicVSR', 'DUF', 'ShapeProbe'],
)
def test_ranks_share_the_buffers_that_may_have_changed(network, may_differ):
    assert buffers_may_differ(build_network(dict(network))) is may_differ


SEGMENTS = Schedule.from_shapes([(100, BatchShape(2, 7, 64)), (200, BatchShape(2, 7, 128))], BatchShape(2, 7, 128))
VALIDATED = {'datasets': {'train': {}, 'val_1': {}}, 'val': {'val_freq': 80}}


@pytest.mark.parametrize(
    ('changes', 'expected'),  # the iterations alike, by the iteration that comes
    [
        ({}, {1: 100, 100: 1, 101: 200, 300: 1}),
        ({'train': {'fix_flow': 31}}, {1: 30, 30: 1, 31: 70}),
        ({'train': {'fix_flow': 31, 'tsa_iter': 21}}, {1: 20}),
        ({'train': {'fix_flow': None}}, {1: 100}),
        (VALIDATED, {1: 80, 80: 1, 81: 20, 101: 60}),
        ({**VALIDATED, 'datasets': {'train': {}}}, {1: 100}),
    ],
)
def test_iterations_alike_end_at_a_boundary_a_thaw_or_a_validation(changes, expected):
    opt = {'train': {}, 'datasets': {'train': {}}, **changes}
    assert {n: cuda_graph.iterations_alike(n, opt, SEGMENTS) for n in expected} == expected
    assert cuda_graph.iterations_alike(9, {'train': {}, 'datasets': {'train': {}}}, None) > 1_000_000


RANK = """
import os
import sys
import pytest
import torch
sys.path.append({folder!r})
import probe
from graph_stand_in import StandIn
from multigrid_vsr.models import cuda_graph
if {graph}:
    cuda_graph.LEAST_ITERATIONS = 5
    host = StandIn(pytest.MonkeyPatch())
    if os.environ['RANK'] == '1':
        vars(host).update({captures})
from multigrid_vsr.cli import main
from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel
from multigrid_vsr.models.wrapping import buffers_may_differ
save = MultigridVideoModel.save_network
def save_on_each_rank(self, net, *arguments, **options):
    torch.save(dict(self.get_bare_model(net).state_dict()), 'of_rank_' + os.environ['RANK'] + '.pth')
    save(self, net, *arguments, **options)
MultigridVideoModel.save_network = save_on_each_rank
main()
if {graph}:
    assert host.log.count('replay') == {replays}, host.log
"""


FAILS_ON_RANK_1 = "{'fails': RuntimeError('operation not permitted')}"
BREAKS_ON_RANK_1 = "{'fails_at_end': RuntimeError('operation failed')}"


def train_ranks(folder, clips, *arguments, graph, captures='{}', replays=8, ok=True):
    """Two ranks, 7 iterations of each of two shapes; returns what they print."""
    opt = options(clips, name='ranks', network_g={'type': 'NoisyProbe'}, train__cuda_graph=graph,
                  multigrid={'gt_size': [64, 128]}, train__total_iter=14, path__experiments_root=str(folder))  # fmt: skip
    script = folder / 'rank.py'
    script.write_text(RANK.format(folder=str(Path(__file__).parent), graph=graph, captures=captures, replays=replays))
    return run(*torchrun(script, 'train', '-opt', write(folder, opt), *arguments), cwd=folder, ok=ok).stdout


def of_ranks(folder):
    return [torch.load(folder / f'of_rank_{rank}.pth', weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope='module')
def eager_ranks(tmp_path_factory, clips):
    """The weights of two ranks of ``DistributedDataParallel``."""
    folder = tmp_path_factory.mktemp('eager')
    train_ranks(folder, clips, graph=False)
    return of_ranks(folder)


@pytest.mark.parametrize(('captures', 'replays'), [('{}', 8), (FAILS_ON_RANK_1, 0)], ids=['both', 'one fails'])
def test_ranks_exchange_the_gradients_of_their_graphs(captures, replays, tmp_path, clips, eager_ranks):
    """Rank 0 gives its statistics to all. If one rank cannot capture, none does."""
    printed = train_ranks(tmp_path, clips, graph=True, captures=captures, replays=replays)
    reasons = re.findall(r'No CUDA graph of 1 x 4 x \d+: operation not permitted \(', printed)
    assert len(reasons) == (0 if replays else 2)
    first, second = of_ranks(tmp_path)
    assert same_bits([first, second], eager_ranks)
    assert same_bits(first['conv.weight'], second['conv.weight'])
    assert not same_bits(first['norm.running_mean'], second['norm.running_mean'])  # each adds what it has seen


def test_capture_that_cuda_cannot_end_on_one_rank_ends_all(tmp_path, clips, eager_ranks):
    printed = train_ranks(tmp_path, clips, graph=True, captures=BREAKS_ON_RANK_1, ok=False)
    line = r'train\.cuda_graph: must be left out for this network, got True \(.*: operation failed \(.*\)\)\. Leave'
    assert len(re.findall(line, printed)) == 1
    assert [path.name for path in (tmp_path / 'ranks/training_states').iterdir()] == ['3.state']
    train_ranks(tmp_path, clips, '--auto_resume', graph=False)
    assert same_bits(of_ranks(tmp_path), eager_ranks)
