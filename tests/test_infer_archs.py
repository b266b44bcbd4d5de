"""The command infer with each of BasicSR's archs, against the network itself on the same real frames."""

from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data.data_util import generate_frame_indices
from basicsr.utils import img2tensor, tensor2img
from test_archs import ARCHS

from multigrid_vsr.cli import main
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.options.archs import LIMITS

FRAMES = 8
CASES = [pytest.param(network, scale, frames[-1], id=network['type']) for network, scale, _, frames, _ in ARCHS]


def write_clip(tmp_path, height, width):
    (tmp_path / 'clip').mkdir()
    real = islice(read_frames(find_video('carphone_pristine.mp4')), FRAMES)
    frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in real]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f'clip/{number}.png'), frame)
    return torch.stack([img2tensor(frame / 255.0, float32=True) for frame in frames])


def by_the_network(network, kind, window, clip):
    """What BasicSR's validation gives: of the clip as a whole, or of a window around each frame."""
    with torch.no_grad():
        if LIMITS[kind].target != 'center':
            return network(clip[None])[0]
        windows = [generate_frame_indices(at, FRAMES, window, padding='reflection_circle') for at in range(FRAMES)]
        return torch.cat([network(clip[None, frames]) for frames in windows])


@pytest.mark.filterwarnings('ignore')  # what the archs and torch say to each other
@pytest.mark.parametrize(('options', 'scale', 'window'), CASES)
def test_infer_gives_what_the_network_gives(options, scale, window, tmp_path, monkeypatch):
    height, width = (64, 96) if options['type'] == 'BasicVSRPlusPlus' else (32, 48)
    clip = write_clip(tmp_path, height, width)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    network = build_network(dict(options)).eval()
    torch.save({'params': network.state_dict()}, 'net_g_1.pth')
    (tmp_path / 'run.yml').write_text(yaml.safe_dump({'scale': scale, 'network_g': options}))
    main(['infer', 'clip', '-w', 'net_g_1.pth', '-opt', 'run.yml', '-o', 'out', '--num_frame', '100'])
    for number, frame in enumerate(by_the_network(network, options['type'], window, clip)):
        found = cv2.imread(str(tmp_path / f'out/{number}.png')).astype(int)
        assert found.shape == (height * scale, width * scale, 3)
        assert np.abs(found - tensor2img(frame)).max() <= 1
