"""Builds, updates and verifies a pair of frame stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import KINDS, Pair, Sources, Task, decode_pair, each_frame, show
from multigrid_vsr.frames.sources import origin_of
from multigrid_vsr.frames.store import (
    FINISHED,
    UNFINISHED,
    FrameStore,
    FrameStoreWriter,
    Origin,
    StoreInfo,
    describe,
    pack,
    read_info,
    read_origin,
)


class StoreUpdate:
    """What has to be done so that ``root`` holds ``info``, made of ``origin``.

    Attributes:
        is_current: Whether it does already.
        writer: Writes the new store: in its place, where that is free or was begun for the same, else beside it.
        previous: Gives frames of the store that is there; ``None`` where the writer goes on with it.
        old: Where that store is while the new one takes its place.

    Raises:
        InputError: If ``root`` holds a store of other clips, or a damaged one.
    """

    def __init__(self, root: Path, info: StoreInfo, origin: Origin) -> None:
        self.root = root
        self.info = info
        self.origin = origin
        self.previous: FrameStoreWriter | None = None
        self._same: dict[str, list[bool]] = {}
        self.old = root.with_name(f'{root.name}.old')
        self._beside = root.with_name(f'{root.name}.next')
        self._begun = root.exists() and not (root / FINISHED).exists()
        old = _read(root / (UNFINISHED if self._begun else FINISHED))
        if old is not None:
            self._compare(*old)
        all_same = old is not None and old[0] == info and all(map(all, self._same.values()))
        self.is_current = all_same and not self._begun
        goes_on = (old is None and not _holds(self._beside, info, origin)) or all_same
        self.writer = FrameStoreWriter(root if goes_on else self._beside, info)
        if old is not None and not goes_on:
            self.previous = FrameStoreWriter(root, old[0])

    def _compare(self, info: StoreInfo, origin: Origin | None) -> None:
        if not set(info.clips) & set(self.info.clips):
            how = 'begun for' if self._begun else 'made of'
            raise InputError(
                f'-o: must be the folder of the same clips, got {self.root}, {how} others. Delete it, or take another.'
            )
        old = {clip.name: clip for clip in info.clips}
        for clip in self.info.clips:
            self._same[clip.name] = _same_frames(old.get(clip.name), origin, clip, self.origin)
        new = {clip.name: clip.num_frame for clip in self.info.clips}
        self._gone = sum(max(clip.num_frame - new.get(clip.name, 0), 0) for clip in info.clips)
        self._old_origin = origin

    def is_same(self, clip: Clip) -> list[bool]:
        """For each frame of a clip whether the store that is there has it; one that was begun may not have it yet."""
        previous = self.previous
        if previous is None:
            return [False] * clip.num_frame
        same = self._same[clip.name]
        if not self._begun:
            return same
        return [is_same and previous.read(clip.name, frame) is not None for frame, is_same in enumerate(same)]

    def __str__(self) -> str:
        """What is the same, what is packed anew, what is dropped."""
        total = sum(clip.num_frame for clip in self.info.clips)
        if not self._same:
            return f'{self.root}: {total} frames to pack.'
        same = sum(map(sum, self._same.values()))
        if same == total and not self._gone:
            return f'{self.root}: goes on with {total} frames.' if self._begun else f'{self.root}: whole already.'
        why = '' if self._old_origin else ' (an earlier version wrote it, which did not say what it was made of)'
        return f'{self.root}: {same} frames are the same, {total - same} to pack anew, {self._gone} dropped{why}.'

    def begin(self) -> None:
        """Takes the room; goes on with what is written for the same. Of a current store the path of its sources alone.

        Raises:
            InputError: If the folder cannot be written or the disk has no room.
        """
        if self.is_current:
            with whole_file(self.root / FINISHED) as file:
                file.write(describe(self.info, self.origin).encode())
            self.remove_leftovers()
            return
        if self.writer.root == self._beside and not _holds(self._beside, self.info, self.origin):
            shutil.rmtree(self._beside, ignore_errors=True)
        self.writer.reserve(self.origin)

    def remove_leftovers(self) -> None:
        """Removes what the store has replaced."""
        for path in (self.old, self._beside):
            shutil.rmtree(path, ignore_errors=True)


def finish(updates: Iterable[StoreUpdate]) -> None:
    """Puts the new stores into their places: at no moment do an old and a new one open together."""
    updates = [update for update in updates if not update.is_current]
    for update in updates:
        update.writer.sync()
    beside = [update for update in updates if update.writer.root != update.root]
    for update in beside:
        shutil.rmtree(update.old, ignore_errors=True)
        if update.root.exists():
            update.root.rename(update.old)
    for update in beside:
        update.writer.root.rename(update.root)
    for update in updates:
        FrameStoreWriter(update.root, update.info).finish()
        update.remove_leftovers()


def _read(path: Path) -> tuple[StoreInfo, Origin | None] | None:
    """What a description says; ``None`` where there is none."""
    try:
        return read_info(path), read_origin(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'-o: must hold a frame store, got {path} damaged ({error}). Delete {path.parent}.') from None


def _holds(root: Path, info: StoreInfo, origin: Origin) -> bool:
    """Whether a store was begun for the same."""
    path = root / UNFINISHED
    return path.exists() and path.read_text(encoding='utf-8') == describe(info, origin)


def _same_frames(old: Clip | None, old_origin: Origin | None, new: Clip, origin: Origin) -> list[bool]:
    if old is None or old_origin is None or (old.height, old.width) != (new.height, new.width):
        return [False] * new.num_frame
    if old_origin.is_shrunk != origin.is_shrunk:
        return [False] * new.num_frame
    return [
        frame < old.num_frame and old_origin.of_frame(old, frame) == origin.of_frame(new, frame)
        for frame in range(new.num_frame)
    ]


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
