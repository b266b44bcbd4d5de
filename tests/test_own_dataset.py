"""Training sets of BasicSR and of the user's own under the schedule: real runs on real video."""

from __future__ import annotations

import random

import numpy as np
import own_parts  # registers
import pytest
import torch
from probe import NETWORK, refused, refused_by_plan_too, resume_here, train_here
from runs import LQ_SHAPES, make_lmdbs, options, same_bits, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.dataset_adapter import DatasetAdapter

CENTRE = {'type': 'CentreProbe'}


def blurred(stock_clips, **changes):
    """A run on ground truth alone, with a dataset that is no relative of BasicSR's."""
    opt = options(stock_clips, network_g=NETWORK)
    kept = ('name', 'num_frame', 'gt_size', 'num_worker_per_gpu', 'batch_size_per_gpu', 'prefetch_mode')
    train = {key: opt['datasets']['train'][key] for key in kept}
    opt['datasets']['train'] = {
        **train, 'type': 'BlurredDataset', 'videos': str(stock_clips / 'gt'), 'longest': 4, 'fps': [24], **changes
    }  # fmt: skip
    return opt


def stock_reds(root, kind, **changes):
    return options(
        root,
        datasets__train__type=kind,
        datasets__train__val_partition='REDS4',
        datasets__train__meta_info_file=str(root / 'meta_info.txt'),
        datasets__train__random_reverse=True,
        datasets__train__test_mode=False,
        **changes,
    )


def of_windows(opt, num_frame):
    """A sliding-window arch has its frames built in: spatial stages alone."""
    opt['datasets']['train']['num_frame'] = num_frame
    del opt['multigrid']['num_frame']
    return opt


def run_of(kind, stock_clips, septuplets):
    if kind == 'BlurredDataset':
        return blurred(stock_clips), LQ_SHAPES
    if kind == 'REDSRecurrentDataset':
        return stock_reds(stock_clips, kind, network_g=NETWORK), LQ_SHAPES
    opt = stock_reds(septuplets if 'Vimeo' in kind else stock_clips, kind, network_g=NETWORK)
    opt['datasets']['train']['flip_sequence'] = kind == 'Vimeo90KRecurrentDataset'
    if kind != 'Vimeo90KRecurrentDataset':
        opt['network_g'] = CENTRE
        opt['datasets']['train']['dataroot_flow'] = None
    frames = {'REDSDataset': 5, 'Vimeo90KDataset': 7, 'Vimeo90KRecurrentDataset': 14}[kind]
    return of_windows(opt, frames), [(shape[0], frames, *shape[2:]) for shape in LQ_SHAPES]


KINDS = ['REDSRecurrentDataset', 'REDSDataset', 'Vimeo90KRecurrentDataset', 'Vimeo90KDataset', 'BlurredDataset']


@pytest.mark.parametrize('kind', KINDS)
def test_dataset_trains_with_the_block_whatever_the_workers_and_resumes_exactly(
    kind, tmp_path, stock_clips, septuplets
):
    opt, expected = run_of(kind, stock_clips, septuplets)
    opt['logger']['save_checkpoint_freq'] = 4
    fed = train_here(tmp_path, opt)
    assert [shape for shape, _ in fed] == expected
    assert len({value for _, value in fed}) == len(fed)
    opt['datasets']['train'].update(num_worker_per_gpu=2, prefetch_mode='cpu')
    assert resume_here(tmp_path, opt, tmp_path / 'experiments/run', 8, 12) == fed[4:]


def test_adapter_leaves_the_random_states_and_the_dataset_as_they_were(stock_clips):
    opt = {**blurred(stock_clips)['datasets']['train'], 'scale': 4}
    dataset = own_parts.BlurredDataset(opt)
    adapter = DatasetAdapter(dataset, opt)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    request = SampleRequest(3, 2, 64, seed=2**63 + 5)
    first = adapter.sample(request)
    adapter.sample(SampleRequest(5, 3, 128, seed=1))
    assert same_bits(adapter.sample(request), first)
    assert not torch.equal(adapter.sample(SampleRequest(3, 2, 64, seed=6))['lq'], first['lq'])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert (dataset.num_frame, dataset.opt['num_frame'], dataset.opt['gt_size']) == (4, 4, 128)


def test_batch_of_an_adapted_dataset_has_all_that_its_samples_have(stock_clips):
    opt = {**blurred(stock_clips)['datasets']['train'], 'scale': 4}
    adapter = DatasetAdapter(own_parts.BlurredDataset(opt), opt)
    batch = adapter.load([SampleRequest(3, 2, 64, seed=1), SampleRequest(4, 2, 64, seed=2)], None)
    assert (tuple(batch['lq'].shape), tuple(batch['gt'].shape)) == ((2, 2, 3, 16, 16), (2, 2, 3, 64, 64))
    assert (batch['lq'].dtype, tuple(batch['sigma'].shape)) == (torch.float32, (2,))


WRONG = [
    ({'type': 'FixedCropDataset'}, r"datasets.train.type: must give lq of \(2, 'c', 16, 16\) at num_frame 2 and gt_size 64, got \(2, 3, 32, 32\) of FixedCropDataset. Its crop has to be"),
    ({'type': 'OwnGeneratorDataset'}, 'datasets.train.type: must give the same sample .* another lq of OwnGen.*Draw from'),
    ({'type': 'FailingDataset'}, r'datasets.train: must give sample 1 of FailingDataset, got OSError: no such frame \(own_parts.py, line \d+\).'),
    ({'type': 'BlurdDataset'}, 'datasets.train.type: must be registered in BasicSR, got Blur.* Did you mean `BlurredDataset`'),
    ({'longest': None}, "datasets.train: must hold what BlurredDataset can be built with, got KeyError: 'longest'."),
    ({'clip': '002'}, r"datasets.train: must hold what BlurredDataset can be built with, got FileNotFoundError: .*/002'"),
    ({'target': 'center'}, 'multigrid.num_frame: must be left out for an arch with one target frame'),
    ({'prefetch_mod': 'cpu', 'prefetch_mode': None}, 'datasets.train.prefetch_mod: .* Did you mean `prefetch_mode`'),
    ({'num_worker_per_gpu': None}, 'datasets.train.num_worker_per_gpu: must be given, got nothing.'),
    ({'batch_size_per_gpu': 97}, 'multigrid.batch_size_per_gpu: must be at most the 96 samples of the data, got 97'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), WRONG, ids=str)
def test_dataset_that_cannot_follow_stops_the_run_before_anything_is_written(changes, line, tmp_path, stock_clips):
    opt = blurred(stock_clips)
    del opt['multigrid']['batch_size_per_gpu']
    opt['datasets']['train'].update(changes)
    opt['datasets']['train'] = {key: value for key, value in opt['datasets']['train'].items() if value is not None}
    refused_by_plan_too(tmp_path, opt, line)


def test_stock_dataset_that_has_its_frames_built_in_names_them(tmp_path, septuplets):
    opt = stock_reds(septuplets, 'Vimeo90KRecurrentDataset', network_g=NETWORK)
    opt['datasets']['train']['flip_sequence'] = False
    line = r"type: must give lq of \(2, 'c', 16, 16\) .*, got \(7, 3, 16, 16\) of Vimeo.*else leave multigrid.num_frame out."
    refused(tmp_path, opt, line)


def test_stock_dataset_does_not_read_a_store(tmp_path, stock_clips):
    opt = stock_reds(stock_clips, 'REDSDataset', datasets__train__io_backend={'type': 'packed'})
    refused(tmp_path, opt, r"io_backend.type: must be disk or lmdb for BasicSR's datasets, got packed")


def test_plan_of_an_own_dataset_tries_it_and_says_what_is_not_on_this_machine(tmp_path, stock_clips, capsys):
    main(['plan', '-opt', str(write(tmp_path, blurred(stock_clips)))])
    assert capsys.readouterr().out.endswith('96 samples of BlurredDataset.\n')
    opt = stock_reds(stock_clips, 'REDSRecurrentDataset', network_g=NETWORK)
    opt['datasets']['train']['dataroot_gt'] = '/nowhere/gt'
    main(['plan', '-opt', str(write(tmp_path, opt))])
    assert 'Data not checked. datasets.train.dataroot_gt: must be a path that exists' in capsys.readouterr().out


def test_stock_dataset_trains_from_an_lmdb_that_the_check_has_closed_again(tmp_path, stock_clips):
    """LMDB opens a file once in a process."""
    make_lmdbs(stock_clips, tmp_path)
    opt = stock_reds(stock_clips, 'REDSRecurrentDataset', network_g=NETWORK, train__total_iter=2)
    for kind in ('gt', 'lq'):
        opt['datasets']['train'][f'dataroot_{kind}'] = str(tmp_path / f'{kind}.lmdb')
    opt['datasets']['train']['io_backend'] = {'type': 'lmdb'}
    assert len(train_here(tmp_path, opt)) == 2


def test_dataset_derived_from_ours_has_the_files_and_the_checks_of_its_base(tmp_path, septuplets, capsys):
    opt = options(septuplets, network_g=NETWORK, datasets__train__type='EverySecondDataset')
    assert [shape for shape, _ in train_here(tmp_path, opt)] == LQ_SHAPES
    main(['plan', '-opt', str(tmp_path / 'run.yml')])
    assert capsys.readouterr().out.endswith('4 clips of 28 frames.\n')
