"""Validation in pieces, and test sets of any name and any clips, on real video."""

from __future__ import annotations

import logging
import re
import shutil
from itertools import islice
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import own_parts  # noqa: F401  # registers
import pytest
import torch
import yaml
from basicsr.data import build_dataset
from probe import NETWORK, train_here
from runs import (
    METRICS,
    PROBE,
    TRAIN_PROBE,
    make_lmdbs,
    options,
    own_set,
    run,
    torchrun,
    validation_set,
    write,
    write_video,
)
from test_multigrid_video_model import build

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.data.check import check_test_set
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames.pairs import open_sources
from multigrid_vsr.frames.prepare import build as build_store
from multigrid_vsr.models.validation import figures
from multigrid_vsr.options.checked import check_given, checked
from multigrid_vsr.options.run_options import check_pieces

pytestmark = pytest.mark.filterwarnings('ignore:distutils Version classes')  # in BasicSR's EDVR
VAL = {'val_freq': 1, 'save_img': False, 'metrics': METRICS}
EDVR = {'type': 'EDVR', 'num_feat': 8, 'num_frame': 5, 'deformable_groups': 2, 'num_extract_block': 1,
        'num_reconstruct_block': 1}  # fmt: skip
TOFLOW = {'type': 'TOFlow'}
RECURRENT = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}


def windows_of(clips, num_frame):
    return validation_set(clips, 'VideoTestDataset', num_frame=num_frame, cache_data=False)


def run_options(clips, network, test_set, **val):
    opt = options(clips, network_g=network, datasets__val=test_set, multigrid={'gt_size': [64, 128]})
    if network['type'] in ('EDVR', 'DUF', 'TOFlow'):
        opt['datasets']['train']['num_frame'] = network.get('num_frame', 7)
    if network is TOFLOW:  # x1
        opt['scale'] = 1
        opt['datasets']['train']['dataroot_lq'] = opt['datasets']['train']['dataroot_gt']
    return {**opt, 'val': {**VAL, **val}}


def restored(folder, clips, network, test_set, fed=None, **val):
    """The frames that a validation saves, by path, and its figures; ``fed`` takes the shapes the network was fed."""
    torch.manual_seed(0)
    model, (loader,) = build(folder, run_options(clips, network, test_set, **val))
    feed_data, fed = model.feed_data, [] if fed is None else fed
    model.feed_data = lambda data: fed.append(tuple(data['lq'].shape)) or feed_data(data)
    model.validation(loader, 7, None, save_img=True)
    root = folder / f'experiments/run/visualization/{test_set["name"]}'
    frames = {str(path.relative_to(root)): cv2.imread(str(path)) for path in sorted(root.rglob('*.png'))}
    shutil.rmtree(root)
    return frames, figures(model)


def crop_clip(stock_clips, root, num_frame, height, width):
    """The upper left corner of real frames, LQ height x width."""
    for kind, scale in (('gt', 4), ('lq', 1)):
        (root / kind / 'a').mkdir(parents=True)
        for path in sorted((stock_clips / kind / '001').iterdir())[:num_frame]:
            cv2.imwrite(str(root / kind / 'a' / path.name), cv2.imread(str(path))[: height * scale, : width * scale])


def unlike(first, second):
    """How many bytes of all frames differ."""
    assert first.keys() == second.keys()
    return sum(int((first[name] != second[name]).sum()) for name in first)


def assert_equal_frames(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []


@pytest.mark.parametrize(
    'network', [EDVR, {'type': 'DUF', 'scale': 4, 'num_layer': 16}, TOFLOW], ids=lambda n: n['type']
)
def test_windows_of_a_sliding_window_arch_are_the_whole_and_what_basicsr_gives(network, tmp_path, stock_clips):
    """18 frames in windows of 13 or 17, as a whole, and frame by frame by BasicSR's test set."""
    window = network.get('num_frame', 7)
    crop_clip(stock_clips, tmp_path, 18, *((4, 8) if network is TOFLOW else (16, 24)))
    if network is TOFLOW:
        shutil.rmtree(tmp_path / 'lq')
        shutil.copytree(tmp_path / 'gt', tmp_path / 'lq')
    whole, in_whole = restored(tmp_path, stock_clips, network, own_set(tmp_path))
    pieces, in_pieces = restored(tmp_path, stock_clips, network, own_set(tmp_path), max_frames=2 * window + 3)
    stock, in_stock = restored(tmp_path, stock_clips, network, windows_of(tmp_path, window))
    assert len(whole) == 18
    assert_equal_frames(whole, pieces)
    assert_equal_frames(whole, stock)
    assert in_whole == in_pieces == in_stock


def test_windows_of_a_recurrent_arch_come_to_the_whole_with_the_overlap(tmp_path, stock_clips):
    """As benchmarks/README.md has it: 28 frames of context leave the bytes alone, none does not."""
    crop_clip(stock_clips, tmp_path, 70, 32, 32)
    whole, in_whole = restored(tmp_path, stock_clips, RECURRENT, own_set(tmp_path))
    fed: list[tuple[int, ...]] = []
    pieces, in_pieces = restored(tmp_path, stock_clips, RECURRENT, own_set(tmp_path), fed, max_frames=64)
    assert [shape[1] for shape in fed] == [64, 62]
    assert unlike(whole, pieces) <= 5
    assert in_pieces['psnr']['mean'] == pytest.approx(in_whole['psnr']['mean'], abs=1e-6)
    cut, in_cut = restored(tmp_path, stock_clips, RECURRENT, own_set(tmp_path), max_frames=35, overlap=0)
    assert unlike(whole, cut) > 500
    assert abs(in_cut['psnr']['mean'] - in_whole['psnr']['mean']) > 1e-6


@pytest.mark.parametrize('kind', ['MultigridVideoTestDataset', 'VideoRecurrentTestDataset', 'VideoTestDataset'])
def test_pieces_go_through_the_network_one_at_a_time(kind, tmp_path, clips):
    """LQ frames are 36x44. An arch that looks at a pixel alone has the same in any pieces, the EMA and bf16 too."""
    network = {'type': 'CentreProbe'} if kind == 'VideoTestDataset' else NETWORK
    test_set = validation_set(clips, kind)
    whole, in_whole = restored(tmp_path, clips, network, test_set)
    fed: list[tuple[int, ...]] = []
    opt = {'max_frames': 5, 'overlap': 1, 'tile': 24, 'tile_overlap': 4}
    pieces, in_pieces = restored(tmp_path, clips, network, test_set, fed, **opt)
    assert max(shape[1] for shape in fed) == (3 if kind == 'VideoTestDataset' else 5)
    assert max(shape[3] for shape in fed) == max(shape[4] for shape in fed) == 24
    assert {shape[0] for shape in fed} == {1}
    assert_equal_frames(whole, pieces)
    assert in_whole == in_pieces


def test_pieces_of_a_run_with_ema_and_bf16_are_validated(tmp_path, clips):
    opt = run_options(clips, NETWORK, own_set(clips), max_frames=4, overlap=1, tile=24, tile_overlap=4)
    opt['train'].update(amp='bf16', ema_decay=0.5)
    model, (loader,) = build(tmp_path, opt)
    seen = []
    forward = model.net_g_ema.forward
    model.net_g_ema.forward = lambda lq: seen.append(lq.dtype) or forward(lq)
    model.validation(loader, 7, None, save_img=False)
    assert set(seen) == {torch.float32}
    assert figures(model)['psnr']['clips'].keys() == {'000', '001', '002'}
    assert model.net_g.training


def test_clip_in_pieces_is_never_read_as_a_whole(tmp_path, clips):
    """At a window of 4 with an overlap of 1, no more than one frame beyond it has been read when it is fed."""
    model, (loader,) = build(tmp_path, run_options(clips, NETWORK, own_set(clips), max_frames=4, overlap=1))
    dataset, read, fed = loader.dataset, [], []
    frames, feed_data = dataset.frames, model.feed_data

    def reading(place, kind):
        for frame in frames(place, kind):
            read.append(kind)
            yield frame

    dataset.frames, model.feed_data = reading, lambda data: fed.append(read.count('lq')) or feed_data(data)
    model.validation(loader, 7, None, save_img=False)
    # Clips of 6, 9 and 7 frames: windows start at every second frame.
    assert fed == [5, 6, 6 + 5, 6 + 7, 6 + 9, 6 + 9, 15 + 5, 15 + 7, 15 + 7]


@pytest.mark.parametrize('pieces', [{}, {'max_frames': 4, 'overlap': 1, 'tile': 32, 'tile_overlap': 8}])
def test_two_ranks_validate_clips_and_their_pieces_as_one(pieces, tmp_path, clips):
    """A rate of nothing, so that the weights are the same whatever the batch is."""
    found = []
    for name in ('one', 'two'):
        opt = options(clips, name=name, multigrid=None, train__total_iter=1, train__optim_g__lr=1e-20,
                      network_g=NETWORK, path__experiments_root=str(tmp_path), datasets__val=validation_set(clips),
                      datasets__val_2=own_set(clips, 'Again', dataroot_lq=None), val={**VAL, **pieces})  # fmt: skip
        opt_file = write(tmp_path, opt)
        commands = {'one': (*TRAIN_PROBE, opt_file), 'two': torchrun(PROBE, 'train', '-opt', opt_file)}
        log = run(*commands[name], cwd=tmp_path).stdout
        found.append(re.findall(r'Validation (REDS4|Again)\s+# psnr: (\S+)(.*)', log))
    assert [name for name, *_ in found[0]] == ['REDS4', 'Again'] * 2  # after the iteration, and at the end
    assert found[0] == found[1]


PIECES = [
    ({'max_frames': 40}, RECURRENT, 'max_frames: must be above 56, twice the context of 28, got 40. Raise it, or l'),
    ({'max_frames': 8}, EDVR, 'max_frames: must be above 8, twice the context of 4, got 8. Raise it.'),
    ({'max_frames': 9, 'overlap': 4}, EDVR, 'overlap: must be left out for an arch that sees 5 frames, whose windo'),
    ({'overlap': 4}, RECURRENT, 'max_frames: must be given beside val.overlap, got nothing. Give it, or remove over'),
    ({'tile_overlap': 4}, RECURRENT, 'tile: must be given beside val.tile_overlap, got nothing.'),
    ({'tile': 64}, RECURRENT, 'tile: must be above 128, twice the context of 64, got 64. Raise it, or lower val.tile_'),
    ({'max_frames': 9, 'overlap': 1}, {'type': 'IconVSR'}, 'overlap: must be at least 2 for this arch, got 1. Rai'),
    ({'tile': 9, 'tile_overlap': 1}, {'type': 'DUF'}, 'tile_overlap: must be at least 2 for this arch, got 1. Rai'),
    ({'max_frames': 90, 'center_frame_only': True}, RECURRENT, 'max_frames: must be left out beside val.center_fr'),
]


@pytest.mark.parametrize(('val', 'network', 'line'), PIECES)
def test_pieces_that_keep_nothing_or_are_too_small_are_refused(val, network, line, tmp_path):
    opt = {**options(tmp_path, network_g=network), 'val': val}
    with pytest.raises(OptionError, match=f'^val.{re.escape(line)}'):
        check_pieces(opt)


def test_model_with_a_validation_of_its_own_takes_no_pieces(tmp_path, clips):
    opt = run_options(clips, NETWORK, own_set(clips), tile=64, tile_overlap=8)
    with pytest.raises(OptionError, match=r'^val\.tile: must be left out for'):
        train_here(tmp_path, {**opt, 'model_type': 'MultigridTheirModel'})


# --- test sets of any name and any clips ---


@pytest.fixture(scope='module')
def forms(tmp_path_factory, clips):
    """The same clips as images under other names, nested, as a frame store and as an LMDB."""
    root = tmp_path_factory.mktemp('forms')
    for kind in ('gt', 'lq'):
        for path in sorted(clips.glob(f'{kind}/*/*.png')):
            target = root / 'nested' / kind / 'day' / f'clip {path.parent.name}' / f'frame_{int(path.stem) + 1}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    build_store(open_sources(clips / 'gt', clips / 'lq', 4), root / 'store', 1)
    (root / 'lmdb').mkdir()
    make_lmdbs(clips, root / 'lmdb')
    return root


def items(test_set):
    dataset = build_dataset({**test_set, 'phase': 'val', 'scale': 4})
    return [dataset[place] for place in range(len(dataset))]


@pytest.mark.parametrize(
    ('form', 'suffix', 'backend', 'folder'),
    [('nested', '', None, 'day/clip {}'), ('store', '', 'packed', '{}'), ('lmdb', '.lmdb', 'lmdb', '{}')],
    ids=['nested', 'store', 'lmdb'],
)
def test_own_test_set_gives_what_basicsr_gives(form, suffix, backend, folder, clips, forms):
    stock = items(validation_set(clips, num_frame=1))
    roots = {f'dataroot_{kind}': str(forms / form / f'{kind}{suffix}') for kind in ('gt', 'lq')}
    own = items(own_set(clips, 'Own clips', **roots, **({'io_backend': {'type': backend}} if backend else {})))
    assert [item['folder'] for item in own] == [folder.format(item['folder']) for item in stock]
    for mine, theirs in zip(own, stock, strict=True):
        assert torch.equal(mine['lq'], theirs['lq'])
        assert torch.equal(mine['gt'], theirs['gt'])


def test_list_and_ground_truth_alone_make_a_test_set(tmp_path, clips):
    (tmp_path / 'list.txt').write_text('001\n')
    (plain,) = items(own_set(clips, meta_info_file=str(tmp_path / 'list.txt')))
    (alone,) = items(own_set(clips, dataroot_lq=None, meta_info_file=str(tmp_path / 'list.txt')))
    assert plain['folder'] == alone['folder'] == '001'
    assert torch.equal(alone['gt'], plain['gt'])
    assert alone['lq'].shape == plain['lq'].shape
    assert 0 < (alone['lq'] - plain['lq']).abs().mean() < 0.05  # BasicSR's bicubic against OpenCV's


def test_videos_pair_as_clips_of_a_test_set(tmp_path):
    frames = list(islice(read_frames(find_video('carphone_pristine.mp4')), 4))
    for kind, scale in (('gt', 1), ('lq', 4)):
        write_video(tmp_path / kind / 'car.avi', [frame[::scale, ::scale] for frame in frames])
    (item,) = items(own_set(tmp_path))
    assert (item['folder'], tuple(item['lq'].shape), tuple(item['gt'].shape)) == (
        'car', (4, 3, 36, 44), (4, 3, 144, 176),
    )  # fmt: skip


def test_ground_truth_that_does_not_fit_is_cropped_with_a_line(tmp_path, clips, caplog):
    """Ground truth of 142x175 for LQ of 36x44: neither fits the scale."""
    for path in clips.glob('*/000/*.png'):
        target = tmp_path / path.relative_to(clips)
        target.parent.mkdir(parents=True, exist_ok=True)
        frame = cv2.imread(str(path))
        cv2.imwrite(str(target), frame[:142, :175] if path.parts[-3] == 'gt' else frame)
    with mock.patch.object(logging.getLogger('basicsr'), 'propagate', True), caplog.at_level('INFO'):
        (item,) = items(own_set(tmp_path))
    assert tuple(item['lq'].shape[2:]) == (35, 43)
    line = (
        'datasets.val.dataroot_gt, scale: 1 clips cropped to a multiple of it at the right and the bottom, 000 from '
        '142x175 to 140x172.'
    )
    assert line in caplog.text
    original = cv2.imread(str(clips / 'gt/000/00000000.png'))[:140, :172, ::-1]
    assert np.array_equal((item['gt'][0] * 255).round().byte().permute(1, 2, 0).numpy(), original)


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'io_backend': {'type': 'packed'}}, 'datasets.val.io_backend.type: must be disk for .*, got packed.'),
        ({'padding': 'mirror'}, 'datasets.val.padding: must be replicate, .*, got mirror.'),
        ({'meta_info_file': '@list'}, 'datasets.val.meta_info_file: must name clips of datasets.val.dataroot_gt, got no'),
        ({'dataroot_gt': '@less'}, 'datasets.val.dataroot_lq: must hold only the clips of datasets.val.dataroot_gt, got 00[02] too'),
        ({'dataroot_lq': '@less'}, r'datasets.val.dataroot_lq: must hold the clips of datasets.val.dataroot_gt, got \S+less without 000 \(2 missing\). Add it, or name the clips to take in datasets.val.meta_info_file.'),
    ],
)  # fmt: skip
def test_own_test_set_that_is_not_what_it_says_is_refused(changes, line, tmp_path, clips):
    (tmp_path / 'list').write_text('none\n')
    shutil.copytree(clips / 'gt/001', tmp_path / 'less/001')
    changes = {key: f'{tmp_path}/{value[1:]}' if '@' in value else value for key, value in changes.items()}
    opt = options(clips, network_g=NETWORK, datasets__val=own_set(clips, **changes))
    with pytest.raises(OptionError, match=f'^{line}'):
        check_test_set('datasets.val', opt)


def test_frame_that_is_damaged_later_names_its_clip_and_file(clips, tmp_path):
    shutil.copytree(clips, tmp_path / 'clips')
    dataset = build_dataset({**own_set(tmp_path / 'clips'), 'phase': 'val', 'scale': 4})
    (tmp_path / 'clips/lq/001/00000003.png').write_bytes(b'nothing')
    with pytest.raises(FrameError, match=r'clip 001, frame 3: the LQ frame is missing .*lq/001/00000003\.png'):
        dataset[1]


def test_stock_test_set_under_its_own_name_is_pointed_to_ours(clips):
    opt = options(clips, network_g=NETWORK, datasets__val={**windows_of(clips, 3), 'name': 'Mine'})
    with pytest.raises(OptionError, match=r'got Mine\. Or set type: MultigridVideoTestDataset, which takes any\.'):
        check_test_set('datasets.val', opt)


def test_center_frame_of_whole_clips_counts_once(tmp_path, clips):
    """The mean of a clip is that of its one frame, not of as many rows as the clip has frames."""
    frames, found = restored(tmp_path, clips, NETWORK, own_set(clips), center_frame_only=True)
    assert len(frames) == 3
    gt = cv2.imread(str(clips / 'gt/001/00000004.png')).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean((frames['001/00000000_7.png'] - gt) ** 2))
    assert found['psnr']['clips']['001'] == pytest.approx(psnr, abs=1e-3)


def test_test_sets_of_the_page_are_options_of_ours():
    page = (Path(__file__).parents[1] / 'docs/your_own_parts.md').read_text()
    block = yaml.safe_load(re.search(r'## A test set\n.*?```yaml\n(.*?)```', page, re.DOTALL)[1])
    assert list(block['datasets']) == ['val', 'val_2']
    for name, values in block['datasets'].items():
        assert checked('datasets.val', values, f'datasets.{name}') == values
        check_given('datasets.val', values, f'datasets.{name}')
