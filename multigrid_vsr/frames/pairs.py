"""Ground truth and LQ clips paired by name, and the frames of a pair as they are stored."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip, read_clip_names
from multigrid_vsr.frames.images import decode_image
from multigrid_vsr.frames.sources import ClipSource, Payload, open_source


@dataclass(frozen=True)
class OptionNames:
    """The names of the options that give the clips, for messages."""

    gt: str = '--gt'
    lq: str = '--lq'
    scale: str = '--scale'
    clips: str = '--list'

    @classmethod
    def of(cls, name: str) -> OptionNames:
        """The names for a dataset such as ``datasets.val``."""
        return cls(f'{name}.dataroot_gt', f'{name}.dataroot_lq', 'scale', f'{name}.meta_info_file')


@dataclass(frozen=True)
class Pair:
    """A clip and its LQ clip.

    Attributes:
        clip: The ground truth, cropped to a multiple of the scale.
        gt, lq: The clips in their sources; ``lq`` is ``None`` if it is made from the ground truth.
    """

    clip: Clip
    gt: Clip
    lq: Clip | None


@dataclass(frozen=True)
class Sources:
    """Two sources and their paired clips.

    Attributes:
        gt: Ground truth.
        lq: LQ frames; ``None`` to shrink the ground truth with BasicSR's bicubic ``imresize``.
        scale: Ground truth side / LQ side.
        pairs: The clips.
        notes: Lines for the user.
    """

    gt: ClipSource
    lq: ClipSource | None
    scale: int
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The ground truth, cropped to a multiple of the scale."""
        return tuple(pair.clip for pair in self.pairs)

    @property
    def num_frame(self) -> int:
        return sum(clip.num_frame for clip in self.clips)

    def where(self, clips: Pair, frame: int) -> str:
        """The files of a frame, for messages."""
        places = [self.gt.where(clips.gt.name, frame)]
        if self.lq is not None and clips.lq is not None:
            places.append(self.lq.where(clips.lq.name, frame))
        return ', '.join(places)


def open_sources(
    gt_root: Path,
    lq_root: Path | None,
    scale: int,
    *,
    list_file: Path | None = None,
    min_frames: int = 1,
    is_strict: bool = False,
) -> Sources:
    """Opens and pairs the clips of ``multigrid-vsr prepare``, whose options the arguments are.

    Raises:
        OptionError: If the clips do not pair, or none is long enough.
    """
    gt = open_source('--gt', gt_root, is_strict)
    lq = open_source('--lq', lq_root, is_strict) if lq_root is not None else None
    sources = pair(gt, lq, scale, read_clip_names('--list', list_file) if list_file is not None else None)
    long_enough = tuple(pair for pair in sources.pairs if pair.clip.num_frame >= min_frames)
    number = len(sources.pairs)
    if not long_enough:
        raise OptionError('--min-frames', 'leave a clip', f'{min_frames} for {number} shorter ones', 'Lower it.')
    notes = [*gt.notes, *(lq.notes if lq is not None else ())]
    if (short := number - len(long_enough)) > 0:
        notes.append(f'--min-frames: {short} of {number} clips left out, shorter than {min_frames}.')
    notes += crop_notes(long_enough, '--scale')
    if list_file is None and all(re.fullmatch(r'\d{5}/\d{4}', pair.clip.name) for pair in sources.pairs):
        notes.append(
            "--gt: has the names of Vimeo90K's sequences: without --list the test septuplets are in too. Give --list "
            'sep_trainlist.txt.'
        )
    return replace(sources, pairs=long_enough, notes=tuple(notes))


def open_eval_clips(name: str, opt: Mapping[str, Any]) -> Sources:
    """Opens the clips of a ``MultigridVideoTestDataset``, whose dotted name is ``name``, such as ``datasets.val``.

    Raises:
        OptionError: If the clips do not pair, or ``io_backend`` names another back end.
        InputError: If a frame store was not finished.
    """
    options, path = OptionNames.of(name), opt.get('meta_info_file')
    sources = []
    for kind, option in (('gt', options.gt), ('lq', options.lq)):
        if kind == 'gt' or opt.get('dataroot_lq') is not None:
            source = open_source(option, Path(opt[f'dataroot_{kind}']).expanduser())
            check_names(option, source.names)
            check_backend(name, source, opt)
            sources.append(source)
    gt, lq = sources[0], sources[1] if len(sources) > 1 else None
    listed = read_clip_names(options.clips, Path(path).expanduser()) if path else None
    paired = pair(gt, lq, int(opt.get('scale', 1)), listed, options)
    notes = [*(note for source in sources for note in source.notes), *crop_notes(paired.pairs, f'{options.gt}, scale')]
    return replace(paired, notes=tuple(notes))


def check_names(option: str, names: Iterable[str]) -> None:
    """Raises an OptionError for a clip whose name is not UTF-8, because OpenCV would crash at such a file name."""
    for name in names:
        if name != name.encode(errors='ignore').decode():
            raise OptionError(option, 'hold clips with names in UTF-8', os.fsencode(name), 'Rename it.')


def check_backend(name: str, source: ClipSource, opt: Mapping[str, Any]) -> None:
    """Raises an OptionError if a dataset gives an ``io_backend.type`` and its root is of another kind."""
    asked = (opt.get('io_backend') or {}).get('type')
    if asked not in (None, source.backend):
        rule = f'be {source.backend} for {source.root}'
        raise OptionError(f'{name}.io_backend.type', rule, asked, 'Change it, or the path.')


def pair(
    gt: ClipSource,
    lq: ClipSource | None,
    scale: int,
    listed: Mapping[str, Clip | None] | None = None,
    options: OptionNames = OptionNames(),
    is_training: bool = False,
) -> Sources:
    """Pairs ground truth and LQ clips by name, and their frames by order.

    If each source has only one clip, their names do not matter.

    Args:
        gt, lq: The sources; without ``lq`` LQ frames are made from the ground truth.
        scale: Ground truth side / LQ side.
        listed: The clips to take, by name, with the length and size that a list gives; ``None`` takes all.
        options: The names of the options, for messages.
        is_training: LQ frames may not be larger than 1/scale, and the list may give fewer frames than the clip has.

    Raises:
        OptionError: If a clip is missing in a source, or lengths or sizes do not match.
    """
    gt_names = _by_composed_name(gt, options.gt)
    wanted = gt_names.keys() if listed is None else {_composed(name) for name in listed}
    if missing := sorted(wanted - gt_names.keys()):
        value = f'{missing[0]} ({len(missing)} of {len(wanted)} names are not in {gt.root}, which has {gt.names[0]})'
        raise OptionError(options.clips, f'name clips of {options.gt}', value, f'Correct the list, or {options.gt}.')
    names = {name: gt_names[name] for name in gt_names if name in wanted}
    lq_names: dict[str, str] = {}
    if lq is not None:
        lq_names = _by_composed_name(lq, options.lq)
        if len(gt_names) == len(lq_names) == 1:
            lq_names = dict(zip(gt_names, lq_names.values()))
        if missing := [names[name] for name in names if name not in lq_names]:
            value = f'{lq.root} without {missing[0]} ({len(missing)} missing)'
            fix = f'Add it, or name the clips to take in {options.clips}.'
            raise OptionError(options.lq, f'hold the clips of {options.gt}', value, fix)
        if listed is None and (extra := sorted(lq_names.keys() - gt_names.keys())):
            value = f'{extra[0]} too, which is not in {gt.root} ({len(extra)} too many)'
            fix = f'Move it elsewhere, or name the clips to take in {options.clips}.'
            raise OptionError(options.lq, f'hold only the clips of {options.gt}', value, fix)
    gt_clips = gt.measure(list(names.values()))
    for listed_name, clip in (listed or {}).items():
        there = replace(gt_clips[names[_composed(listed_name)]], name=listed_name)
        num_frame = min(clip.num_frame, there.num_frame) if clip and is_training else there.num_frame
        if clip is not None and clip != replace(there, num_frame=num_frame):
            raise OptionError(options.clips, f'agree with {options.gt}, {_say(there)}', _say(clip), 'Correct the list.')
    lq_clips = lq.measure([lq_names[name] for name in names]) if lq is not None else {}
    clips = ((gt_clips[names[name]], lq_clips[lq_names[name]] if lq is not None else None) for name in names)
    return Sources(gt, lq, scale, tuple(_pair(gt, lq, *both, scale, options, is_training) for both in clips))


def _composed(name: str) -> str:
    """A name in NFC, because macOS writes names in NFD, with accents apart from their letters."""
    return unicodedata.normalize('NFC', name)


def _by_composed_name(source: ClipSource, option: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in source.names:
        other = names.setdefault(_composed(name), name)
        if other != name:
            value = f'{other!a} and {name!a} in {source.root}'
            raise OptionError(option, 'hold each name once, in whichever form of Unicode', value, 'Rename one of them.')
    return names


def _pair(
    gt: ClipSource,
    lq: ClipSource | None,
    gt_clip: Clip,
    lq_clip: Clip | None,
    scale: int,
    options: OptionNames,
    is_training: bool,
) -> Pair:
    """Compares length and size of two clips."""
    size = f'{gt_clip.height}x{gt_clip.width}'
    height, width = (side // scale * scale for side in (gt_clip.height, gt_clip.width))
    if not height or not width:
        rule, value = f'have frames of at least {scale}x{scale} pixels', f'{size} in {gt.where(gt_clip.name, 0)}'
        raise OptionError(options.gt, rule, value, 'Leave the clip out.')
    clip = Clip(gt_clip.name, gt_clip.num_frame, height, width)
    if lq is None or lq_clip is None:
        return Pair(clip, gt_clip, None)
    if lq_clip.num_frame != gt_clip.num_frame:
        raise OptionError(
            options.lq,
            f'have as many frames as {options.gt}, {gt_clip.num_frame} in {_folder(gt, gt_clip)}',
            f'{lq_clip.num_frame} in {_folder(lq, lq_clip)}{_too_many(gt, lq, gt_clip, lq_clip)}',
            f'Add or remove a frame, or leave the clip out with {options.clips}.',
        )
    floor = (height // scale, width // scale)
    ceiling = floor if is_training else (-(-gt_clip.height // scale), -(-gt_clip.width // scale))
    if not all(low <= side <= high for low, side, high in zip(floor, (lq_clip.height, lq_clip.width), ceiling)):
        rule = f'be {options.gt} at 1/{scale}, {floor[0]}x{floor[1]} for {size}'
        value = f'{lq_clip.height}x{lq_clip.width} in {lq.where(lq_clip.name, 0)}'
        raise OptionError(options.lq, rule, value, f'Correct {options.lq} or {options.scale}.')
    return Pair(clip, gt_clip, lq_clip)


def _too_many(gt: ClipSource, lq: ClipSource, gt_clip: Clip, lq_clip: Clip) -> str:
    """Names one of the extra frames, if the other clip has a file of the same name for each of the others."""
    fewer, more = sorted((_places(gt, gt_clip), _places(lq, lq_clip)), key=len)
    stems = {Path(place).stem for place in fewer}
    extra = [place for place in more if Path(place).stem not in stems]
    return f', {extra[0]} too many' if len(extra) == len(more) - len(fewer) else ''


def _places(source: ClipSource, clip: Clip) -> list[str]:
    return [source.where(clip.name, frame) for frame in range(clip.num_frame)]


def _folder(source: ClipSource, clip: Clip) -> str:
    """The folder of a clip, or the file with all of its frames."""
    places = _places(source, clip)
    return os.path.dirname(places[0]) if places[0] != places[-1] else places[0]


def _say(clip: Clip) -> str:
    return f'clip {clip.name} with {clip.num_frame} frames of {clip.height}x{clip.width}'


def crop_notes(pairs: Iterable[Pair], option: str) -> list[str]:
    """A line for the user if ground truth is cropped; ``option`` names the scale."""
    cropped = [pair for pair in pairs if (pair.clip.height, pair.clip.width) != (pair.gt.height, pair.gt.width)]
    if not cropped:
        return []
    clip, gt = cropped[0].clip, cropped[0].gt
    return [
        f'{option}: {len(cropped)} clips cropped to a multiple of it at the right and the bottom, {clip.name} from '
        f'{gt.height}x{gt.width} to {clip.height}x{clip.width}.'
    ]


def decode(clips: Pair, scale: int, kind: str, payload: Payload) -> np.ndarray:
    """A frame, uint8 (h, w, 3), BGR, cropped to the size of :attr:`Pair.clip`, or for ``lq`` to 1/scale of it.

    ``kind`` is ``lq`` for a frame of the LQ clip, if there is one, and else ``gt``.

    Raises:
        FrameError: If the frame does not decode, or its size is not that of its clip.
    """
    clip, stored, what = clips.gt, clips.clip, 'the ground truth'
    if kind == 'lq' and clips.lq is not None:
        clip, stored, what = clips.lq, clips.clip.shrunk(scale), 'the LQ frame'
    image = decode_image(payload) if isinstance(payload, bytes) else payload
    if image is None:
        raise FrameError(f'{what} is missing or cannot be decoded')
    if image.shape[:2] != (clip.height, clip.width):
        raise FrameError(f'{what} is {image.shape[0]}x{image.shape[1]}, not {clip.height}x{clip.width} as its clip')
    return image[: stored.height, : stored.width]


def read_frames(sources: Sources, place: int, kind: str) -> Iterator[np.ndarray]:
    """The frames of a clip in order, uint8 (h, w, 3), BGR, cropped as :attr:`Pair.clip`; ``kind`` is ``gt`` or ``lq``.

    Raises:
        FrameError: If a frame is missing or damaged, or its size is not that of its clip.
    """
    clips = sources.pairs[place]
    source, name = sources.gt, clips.gt.name
    if kind == 'lq' and sources.lq is not None and clips.lq is not None:
        source, name = sources.lq, clips.lq.name
    for number, payload in zip(range(clips.clip.num_frame), source.frames(name)):
        try:
            frame = decode(clips, sources.scale, kind, payload)
        except FrameError as error:
            where = source.where(name, number)
            raise FrameError(f'clip {clips.clip.name}, frame {number}: {error} ({where})') from None
        yield shrink(frame, sources.scale) if kind == 'lq' and clips.lq is None else frame


def shrink(frame: np.ndarray, scale: int) -> np.ndarray:
    """Shrinks a frame, uint8 (h, w, 3), by BasicSR's bicubic ``imresize`` to uint8 (h/scale, w/scale, 3)."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(frame / 255.0, 1 / scale) * 255).round().clip(0, 255).astype(np.uint8)
