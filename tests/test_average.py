"""The mean of checkpoints: literal ones, and those of real runs with and without BatchNorm."""

from __future__ import annotations

import shutil
import sys
import warnings

import pytest
import torch
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.archs.duf_arch import DUF
from probe import train_here
from runs import options, refusal, run, same_bits

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models.averaging import average, has_batch_norm, last_checkpoints, update_batch_norm

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


def test_average_sums_without_loss_and_keeps_the_type(tmp_path):
    """In half precision 2048 + 1 is 2048."""
    values = [{'w': torch.tensor([v], dtype=torch.float16)} for v in (2048, 1, 1, 1, 1)]
    (mean,) = average(write_weights(tmp_path, params=values))['params'].values()
    assert (mean.item(), mean.dtype) == (410.5, torch.float16)  # 2052 / 5 = 410.4, and halves are half apart there


def test_average_leaves_out_an_ema_that_one_file_lacks(tmp_path):
    one = {'w': torch.ones(1)}
    paths = write_weights(tmp_path, params=[one, one], params_ema=[one, one])
    torch.save({'params': one}, paths[0])
    assert average(paths).keys() == {'params'}


def test_last_checkpoints_are_sorted_by_iteration_and_numbered(tmp_path):
    (tmp_path / 'models').mkdir()
    for name in ('net_g_900', 'net_g_1000', 'net_g_5000', 'net_g_latest', 'net_g_average', 'net_d_6000'):
        (tmp_path / f'models/{name}.pth').touch()
    assert [path.name for path in last_checkpoints(tmp_path, 2)] == ['net_g_1000.pth', 'net_g_5000.pth']


def test_batch_norm_gets_the_statistics_of_the_averaged_network(tmp_path):
    """Weights 1 and 3 have the mean 2: inputs of 0 and 2 and then of 4 and 6 become 0, 4 and 8, 12."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1))
    states = []
    for weight in (1.0, 3.0):
        state = {name: value.clone() for name, value in network.state_dict().items()}
        state['0.weight'].fill_(weight)
        state['1.running_mean'].fill_(-100.0)
        state['1.num_batches_tracked'].fill_(int(weight))
        states.append(state)
    weights = average(write_weights(tmp_path, params=states))
    assert has_batch_norm(weights)
    assert weights['params']['1.running_mean'].item() == -100.0
    batches = [torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.tensor([4.0, 6.0]).view(1, 1, 1, 2)]
    update_batch_norm(weights, network, lambda: iter(batches))
    assert weights['params']['0.weight'].item() == 2.0
    assert weights['params']['1.running_mean'].item() == 6.0  # the mean of 2 and 10
    assert weights['params']['1.running_var'].item() == 8.0  # of 0 and 4, and of 8 and 12
    assert weights['params']['1.num_batches_tracked'].item() == 3


@pytest.fixture(scope='module')
def experiments(tmp_path_factory, clips):
    """A BasicVSR with an EMA and a DUF, which has BatchNorm, of six iterations."""
    root = tmp_path_factory.mktemp('runs')
    short = {'train__total_iter': 6, 'logger__save_checkpoint_freq': 2}
    basicvsr = options(clips, name='basicvsr', train__ema_decay=0.5, **short)
    duf = options(clips, name='duf', network_g={'type': 'DUF', 'num_layer': 16}, **short)
    duf['datasets']['train']['num_frame'] = 7
    duf['datasets']['train']['gt_size'] = 64
    duf['multigrid'] = {'gt_size': [32, 64]}
    # DUF takes seven frames: of the three clips the first has six.
    (root / 'list.txt').write_text('001 9 (144,176,3)\n002 7 (144,176,3)\n')
    duf['datasets']['train']['meta_info_file'] = str(root / 'list.txt')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for opt in (basicvsr, duf):
            train_here(root, opt)
            shutil.copy(root / 'run.yml', root / f'{opt["name"]}.yml')
    return root / 'experiments'


def test_average_of_a_run_is_a_weight_file_of_basicsr(experiments):
    done = run(*AVERAGE, 'basicvsr', '--last', 3, cwd=experiments)
    assert done.stdout.splitlines()[-1] == (
        'basicvsr/models/net_g_average.pth: the mean of net_g_2.pth, net_g_4.pth, net_g_6.pth (params, params_ema)'
    )
    models = experiments / 'basicvsr/models'
    averaged, *others = (torch.load(models / f'net_g_{n}.pth', weights_only=True) for n in ('average', 2, 4, 6))
    for key in ('params', 'params_ema'):
        BasicVSR(num_feat=4, num_block=1).load_state_dict(averaged[key])
        for name, value in averaged[key].items():
            values = torch.stack([other[key][name] for other in others])
            torch.testing.assert_close(value, values.mean(0), rtol=1e-6, atol=1e-9)
    assert not same_bits(averaged['params'], others[-1]['params'])


def test_average_of_a_run_with_batch_norm_measures_its_statistics(experiments, tmp_path):
    """The first layer that is normalised sees the data of the run's last iterations through an averaged layer."""
    out = tmp_path / 'average.pth'
    run(*AVERAGE, 'duf', '--last', 2, '-o', out, '--bn_iters', 3, cwd=experiments)
    plain = average(last_checkpoints(experiments / 'duf', 2))['params']
    found = torch.load(out, weights_only=True)['params']
    statistics = [name for name in plain if 'running' in name]
    assert statistics
    assert all(same_bits(found[name], plain[name]) for name in plain if name not in statistics)
    assert not any(same_bits(found[name], plain[name]) for name in statistics)
    network = DUF(num_layer=16)
    network.load_state_dict(found)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert all((found[name] >= 0).all() for name in statistics if name.endswith('var'))
    again = tmp_path / 'again.pth'
    run(*AVERAGE, 'duf', '--last', 2, '-o', again, '--bn_iters', 3, cwd=experiments)
    assert same_bits(out, again)


BAD = [
    (['gone'], 'EXPERIMENT: must be the folder of a run, got gone. Correct the path.'),
    (['basicvsr', '--last', '0'], '--last: must be at least 1, got 0. Correct the value.'),
    (['basicvsr', '--last', '4'], '--last: must be at most the 3 checkpoints net_g_*.pth in basicvsr/models, got 4. Lower it, or give the folder of another run.'),
    (['basicvsr', '--last', '1', '-o', 'no/x.pth'], '-o: must lie in a folder that exists, got no/x.pth. Make no first.'),
    (['duf', '--last', '1', '-opt', 'gone.yml'], '-opt: must be a file that can be read, got gone.yml (No such file or directory). Correct the path.'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), BAD, ids=[' '.join(row[0]) for row in BAD])
def test_average_that_cannot_be_made_exits_with_one_line(arguments, message, experiments, monkeypatch):
    before = sorted(path for path in experiments.rglob('*'))
    monkeypatch.chdir(experiments)
    assert refusal('average', *arguments).splitlines()[-1] == message
    assert sorted(path for path in experiments.rglob('*')) == before


def test_average_of_a_damaged_file_names_it(tmp_path):
    one = {'w': torch.ones(1)}
    paths = write_weights(tmp_path, params=[one, one])
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(
        InputError, match=r'net_g_2\.pth: must be a whole weight file of plain data, got .*\. Leave it out\.'
    ):
        average(paths)


def test_average_of_two_networks_names_the_second(tmp_path):
    paths = write_weights(tmp_path, params=[{'w': torch.ones(1)}, {'w': torch.ones(2)}])
    with pytest.raises(
        InputError, match=r'net_g_2\.pth: must be of the same network as .*net_g_1\.pth, got other weights'
    ):
        average(paths)


def test_average_of_a_training_state_is_refused(tmp_path):
    paths = write_weights(tmp_path, epoch=[0], optimizers=[[]])
    with pytest.raises(InputError, match=r'net_g_1\.pth: must be a weight file of BasicSR, got something else'):
        average(paths)


def test_average_help_has_examples(tmp_path):
    assert 'multigrid-vsr average experiments/my_run --last 5' in run(*AVERAGE, '-h', cwd=tmp_path).stdout
