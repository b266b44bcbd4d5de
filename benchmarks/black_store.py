"""A store of as many frames as a data set has, black: what they show costs nothing, and a sparse file takes no room."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store import FINISHED, StoreInfo


def write_black_store(root: Path, count: int, num_frame: int, height: int, width: int) -> None:
    """Writes ``root/store/{gt,lq}`` and ``root/png/meta_info.txt``, where the other benches have them too.

    Args:
        root: Folder.
        count: Clips.
        num_frame: Frames of a clip.
        height, width: Of a frame of ground truth, in pixels.
    """
    gt = tuple(Clip(f'{number:06d}', num_frame, height, width) for number in range(count))
    for kind, clips in (('gt', gt), ('lq', tuple(clip.shrunk(4) for clip in gt))):
        folder, info = root / 'store' / kind, StoreInfo(clips, 4)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / 'frames.bin').open('wb') as file:
            file.truncate(info.offsets[''])
        np.zeros(count * num_frame, '<u8').tofile(folder / 'checksums.bin')
        (folder / FINISHED).write_text(info.to_json())
    (root / 'png').mkdir(exist_ok=True)
    lines = [f'{clip.name} {num_frame} ({height},{width},3)\n' for clip in gt]
    (root / 'png/meta_info.txt').write_text(''.join(lines))
