"""What a network is really fed, iteration by iteration, against tables written by hand."""

from __future__ import annotations

import pytest
from probe import NETWORK, train_here
from runs import LQ_SHAPES, options

# workers, prefetch_mode, persistent_workers
CONFIGURATIONS = [(0, 'cpu', False), (1, None, True), (2, 'cpu', False), (4, None, False), (4, 'cpu', True)]


@pytest.fixture(scope='module')
def fed(tmp_path_factory, clips):
    """What the network saw without workers and without prefetching."""
    return train_here(tmp_path_factory.mktemp('fed'), options(clips, network_g=NETWORK))


def test_run_feeds_the_scheduled_shape_at_every_iteration(fed):
    assert [shape for shape, _ in fed] == LQ_SHAPES


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # more workers than cores
@pytest.mark.parametrize(('workers', 'mode', 'persistent'), CONFIGURATIONS)
def test_run_feeds_the_same_samples_however_they_are_loaded(workers, mode, persistent, tmp_path, clips, fed):
    opt = options(clips, network_g=NETWORK, datasets__train__num_worker_per_gpu=workers)
    opt['datasets']['train'].update(prefetch_mode=mode, persistent_workers=persistent)
    assert train_here(tmp_path, opt) == fed


def test_run_with_another_seed_feeds_other_samples(tmp_path, clips, fed):
    other = train_here(tmp_path, options(clips, network_g=NETWORK, manual_seed=4))
    assert all(value != other_value for (_, value), (_, other_value) in zip(fed, other, strict=True))


@pytest.mark.parametrize('enlarge', [1, 200])
def test_run_has_exactly_total_iter_iterations_whatever_the_epochs(enlarge, tmp_path, clips):
    """22 samples in batches of 20 and 10: BasicSR counts 2 epochs or 1 for these 13 iterations."""
    opt = options(
        clips,
        network_g=NETWORK,
        multigrid__batch_size_per_gpu=[20, 10],
        datasets__train__batch_size_per_gpu=10,
        datasets__train__dataset_enlarge_ratio=enlarge,
    )
    assert [shape[0] for shape, _ in train_here(tmp_path, opt)] == [20] * 6 + [10] * 7


def test_run_without_the_block_is_plain(tmp_path, clips):
    opt = options(clips, network_g=NETWORK, multigrid=None)
    assert [shape for shape, _ in train_here(tmp_path, opt)] == [(1, 4, 3, 32, 32)] * 13


def test_run_with_stages_feeds_any_order_of_shapes(tmp_path, clips):
    stages = [
        {'iter': 1, 'gt_size': 128, 'num_frame': 2},
        {'iter': 2, 'gt_size': 64, 'batch_size_per_gpu': 3},
        {'iter': 10},
    ]
    opt = options(clips, network_g=NETWORK, multigrid={'stages': stages})
    assert [shape for shape, _ in train_here(tmp_path, opt)] == [(1, 2, 3, 32, 32)] + [(3, 4, 3, 16, 16)] * 2 + [
        (1, 4, 3, 32, 32)
    ] * 10


def test_run_in_debug_mode_keeps_the_schedule(tmp_path, clips, fed):
    assert train_here(tmp_path, options(clips, network_g=NETWORK), '--debug') == fed
    assert (tmp_path / 'experiments/debug_run/models/net_g_8.pth').exists()


def test_run_with_force_yml_follows_the_changed_schedule(tmp_path, clips):
    fed = train_here(tmp_path, options(clips, network_g=NETWORK), '--force_yml', 'multigrid:num_frame=[1,4]')
    assert [shape[1] for shape, _ in fed] == [1] * 3 + [4] * 3 + [1] * 3 + [4] * 4


def test_model_fed_by_a_stock_dataset_trains_plainly(tmp_path, stock_clips):
    opt = options(
        stock_clips,
        network_g=NETWORK,
        multigrid=None,
        train__total_iter=3,
        datasets__train__type='REDSRecurrentDataset',
        datasets__train__val_partition='REDS4',
        datasets__train__test_mode=False,
        datasets__train__meta_info_file=str(stock_clips / 'meta_info.txt'),
    )
    assert [shape for shape, _ in train_here(tmp_path, opt)] == [(1, 4, 3, 32, 32)] * 3


def test_stock_model_fed_by_our_dataset_trains_plainly(tmp_path, clips):
    opt = options(clips, network_g=NETWORK, multigrid=None, model_type='VideoRecurrentModel', train__total_iter=3)
    assert [shape for shape, _ in train_here(tmp_path, opt)] == [(1, 4, 3, 32, 32)] * 3
