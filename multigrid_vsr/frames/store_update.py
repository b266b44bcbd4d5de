"""A store that is made anew, in part or whole, beside the one that is there.

What is the same is copied, the rest is packed, both into ``STORE.next``; only when all of it is on the disk does it
take the other's place. So a store that opens is one version of the data, whenever the process dies, and a run that
reads the old one goes on with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.store_info import (
    FINISHED,
    UNFINISHED,
    Origin,
    StoreInfo,
    describe,
    read_info,
    read_origin,
)
from multigrid_vsr.frames.store_writer import FrameStoreWriter


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
