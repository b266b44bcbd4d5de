"""The clips with made motion of ``python -m benchmarks.train --clips mixed``."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.train import clips, made_motion
from multigrid_vsr.demo import find_video, read_frames


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Motion and frames of a clip whose layers are two frames of real video."""
    folder = tmp_path_factory.mktemp('packages')
    pictures = []
    for name in ('bikes.mp4', 'bigbuckbunny.mp4'):
        path = folder / 'photographs/usr/share' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), next(read_frames(find_video(name), 1088)))
        pictures.append(('photographs', path.name, 'none', 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_motion, 'NUM_FRAME', 6)
        return next(made_motion.clips(folder, pictures))


def test_flow_of_made_motion_takes_a_frame_to_the_next(made):
    motion, frames = made
    places = np.stack(np.meshgrid(np.arange(made_motion.WIDTH), np.arange(made_motion.HEIGHT)), -1)
    for at in range(5):
        flow = motion.flow(at, at + 1)
        assert 0.1 < np.hypot(*np.moveaxis(flow, -1, 0)).mean() < 20
        warped = cv2.remap(frames[at + 1], (places + flow).astype(np.float32), None, cv2.INTER_CUBIC)
        inside = slice(24, -24), slice(24, -24)
        errors = [abs(image.astype(float) - frames[at])[inside] for image in (warped, frames[at + 1])]
        assert np.median(errors[0]) <= 2
        assert errors[0].mean() < errors[1].mean() / 2
        there_and_back = flow + cv2.remap(
            motion.flow(at + 1, at), (places + flow).astype(np.float32), None, cv2.INTER_LINEAR
        )
        assert np.median(abs(there_and_back[inside])) < 1e-3


def test_whole_sources_are_held_out():
    names = [{name for _, name, *_ in pictures} for pictures in (made_motion.TRAINED, made_motion.HELD_OUT)]
    assert not names[0] & names[1]
    films = [{part.video for part in clips._HALVED if part.folder == kind} for kind in ('train', 'val')]
    assert not films[0] & films[1]
