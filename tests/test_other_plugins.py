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


def test_training_script_of_another_plugin_trains_our_option_file(tmp_path, clips):
    opt = options(clips, path__experiments_root=str(tmp_path / 'theirs'))
    log = run(sys.executable, '-m', 'realesrgan.train', '-opt', write(tmp_path, opt), cwd=tmp_path).stdout
    assert len(losses(log)) == 13
    assert losses(log) == losses(train(tmp_path, write(tmp_path, options(clips))))
