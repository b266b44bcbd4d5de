"""A training set in the layout of REDS and a held-out validation set, from the demo's two videos."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from multigrid_vsr.demo.video import find_video, read_frames
from multigrid_vsr.frames.pair_tasks import default_workers, shrink
from multigrid_vsr.frames.pairs import open_sources
from multigrid_vsr.frames.prepare import build

SCALE = 4


@dataclass(frozen=True)
class Part:
    """Frames ``[start, start + num_frame)`` of a video, as a clip of the training or validation set."""

    folder: str
    clip: str
    video: str
    height: int | None
    start: int
    num_frame: int


# BasicSR's REDS datasets take 100 frames a clip for granted and keep 000 for validation. At least 10 frames lie between
# what is trained on and what is held out.
PARTS = (
    Part('train', '001', 'bikes.mp4', None, 0, 100),
    Part('train', '002', 'bikes.mp4', None, 100, 100),
    Part('train', '003', 'bigbuckbunny.mp4', 360, 0, 100),
    Part('val', '000', 'bikes.mp4', None, 215, 10),
    Part('val', '001', 'bigbuckbunny.mp4', 360, 115, 10),
)


def prepare(root: Path, parts: Sequence[Part] | None = None) -> None:
    """Writes ``root/{train,val}/{gt,lq}/CLIP/00000000.png``, and ``root/store``, the training frames packed.

    LQ is BasicSR's bicubic ``imresize`` by 1/4.

    What is there already is kept: the folder appears under its name only when it is whole.

    Args:
        root: Folder of the demo's data.
        parts: What it holds; :data:`PARTS` without it.

    Raises:
        InputError: If the videos are not installed.
    """
    if root.exists():
        return
    parts = PARTS if parts is None else parts
    unfinished = root.with_name(f'{root.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    sizes: dict[Part, tuple[int, ...]] = {}
    with tqdm(total=sum(part.num_frame for part in parts), desc='Prepare the data', unit='frame') as bar:
        for video, height in dict.fromkeys((part.video, part.height) for part in parts):
            for number, frame in enumerate(read_frames(find_video(video), height)):
                for part in parts:
                    place = number - part.start
                    if part.video != video or not 0 <= place < part.num_frame:
                        continue
                    for kind, image in (('gt', frame), ('lq', shrink(frame, SCALE))):
                        path = unfinished / part.folder / kind / part.clip / f'{place:08d}.png'
                        path.parent.mkdir(parents=True, exist_ok=True)
                        cv2.imwrite(str(path), image)
                    sizes[part] = frame.shape[:2]
                    bar.update()
    lines = [f'{p.clip} {p.num_frame} ({h},{w},3)\n' for p, (h, w) in sizes.items() if p.folder == 'train']
    (unfinished / 'train/meta_info.txt').write_text(''.join(lines))
    sources = open_sources(unfinished / 'train/gt', unfinished / 'train/lq', SCALE)
    build(sources, unfinished / 'store', default_workers())
    unfinished.rename(root)
