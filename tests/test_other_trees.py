"""Other projects' folders called ``basicsr``, an image model of BasicSR itself, and other plugins, beside this plugin.

The imitations are of the four kinds that are met: many image restoration projects carry an early or a cut copy.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import basicsr
import pytest
from runs import TRAIN_WITHOUT_PLUGIN, losses, options, run, same_bits, train, write

INSTALLED = Path(basicsr.__file__).parent
REPORT = """
import sys
import basicsr{submodule}
ours = sorted(name for name in sys.modules if name.startswith('multigrid_vsr'))
shim = 'torchvision.transforms.functional_tensor' in sys.modules
print(ours, shim, sys.excepthook is sys.__excepthook__, type(getattr(basicsr, '__loader__', None)).__name__)
"""
LEFT_ALONE = "['multigrid_vsr', 'multigrid_vsr.host', 'multigrid_vsr.host.autoload'] False True"
TRAIN_SCRIPT = """
import argparse
from basicsr.utils.options import parse
parser = argparse.ArgumentParser()
parser.add_argument('-opt')
parser.add_argument('--launcher')
print('trains', parse(parser.parse_args().opt)['model_type'])
"""
OPTIONS = """
import yaml
def parse(path, is_train=True):
    with open(path) as file:
        return yaml.safe_load(file)
"""
REGISTRY = """
class Registry(dict):
    def register(self):
        return lambda kind: self.setdefault(kind.__name__, kind)
DATASET_REGISTRY, ARCH_REGISTRY, MODEL_REGISTRY = Registry(), Registry(), Registry()
"""
MODEL = """
from basicsr.utils.registry import MODEL_REGISTRY
@MODEL_REGISTRY.register()
class SRModel:
    pass
"""
NO_REGISTRY = {
    '__init__.py': 'from .utils import *',
    'train.py': TRAIN_SCRIPT,
    'data/__init__.py': '',
    'models/__init__.py': '',
    'archs/__init__.py': '',
    'utils/__init__.py': '',
    'utils/dist_util.py': '',
    'utils/logger.py': '',
    'utils/options.py': OPTIONS,
}
REGISTRY_ALONE = {
    '__init__.py': 'from .utils.registry import *',
    'utils/__init__.py': '',
    'utils/registry.py': REGISTRY,
}
NO_VIDEO_MODELS = {
    **NO_REGISTRY,
    **REGISTRY_ALONE,
    '__init__.py': 'from .models import *',
    'models/__init__.py': 'from .sr_model import SRModel',
    'models/sr_model.py': MODEL,
}
TREES = {'no registry': NO_REGISTRY, 'registry alone': REGISTRY_ALONE, 'no video models': NO_VIDEO_MODELS}


@pytest.fixture(params=TREES)
def tree(request, tmp_path):
    """A folder with an imitation of ``basicsr/``, and its files."""
    files = TREES[request.param]
    for name, text in files.items():
        path = tmp_path / 'basicsr' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path, files


def test_other_tree_is_imported_as_without_the_plugin(tree):
    folder, files = tree
    submodule = '.utils.options' if 'utils/options.py' in files else '.utils.registry'
    printed = run(sys.executable, '-c', REPORT.format(submodule=submodule), cwd=folder).stdout
    assert printed == f'{LEFT_ALONE} SourceFileLoader\n'


def test_tree_without_init_file_is_left_alone(tmp_path):
    """It is found where no BasicSR is installed alone."""
    (tmp_path / 'basicsr/utils').mkdir(parents=True)
    (tmp_path / 'basicsr/utils/options.py').touch()
    bare = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
    printed = run(sys.executable, '-c', bare + REPORT.format(submodule='.utils.options'), cwd=tmp_path).stdout
    loader = 'NamespaceLoader' if sys.version_info >= (3, 11) else '_NamespaceLoader'
    assert printed == f'{LEFT_ALONE} {loader}\n'


def test_module_that_is_called_basicsr_is_left_alone(tmp_path):
    (tmp_path / 'basicsr.py').write_text('here = 1')
    printed = run(sys.executable, '-c', 'import basicsr, multigrid_vsr; print(basicsr.here)', cwd=tmp_path).stdout
    assert printed == '1\n'


@pytest.mark.parametrize('tree', ['no registry', 'no video models'], indirect=True)
def test_other_tree_trains_its_own_options_in_silence(tree, clips):
    folder, _ = tree
    opt_file = write(folder, options(clips, model_type='SRModel', multigrid=None, datasets__train__type='X'))
    assert run(sys.executable, '-m', 'basicsr.train', '-opt', opt_file, cwd=folder).stdout == 'trains SRModel\n'
    # The name alone, in a comment or a path, asks for nothing.
    opt_file.write_text('# not Multigrid\n' + opt_file.read_text() + '\ndescription: multigrid\n')
    assert run(sys.executable, '-m', 'basicsr.train', '-opt', opt_file, cwd=folder).stdout == 'trains SRModel\n'


@pytest.mark.parametrize(
    ('changes', 'asks'),
    [
        ({}, 'model_type: must be run with BasicSR 1.4.2 or later, got MultigridVideoModel.'),
        ({'model_type': 'SRModel'}, 'datasets.train.type: must be run with BasicSR 1.4.2 or later, got MultigridREDSDataset.'),
        ({'model_type': 'SRModel', 'datasets': None}, 'multigrid: must be run with BasicSR 1.4.2 or later, got a block.'),
    ],
)  # fmt: skip
def test_multigrid_option_in_another_tree_ends_with_one_line(tree, changes, asks, clips):
    folder, files = tree
    line = f'{asks} Here the tree has no models/video_recurrent_model.py ({folder / "basicsr"}).'
    opt_file = write(folder, options(clips, **changes))
    for flags in (['-opt', opt_file], [f'-opt={opt_file}']):
        done = run(sys.executable, '-c', 'import basicsr', *flags, cwd=folder, ok=False)
        assert done.returncode == 1
        assert done.stdout == f'{line}\n'
    if 'train.py' in files:
        done = run(sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt', opt_file, cwd=folder, ok=False)
        assert done.stdout == f'{line}\n'
    done = run(sys.executable, '-c', 'import basicsr', '-opt', opt_file, cwd=folder, ok=False, RANK='1')
    assert (done.returncode, done.stdout) == (1, '')


@pytest.fixture(scope='module')
def without_basicvsrpp(tmp_path_factory):
    """BasicSR as it is installed, less one arch."""
    root = tmp_path_factory.mktemp('without_basicvsrpp')
    shutil.copytree(INSTALLED, root / 'basicsr', ignore=shutil.ignore_patterns('__pycache__', 'basicvsrpp_arch.py'))
    return root


def test_tree_without_basicvsrpp_says_so_and_trains_another_arch(without_basicvsrpp, tmp_path, clips):
    opt = options(clips, multigrid=None, train__total_iter=2, path__experiments_root=str(tmp_path))
    log = run(sys.executable, '-m', 'basicsr.train', '-opt', write(tmp_path, opt), cwd=without_basicvsrpp).stdout
    assert len(losses(log)) == 2
    why = "No module named 'basicsr.archs.basicvsrpp_arch'"
    assert [line for line in log.splitlines() if 'not as it was' in line] == [
        'BasicSR is not as it was. Not patched: '
        f'`DCNv2Pack.forward`, `BasicVSRPlusPlus.check_if_mirror_extended`, {why}; '
        f'`BasicVSRPlusPlus.__init__`, {why}; `BasicVSRPlusPlus.forward`, {why}'
    ]


def test_image_model_in_the_tree_without_basicvsrpp_is_not_touched(without_basicvsrpp, tmp_path, clips):
    opt = options(clips, model_type='SRModel', multigrid=None, datasets__train__type='PairedImageDataset',
                  datasets__train__gt_size=64, network_g={'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1},
                  train__total_iter=3, path__experiments_root=str(tmp_path))  # fmt: skip
    opt['datasets']['train'].update({f'dataroot_{key}': str(clips / key / '001') for key in ('gt', 'lq')})
    log = run(sys.executable, '-m', 'basicsr.train', '-opt', write(tmp_path, opt), cwd=without_basicvsrpp).stdout
    assert len(losses(log)) == 3
    assert 'is not as it was' not in log
    run(*TRAIN_WITHOUT_PLUGIN, write(tmp_path, {**opt, 'name': 'without'}), cwd=without_basicvsrpp)
    runs = tmp_path / 'run', without_basicvsrpp / 'experiments/without'
    assert same_bits(*(folder / 'models/net_g_latest.pth' for folder in runs))


def test_plugin_that_lacks_a_library_lets_basicsr_be_and_says_so_when_asked(tmp_path, clips):
    (tmp_path / 'isal.py').write_text('raise ImportError("isal is not installed")')
    run(sys.executable, '-c', 'import basicsr', cwd=tmp_path)
    done = run(sys.executable, INSTALLED / 'train.py', '-opt', write(tmp_path, options(clips)), cwd=tmp_path, ok=False,
               PYTHONPATH=str(tmp_path))  # fmt: skip
    assert done.stdout.splitlines() == [
        'model_type: must be run with BasicSR 1.4.2 or later, got MultigridVideoModel. Here isal is not installed.'
    ]
    plain = {'name': 'plain', 'model_type': 'VideoRecurrentModel', 'num_gpu': 0, 'datasets': {}, 'path': {}}
    reads = "from basicsr.utils.options import parse_options; print(parse_options('.', True)[0]['model_type'])"
    done = run(sys.executable, '-c', reads, '-opt', write(tmp_path, plain), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines()[-1] == 'VideoRecurrentModel'


CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
for name in ('RealESRGANModel', 'GFPGANModel', 'MultigridVideoModel', 'MultigridVideoGANModel'):
    MODEL_REGISTRY.get(name)
for name in ('RealESRGANDataset', 'FFHQDegradationDataset', 'MultigridREDSDataset', 'MultigridVimeo90KDataset'):
    DATASET_REGISTRY.get(name)
import basicsr.train
print(basicsr.train.MessageLogger.__name__)
"""


@pytest.mark.parametrize(
    'order', ['multigrid_vsr realesrgan gfpgan', 'realesrgan gfpgan multigrid_vsr', 'gfpgan basicsr realesrgan']
)
def test_plugins_register_in_any_order(order, tmp_path):
    printed = run(sys.executable, '-W', 'ignore', '-c', CODE, *order.split(), cwd=tmp_path).stdout
    assert printed == 'MultigridMessageLogger\n'


@pytest.mark.parametrize('name', ['MultigridMixin', 'OPTIMIZER_REGISTRY', 'MultigridLoader', 'MultigridVideoModel'])
def test_types_are_registered_whichever_public_name_comes_first(name, tmp_path):
    code = f'from multigrid_vsr import {name}\n{CODE}'
    run(sys.executable, '-W', 'ignore', '-c', code, 'realesrgan', 'gfpgan', cwd=tmp_path)


def test_option_file_passes_after_a_module_of_the_plugin_was_imported_first(tmp_path, clips):
    code = 'import multigrid_vsr.models.inference, sys; from multigrid_vsr.cli import main; main(sys.argv[1:])'
    opt_file = write(tmp_path, options(clips))
    printed = run(sys.executable, '-W', 'ignore', '-c', code, 'plan', '-opt', opt_file, cwd=tmp_path).stdout
    assert '3 clips of 22 frames.' in printed


def test_training_script_of_another_plugin_trains_our_option_file(tmp_path, clips):
    opt = options(clips, path__experiments_root=str(tmp_path / 'theirs'))
    log = run(sys.executable, '-m', 'realesrgan.train', '-opt', write(tmp_path, opt), cwd=tmp_path).stdout
    assert len(losses(log)) == 13
    assert losses(log) == losses(train(tmp_path, write(tmp_path, options(clips))))
