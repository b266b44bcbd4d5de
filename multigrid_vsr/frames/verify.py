"""Verifies a pair of frame stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.frame_store import FrameStore
from multigrid_vsr.frames.pair_tasks import KINDS, Task, decode_pair, each_frame, show
from multigrid_vsr.frames.pairs import Sources
from multigrid_vsr.frames.store_info import FINISHED, pack, read_origin

_WRONG_CHECKSUM = 'its checksum is wrong'


def verify(out: Path, sources: Sources | None, workers: int) -> None:
    """Checks every stored frame against its checksum and, where there are sources, against them.

    Raises:
        InputError: If a frame is wrong; each is named first.
    """
    stores = {kind: FrameStore(out / kind) for kind in KINDS}
    clips = stores['gt'].info.clips
    total = sum(clip.num_frame for clip in clips)
    if sources is None:
        problems = _wrong_checksums(stores, clips)
        against = "Compared with the store's own checksums alone: give --gt and --lq to compare with the sources."
    else:
        _check_same_clips(out, sources, clips)
        problems = each_frame(partial(_compare, stores, sources.scale), sources, workers)
        against = 'Compared with the sources.'
    bad = show('Verify', total, problems)
    if bad:
        raise InputError(f'{bad} of {total} frames are wrong. Delete {out} and prepare it again.')
    print(f'All {total} frames of {len(clips)} clips are right. {against}')


def _check_same_clips(out: Path, sources: Sources, clips: Sequence[Clip]) -> None:
    if sources.clips != tuple(clips):
        raise InputError(f'--gt: must hold the clips of {out}, got others. Verify it against what it was made of.')
    origin = read_origin(out / 'lq' / FINISHED)
    if origin is not None and not origin.is_shrunk and sources.lq is None:
        raise OptionError('--lq', f'be given for {out}, whose LQ frames are not shrunk', None, f'It was {origin.root}.')


def _compare(stores: dict[str, FrameStore], scale: int, task: Task) -> str | None:
    """Says what is wrong with a stored frame."""
    frames, problem = decode_pair(scale, task)
    if problem is not None:
        return problem
    for kind, frame in frames.items():
        stored = stores[kind].read(task.pair.clip.name, task.frame)
        if stored is None:
            return f'{stores[kind].root}: {_WRONG_CHECKSUM}'
        if stored != pack(frame):
            return f'{stores[kind].root} differs from its source'
    return None


def _wrong_checksums(stores: dict[str, FrameStore], clips: Sequence[Clip]) -> Iterator[str | None]:
    for clip in clips:
        for frame in range(clip.num_frame):
            wrong = [str(store.root) for store in stores.values() if store.read(clip.name, frame) is None]
            yield f'clip {clip.name}, frame {frame}: {" and ".join(wrong)}: {_WRONG_CHECKSUM}' if wrong else None
