"""Inference in windows: which frames they hold, how near the whole they come, and the command on real clips."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.data.data_util import generate_frame_indices
from basicsr.utils import img2tensor, tensor2img
from runs import refusal, write_images
from test_archs import ARCHS

from multigrid_vsr.cli import main
from multigrid_vsr.core.overlap import windows
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.models import inference
from multigrid_vsr.models.inference import Need, Restorer, Tiling, choose_tiling, differences
from multigrid_vsr.options.archs import LIMITS

pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')

WINDOWS = [
    (3, 4, 1, [([0, 1, 2], [0, 1, 2])]),
    (4, 4, 1, [([0, 1, 2, 3], [0, 1, 2, 3])]),
    (5, 4, 1, [([0, 1, 2, 3], [0, 1, 2]), ([2, 3, 4], [3, 4])]),
    (7, 4, 1, [([0, 1, 2, 3], [0, 1, 2]), ([2, 3, 4, 5], [3, 4]), ([4, 5, 6], [5, 6])]),
    (5, 2, 0, [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4], [4])]),
    (0, 2, 0, []),
]


@pytest.mark.parametrize(('length', 'size', 'overlap', 'expected'), WINDOWS)
def test_windows_hold_each_item_once_with_its_context(length, size, overlap, expected):
    found = list(windows(iter(range(length)), size, overlap))
    assert [(items, [items[place] for place in kept]) for items, kept in found] == expected


def test_windows_read_no_further_than_one_item_ahead():
    read = []
    next(windows((read.append(n) or n for n in range(1000)), 4, 1))
    assert read == [0, 1, 2, 3, 4]


def real_frames(count, height, width):
    real = itertools.islice(read_frames(find_video('carphone_pristine.mp4')), count)
    return [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in real]


class Decaying(torch.nn.Module):
    """A recurrent network whose memory of a frame is a tenth of what it was, at each step, in both directions."""

    def forward(self, lq):
        outputs = torch.zeros_like(lq)
        for order in (range(lq.shape[1]), range(lq.shape[1] - 1, -1, -1)):
            state = torch.zeros_like(lq[:, 0])
            for place in order:
                state = 0.1 * state + lq[:, place]
                outputs[:, place] += state
        return outputs


def test_differences_are_those_of_the_frames_that_a_window_does_not_see():
    """White frames: without overlap a frame at the cut lacks 0.1 + 0.01 + ..., with two frames 0.001 + ..."""
    white = [np.full((8, 8, 3), 255, np.uint8)] * 12
    found = differences(Restorer(Decaying()), white, [Tiling(6, 0), Tiling(8, 2), Tiling(12, 0)])
    assert found == pytest.approx([255 * 0.111111, 255 * 0.001111, 0], rel=1e-3, abs=1e-4)


def test_tiles_of_basicvsr_leave_no_seam():
    """Beyond the overlap a tile sees nothing: what is left is below half a byte, where no overlap shows a seam."""
    torch.manual_seed(0)
    restorer = Restorer(BasicVSR(num_feat=4, num_block=1))
    without, found = differences(restorer, real_frames(2, 96, 128), [Tiling(2, 0, 32, 0), Tiling(2, 0, 96, 32)])
    assert found < 0.5 < without


def test_sides_that_the_arch_does_not_take_are_padded_and_cut():
    class Even(torch.nn.Module):
        def forward(self, lq):
            assert lq.shape[-1] % 4 == lq.shape[-2] % 4 == 0
            return lq.repeat_interleave(2, -1).repeat_interleave(2, -2)

    frames = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    found = Restorer(Even(), multiple=4)(frames)
    assert found.shape == (2, 3, 10, 14)
    assert torch.equal((found[:, :, ::2, ::2] * 255).round().to(torch.uint8), frames.flip(-1).permute(0, 3, 1, 2))


def test_windows_start_at_keyframes():
    assert Restorer(Decaying(), stride=5).aligned(Tiling(33, 8)).num_frame == 16 + 15
    assert Restorer(Decaying(), stride=5).aligned(Tiling(18, 8)).num_frame == 16 + 5


# (memory, frames of the clip, LQ height and width, overlap, tile_overlap) of 100 + 10 bytes a frame, a pixel
CUTS = [
    ((100 + 10 * 50) * 100, 50, 10, 10, 5, 8, Tiling(50, 5)),  # all of it
    ((100 + 10 * 49) * 100, 50, 10, 10, 5, 8, Tiling(49, 5)),  # windows
    ((100 + 10 * 20) * 10000, 50, 100, 100, 5, 8, Tiling(21, 5, 96, 8)),  # 21 frames do not fit: tiles
    ((100 + 10 * 20) * 10000, 15, 100, 100, 5, 8, Tiling(20, 5)),  # a short clip
    ((100 + 10 * 20) * 10000, None, 100, 100, 5, 8, Tiling(21, 5, 96, 8)),
]


@pytest.mark.parametrize(('memory', 'num_frame', 'height', 'width', 'overlap', 'tile_overlap', 'expected'), CUTS)
def test_cut_is_the_largest_that_fits(memory, num_frame, height, width, overlap, tile_overlap, expected):
    asked = Tiling(0, overlap, None, tile_overlap)
    assert choose_tiling(Need(100, 10), memory, num_frame, height, width, asked) == expected


def test_need_is_the_line_through_two_peaks(monkeypatch):
    """Of clips of 2 and 6 frames of 64 x 64, each after one that is not counted."""
    peaks = iter([9e9, (100 + 2 * 10) * 64**2, (100 + 6 * 10) * 64**2])
    monkeypatch.setattr(inference, 'peak', lambda call, device: next(peaks))
    assert inference.measure_need(Restorer(Decaying()), torch.device('cpu'), 1) == Need(100, 10)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a run as it is left: an option file and weights."""
    root = tmp_path_factory.mktemp('run')
    (root / 'models').mkdir()
    torch.manual_seed(1)
    state = BasicVSR(num_feat=4, num_block=1).state_dict()
    torch.save({'params': state}, root / 'models/net_g_9.pth')
    network = '{type: BasicVSR, num_feat: 4, num_block: 1, spynet_path: gone.pth}'
    (root / 'run.yml').write_text(f'scale: 4\nnetwork_g: {network}\n')
    return root / 'models/net_g_9.pth'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve images whose names sort as people count."""
    return write_images(tmp_path_factory.mktemp('frames'), 'frame{}.png', real_frames(12, 32, 48))


def infer(*arguments):
    """What the command prints, in this process and its folder."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(['infer', *map(str, arguments)])
    return printed.getvalue()


def test_infer_of_a_folder_in_windows_gives_what_the_whole_gives(trained, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = infer(folder, '-w', trained, '-o', 'whole')
    assert printed.splitlines() == ['The clip as a whole.', '12 frames of 192x128: whole']
    printed = infer(folder, '-w', trained, '-o', 'parts', '--num_frame', 11, '--overlap', 5)
    assert printed.splitlines()[0] == 'Windows of 11 frames, overlap 5.'
    names = sorted(path.name for path in folder.iterdir())
    for out in ('whole', 'parts'):
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == names
    pairs = [(cv2.imread(str(tmp_path / out / name)).astype(int) for out in ('whole', 'parts')) for name in names]
    assert max(np.abs(one - two).max() for one, two in pairs) <= 1


class TakesLittle(BasicVSR):
    """Runs out of memory with more than so many LQ pixels."""

    most: int
    error: Exception

    def forward(self, lq):
        if lq[0, :, 0].numel() > self.most:
            raise self.error
        return super().forward(lq)


ERRORS = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    torch.cuda.OutOfMemoryError('CUDA out of memory.'),
]


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
def test_infer_that_runs_out_of_memory_starts_again_in_smaller_pieces(error, trained, folder, tmp_path, monkeypatch):
    """12 frames of 32 x 48, where memory holds 8 of them with an overlap of 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TakesLittle, 'most', 8 * 32 * 48, raising=False)
    monkeypatch.setattr(TakesLittle, 'error', error, raising=False)
    monkeypatch.setattr(inference, 'build_network', lambda opt: TakesLittle(num_feat=4, num_block=1))
    command = ['infer', str(folder), '-w', str(trained), '--overlap', '1', '--tile_overlap', '0']
    assert infer(*command[1:], '-o', 'out').splitlines() == [
        'The clip as a whole.',
        'That is more than memory holds: the clip is started again in smaller pieces.',
        'Windows of 6 frames, overlap 1.',
        '12 frames of 192x128: out',
    ]
    assert len(list((tmp_path / 'out').iterdir())) == 12
    monkeypatch.setattr(TakesLittle, 'most', 0)
    line = refusal(*command, '-o', 'no').splitlines()[-1]
    assert line.startswith('--overlap: must be small enough for 0.0 GB, got 1')
    line = refusal(*command, '-o', 'no', '--num_frame', 5).splitlines()[-1]
    assert line.startswith('--num_frame: must fit into memory')


def test_infer_measures_the_overlap_and_writes_nothing(trained, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = infer(folder, '-w', trained, '--measure', 12)
    rows = [line.split() for line in printed.splitlines() if line[-1:].isdigit()]
    assert [row[0] for row in rows[-3:]] == ['0', '2', '4']
    assert float(rows[-3][1]) > float(rows[-2][1]) > float(rows[-1][1])
    assert list(tmp_path.iterdir()) == []


BAD = [
    (['gone.mp4', '-o', 'x'], 'INPUT: must be a video or a folder of images, got gone.mp4. Correct the path.'),
    (['empty', '-o', 'x'], 'INPUT: must be a video or a folder of images, got empty. Give a folder with images in it.'),
    (['empty', '-o', 'empty'], '-o: must not exist yet, got empty. Give another name.'),
    (['empty', '-o', 'no/x'], '-o: must lie in a folder that exists, got no/x. Make no first.'),
    (['empty'], '-o: must be given, got nothing. Say where the result goes.'),
    (['empty', '-o', 'x', '--num_frame', '30'], '--num_frame: must be above twice --overlap (28), got 30. Lower --overlap too.'),
    (['empty', '-o', 'x', '--tile', '64'], '--tile: must be above twice --tile_overlap (64), got 64. Lower --tile_overlap too.'),
    (['empty', '-o', 'x', '--tile', '8'], '--tile: must be at least 32, got 8. Correct the value.'),
    (['empty', '-o', 'x', '--fps', '0'], '--fps: must be above 0 and at most 1000, got 0.0. Correct the value.'),
    (['{frames}', '-o', 'x', '--param_key', 'params_ema'], '--weights: must be a weight file with params_ema, got {weights} (it has params). Give --param_key params.'),
    (['{frames}', '-o', 'x', '-opt', 'wide.yml'], '--weights: must be of the network of the option file, got '),
    (['{frames}', '-o', 'x', '-opt', 'none.yml'], 'network_g: must be a block of options, got nothing. Give the option file of the run.'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), BAD, ids=[' '.join(row[0]) for row in BAD])
def test_infer_that_cannot_run_exits_with_one_line(arguments, message, trained, folder, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'wide.yml').write_text('scale: 4\nnetwork_g: {type: BasicVSR, num_feat: 8, num_block: 1}\n')
    (tmp_path / 'none.yml').write_text('scale: 4\n')
    before = sorted(tmp_path.rglob('*'))
    places = {'frames': folder, 'weights': trained}
    monkeypatch.chdir(tmp_path)
    printed = refusal('infer', *(word.format(**places) for word in arguments), '-w', trained)
    assert printed.splitlines()[-1].startswith(message.format(**places))
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
    ('name', 'line'),
    [
        ('frame7.png', 'in/frame7.png: must be an image of 48x32, got 8x8. Mend or move it.'),
        ('frame7.jpg', 'INPUT: must hold each name once, whatever the suffix, got in/frame7.jpg and in/frame7.png. Rename'),
    ],
)  # fmt: skip
def test_infer_of_images_that_do_not_belong_together_names_them(name, line, trained, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / 'in')
    cv2.imwrite(str(tmp_path / 'in' / name), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert refusal('infer', 'in', '-w', trained, '-o', 'out').splitlines()[-1].startswith(line)
    assert not (tmp_path / 'out').exists()


CASES = [pytest.param(network, scale, frames[-1], id=network['type']) for network, scale, _, frames in ARCHS]


@pytest.mark.filterwarnings('ignore')  # what the archs and torch say to each other
@pytest.mark.parametrize(('options', 'scale', 'window'), CASES)
def test_infer_gives_what_the_network_gives(options, scale, window, tmp_path, monkeypatch):
    """BasicSR's validation: the clip as a whole, or a window around each frame."""
    height, width = 32, 48
    monkeypatch.chdir(tmp_path)
    frames = real_frames(8, height, width)
    write_images(tmp_path / 'clip', '{}.png', frames)
    clip = torch.stack([img2tensor(frame / 255.0, float32=True) for frame in frames])
    torch.manual_seed(1)
    network = build_network(dict(options)).eval()
    torch.save({'params': network.state_dict()}, 'net_g_1.pth')
    (tmp_path / 'run.yml').write_text(yaml.safe_dump({'scale': scale, 'network_g': options}))
    infer('clip', '-w', 'net_g_1.pth', '-opt', 'run.yml', '-o', 'out', '--num_frame', 100)
    with torch.no_grad():
        if LIMITS[options['type']].target == 'center':
            places = [generate_frame_indices(at, 8, window, padding='reflection_circle') for at in range(8)]
            expected = torch.cat([network(clip[None, place]) for place in places])
        else:
            expected = network(clip[None])[0]
    for number, frame in enumerate(expected):
        found = cv2.imread(f'out/{number}.png').astype(int)
        assert found.shape == (height * scale, width * scale, 3)
        assert np.abs(found - tensor2img(frame)).max() <= 1
