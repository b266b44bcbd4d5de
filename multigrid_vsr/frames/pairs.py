"""Ground truth and LQ clips put together, and what is done with every frame of a pair."""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip, read_clip_names
from multigrid_vsr.frames.images import decode_image
from multigrid_vsr.frames.sources import ClipSource, Lmdb, Payload, open_source
from multigrid_vsr.frames.store import FrameStore
from multigrid_vsr.frames.video import RawFrame


@dataclass(frozen=True)
class OptionNames:
    """What the options are called that say which clips to pair."""

    gt: str = '--gt'
    lq: str = '--lq'
    scale: str = '--scale'
    clips: str = '--list'


@dataclass(frozen=True)
class Pair:
    """A clip and its LQ clip.

    Attributes:
        clip: The ground truth as it is stored, its size a multiple of the scale.
        gt, lq: The clips as they are; ``lq`` is ``None`` where it is made of the ground truth.
    """

    clip: Clip
    gt: Clip
    lq: Clip | None


@dataclass(frozen=True)
class Sources:
    """What a pair of stores is made of.

    Attributes:
        gt: Ground truth.
        lq: LQ frames; ``None`` to shrink the ground truth with BasicSR's bicubic ``imresize``.
        scale: Ground truth side / LQ side.
        pairs: The clips.
        notes: What the user should know, a line each.
    """

    gt: ClipSource
    lq: ClipSource | None
    scale: int
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The ground truth as it is stored."""
        return tuple(pair.clip for pair in self.pairs)

    @property
    def num_frame(self) -> int:
        return sum(clip.num_frame for clip in self.clips)


def open_sources(
    gt_root: Path,
    lq_root: Path | None,
    scale: int,
    *,
    list_file: Path | None = None,
    min_frames: int = 1,
    workers: int = 1,
    is_strict: bool = False,
) -> Sources:
    """Opens ground truth and LQ frames and puts their clips together, by name, and frames by order.

    Args:
        gt_root, lq_root: What was given as ``--gt`` and ``--lq``.
        scale: Ground truth side / LQ side.
        list_file: Names the clips to take; without it all are taken.
        min_frames: Clips with fewer frames are left out.
        workers: Threads that count the frames of videos.
        is_strict: Whether videos of which frames are lost are refused.

    Raises:
        OptionError: If a clip of one is missing in the other, or length or size do not fit.
    """
    gt = open_source('--gt', gt_root, workers, is_strict)
    lq = open_source('--lq', lq_root, workers, is_strict) if lq_root is not None else None
    sources = pair(gt, lq, scale, read_clip_names('--list', list_file) if list_file is not None else None)
    long_enough = tuple(pair for pair in sources.pairs if pair.clip.num_frame >= min_frames)
    number = len(sources.pairs)
    if not long_enough:
        raise OptionError('--min-frames', 'leave a clip', f'{min_frames} for {number} shorter ones', 'Lower it.')
    notes = [*gt.notes, *(lq.notes if lq is not None else ())]
    if len(long_enough) < number:
        notes.append(
            f'--min-frames: {number - len(long_enough)} of {number} clips left out, shorter than {min_frames}.'
        )
    notes += crop_notes(long_enough, '--scale')
    if list_file is None and all(re.fullmatch(r'\d{5}/\d{4}', pair.clip.name) for pair in sources.pairs):
        notes.append(
            "--gt: has the names of Vimeo90K's sequences: without --list the test septuplets are in too. Give --list "
            'sep_trainlist.txt.'
        )
    return replace(sources, pairs=long_enough, notes=tuple(notes))


def pair(
    gt: ClipSource,
    lq: ClipSource | None,
    scale: int,
    listed: Mapping[str, Clip | None] | None = None,
    options: OptionNames = OptionNames(),
    is_training: bool = False,
) -> Sources:
    """Puts clips of ground truth and LQ frames together, by name, and their frames by order.

    Args:
        gt, lq: The frames.
        scale: Ground truth side / LQ side.
        listed: Names the clips to take, with what the list says of each; without it all are taken.
        options: What to call the options in a line.
        is_training: Whether frames are read as they lie, so that LQ frames may not be larger than 1/scale, and a list
            may have fewer frames than there are.

    Raises:
        OptionError: If a clip of one is missing in the other, or length or size do not fit.
    """
    names = gt.names if listed is None else _listed(gt, listed, options)
    lq_names = _lq_names(gt, lq, names, listed is not None, options) if lq is not None else {}
    gt_clips = gt.measure(names)
    composed = {_composed(name): clip for name, clip in gt_clips.items()}
    for name, clip in (listed or {}).items():
        there = composed[_composed(name)]
        num_frame = min(clip.num_frame, there.num_frame) if clip is not None and is_training else there.num_frame
        if clip is not None and clip != replace(there, name=name, num_frame=num_frame):
            rule = f'agree with {options.gt}, {_say(there)}'
            raise OptionError(options.clips, rule, _say(clip), 'Correct the list.')
    lq_clips = lq.measure(list(lq_names.values())) if lq is not None else {}
    pairs = [
        _pair(gt, lq, gt_clips[name], lq_clips.get(lq_names.get(name, '')), scale, options, is_training)
        for name in names
    ]
    return Sources(gt, lq, scale, tuple(pairs))


def _listed(gt: ClipSource, names: Collection[str], options: OptionNames) -> list[str]:
    """The listed clips in the order of the source."""
    there, listed = _by_name(gt, options.gt), {_composed(name) for name in names}
    missing = sorted(listed.difference(there))
    if missing:
        raise OptionError(
            options.clips,
            f'name clips of {options.gt}',
            f'{missing[0]} ({len(missing)} of {len(listed)} names are not in {gt.root}, which has {gt.names[0]})',
            f'Correct the list, or {options.gt}.',
        )
    return [name for composed, name in there.items() if composed in listed]


def _composed(name: str) -> str:
    """A name in one of the two forms of Unicode: macOS writes the accents of names apart, and others do not."""
    return unicodedata.normalize('NFC', name)


def _by_name(source: ClipSource, option: str) -> dict[str, str]:
    """The names of all clips by their composed form."""
    names: dict[str, str] = {}
    for name in source.names:
        other = names.setdefault(_composed(name), name)
        if other != name:
            value = f'{other!a} and {name!a} in {source.root}'
            raise OptionError(option, 'hold each name once, in whichever form of Unicode', value, 'Rename one of them.')
    return names


def _lq_names(
    gt: ClipSource, lq: ClipSource, names: Sequence[str], is_listed: bool, options: OptionNames
) -> dict[str, str]:
    """The LQ clip of each clip: that of the same name, or the only one of the only one."""
    if len(gt.names) == len(lq.names) == 1:
        return {gt.names[0]: lq.names[0]}
    there = _by_name(lq, options.lq)
    missing = [name for name in names if _composed(name) not in there]
    if missing:
        raise OptionError(
            options.lq,
            f'hold the clips of {options.gt}',
            f'{lq.root} without {missing[0]} ({len(missing)} missing)',
            f'Add it, or name the clips to take in {options.clips}.',
        )
    extra = sorted(there.keys() - _by_name(gt, options.gt).keys())
    if extra and not is_listed:
        raise OptionError(
            options.lq,
            f'hold the clips of {options.gt} alone',
            f'{extra[0]} too, which is not in {gt.root} ({len(extra)} too many)',
            f'Move it elsewhere, or name the clips to take in {options.clips}.',
        )
    return {name: there[_composed(name)] for name in names}


def _pair(
    gt: ClipSource,
    lq: ClipSource | None,
    gt_clip: Clip,
    lq_clip: Clip | None,
    scale: int,
    options: OptionNames,
    is_training: bool,
) -> Pair:
    height, width = (side // scale * scale for side in (gt_clip.height, gt_clip.width))
    if not height or not width:
        raise OptionError(
            options.gt,
            f'have frames of at least {scale}x{scale} pixels',
            f'{gt_clip.height}x{gt_clip.width} in {gt.where(gt_clip.name, 0)}',
            'Leave the clip out.',
        )
    clip = Clip(gt_clip.name, gt_clip.num_frame, height, width)
    if lq is None or lq_clip is None:
        return Pair(clip, gt_clip, None)
    if lq_clip.num_frame != gt_clip.num_frame:
        _refuse_counts(gt, lq, gt_clip, lq_clip, options)
    floor = (height // scale, width // scale)
    ceiling = floor if is_training else (-(-gt_clip.height // scale), -(-gt_clip.width // scale))
    if not all(low <= side <= high for low, side, high in zip(floor, (lq_clip.height, lq_clip.width), ceiling)):
        raise OptionError(
            options.lq,
            f'be {options.gt} at 1/{scale}, {floor[0]}x{floor[1]} for {gt_clip.height}x{gt_clip.width}',
            f'{lq_clip.height}x{lq_clip.width} in {lq.where(lq_clip.name, 0)}',
            f'Correct {options.lq} or {options.scale}.',
        )
    return Pair(clip, gt_clip, lq_clip)


def _refuse_counts(gt: ClipSource, lq: ClipSource, gt_clip: Clip, lq_clip: Clip, options: OptionNames) -> None:
    """Names the file that is too many, where names tell."""
    longer, clip, other, other_clip = gt, gt_clip, lq, lq_clip
    if gt_clip.num_frame < lq_clip.num_frame:
        longer, clip, other, other_clip = lq, lq_clip, gt, gt_clip
    stems = {_stem(path) for path in other.entries(other_clip.name)}
    alone = [path for path in longer.entries(clip.name) if _stem(path) not in stems]
    is_told = len(alone) == clip.num_frame - other_clip.num_frame
    raise OptionError(
        options.lq,
        f'have as many frames as {options.gt}, {gt_clip.num_frame} in {_place(gt, gt_clip)}',
        f'{lq_clip.num_frame} in {_place(lq, lq_clip)}{f", {longer.root / alone[0]} too many" if is_told else ""}',
        f'Add or remove a frame, or leave the clip out with {options.clips}.',
    )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _place(source: ClipSource, clip: Clip) -> str:
    """The folder or the file of a clip."""
    place = source.where(clip.name, 0)
    return os.path.dirname(place) if len(source.entries(clip.name)) > 1 else place


def crop_notes(pairs: Sequence[Pair], option: str) -> list[str]:
    """A line where ground truth is cropped; ``option`` is what the scale is called."""
    cropped = [pair for pair in pairs if (pair.clip.height, pair.clip.width) != (pair.gt.height, pair.gt.width)]
    if not cropped:
        return []
    first = cropped[0]
    return [
        f'{option}: {len(cropped)} clips cropped to a multiple of it at the right and the bottom, {first.clip.name} '
        f'from {first.gt.height}x{first.gt.width} to {first.clip.height}x{first.clip.width}.'
    ]


def _say(clip: Clip) -> str:
    return f'clip {clip.name} with {clip.num_frame} frames of {clip.height}x{clip.width}'


KINDS = ('gt', 'lq')
_IN_FLIGHT = 4  # frames that wait for each process, so that memory stays bounded


@dataclass(frozen=True)
class Task:
    """A frame of both sources.

    Attributes:
        pair: Its clip.
        frame: Its number, from 0.
        gt, lq: What the sources gave for it.
    """

    pair: Pair
    frame: int
    gt: Payload
    lq: Payload


Work = Callable[[Task], str | None]  # says what is wrong with a frame


def tasks(sources: Sources) -> Iterator[Task]:
    """The frames of all clips, in order."""
    for pair in sources.pairs:
        has_lq = sources.lq is not None and pair.lq is not None
        lq_frames: Iterator[Payload] = sources.lq.frames(pair.lq.name) if has_lq else repeat(None)  # type: ignore[union-attr]
        for frame, gt, lq in zip(range(pair.clip.num_frame), sources.gt.frames(pair.gt.name), lq_frames):
            yield Task(pair, frame, gt, lq)


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


def each_frame(work: Work, sources: Sources, workers: int) -> Iterator[str | None]:
    """What is wrong with each frame, with the frame and its files named; ``None`` where nothing is."""
    for task, problem in in_processes(work, tasks(sources), workers):
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


def open_eval_clips(name: str, opt: Mapping[str, Any]) -> Sources:
    """Opens the clips of a ``MultigridVideoTestDataset``.

    Args:
        name: Its dotted name, such as ``datasets.val``.
        opt: Its options: ``dataroot_gt``; optionally ``dataroot_lq``, ``io_backend``, ``meta_info_file``, ``scale``.

    Raises:
        OptionError: If clips do not pair, or the back end is another one.
        InputError: If a frame store was not finished.
    """
    options = OptionNames(f'{name}.dataroot_gt', f'{name}.dataroot_lq', 'scale', f'{name}.meta_info_file')
    gt = _open(name, 'gt', opt)
    lq = _open(name, 'lq', opt) if opt.get('dataroot_lq') is not None else None
    path = opt.get('meta_info_file')
    listed = read_clip_names(options.clips, Path(path).expanduser()) if path else None
    sources = pair(gt, lq, int(opt.get('scale', 1)), listed, options)
    notes = [*gt.notes, *(lq.notes if lq else ()), *crop_notes(sources.pairs, f'{options.gt}, scale')]
    return replace(sources, notes=tuple(notes))


def read_frames(sources: Sources, place: int, kind: str) -> Iterator[np.ndarray]:
    """The frames of a clip in order, uint8 (h, w, 3), BGR, cut to the size that fits the scale.

    Args:
        sources: The clips.
        place: Which of them.
        kind: ``gt`` or ``lq``; without LQ clips that is the ground truth by BasicSR's bicubic ``imresize``.

    Raises:
        FrameError: If a frame is missing, damaged or of another size than its clip.
    """
    clips = sources.pairs[place]
    is_lq = kind == 'lq' and sources.lq is not None and clips.lq is not None
    source, name = (sources.lq, clips.lq.name) if is_lq else (sources.gt, clips.gt.name)  # type: ignore[union-attr]
    assert source is not None
    for number, payload in zip(range(clips.clip.num_frame), source.frames(name)):
        task = Task(clips, number, *((None, payload) if is_lq else (payload, None)))
        frames, problem = decode_pair(sources.scale, task, (kind,))
        if problem is not None:
            where = source.where(name, number)
            raise FrameError(f'clip {clips.clip.name}, frame {number}: {problem} ({where})')
        yield frames[kind]


def check_names(option: str, names: Iterable[str]) -> None:
    """Asks for names in UTF-8: OpenCV crashes where it writes a picture under another.

    Raises:
        OptionError: If a clip has another.
    """
    for name in names:
        if name != name.encode(errors='ignore').decode():
            raise OptionError(option, 'hold clips with names in UTF-8', os.fsencode(name), 'Rename it.')


def _open(name: str, kind: str, opt: Mapping[str, Any]) -> ClipSource:
    root = Path(opt[f'dataroot_{kind}']).expanduser()
    source = open_source(f'{name}.dataroot_{kind}', root)
    check_names(f'{name}.dataroot_{kind}', source.names)
    check_backend(name, source, opt)
    return source


def check_backend(name: str, source: ClipSource, opt: Mapping[str, Any]) -> None:
    """Compares ``io_backend.type`` of a dataset, where it is given, with what its root is.

    Raises:
        OptionError: If it is another one.
    """
    asked = (opt.get('io_backend') or {}).get('type')
    found = 'lmdb' if isinstance(source, Lmdb) else 'packed' if isinstance(source, FrameStore) else 'disk'
    if asked not in (None, found):
        raise OptionError(f'{name}.io_backend.type', f'be {found} for {source.root}', asked, 'Change it, or the path.')
