"""What there is of a clip below a root, without decoding a frame: how many, how large, in which file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multigrid_vsr.frames.clip import FrameNames
from multigrid_vsr.frames.frame_readers import open_env
from multigrid_vsr.frames.frame_store import FrameStore
from multigrid_vsr.frames.image_size import Size, image_size


@dataclass(frozen=True)
class Found:
    """A clip as it is there.

    Attributes:
        where: Its folder or key, for messages.
        num_frame: Frames from the first one, without a gap.
        size: Height and width of the first frame, in pixels; ``None`` where it is no image.
        first, missing: The file or key of the first frame, and of the first one that is not there.
    """

    where: str
    num_frame: int
    size: Size | None
    first: str
    missing: str


Finder = Callable[[str, int], Found]  # of a clip's name and the frames that are expected, all of which are looked for


def finder(root: str, backend: str, names: FrameNames) -> Finder:
    """What looks for clips below ``root``, for one of ``IO_BACKENDS``."""
    if backend == 'disk':
        return functools.partial(_on_disk, root, names)
    if backend == 'lmdb':
        return functools.partial(_in_lmdb, root, names)
    store = FrameStore(root)
    stored = {clip.name: clip for clip in store.info.clips}

    def in_store(name: str, _: int) -> Found:
        clip, where = stored.get(name), f'clip {name} in {root}'
        size = (clip.height, clip.width) if clip else None
        return Found(where, clip.num_frame if clip else 0, size, where, where)

    return in_store


def _on_disk(root: str, names: FrameNames, name: str, expected: int) -> Found:
    folder = f'{root}/{name}'
    try:
        files = set(os.listdir(folder))
    except OSError:
        return Found(folder, 0, None, folder, folder)
    start = expected if files.issuperset(_files(names, expected)) else 0
    num_frame = names.count(files, start)
    first, missing = f'{folder}/{names.file(0)}', f'{folder}/{names.file(num_frame)}'
    return Found(folder, num_frame, image_size(first) if num_frame else None, first, missing)


@functools.lru_cache
def _files(names: FrameNames, num_frame: int) -> tuple[str, ...]:
    return tuple(names.file(frame) for frame in range(num_frame))


def _in_lmdb(root: str, names: FrameNames, name: str, _: int) -> Found:
    with open_env(root).begin(buffers=True) as transaction:
        num_frame = 0
        while transaction.get(f'{name}/{names.stem(num_frame)}'.encode()) is not None:
            num_frame += 1
        first, missing = f'{name}/{names.stem(0)}', f'{name}/{names.stem(num_frame)}'
        value = transaction.get(first.encode())
        size = None if value is None else image_size(bytes(value))
    return Found(f'clip {name} in {root}', num_frame, size, f'{first} in {Path(root)}', f'{missing} in {Path(root)}')
