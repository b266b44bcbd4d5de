"""Builds a pair of frame stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.frame_sources import origin_of
from multigrid_vsr.frames.pair_tasks import Task, decode_pair, each_frame, show
from multigrid_vsr.frames.pairs import Pair, Sources
from multigrid_vsr.frames.store_info import Origin, StoreInfo, pack
from multigrid_vsr.frames.store_update import StoreUpdate, finish
from multigrid_vsr.frames.store_writer import FrameStoreWriter

_Stores = dict[str, tuple[FrameStoreWriter, FrameStoreWriter | None]]  # the new one, and the one to copy frames from


def build(sources: Sources, out: Path, workers: int) -> None:
    """Writes ``out/gt`` and ``out/lq``, in several processes; goes on with what an interrupted build has left.

    Where they are there already, what has changed since is packed anew.

    Args:
        sources: Where the frames come from.
        out: Folder of the pair.
        workers: Processes that decode, pack and write.

    Raises:
        InputError: If a frame cannot be used (each is named first), a source changes meanwhile, or there is no room.
    """
    origins = _origins(sources)
    updates = {
        'gt': StoreUpdate(out / 'gt', StoreInfo(sources.clips, sources.scale), origins['gt']),
        'lq': StoreUpdate(
            out / 'lq',
            StoreInfo(tuple(clip.shrunk(sources.scale) for clip in sources.clips), sources.scale),
            origins['lq'],
        ),
    }
    print(*updates.values(), sep='\n')
    due = {kind: update for kind, update in updates.items() if not update.is_current}
    _check_room(due, out)
    for update in updates.values():
        update.begin()
    if not due:
        print('Both stores are whole already.')
        return

    def copied(pair: Pair) -> dict[str, list[bool]]:
        return {kind: update.is_same(pair.clip) for kind, update in due.items()}

    stores: _Stores = {kind: (update.writer, update.previous) for kind, update in due.items()}
    total = sources.num_frame
    bad = show('Prepare', total, each_frame(partial(_write, stores, sources.scale), sources, workers, copied))
    if bad:
        raise InputError(
            f'{bad} of {total} frames cannot be used: the store is not finished. Mend them and run it again.'
        )
    _refuse_changed(origins, _origins(sources))
    finish(due.values())


def _origins(sources: Sources) -> dict[str, Origin]:
    gt = {pair.clip.name: pair.gt.name for pair in sources.pairs}
    if sources.lq is None:
        return {'gt': origin_of(sources.gt, gt), 'lq': origin_of(sources.gt, gt, is_shrunk=True)}
    lq = {pair.clip.name: pair.lq.name for pair in sources.pairs if pair.lq is not None}
    return {'gt': origin_of(sources.gt, gt), 'lq': origin_of(sources.lq, lq)}


def _refuse_changed(before: Mapping[str, Origin], after: Mapping[str, Origin]) -> None:
    """A source that changed while it was packed may be in the store half as it was and half as it is."""
    for kind, origin in before.items():
        for clip, files in origin.files.items():
            for old, new in zip(files, after[kind].files[clip]):
                if old != new:
                    raise InputError(
                        f'{origin.root}/{old[0]} changed while it was packed: the store is not finished. Run it again.'
                    )


def _check_room(updates: Mapping[str, StoreUpdate], out: Path) -> None:
    size = sum(update.writer.size for update in updates.values())
    needed = size - sum(_used(update.writer.root) for update in updates.values())
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    print(f'{out}: {size / 1e9:.2f} GB, {max(needed, 0) / 1e9:.2f} to write, {free / 1e9:.2f} free.')
    if needed > free:
        beside = any(update.previous is not None for update in updates.values())
        fix = f'Make room, or delete {out}, which stays until the new store is whole.' if beside else 'Make room.'
        if not os.access(folder, os.W_OK):  # a disk that can only be read
            fix = 'Choose another place: that one cannot be written.'
        raise InputError(f'-o: must have {needed / 1e9:.2f} GB free, got {free / 1e9:.2f} GB in {folder}. {fix}')


def _used(store: Path) -> int:
    path = store / 'frames.bin'
    if not path.exists():
        return 0
    blocks = getattr(path.stat(), 'st_blocks', None)  # not on Windows
    return path.stat().st_size if blocks is None else blocks * 512


def _write(stores: _Stores, scale: int, task: Task) -> str | None:
    """Decodes, shrinks where there is no LQ frame, packs and writes what is not there yet; or says what is wrong."""
    clip, frame = task.pair.clip.name, task.frame
    missing = [kind for kind, (writer, _) in stores.items() if writer.read(clip, frame) is None]
    packed: dict[str, bytes] = {}
    for kind in missing:
        previous = stores[kind][1]
        if kind in task.copied and previous is not None:
            copy = previous.read(clip, frame)
            if copy is None:
                return f'{previous.root} is damaged there: delete it and run it again'
            packed[kind] = copy
    rest = [kind for kind in missing if kind not in packed]
    if rest:
        frames, problem = decode_pair(scale, task, rest)
        if problem is not None:
            return problem
        packed |= {kind: pack(frames[kind]) for kind in rest}
    try:
        for kind, strips in packed.items():
            stores[kind][0].put(clip, frame, strips)
    except OSError as error:
        return f'cannot be written: {error.strerror}'
    return None
