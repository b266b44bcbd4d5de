"""Builds and verifies a pair of frame stores."""

from __future__ import annotations

import collections
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.frame_sources import FrameSource, Payload
from multigrid_vsr.frames.frame_store import FrameStore, FrameStoreWriter, StoreInfo, pack

_WRONG_CHECKSUM = 'does not have the checksum that it was written with'
_IN_FLIGHT = 4  # frames that wait for each process, so that memory stays bounded


@dataclass(frozen=True)
class Sources:
    """What a pair of stores is made of.

    Attributes:
        gt: Ground truth.
        lq: LQ frames; ``None`` to shrink the ground truth with BasicSR's bicubic ``imresize``.
        scale: Ground truth side / LQ side.
    """

    gt: FrameSource
    lq: FrameSource | None
    scale: int

    def lq_clip(self, clip: Clip) -> Clip:
        return Clip(clip.name, clip.num_frame, clip.height // self.scale, clip.width // self.scale)


@dataclass(frozen=True)
class _Task:
    clip: Clip
    frame: int
    gt: Payload
    lq: Payload


def check_sources(sources: Sources) -> None:
    """Compares the two lists of clips.

    Raises:
        InputError: If a clip of one is missing in the other, or its size does not fit the scale.
    """
    if not sources.gt.clips:
        raise InputError('--gt: must hold at least one clip, got none. Correct the path.')
    for clip in sources.gt.clips:
        if clip.height % sources.scale or clip.width % sources.scale:
            raise InputError(
                f'--gt: must have sizes that are multiples of the scale ({sources.scale}), '
                f'got {clip.height}x{clip.width} for clip {clip.name}. Crop it.'
            )
    if sources.lq is not None:
        lq = {clip.name: clip for clip in sources.lq.clips}
        for clip in sources.gt.clips:
            if lq.get(clip.name) != sources.lq_clip(clip):
                raise InputError(
                    f'--lq: must hold {sources.lq_clip(clip)}, got {lq.get(clip.name)}. It has to be --gt at 1/scale.'
                )


def build(sources: Sources, out: Path, workers: int) -> None:
    """Writes ``out/gt`` and ``out/lq``, in several processes; goes on with what an interrupted build has left.

    Args:
        sources: Where the frames come from.
        out: Folder of the pair.
        workers: Processes that decode, pack and write.

    Raises:
        InputError: If a frame cannot be used (each is named first), or the disk has no room.
    """
    writers = _writers(sources, out)
    size = sum(writer.size for writer in writers.values())
    needed = size - sum(_used(out / name) for name in writers)
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    print(f'{out}: {size / 1e9:.2f} GB, {max(needed, 0) / 1e9:.2f} to write, {free / 1e9:.2f} free.')
    if needed > free:
        raise InputError(f'-o: must have {needed / 1e9:.2f} GB free, got {free / 1e9:.2f} GB in {folder}. Make room.')
    if all(writer.is_finished for writer in writers.values()):
        print('Both stores are whole already.')
        return
    for writer in writers.values():
        writer.reserve()

    total = sum(clip.num_frame for clip in sources.gt.clips)
    bad = _show('Prepare', total, _each_frame(partial(_write, writers, sources.scale), sources, workers))
    if bad:
        raise InputError(
            f'{bad} of {total} frames cannot be used: the store is not finished. Mend them and run it again.'
        )
    for writer in writers.values():
        writer.finish()


def _writers(sources: Sources, out: Path) -> dict[str, FrameStoreWriter]:
    clips = {'gt': sources.gt.clips, 'lq': [sources.lq_clip(clip) for clip in sources.gt.clips]}
    return {name: FrameStoreWriter(out / name, StoreInfo(tuple(c), sources.scale)) for name, c in clips.items()}


def _tasks(sources: Sources) -> Iterator[_Task]:
    for clip in sources.gt.clips:
        lq_frames = sources.lq.frames(sources.lq_clip(clip)) if sources.lq is not None else _nothing()
        for frame, (gt, lq) in enumerate(zip(sources.gt.frames(clip), lq_frames)):
            yield _Task(clip, frame, gt, lq if sources.lq is not None else b'')


def _nothing() -> Iterator[Payload]:
    while True:
        yield None


def _in_processes(
    function: Callable[[_Task], str | None], tasks: Iterator[_Task], workers: int
) -> Iterator[tuple[_Task, str | None]]:
    """Maps in order, with few tasks under way: ``Executor.map`` would read all of a source at once."""
    # Forked, a process would inherit the locks of OpenCV's and torch's threads without the threads.
    with ProcessPoolExecutor(workers, multiprocessing.get_context('spawn')) as pool:
        waiting: collections.deque[tuple[_Task, Future]] = collections.deque()
        for task in tasks:
            waiting.append((task, pool.submit(function, task)))
            if len(waiting) >= workers * _IN_FLIGHT:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _write(writers: dict[str, FrameStoreWriter], scale: int, task: _Task) -> str | None:
    """Decodes, shrinks where there is no LQ frame, packs and writes what is not there yet; or says what is wrong."""
    if all(writer.has(task.clip.name, task.frame) for writer in writers.values()):
        return None
    gt, lq, problem = _frames(scale, task)
    if problem is not None:
        return problem
    try:
        for name, frame in (('gt', gt), ('lq', lq)):
            writers[name].put(task.clip.name, task.frame, pack(frame))
    except OSError as error:
        return f'cannot be written: {error.strerror}'
    return None


def _compare(stores: dict[str, FrameStore], scale: int, task: _Task) -> str | None:
    """Says what is wrong with a stored frame."""
    gt, lq, problem = _frames(scale, task)
    if problem is not None:
        return problem
    for name, frame in (('gt', gt), ('lq', lq)):
        stored = stores[name].read(task.clip.name, task.frame)
        if stored is None:
            return f'{stores[name].root} {_WRONG_CHECKSUM}'
        if stored != pack(frame):
            return f'{stores[name].root} differs from its source'
    return None


def _frames(scale: int, task: _Task) -> tuple[np.ndarray, np.ndarray, str | None]:
    cv2.setNumThreads(1)  # the processes share the cores already
    nothing = np.empty((0, 0, 3), np.uint8)
    gt = _decode(task.gt)
    if gt is None:
        return nothing, nothing, 'the ground truth is missing or cannot be decoded'
    expected = (task.clip.height, task.clip.width)
    if gt.shape[:2] != expected:
        return nothing, nothing, f'the ground truth is {gt.shape[0]}x{gt.shape[1]}, not {expected[0]}x{expected[1]}'
    if isinstance(task.lq, bytes) and not task.lq:
        return gt, shrink(gt, scale), None
    lq = _decode(task.lq)
    if lq is None:
        return nothing, nothing, 'the LQ frame is missing or cannot be decoded'
    if (lq.shape[0] * scale, lq.shape[1] * scale) != expected:
        return nothing, nothing, f'the LQ frame is {lq.shape[0]}x{lq.shape[1]}, not 1/{scale} of the ground truth'
    return gt, lq, None


def _decode(payload: Payload) -> np.ndarray | None:
    if isinstance(payload, np.ndarray) or payload is None:
        return payload
    return cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR) if payload else None


def shrink(frame: np.ndarray, scale: int) -> np.ndarray:
    """BasicSR's bicubic ``imresize`` by 1/scale, rounded: uint8 (h, w, 3) to uint8 (h/scale, w/scale, 3)."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(frame / 255.0, 1 / scale) * 255).round().clip(0, 255).astype(np.uint8)


def verify(out: Path, sources: Sources | None, workers: int) -> None:
    """Checks every stored frame against its checksum and, where there are sources, against them.

    Raises:
        InputError: If a frame is wrong; each is named first.
    """
    stores = {name: FrameStore(out / name) for name in ('gt', 'lq')}
    clips = stores['gt'].info.clips
    if sources is not None and tuple(sources.gt.clips) != clips:
        raise InputError(f'--gt: must hold the clips of {out}, got others. Verify it against what it was made of.')
    total = sum(clip.num_frame for clip in clips)
    if sources is None:
        problems = _wrong_checksums(stores, clips)
    else:
        problems = _each_frame(partial(_compare, stores, sources.scale), sources, workers)
    bad = _show('Verify', total, problems)
    if bad:
        raise InputError(f'{bad} of {total} frames are wrong. Delete {out} and prepare it again.')
    print(f'All {total} frames of {len(clips)} clips are right.')


def _wrong_checksums(stores: dict[str, FrameStore], clips: Sequence[Clip]) -> Iterator[str | None]:
    for clip in clips:
        for frame in range(clip.num_frame):
            wrong = [str(store.root) for store in stores.values() if store.read(clip.name, frame) is None]
            yield f'clip {clip.name}, frame {frame}: {" and ".join(wrong)} {_WRONG_CHECKSUM}' if wrong else None


def _each_frame(function: Callable[[_Task], str | None], sources: Sources, workers: int) -> Iterator[str | None]:
    """What is wrong with each frame, with the frame and its files named; ``None`` where nothing is."""
    for task, problem in _in_processes(function, _tasks(sources), workers):
        places = [source.where(task.clip.name, task.frame) for source in (sources.gt, sources.lq) if source is not None]
        yield problem and f'clip {task.clip.name}, frame {task.frame}: {problem} ({", ".join(places)})'


def _show(description: str, total: int, problems: Iterator[str | None]) -> int:
    """Shows the progress and every problem; returns how many there were."""
    bad = 0
    with tqdm(total=total, desc=description, unit='frame', smoothing=0.05) as bar:
        for problem in problems:
            if problem is not None:
                bad += 1
                bar.write(problem, sys.stderr)
            bar.update()
    return bad


def _used(store: Path) -> int:
    path = store / 'frames.bin'
    return path.stat().st_blocks * 512 if path.exists() else 0


def default_workers() -> int:
    """Processes for decoding: one for each core this process may use."""
    return len(os.sched_getaffinity(0))
