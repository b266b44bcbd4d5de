"""The page docs/your_own_parts.md: its examples, registered and trained."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from probe import NETWORK, train_here
from runs import log_of, options
from test_own_dataset import LQ_SHAPES

PAGE = Path(__file__).parents[1] / 'docs/your_own_parts.md'


@pytest.fixture(scope='module')
def registered():
    """What the examples define."""
    names = {'__name__': 'my_parts'}
    examples = re.findall(r'<!-- tested -->\n```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    for example in examples:
        exec(compile(example, str(PAGE), 'exec'), names)
    assert len(examples) == 3
    return names


def test_examples_of_dataset_degradation_and_model_train(registered, tmp_path, stock_clips):
    for kind in ('gt', 'lq'):
        files = sorted((stock_clips / kind / '001').iterdir())
        for part in range(4):
            frames = [cv2.imread(str(path)) for path in files[part * 20 : part * 20 + 20]]
            np.save(tmp_path / f'clip{part}_{kind}.npy', np.stack(frames))
    opt = options(stock_clips, network_g=NETWORK, model_type='FourthPowerModel')
    for key in ('dataroot_gt', 'dataroot_lq', 'io_backend', 'interval_list', 'random_reverse', 'use_hflip', 'use_rot'):
        del opt['datasets']['train'][key]
    opt['datasets']['train'].update(type='ArraysDataset', clips=[str(tmp_path / f'clip{part}') for part in range(4)])
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    assert train_here(tmp_path, opt) == fed
    assert 'l_fourth: ' in log_of(tmp_path / 'experiments/run')


def test_example_of_a_degradation_trains(registered, tmp_path, clips):
    opt = options(clips, network_g=NETWORK, train__degradation={'type': 'shrunk_and_noisy', 'sigma': 3})
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == LQ_SHAPES
    assert train_here(tmp_path, opt) == fed
