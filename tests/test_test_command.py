"""``multigrid-vsr test``: files of a test and of a training run, the weights, the figures, errors before folders."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import basicsr.test
import pytest
import torch
import yaml
from basicsr.archs import build_network
from probe import own_log
from runs import METRICS, PROBE, options, own_set, refusal, run, torchrun, validation_set, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.run_options import check_test_options

OPTIONS = Path(__file__).parent.parent / 'options'
ENLARGES = {'params': 0.1, 'params_ema': 1.0}


def save_weights(path, keys=('params', 'params_ema')):
    """Weights of ``ShapeProbe`` that give each pixel 16 times, dimmed or as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = torch.eye(3).repeat_interleave(16, 0).view(48, 3, 1, 1)
    torch.save({key: {'conv.weight': ENLARGES[key] * weight, 'conv.bias': torch.zeros(48)} for key in keys}, path)
    return path


def opt_of_test(clips, weights, **changes):
    opt = options(clips, network_g={'type': 'ShapeProbe'}, multigrid=None, train=None, logger=None,
                  path={'pretrain_network_g': str(weights), 'param_key_g': 'params_ema'})  # fmt: skip
    opt['datasets'] = {'test': own_set(clips), 'test_2': own_set(clips, 'Bicubic', dataroot_lq=None)}
    return {**opt, 'val': {'save_img': False, 'metrics': METRICS}, **changes}


def logged(text):
    return dict(re.findall(r'Validation (\S+)\s+# psnr: (\S+)', text))


@pytest.fixture
def tested(tmp_path, monkeypatch):
    """Runs the command in this process; gives what it prints, or what ``--json`` prints alone, and the log."""
    monkeypatch.chdir(tmp_path)

    def call(opt_file, *arguments, as_json=True):
        printed, log = io.StringIO(), io.StringIO()
        command = ['test', '-opt', *map(str, (opt_file, *arguments)), *(['--json'] if as_json else [])]
        with own_log('multigrid-vsr'), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(log):
            main(command)
        return json.loads(printed.getvalue()) if as_json else printed.getvalue(), log.getvalue()

    return call


def test_test_file_measures_each_set_and_keeps_older_results(tmp_path, clips, tested):
    weights = save_weights(tmp_path / 'net.pth')
    opt_file = write(tmp_path, opt_of_test(clips, weights, val={'save_img': True, 'metrics': METRICS}))
    first, log = tested(opt_file, as_json=False)
    assert f'Weights: {weights}, params_ema (it has params too: path.param_key_g).' in first
    figures = logged(log)
    assert figures.keys() == {'Mine', 'Bicubic'}
    assert all(20 < float(psnr) < 30 for psnr in figures.values())
    assert len(list((tmp_path / 'results/run/visualization/Mine/001').glob('*_run.png'))) == 9
    found, log = tested(opt_file)
    means = {name: f'{of_set["psnr"]["mean"]:.4f}' for name, of_set in found['datasets'].items()}
    assert means == figures == logged(log)
    assert found['datasets']['Mine']['psnr']['clips'].keys() == {'000', '001', '002'}
    assert (found['name'], found['weights'], found['param_key']) == ('run', str(weights), 'params_ema')
    assert len(list((tmp_path / 'results').glob('run_archived_*'))) == 1
    two = run(*torchrun(PROBE, 'test', '-opt', opt_file), cwd=tmp_path).stdout
    assert logged(two) == figures
    assert two.count('Weights: ') == 1


def test_training_file_tests_its_newest_checkpoint_as_the_run_validates_it(tmp_path, clips, tested):
    opt = options(clips, network_g={'type': 'ShapeProbe'}, train__ema_decay=0.9, datasets__val=own_set(clips),
                  path__pretrain_network_g='weights that it starts from')  # fmt: skip
    opt_file = write(tmp_path, {**opt, 'val': {'val_freq': 1, 'save_img': False, 'metrics': METRICS}})
    models = tmp_path / 'experiments/run/models'
    save_weights(models / 'net_g_5.pth', ['params'])
    save_weights(models / 'net_g_7.pth')
    found, log = tested(opt_file)
    assert (found['weights'], found['param_key']) == ('experiments/run/models/net_g_7.pth', 'params_ema')
    assert 'Weights: experiments/run/models/net_g_7.pth, params_ema.' in log
    older, _ = tested(opt_file, '-w', models / 'net_g_5.pth')
    assert (older['weights'], older['param_key']) == (str(models / 'net_g_5.pth'), 'params')
    assert older['datasets']['Mine']['psnr']['mean'] < 20 < found['datasets']['Mine']['psnr']['mean']


def test_basicsrs_test_file_gives_the_figures_of_ours(tmp_path, clips, tested):
    """With BasicSR's model and test set, on a CPU, where BasicSR's own validation fails."""
    weights = save_weights(tmp_path / 'net.pth')
    opt = opt_of_test(clips, weights, model_type='VideoRecurrentModel', name='stock')
    opt['datasets'] = {'test_1': validation_set(clips, num_frame=1)}
    found, log = tested(write(tmp_path, opt, 'stock.yml'), '--force_yml', 'val:tile=32', 'val:tile_overlap=8')
    assert 'model_type: VideoRecurrentModel is tested as MultigridVideoModel.' in log
    own, _ = tested(write(tmp_path, opt_of_test(clips, weights)))
    assert found['datasets']['REDS4'] == own['datasets']['Mine']


WRONG = [
    ({'path': {'pretrain_network_g': None}}, 'path.pretrain_network_g: must be given, got nothing. A test needs trained we'),
    ({'path': {'pretrain_network_g': 'gone.pth'}}, 'path.pretrain_network_g: must be a path that exists, got gone.pth.'),
    ({'datasets': {}}, 'datasets: must have a test set, got nothing. Add datasets.test'),
    ({'datasets': {'valid': {}}}, 'datasets.valid: must be test, or test_2 and so on, got valid.'),
    ({'val': {'metrics': {}}}, 'val.save_img: must be given, got nothing.'),
    ({'val': None}, 'val: must be a block of options, got nothing. A test needs it.'),
    ({'val': {'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnrr'}}}}, 'val.metrics.psnr.type: must be regist'),
    ({'val': {'save_img': False, 'max_frames': 9}}, 'val.max_frames: must be above 56, twice the context of 28, got 9.'),
    ({'model_type': 'MultigridVideoModell'}, 'model_type: must be registered in BasicSR, got MultigridVideoModell. Did you'),
    ({'network_g': {'type': 'BasicVSR', 'num_feats': 4}}, 'network_g.num_feats: must be one of .*Did you mean `num_feat`'),
    ({'network_g': {'type': 'BasicVSR', 'num_feat': 4}}, 'path.pretrain_network_g: must fit BasicVSR with the arguments of'),
    ({'datasets': {'test': {'name': 'a', 'type': 'MultigridVideoTestDataset'}}}, 'datasets.test.dataroot_gt: must be given'),
    ({'datasets': {'test': {'name': 'a', 'type': 'MultigridVideoTestDataset', 'dataroot_gt': 'no'}}}, 'datasets.test.dataroot_gt: must be a path that exists, got no.'),
    ({'model_type': 'SRModel', 'val': {'save_img': False, 'tile': 200}}, 'val.tile: must be left out for SRModel, which has a'),
    ({'num_gpu': 64}, 'num_gpu: must be at most the 0 GPUs of this machine, got 64.'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), WRONG)
def test_bad_test_file_is_one_line_before_anything_is_written(changes, line, tmp_path, clips, monkeypatch):
    opt_file = write(tmp_path, opt_of_test(clips, save_weights(tmp_path / 'net.pth'), **changes))
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.chdir(tmp_path)
    with own_log('multigrid-vsr'):
        assert re.match(line, refusal('test', '-opt', opt_file).splitlines()[-1])
    assert sorted(tmp_path.rglob('*')) == before


def test_training_file_without_a_checkpoint_says_where_it_looked(tmp_path, clips):
    opt = options(clips, path__experiments_root=str(tmp_path))
    line = rf'^--weights: must be given where .* got none in {tmp_path}/run/models\.'
    assert re.match(line, refusal('test', '-opt', write(tmp_path, opt)).splitlines()[-1])


def test_training_file_in_basicsrs_own_script_is_pointed_to_the_command(tmp_path, clips):
    opt_file = write(tmp_path, options(clips, datasets__val=own_set(clips), val={'save_img': False, 'val_freq': 1}))
    line = r'^datasets\.train: must be left out of a test, got a training set\. Run: multigrid-vsr test, which takes'
    with own_log('test.py', '-opt', str(opt_file)), pytest.raises(InputError, match=line):
        basicsr.test.test_pipeline(str(tmp_path))
    assert list(tmp_path.iterdir()) == [opt_file]


@pytest.mark.parametrize('path', sorted(OPTIONS.glob('test_*.yml')), ids=lambda path: path.name)
def test_option_file_of_a_test_passes_and_runs_on_real_clips(path, tmp_path, clips, tested):
    opt = read_options(path)
    check_test_options(opt)
    torch.manual_seed(0)
    opt['network_g'].update(num_feat=4, num_block=1)
    network = build_network(dict(opt['network_g']))
    torch.save({'params_ema': network.state_dict()}, tmp_path / 'net.pth')
    (tmp_path / 'one.txt').write_text('000\n')
    opt.update(num_gpu=0)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'net.pth')
    for values in opt['datasets'].values():
        values.update({key: str(clips / key[-2:]) for key in values if key.startswith('dataroot')})
        values['meta_info_file'] = str(tmp_path / 'one.txt')
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(opt))
    found, _ = tested(tmp_path / 'test.yml')
    assert found['datasets'].keys() == {'REDS4', 'mine'}
    assert found['datasets']['mine'].keys() == {'psnr', 'ssim'}
