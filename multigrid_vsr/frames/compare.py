"""Compares the clips of a training set with what lies on the disk, header by header, and stores with their sources."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import Clip, FrameNames
from multigrid_vsr.frames.clips import frame_names, kinds_of_frames
from multigrid_vsr.frames.found import Finder, Found, finder
from multigrid_vsr.frames.image_size import check_images
from multigrid_vsr.frames.store_info import FINISHED, read_origin, stamp

_THREADS = 16  # most of the time goes into waiting where the frames lie on another machine
_AT_A_TIME = 256  # clips, or files


def compare_with_files(clips: Sequence[Clip], dataset_opt: Mapping[str, Any]) -> list[str]:
    """Looks every clip up in both trees: its frames are there, and LQ x scale is the ground truth, is the list.

    One header a clip is read. What takes longer than a second shows its progress.

    Args:
        clips: The clips of ``datasets.train``.
        dataset_opt: ``datasets.train``, with ``scale``.

    Returns:
        What is no error but should be known.

    Raises:
        OptionError: If a clip differs, naming it and both values.
    """
    backend, names = dataset_opt['io_backend']['type'], frame_names(dataset_opt)
    finders = {
        kind: finder(str(Path(dataset_opt[f'dataroot_{kind}']).expanduser()), backend, names)
        for kind in kinds_of_frames(dataset_opt)
    }
    has_list = dataset_opt.get('meta_info_file') is not None
    compare = partial(_compare, finders, names if backend == 'disk' else None, dataset_opt['scale'], has_list)
    longer = [pair for pair in _in_threads(compare, clips, 'Check the clips') if pair is not None]
    if not longer:
        return []
    clip, found = longer[0]
    return [
        f'datasets.train.meta_info_file: lists fewer frames than there are of {len(longer)} clips, {clip.num_frame} of '
        f'the {found.num_frame} in {found.where}. The others are not trained on.'
    ]


def _compare(
    finders: Mapping[str, Finder], names: FrameNames | None, scale: int, has_list: bool, clip: Clip
) -> tuple[Clip, Found] | None:
    """Raises where the clip differs; gives it back where it has more frames than the list says."""
    of_kind = {kind: find(clip.name, clip.num_frame) for kind, find in finders.items()}
    for kind, found in of_kind.items():
        if found.num_frame < clip.num_frame or (found.num_frame > clip.num_frame and not has_list):
            _refuse_count(kind, found, clip, has_list)
        if found.size is None:
            raise OptionError(f'datasets.train.dataroot_{kind}', 'hold images', found.first, 'Replace it.')
        if names is not None:
            files = [Path(found.where, names.file(frame)) for frame in range(clip.num_frame)]
            check_images(f'datasets.train.dataroot_{kind}', files)
    gt, lq = of_kind['gt'], of_kind.get('lq')
    if gt.size != (clip.height, clip.width):
        raise OptionError(
            'datasets.train.meta_info_file' if has_list else 'datasets.train.dataroot_gt',
            f'say the size of the frames, {_say(gt.size)} in {gt.first}',
            f'{clip.height}x{clip.width} for clip {clip.name}',
            'Correct it (height, width), or leave meta_info_file out.',
        )
    if lq is not None and lq.size is not None and (lq.size[0] * scale, lq.size[1] * scale) != gt.size:
        raise OptionError(
            'datasets.train.dataroot_lq',
            f'hold frames of 1/{scale} of the ground truth, {_say(gt.size)} in {gt.first}',
            f'{_say(lq.size)} in {lq.first}',
            'Correct the path or scale.',
        )
    return (clip, gt) if gt.num_frame > clip.num_frame else None


def _refuse_count(kind: str, found: Found, clip: Clip, has_list: bool) -> None:
    what = f'{clip.num_frame} of clip {clip.name}'
    rule = f'hold the frames that meta_info_file lists, {what}' if has_list else f'hold those of dataroot_gt, {what}'
    less = f' (without {found.missing})' if found.num_frame < clip.num_frame else ''
    fix = 'Correct the path or the list.' if has_list else 'Correct the path, or list the clips in meta_info_file.'
    raise OptionError(f'datasets.train.dataroot_{kind}', rule, f'{found.num_frame} in {found.where}{less}', fix)


def say_changed_sources(dataset_opt: Mapping[str, Any]) -> list[str]:
    """Says which files of the stores' sources have changed since, where they can be seen from here.

    Args:
        dataset_opt: ``datasets.train``.
    """
    if dataset_opt['io_backend']['type'] != 'packed':
        return []
    notes = []
    for key in (f'dataroot_{kind}' for kind in kinds_of_frames(dataset_opt)):
        origin = read_origin(Path(dataset_opt[key]).expanduser() / FINISHED)
        if origin is None or not os.path.exists(origin.root):
            continue
        files = list(dict.fromkeys(file for of_clip in origin.files.values() for file in of_clip))
        states = list(_in_threads(partial(_state, origin.root), files, 'Check the sources'))
        changed = [file[0] for file, state in zip(files, states) if state != 'same']
        if changed and set(states) != {'gone'}:  # all gone: it is another folder of that name
            notes.append(
                f'datasets.train.{key}: {len(changed)} of {len(files)} files in {origin.root} have changed since they '
                f'were packed ({changed[0] or "it"}). Run `multigrid-vsr prepare` again to train on what they are now.'
            )
    return notes


def _state(root: str, file: tuple[str, int, int]) -> str:
    path, *expected = file
    try:
        return 'same' if list(stamp(f'{root}/{path}' if path else root)) == expected else 'changed'
    except OSError:
        return 'gone'


def _in_threads(function: Any, items: Sequence[Any], title: str) -> Iterator[Any]:
    """Maps in order, showing the progress on the first rank where it takes longer than a second."""
    parts = [items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME)]
    is_quiet = os.environ.get('RANK', '0') != '0'
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(desc=title, total=len(items), delay=1, leave=False, disable=is_quiet) as bar,
    ):
        try:
            for results in pool.map(lambda part: [function(item) for item in part], parts):
                bar.update(len(results))
                yield from results
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _say(size: Sequence[int] | None) -> str:
    assert size is not None
    return f'{size[0]}x{size[1]}'
