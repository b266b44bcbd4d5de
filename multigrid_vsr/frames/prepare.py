"""Builds and verifies a pair of frame stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import KINDS, Sources, Task, decode_pair, each_frame, show
from multigrid_vsr.frames.store import (
    FINISHED,
    UNFINISHED,
    FrameStore,
    FrameStoreWriter,
    StoreInfo,
    pack,
    read_info,
    read_made_of,
)


def build(sources: Sources, out: Path, workers: int, rebuild: bool = False) -> None:
    """Writes ``out/gt`` and ``out/lq``, in several processes; goes on with what an interrupted build has left.

    Args:
        sources: Where the frames come from.
        out: Folder of the pair.
        workers: Processes that decode, pack and write.
        rebuild: Whether a store of other frames, or of sources that have changed, is replaced.

    Raises:
        InputError: If ``out`` holds another store, a frame cannot be used (each is named first), or there is no room.
    """
    made_of = _made_of(sources)
    shrunk = tuple(clip.shrunk(sources.scale) for clip in sources.clips)
    due, others = {}, []
    for kind, clips in (('gt', sources.clips), ('lq', shrunk)):
        writer = FrameStoreWriter(out / kind, StoreInfo(clips, sources.scale))
        description, difference = _find(writer, made_of[kind])
        if difference and not rebuild:
            raise InputError(
                f'-o: must be the folder of the same frames, got {writer.root}, {difference}. Add --rebuild to pack it '
                'anew, or take another folder.'
            )
        if difference:
            others.append(writer.root)
        if difference or description != FINISHED:
            due[kind] = writer
    if not due:
        print(f'{out}: whole already.')
        return
    _check_room(due, out)
    for root in others:
        (root / FINISHED).unlink(missing_ok=True)  # before its frames: a store without them must not open
        shutil.rmtree(root)
    for kind, writer in due.items():
        writer.reserve(made_of[kind])
    total = sources.num_frame
    bad = show('Prepare', total, each_frame(partial(_write, due, sources.scale), sources, workers))
    if bad:
        fix = 'Mend them and run it again with --rebuild.'
        raise InputError(f'{bad} of {total} frames cannot be used: the store is not finished. {fix}')
    for writer in due.values():
        writer.finish()


def _made_of(sources: Sources) -> dict[str, dict[str, Any]]:
    """What each store is made of: for each clip its files, with their size in bytes and time of change in ns."""
    made_of = {}
    for kind, source in (('gt', sources.gt), ('lq', sources.lq or sources.gt)):
        root, files = source.root.absolute(), {}
        for pair in sources.pairs:
            clip = pair.lq if kind == 'lq' and pair.lq is not None else pair.gt
            try:
                states = [(path, os.stat(root / path)) for path in source.files(clip.name)]
            except OSError as error:
                fix = 'Run it again without it.'
                raise InputError(f'{error.filename}: cannot be read ({error.strerror}). {fix}') from None
            files[pair.clip.name] = [[path, state.st_size, state.st_mtime_ns] for path, state in states]
        made_of[kind] = {'root': str(root), 'is_shrunk': kind == 'lq' and sources.lq is None, 'files': files}
    return made_of


def _find(writer: FrameStoreWriter, made_of: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The description of the store that is there, and in which way it is another one."""
    name = next((name for name in (FINISHED, UNFINISHED) if (writer.root / name).exists()), None)
    if name is None:
        return None, None
    path = writer.root / name
    try:
        info, there = read_info(path), read_made_of(path)
        files, is_shrunk = there.get('files', {}), there.get('is_shrunk')
    except (InputError, OSError, ValueError, AttributeError) as error:
        return name, f'which cannot be used ({error})'
    if info != writer.info:
        return name, 'of other clips, frame counts or sizes'
    if is_shrunk != made_of['is_shrunk']:
        return name, 'of LQ frames from elsewhere'
    for clip, now in made_of['files'].items():
        for before, after in zip(files.get(clip, []), now):
            if before != after:
                return name, f'made before {after[0] or made_of["root"]} changed'
    return name, None if files == made_of['files'] else 'of other files'


def _check_room(writers: Mapping[str, FrameStoreWriter], out: Path) -> None:
    size = sum(writer.size for writer in writers.values())
    needed = size - sum(_used(writer.root) for writer in writers.values())
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    print(f'{out}: {size / 1e9:.2f} GB, {max(needed, 0) / 1e9:.2f} to write, {free / 1e9:.2f} free.')
    if needed > free:
        fix = 'Make room.'
        if not os.access(folder, os.W_OK):  # a disk that can only be read
            fix = 'Choose another place: that one cannot be written.'
        raise InputError(f'-o: must have {needed / 1e9:.2f} GB free, got {free / 1e9:.2f} GB in {folder}. {fix}')


def _used(store: Path) -> int:
    path = store / 'frames.bin'
    if not path.exists():
        return 0
    blocks = getattr(path.stat(), 'st_blocks', None)  # not on Windows
    return path.stat().st_size if blocks is None else blocks * 512


def _write(writers: Mapping[str, FrameStoreWriter], scale: int, task: Task) -> str | None:
    """Decodes, shrinks where there is no LQ frame, packs and writes what is not there yet; or says what is wrong."""
    clip, frame = task.pair.clip.name, task.frame
    missing = [kind for kind, writer in writers.items() if writer.read(clip, frame) is None]
    frames, problem = decode_pair(scale, task, missing) if missing else ({}, None)
    if problem is not None:
        return problem
    try:
        for kind in missing:
            writers[kind].put(clip, frame, pack(frames[kind]))
    except OSError as error:
        return f'cannot be written: {error.strerror}'
    return None


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
        against = "Compared with the store's own checksums only: give --gt and --lq to compare with the sources."
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
    made_of = read_made_of(out / 'lq' / FINISHED)
    if made_of and not made_of['is_shrunk'] and sources.lq is None:
        fix = f'It was {made_of["root"]}.'
        raise OptionError('--lq', f'be given for {out}, whose LQ frames are not shrunk', None, fix)


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
