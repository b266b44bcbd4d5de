"""Every way of starting a run, on real video, with BasicSR as it comes from the registry."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import basicsr
import pytest
from runs import (
    METRICS,
    SHAPES,
    TRAIN,
    TRAIN_WITHOUT_PLUGIN,
    losses,
    options,
    run,
    same_bits,
    train,
    validation_set,
    write,
)  # fmt: skip

INSTALLED = Path(basicsr.__file__).parent
SHAPE_IN_LOG = re.compile(r'gt_size: (\d+) num_frame: (\d+) batch_size_per_gpu: (\d+)')

OWN_SCRIPT = """
{before}
from basicsr.train import train_pipeline
{after}
train_pipeline({root!r})
"""


@pytest.fixture(scope='module')
def clone(tmp_path_factory) -> Path:
    """A folder like a clone of BasicSR: the package beside where experiments/ will be."""
    root = tmp_path_factory.mktemp('clone')
    shutil.copytree(INSTALLED, root / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    return root


@pytest.fixture(scope='module')
def reference(tmp_path_factory, clips) -> tuple[list[str], Path]:
    """Losses and weights of the run started by ``multigrid-vsr train``."""
    folder = tmp_path_factory.mktemp('reference')
    log = train(folder, write(folder, options(clips)))
    seen = [tuple(map(int, match)) for match in SHAPE_IN_LOG.findall(log)]
    assert seen == [(gt_size, num_frame, batch) for batch, num_frame, gt_size in SHAPES]
    return losses(log), folder / 'experiments/run/models/net_g_latest.pth'


def _check(log: str, root: Path, reference: tuple[list[str], Path]) -> None:
    assert len(losses(log)) == 13
    assert losses(log) == reference[0]
    assert same_bits(root / 'run/models/net_g_latest.pth', reference[1])


def test_train_script_in_clone_trains_into_the_clone(clone, tmp_path, clips, reference):
    log = run(sys.executable, clone / 'basicsr/train.py', '-opt', write(tmp_path, options(clips)), cwd=tmp_path).stdout
    _check(log, clone / 'experiments', reference)


def test_train_script_in_installed_package_honours_experiments_root(tmp_path, clips, reference):
    opt_file = write(tmp_path, options(clips, path__experiments_root=str(tmp_path / 'elsewhere')))
    log = run(sys.executable, INSTALLED / 'train.py', '-opt', opt_file, cwd=tmp_path).stdout
    _check(log, tmp_path / 'elsewhere', reference)
    assert not (INSTALLED.parent / 'experiments').exists()


def test_train_as_module_in_clone_uses_the_clone(clone, tmp_path, clips, reference):
    opt_file = write(tmp_path, options(clips, path__experiments_root=str(tmp_path / 'elsewhere')))
    changed = clone / 'basicsr/metrics/__init__.py'
    changed.write_text(changed.read_text() + "\nprint('read from the clone')\n")
    log = run(sys.executable, '-m', 'basicsr.train', '-opt', opt_file, cwd=clone).stdout
    assert 'read from the clone' in log
    _check(log, tmp_path / 'elsewhere', reference)


@pytest.mark.parametrize('place', ['before', 'after'])
def test_own_script_with_one_import_line_trains(place, tmp_path, clips, reference):
    lines = {'before': '', 'after': '', place: 'import multigrid_vsr'}
    (tmp_path / 'own.py').write_text(OWN_SCRIPT.format(root=str(tmp_path), **lines))
    # Without site-packages' start-up hook, the import line alone arms the plugin.
    unhook = 'import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_HostFinder"]; '
    unhook += '[sys.modules.pop(name) for name in list(sys.modules) if name.startswith("multigrid_vsr")]; '
    unhook += 'import torchvision, types; '
    unhook += 'from torchvision.transforms.functional import rgb_to_grayscale; '
    unhook += 'shim = sys.modules.setdefault("torchvision.transforms.functional_tensor", types.ModuleType("shim")); '
    unhook += 'shim.rgb_to_grayscale = rgb_to_grayscale; '
    unhook += 'import runpy; runpy.run_path("own.py", run_name="__main__")'
    log = run(sys.executable, '-c', unhook, '-opt', write(tmp_path, options(clips)), cwd=tmp_path).stdout
    _check(log, tmp_path / 'experiments', reference)


def test_test_script_evaluates_a_trained_network(tmp_path, clips, reference):
    opt = options(clips, multigrid=None, train=None, logger=None, datasets={'test': validation_set(clips)},
                  path={'pretrain_network_g': str(reference[1]), 'results_root': str(tmp_path)},
                  val={'save_img': True, 'suffix': None, 'metrics': METRICS})  # fmt: skip
    log = run(sys.executable, INSTALLED / 'test.py', '-opt', write(tmp_path, opt), cwd=tmp_path).stdout
    assert re.search(r'# psnr: \d\d\.\d{4}', log)
    assert len(list((tmp_path / 'run/visualization/REDS4').rglob('*.png'))) == len(list((clips / 'lq').rglob('*.png')))


def test_stock_run_is_the_same_with_and_without_the_plugin(tmp_path, stock_clips):
    """VideoRecurrentModel on REDSRecurrentDataset: no option of ours, so nothing of ours may act."""
    opt = options(
        stock_clips,
        model_type='VideoRecurrentModel',
        multigrid=None,
        datasets__train__type='REDSRecurrentDataset',
        datasets__train__gt_size=144,
        datasets__train__num_frame=3,
        datasets__train__meta_info_file=str(stock_clips / 'meta_info.txt'),
        datasets__train__val_partition='REDS4',
        datasets__train__test_mode=False,
        datasets__train__num_worker_per_gpu=1,
        train__total_iter=4,
        train__scheduler__periods=[4],
    )
    logs = []
    for name, command in (('with', TRAIN), ('without', TRAIN_WITHOUT_PLUGIN)):
        opt_file = write(tmp_path, {**opt, 'name': name})
        logs.append(run(*command, opt_file, cwd=tmp_path).stdout)
    assert len(losses(logs[0])) == 4
    assert losses(logs[0]) == losses(logs[1])
    assert not re.search(r'multigrid_vsr|Multigrid|\.lock', logs[0])
    assert {path.name for path in (tmp_path / 'experiments').iterdir()} == {'with', 'without'}
    assert same_bits(*(tmp_path / f'experiments/{name}/models/net_g_latest.pth' for name in ('with', 'without')))


def test_error_while_workers_wait_ends_the_run_with_its_line(tmp_path, clips):
    """Workers leave SIGTERM to the run, so the end of Python alone would wait for them for ever."""
    opt = options(clips, network_g={'type': 'PickyProbe'}, datasets__train__num_worker_per_gpu=2)
    own = 'import probe; from basicsr.train import train_pipeline; train_pipeline(".")'
    done = run(sys.executable, '-c', own, '-opt', write(tmp_path, opt), cwd=tmp_path, ok=False,
               PYTHONPATH=str(Path(__file__).parent))  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith('multigrid: must have shapes that PickyProbe takes, got num_frame 3')
