"""Beside other plugins of BasicSR in one environment."""

from __future__ import annotations

import sys

import pytest
from runs import losses, options, run, train, write

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
