"""Training on several roots at once: one run, draws by weight, exact resume, a line for what does not fit."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from probe import NETWORK, refused, resume_here, train_here
from runs import make_lmdbs, options, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.sampling import batch_requests
from multigrid_vsr.core.schedule import BatchShape, Schedule, Segment
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset


@pytest.fixture(scope='module')
def roots(clips, tmp_path_factory):
    """Two folders of clips, of 15 and of 7 frames."""
    folder = tmp_path_factory.mktemp('roots')
    for root, names in (('a', ('000', '001')), ('b', ('002',))):
        for kind in ('gt', 'lq'):
            for name in names:
                shutil.copytree(clips / kind / name, folder / root / kind / name)
    return folder


def of_both(roots, **changes):
    changes = {f'datasets__train__{key}': value for key, value in changes.items()}
    kinds = {f'datasets__train__dataroot_{kind}': [f'{roots}/{root}/{kind}' for root in 'ab'] for kind in ('gt', 'lq')}
    return options(roots, network_g=NETWORK, **{**kinds, **changes})


def test_run_on_two_roots_sees_what_one_root_of_all_clips_gives(roots, clips, tmp_path, capsys):
    opt = of_both(roots)
    seen = train_here(tmp_path, opt)
    assert len(seen) == 13
    assert seen == train_here(tmp_path, options(clips, network_g=NETWORK, name='one'))
    main(['plan', '-opt', str(tmp_path / 'run.yml')])
    assert '3 clips of 22 frames.' in capsys.readouterr().out


def test_plan_says_how_the_samples_are_shared(roots, tmp_path, capsys):
    main(['plan', '-opt', str(write(tmp_path, of_both(roots, weight=[3, 1])))])
    assert '3 clips of 22 frames. 2 roots, which give 75.0% and 25.0% of the samples.' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('weight', 'parts'),  # written by hand: 7 x 3 = 21 samples of 15, all 15 and 45 of 7
    [(None, (15, 7)), ([3, 1], (21, 7)), ([1, 3], (15, 45)), ([15, 7], (15, 7)), ([0.5, 0.5], (15, 15))],
)
def test_pass_over_the_data_has_every_sample_and_follows_the_weights(weight, parts, roots):
    opt = of_both(roots, **({} if weight is None else {'weight': weight}))
    dataset = MultigridREDSDataset({**opt['datasets']['train'], 'scale': 4})
    assert len(dataset) == sum(parts)
    schedule = Schedule((Segment(0, 0, len(dataset), BatchShape(1, 1, 32)),), BatchShape(1, 1, 32))
    requests = [
        batch_requests(schedule, iteration, num_samples=len(dataset), seed=1) for iteration in range(len(dataset))
    ]
    keys = Counter(key for request in requests for key in dataset[request]['key'])
    assert len(keys) == 22
    of_b = sum(count for key, count in keys.items() if key.startswith('002'))
    assert (sum(keys.values()) - of_b, of_b) == parts


def test_resumed_run_on_two_roots_sees_what_the_uninterrupted_one_sees(roots, tmp_path):
    opt = of_both(roots, weight=[1, 3])
    opt['logger']['save_checkpoint_freq'] = 6
    seen = train_here(tmp_path, opt)
    assert resume_here(tmp_path, opt, tmp_path / 'experiments/run', 12) == seen[6:]


def test_roots_may_be_lmdbs_each_with_a_list(clips, tmp_path):
    make_lmdbs(clips, tmp_path)
    for name, line in (('a', '000 6 (144,176,3)'), ('b', '002 7 (144,176,3)')):
        (tmp_path / name).write_text(f'{line}\n')
    opt = of_both(
        tmp_path,
        dataroot_gt=[f'{tmp_path}/gt.lmdb'] * 2,
        dataroot_lq=[f'{tmp_path}/lq.lmdb'] * 2,
        io_backend={'type': 'lmdb'},
        meta_info_file=[str(tmp_path / name) for name in 'ab'],
    )
    assert len(train_here(tmp_path, opt)) == 13


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'dataroot_lq': ['a']}, r'dataroot_lq: must be a list of 2, one for each dataroot_gt, got .*. Add or remove'),
        ({'dataroot_lq': 'a'}, r'dataroot_lq: must be a list of 2, one for each dataroot_gt, got a.'),
        ({'weight': [1]}, r'weight: must be a list of 2, one for each dataroot_gt, got \[1\]'),
        ({'weight': [1, 0]}, r'weight\[1\]: must be a number above 0, got 0'),
        ({'meta_info_file': 'list.txt'}, r'meta_info_file: must be a list of 2, one for each dataroot_gt'),
        ({'dataroot_gt': 'a'}, r'dataroot_lq: must be one, as dataroot_gt is, got .*. Make dataroot_gt a list too.'),
        ({'dataroot_gt': ['a', 'b']}, r'dataroot_gt: must be a folder that exists, got a. Correct the path.'),
    ],
)
def test_roots_that_do_not_fit_get_a_line_before_anything_is_written(changes, line, roots, tmp_path):
    refused(tmp_path, of_both(roots, **changes), line)
