"""What is done with every frame of a pair of sources, in several processes."""

from __future__ import annotations

import collections
import multiprocessing
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.frames.frame_sources import Payload
from multigrid_vsr.frames.image_size import decode_image
from multigrid_vsr.frames.pairs import Pair, Sources
from multigrid_vsr.frames.video import RawFrame

KINDS = ('gt', 'lq')
_IN_FLIGHT = 4  # frames that wait for each process, so that memory stays bounded
Copied = Callable[[Pair], Mapping[str, Sequence[bool]]]


@dataclass(frozen=True)
class Task:
    """A frame of both sources.

    Attributes:
        pair: Its clip.
        frame: Its number, from 0.
        gt, lq: What the sources gave for it.
        copied: Which of ``KINDS`` need not be decoded.
    """

    pair: Pair
    frame: int
    gt: Payload
    lq: Payload
    copied: Collection[str] = ()


Work = Callable[[Task], str | None]  # says what is wrong with a frame


def tasks(sources: Sources, copied: Copied = lambda _: {}) -> Iterator[Task]:
    """The frames of all clips, in order.

    Args:
        sources: Where they come from.
        copied: Says of a clip which of its frames need not be read; where it is all of them the clip is not opened.
    """
    for pair in sources.pairs:
        flags = copied(pair)
        is_read = not flags or not all(map(all, flags.values()))
        gt_frames: Iterator[Payload] = sources.gt.frames(pair.gt.name) if is_read else repeat(None)
        has_lq = is_read and sources.lq is not None and pair.lq is not None
        lq_frames: Iterator[Payload] = sources.lq.frames(pair.lq.name) if has_lq else repeat(None)  # type: ignore[union-attr]
        for frame, gt, lq in zip(range(pair.clip.num_frame), gt_frames, lq_frames):
            yield Task(pair, frame, gt, lq, [kind for kind, is_same in flags.items() if is_same[frame]])


def in_processes(work: Work, tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, str | None]]:
    """Maps in order, with few tasks under way: ``Executor.map`` would read all of a source at once."""
    # Forked, a process would inherit the locks of OpenCV's and torch's threads without the threads. The work is handed
    # to each process once: that on Vimeo90K knows 64,612 clips.
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
    cv2.setNumThreads(1)  # the processes share the cores already
    _work.append(work)


def _do_work(task: Task) -> str | None:
    return _work[0](task)


def each_frame(work: Work, sources: Sources, workers: int, copied: Copied = lambda _: {}) -> Iterator[str | None]:
    """What is wrong with each frame, with the frame and its files named; ``None`` where nothing is."""
    for task, problem in in_processes(work, tasks(sources, copied), workers):
        if problem is None:
            yield None
            continue
        places = [sources.gt.where(task.pair.gt.name, task.frame)]
        if sources.lq is not None and task.pair.lq is not None:
            places.append(sources.lq.where(task.pair.lq.name, task.frame))
        yield f'clip {task.pair.clip.name}, frame {task.frame}: {problem} ({", ".join(places)})'


def decode_pair(scale: int, task: Task, kinds: Collection[str] = KINDS) -> tuple[dict[str, np.ndarray], str | None]:
    """The frames of a task as they are stored, uint8 (h, w, 3) BGR, or what is wrong with them.

    Args:
        scale: Ground truth side / LQ side.
        task: The frame.
        kinds: Which of ``KINDS`` are needed.
    """
    pair, frames = task.pair, {}
    if 'gt' in kinds or pair.lq is None:
        gt = _decode(task.gt)
        if gt is None:
            return {}, 'the ground truth is missing or cannot be decoded'
        if gt.shape[:2] != (pair.gt.height, pair.gt.width):
            expected = f'{pair.gt.height}x{pair.gt.width}'  # as the first frame of the clip
            return {}, f'the ground truth is {gt.shape[0]}x{gt.shape[1]}, not {expected}'
        frames['gt'] = gt[: pair.clip.height, : pair.clip.width]
    if 'lq' in kinds and pair.lq is None:
        frames['lq'] = shrink(frames['gt'], scale)
    elif 'lq' in kinds and pair.lq is not None:
        lq = _decode(task.lq)
        if lq is None:
            return {}, 'the LQ frame is missing or cannot be decoded'
        if lq.shape[:2] != (pair.lq.height, pair.lq.width):
            return {}, f'the LQ frame is {lq.shape[0]}x{lq.shape[1]}, not 1/{scale} of the ground truth'
        frames['lq'] = lq[: pair.clip.height // scale, : pair.clip.width // scale]
    return frames, None


def _decode(payload: Payload) -> np.ndarray | None:
    if isinstance(payload, RawFrame):
        return payload.bgr()
    if isinstance(payload, np.ndarray) or payload is None:
        return payload
    return decode_image(payload)


def shrink(frame: np.ndarray, scale: int) -> np.ndarray:
    """BasicSR's bicubic ``imresize`` by 1/scale, rounded: uint8 (h, w, 3) to uint8 (h/scale, w/scale, 3)."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(frame / 255.0, 1 / scale) * 255).round().clip(0, 255).astype(np.uint8)


def show(description: str, total: int, problems: Iterator[str | None]) -> int:
    """Shows the progress and every problem; returns how many there were."""
    bad = 0
    with tqdm(total=total, desc=description, unit='frame', smoothing=0.05) as bar:
        for problem in problems:
            if problem is not None:
                bad += 1
                bar.write(problem, sys.stderr)
            bar.update()
    return bad


def default_workers() -> int:
    """Processes for decoding: one for each core this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
