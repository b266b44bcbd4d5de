"""Builds and verifies frame stores of ground truth and LQ frames, in several processes."""

from __future__ import annotations

import collections
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import FrameError, InputError, OptionError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import Pair, Sources, decode, shrink
from multigrid_vsr.frames.sources import Payload
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

_KINDS = ('gt', 'lq')


@dataclass(frozen=True)
class Task:
    """A frame of a pair, as both sources gave it."""

    pair: Pair
    frame: int
    gt: Payload
    lq: Payload

    def decode(self, scale: int, kinds: Collection[str] = _KINDS) -> dict[str, np.ndarray]:
        """The frames to store, uint8 (h, w, 3), BGR; errors are those of :func:`decode`."""
        frames = {}
        if 'gt' in kinds or self.pair.lq is None:
            frames['gt'] = decode(self.pair, scale, 'gt', self.gt)
        if 'lq' in kinds and self.pair.lq is None:
            frames['lq'] = shrink(frames['gt'], scale)
        elif 'lq' in kinds:
            frames['lq'] = decode(self.pair, scale, 'lq', self.lq)
        return frames


Work = Callable[[Task], object]  # which raises a FrameError for a frame that cannot be used


def tasks(sources: Sources) -> Iterator[Task]:
    """The frames of all clips, in order."""
    for pair in sources.pairs:
        lq: Iterator[Payload] = repeat(None)
        if sources.lq is not None and pair.lq is not None:
            lq = sources.lq.frames(pair.lq.name)
        for task in zip(range(pair.clip.num_frame), sources.gt.frames(pair.gt.name), lq):
            yield Task(pair, *task)


_IN_FLIGHT = 4  # frames that may wait for each process: memory has to hold them


def in_processes(work: Work, tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, str | None]]:
    """Does the tasks in order; gives each one with its error, if it has one."""
    # A forked process would inherit the locks of OpenCV's and torch's threads, but not the threads. Each process gets
    # the work only once, because the work of Vimeo90K holds 64,612 clips.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, context, initializer=_take_work, initargs=(work,)) as pool:
        waiting: collections.deque[tuple[Task, Future]] = collections.deque()
        for task in tasks:
            waiting.append((task, pool.submit(_do_work, task)))
            if len(waiting) >= workers * _IN_FLIGHT:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


_work: list[Work] = []


def _take_work(work: Work) -> None:
    cv2.setNumThreads(1)  # there is a process for each core
    _work[:] = [work]


def _do_work(task: Task) -> str | None:
    try:
        _work[0](task)
    except FrameError as error:
        return str(error)
    return None


def _problems(work: Work, sources: Sources, workers: int) -> Iterator[str | None]:
    """Gives for each frame ``None``, or a line if it cannot be used."""
    for task, problem in in_processes(work, tasks(sources), workers):
        where = sources.where(task.pair, task.frame) if problem else ''
        yield problem and f'clip {task.pair.clip.name}, frame {task.frame}: {problem} ({where})'


def _show(title: str, total: int, problems: Iterator[str | None]) -> int:
    """Shows the progress and every problem; returns the number of problems."""
    bad = 0
    with tqdm(total=total, desc=title, unit='frame', smoothing=0.05) as bar:
        for problem in problems:
            if problem is not None:
                bad += 1
                bar.write(problem, sys.stderr)
            bar.update()
    return bad


def build(sources: Sources, out: Path, workers: int, rebuild: bool = False) -> None:
    """Writes ``out/gt`` and ``out/lq`` in several processes, or continues an interrupted build.

    ``rebuild`` replaces a store of other frames, or of files that have changed.

    Raises:
        InputError: If ``out`` holds another store, a frame cannot be used (each is printed), or the disk is full.
    """
    made_of = _made_of(sources)
    shrunk = tuple(clip.shrunk(sources.scale) for clip in sources.clips)
    due, others = {}, []
    for kind, clips in (('gt', sources.clips), ('lq', shrunk)):
        writer = FrameStoreWriter(out / kind, StoreInfo(clips, sources.scale))
        there = next((path for name in (FINISHED, UNFINISHED) if (path := writer.root / name).exists()), None)
        if there is not None and not _is_of(there, writer.info, made_of[kind]):
            others.append(writer.root)
        elif there is not None and there.name == FINISHED:
            continue
        due[kind] = writer
    if others and not rebuild:
        value = f'{others[0]}, which is damaged, has other clips, or was made from files that have changed'
        raise OptionError('-o', 'hold the same frames', value, 'Add --rebuild, or take another folder.')
    if not due:
        print(f'{out}: whole already.')
        return
    _check_room(due, out)
    for root in others:
        (root / FINISHED).unlink(missing_ok=True)  # first, so that a store without its frames never opens
        shutil.rmtree(root)
    for kind, writer in due.items():
        writer.reserve(made_of[kind])
    total = sources.num_frame
    bad = _show('Prepare', total, _problems(partial(_write, due, sources.scale), sources, workers))
    if bad:
        fix = 'Mend them and run it again with --rebuild.'
        raise InputError(f'{bad} of {total} frames cannot be used: the store is not finished. {fix}')
    for writer in due.values():
        writer.finish()


def _made_of(sources: Sources) -> dict[str, dict[str, Any]]:
    """The sources of each store: for each clip its files, with their size in bytes and time of change in ns."""
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


def _is_of(description: Path, info: StoreInfo, made_of: Mapping[str, Any]) -> bool:
    """Whether a store holds these clips, and was made of these files in their present state."""
    try:
        there = read_made_of(description)
        return read_info(description) == info and all(there.get(key) == made_of[key] for key in ('is_shrunk', 'files'))
    except (InputError, OSError, ValueError, AttributeError):
        return False


def _check_room(writers: Mapping[str, FrameStoreWriter], out: Path) -> None:
    size = sum(writer.info.size for writer in writers.values())
    needed = sum(writer.info.size for writer in writers.values() if not (writer.root / 'frames.bin').exists())
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    print(f'{out}: {size / 1e9:.2f} GB, {needed / 1e9:.2f} to write, {free / 1e9:.2f} free.')
    if needed > free:
        fix = 'Make room.' if os.access(folder, os.W_OK) else 'Choose another folder: you may not write to that one.'
        raise InputError(f'-o: must have {needed / 1e9:.2f} GB free, got {free / 1e9:.2f} GB in {folder}. {fix}')


def _write(writers: Mapping[str, FrameStoreWriter], scale: int, task: Task) -> None:
    """Writes those frames of a task that are not stored yet."""
    clip, frame = task.pair.clip.name, task.frame
    missing = [kind for kind, writer in writers.items() if writer.read(clip, frame) is None]
    frames = task.decode(scale, missing) if missing else {}
    try:
        for kind in missing:
            writers[kind].put(clip, frame, pack(frames[kind]))
    except OSError as error:
        raise FrameError(f'cannot be written: {error.strerror}') from None


def verify(out: Path, sources: Sources | None, workers: int) -> None:
    """Compares every stored frame with its checksum and, if sources are given, with its source.

    Raises:
        InputError: If a frame is wrong; each is printed.
    """
    stores = {kind: FrameStore(out / kind) for kind in _KINDS}
    clips = stores['gt'].info.clips
    total = stores['gt'].info.num_frame
    if sources is None:
        problems = _wrong_checksums(stores, clips)
        against = "Compared with the store's own checksums only: give --gt and --lq to compare with the sources."
    else:
        if sources.clips != clips:
            raise InputError(f'--gt: must hold the clips of {out}, got others. Verify it against what it was made of.')
        made_of = read_made_of(out / 'lq' / FINISHED)
        if made_of and not made_of['is_shrunk'] and sources.lq is None:
            fix = f'It was {made_of["root"]}.'
            raise OptionError('--lq', f'be given for {out}, whose LQ frames are not shrunk', None, fix)
        problems = _problems(partial(_compare, stores, sources.scale), sources, workers)
        against = 'Compared with the sources.'
    bad = _show('Verify', total, problems)
    if bad:
        raise InputError(f'{bad} of {total} frames are wrong. Delete {out} and prepare it again.')
    print(f'All {total} frames of {len(clips)} clips are right. {against}')


def _compare(stores: Mapping[str, FrameStore], scale: int, task: Task) -> None:
    for kind, frame in task.decode(scale).items():
        stored = stores[kind].read(task.pair.clip.name, task.frame)
        if stored is None:
            raise FrameError(f'{stores[kind].root}: its checksum is wrong')
        if stored != pack(frame):
            raise FrameError(f'{stores[kind].root} differs from its source')


def _wrong_checksums(stores: Mapping[str, FrameStore], clips: Sequence[Clip]) -> Iterator[str | None]:
    for clip in clips:
        for frame in range(clip.num_frame):
            wrong = [str(store.root) for store in stores.values() if store.read(clip.name, frame) is None]
            yield f'clip {clip.name}, frame {frame}: {" and ".join(wrong)}: its checksum is wrong' if wrong else None
