"""Which checkpoints stay: by the pure rule, on files, and through real runs that are resumed and killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from probe import NETWORK, train_here
from runs import METRICS, loaded, log_of, options, validation_set

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.models.checkpoints import KeptCheckpoints
from multigrid_vsr.options.run_options import best_metric


def opt_of(folder, **changes):
    for name in ('models', 'training_states'):
        (folder / name).mkdir(exist_ok=True)
    return {
        'model_type': 'MultigridVideoModel', 'auto_resume': False, 'logger': {'keep_checkpoints': 1}, 'val': {},
        'path': {'models': str(folder / 'models'), 'training_states': str(folder / 'training_states'), **changes.pop('path', {})},
        'datasets': {'train': {}}, **changes,
    }  # fmt: skip


def touch(folder, *iterations):
    for i in iterations:
        (folder / f'models/net_g_{i}.pth').touch()
        (folder / f'training_states/{i}.state').touch()


def names(folder):
    return sorted(path.name for path in Path(folder).glob('*/*') if path.suffix != '.json')


@pytest.mark.parametrize(
    ('keep', 'best', 'gone', 'now', 'left'),
    [
        (2, None, [], 6, [4, 6]),
        (5, None, [], 6, [2, 4, 6]),
        (1, 2, [], 6, [2, 6]),  # 2 is the best
        (1, None, [6], 6, [4]),  # 6 has no state: 4 is the one to go on from
        (1, None, [2, 4, 6], 6, []),  # nothing to go on from: nothing goes
        (1, None, [], 4, [4, 6]),  # 6 belongs to an earlier attempt
    ],
)
def test_pruning_leaves_the_newest_whole_checkpoints_and_the_best(keep, best, gone, now, left, tmp_path):
    opt = opt_of(tmp_path, logger={'keep_checkpoints': keep})
    touch(tmp_path, 2, 4, 6)
    for iteration in gone:
        (tmp_path / f'training_states/{iteration}.state').unlink()
    kept = KeptCheckpoints(opt)
    kept.best = best and {'iter': best}
    kept.prune(now)
    assert sorted(int(path.stem) for path in tmp_path.glob('training_states/*')) == left
    assert len(list(tmp_path.glob('models/*'))) == (3 if gone == [2, 4, 6] else len(left))


def test_pruning_leaves_what_the_option_file_starts_from_and_foreign_files(tmp_path):
    opt = opt_of(tmp_path, path={'resume_state': str(tmp_path / 'training_states/2.state')})
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models/net_g_4.pth')
    touch(tmp_path, 2, 4, 6, 8)
    for name in ('net_g_latest.pth', 'net_g_average.pth', 'my_6.pth'):
        (tmp_path / 'models' / name).touch()
    KeptCheckpoints(opt).prune(8)
    assert names(tmp_path) == [
        *('2.state', '4.state', '8.state', 'my_6.pth', 'net_g_2.pth', 'net_g_4.pth', 'net_g_8.pth'),
        *('net_g_average.pth', 'net_g_latest.pth'),
    ]
    touch(tmp_path, 10)
    KeptCheckpoints({**opt, 'auto_resume': True}).prune(10)  # which goes on from the newest, whatever the file says
    assert [name for name in names(tmp_path) if name[0] == '1' or name.startswith('net_g_1')] == [
        '10.state',
        'net_g_10.pth',
    ]
    assert not (tmp_path / 'training_states/2.state').exists()


def test_pruning_that_is_interrupted_leaves_no_state_without_weights(tmp_path, monkeypatch):
    """Wherever it stops, every state has its weights, and the next time takes the rest."""
    original, kept = Path.unlink, KeptCheckpoints(opt_of(tmp_path))

    def dies_after(left):
        def unlink(path, missing_ok=False):
            if next(left, None) is None:
                raise KeyboardInterrupt
            original(path, missing_ok)

        return unlink

    for done in range(4):  # two files of each of two iterations
        touch(tmp_path, 2, 4, 6)
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'unlink', dies_after(iter(range(done))))
            with pytest.raises(KeyboardInterrupt):
                kept.prune(6)
        states = {path.stem for path in (tmp_path / 'training_states').iterdir()}
        assert '6' in states
        assert all((tmp_path / f'models/net_g_{stem}.pth').exists() for stem in states)
    kept.prune(6)
    assert names(tmp_path) == ['6.state', 'net_g_6.pth']


class Validated:
    def __init__(self, **values):
        self.best_metric_results = {'REDS4': {'psnr': {'better': 'higher', **values}}}


def test_best_validation_is_that_of_all_processes_of_the_run(tmp_path):
    opt = opt_of(tmp_path, val={'metrics': {'psnr': {}}}, datasets={'train': {}, 'val': {'name': 'REDS4'}})
    opt['logger']['keep_best'] = 'psnr'
    kept = KeptCheckpoints(opt)
    assert not kept.is_best(Validated(val=30.0, iter=2), 'Vid4', 2)  # another set
    assert kept.is_best(Validated(val=30.0, iter=2), 'REDS4', 2)
    assert not kept.is_best(Validated(val=30.0, iter=2), 'REDS4', 4)  # 4 was not as good
    kept.save_best()
    resumed = KeptCheckpoints(opt)
    assert not resumed.is_best(Validated(val=29.0, iter=6), 'REDS4', 6)  # the best of its own process alone
    assert resumed.is_best(Validated(val=31.0, iter=8), 'REDS4', 8)
    touch(tmp_path, 2, 8, 10, 12)
    resumed.prune(12)
    assert names(tmp_path) == ['12.state', '8.state', 'net_g_12.pth', 'net_g_8.pth']


def test_run_keeps_the_last_checkpoints_and_the_best_and_goes_on(tmp_path, clips):
    opt = options(
        clips, network_g=NETWORK, datasets__val=validation_set(clips), val={'val_freq': 3, 'save_img': False, 'metrics': METRICS},
        train__total_iter=12, train__ema_decay=0.5, logger__save_checkpoint_freq=2, logger__keep_checkpoints=2,
        logger__keep_best={'metric': 'psnr', 'dataset': 'REDS4'},
    )  # fmt: skip
    fed = train_here(tmp_path, opt)
    folder = tmp_path / 'experiments/run'
    best = json.loads((folder / 'models/best.json').read_text())
    psnrs = [float(text.split()[0]) for text in log_of(folder).split('# psnr: ')[1:]]
    assert best['value'] == pytest.approx(max(psnrs), abs=1e-4)
    weights = {f'net_g_{i}.pth' for i in (10, 12, best['iter'])} | {'net_g_latest.pth'}
    assert {path.name for path in (folder / 'models').glob('*.pth')} == weights
    assert {path.name for path in (folder / 'training_states').iterdir()} == {'10.state', '12.state'}
    assert 'params_ema' in loaded(folder, best['iter'])
    (folder / 'training_states/12.state').unlink()
    assert train_here(tmp_path, opt, '--auto_resume') == fed[10:]


@pytest.mark.parametrize(
    ('logger', 'val', 'expected'),
    [
        ({'keep_best': 'psnrr'}, {'metrics': METRICS}, r'logger.keep_best: must be a metric of val.metrics \(psnr\), got psnrr. Did you mean `psnr`'),
        ({'keep_best': 'psnr'}, {}, r'logger.keep_best: must be a metric of val.metrics \(none is measured\), got psnr. Add it to'),
        ({'keep_best': {'metric': 'psnr', 'dataset': 'Vid4'}}, {'metrics': METRICS}, r'logger.keep_best.dataset: must be the name of a test set \(REDS4\), got Vid4.'),
    ],
)  # fmt: skip
def test_keep_best_of_what_is_not_measured_is_refused(logger, val, expected):
    with pytest.raises(OptionError, match=expected):
        best_metric({'logger': logger, 'val': val, 'datasets': {'train': {}, 'val': {'name': 'REDS4'}}})
