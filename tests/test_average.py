"""The mean of checkpoints: literal ones, and those of a real run."""

from __future__ import annotations

import sys

import pytest
import torch
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.archs.duf_arch import DUF
from probe import train_here
from runs import options, refusal, run, same_bits

from multigrid_vsr.cli.average import average, last_checkpoints
from multigrid_vsr.core.errors import InputError

AVERAGE = (sys.executable, '-m', 'multigrid_vsr.cli', 'average')


def write_weights(folder, **states):
    """net_g_1.pth, net_g_2.pth, ... of the values given."""
    (folder / 'models').mkdir(parents=True)
    count = len(next(iter(states.values())))
    for place in range(count):
        torch.save({key: values[place] for key, values in states.items()}, folder / f'models/net_g_{place + 1}.pth')
    return last_checkpoints(folder, count)


def test_average_is_the_mean_of_each_weight_and_counts_are_the_last(tmp_path):
    paths = write_weights(
        tmp_path,
        params=[{'w': torch.tensor([1.0, -2.0]), 'n': torch.tensor(4)}, {'w': torch.tensor([4.0, 2.0]), 'n': torch.tensor(7)}],
    )  # fmt: skip
    assert same_bits(average(paths), {'params': {'w': torch.tensor([2.5, 0.0]), 'n': torch.tensor(7)}})


def test_average_sums_without_loss_and_leaves_out_an_ema_that_one_file_lacks(tmp_path):
    """In half precision 2048 + 1 is 2048."""
    values = [{'w': torch.tensor([v], dtype=torch.float16)} for v in (2048, 1, 1, 1, 1)]
    paths = write_weights(tmp_path, params=values, params_ema=values)
    torch.save({'params': values[0]}, paths[0])
    averaged = average(paths)
    assert averaged.keys() == {'params'}
    mean = averaged['params']['w']
    assert (mean.item(), mean.dtype) == (410.5, torch.float16)  # 2052 / 5 = 410.4, and halves are half apart there


def test_last_checkpoints_are_sorted_by_iteration_and_numbered(tmp_path):
    (tmp_path / 'models').mkdir()
    for name in ('net_g_900', 'net_g_1000', 'net_g_5000', 'net_g_latest', 'net_g_average', 'net_d_6000'):
        (tmp_path / f'models/{name}.pth').touch()
    assert [path.name for path in last_checkpoints(tmp_path, 2)] == ['net_g_1000.pth', 'net_g_5000.pth']


@pytest.fixture(scope='module')
def experiments(tmp_path_factory, clips):
    """A BasicVSR with an EMA, of six iterations, and weights of a DUF, which has BatchNorm."""
    root = tmp_path_factory.mktemp('runs')
    train_here(root, options(clips, train__ema_decay=0.5, train__total_iter=6, logger__save_checkpoint_freq=2))
    write_weights(root / 'experiments/duf', params=[DUF(num_layer=16).state_dict()])
    return root / 'experiments'


def test_average_of_a_run_is_a_weight_file_of_basicsr(experiments):
    done = run(*AVERAGE, 'run', '--last', 3, cwd=experiments)
    assert done.stdout.splitlines()[-1] == (
        'run/models/net_g_average.pth: the mean of net_g_2.pth, net_g_4.pth, net_g_6.pth (params, params_ema)'
    )
    models = experiments / 'run/models'
    averaged, *others = (torch.load(models / f'net_g_{n}.pth', weights_only=True) for n in ('average', 2, 4, 6))
    for key in ('params', 'params_ema'):
        BasicVSR(num_feat=4, num_block=1).load_state_dict(averaged[key])
        for name, value in averaged[key].items():
            values = torch.stack([other[key][name] for other in others])
            torch.testing.assert_close(value, values.mean(0), rtol=1e-6, atol=1e-9)
    assert not same_bits(averaged['params'], others[-1]['params'])


BAD = [
    (['gone'], 'EXPERIMENT: must be the folder of a run, got gone. Correct the path.'),
    (['run', '--last', '0'], '--last: must be at least 1, got 0. Correct the value.'),
    (['run', '--last', '4'], '--last: must be at most the 3 checkpoints net_g_*.pth in run/models, got 4. Lower it, or give the folder of another run.'),
    (['run', '--last', '1', '-o', 'no/x.pth'], '-o: must lie in a folder that exists, got no/x.pth. Make no first.'),
    (['duf', '--last', '1'], 'EXPERIMENT: must be a run of an arch without BatchNorm, got duf/models/net_g_1.pth. Use net_g_latest.pth, or train with an EMA.'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), BAD, ids=[' '.join(row[0]) for row in BAD])
def test_average_that_cannot_be_made_exits_with_one_line(arguments, message, experiments, monkeypatch):
    before = sorted(path for path in experiments.rglob('*'))
    monkeypatch.chdir(experiments)
    assert refusal('average', *arguments).splitlines()[-1] == message
    assert sorted(path for path in experiments.rglob('*')) == before


ONE = {'w': torch.ones(1)}
UNUSABLE = [
    ({'params': [ONE, {'w': torch.ones(2)}]}, r'net_g_2\.pth: must hold the same network as .*net_g_1\.pth, got other'),
    ({'epoch': [0], 'optimizers': [[]]}, r'net_g_1\.pth: must be a weight file of BasicSR, got something else'),
    (None, r'net_g_2\.pth: must be a whole weight file of plain data, got .*\. Leave it'),
]  # fmt: skip


@pytest.mark.parametrize(('states', 'line'), UNUSABLE)
def test_average_of_what_does_not_fit_names_the_file(states, line, tmp_path):
    paths = write_weights(tmp_path, **(states or {'params': [ONE, ONE]}))
    if states is None:  # damaged
        paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(InputError, match=line):
        average(paths)
