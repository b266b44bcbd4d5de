"""Which clips a dataset holds, and whether they are what lies on the disk. Reads text and headers, never pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import (
    REDS_NAMES,
    VIMEO90K_NAMES,
    Clip,
    FrameNames,
    is_system,
    read_lmdb_list,
    read_meta_info,
)
from multigrid_vsr.frames.images import check_images, image_size
from multigrid_vsr.frames.readers import Finder, Found, finder
from multigrid_vsr.frames.store import FrameStore
from multigrid_vsr.options.table import IO_BACKENDS

VAL_PARTITIONS = {'REDS4': ('000', '011', '015', '020'), 'official': tuple(f'{v:03d}' for v in range(240, 270))}


class MissingData(OptionError):
    """The training set is not on this machine."""


def frame_names(dataset_opt: Mapping[str, Any]) -> FrameNames:
    """How the frames of ``datasets.train`` are named."""
    return VIMEO90K_NAMES if dataset_opt.get('type') == 'MultigridVimeo90KDataset' else REDS_NAMES


def kinds_of_frames(dataset_opt: Mapping[str, Any]) -> tuple[str, ...]:
    """What is read of ``datasets.train``: ``gt``, and ``lq`` unless the model makes it (``train.degradation``)."""
    return ('gt',) if dataset_opt.get('degraded') else ('gt', 'lq')


def frames_needed(dataset_opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """How many frames a clip must have for the longest sample of ``datasets.train``.

    Args:
        dataset_opt: The options, with the :class:`Schedule` as ``multigrid`` where there is one.

    Returns:
        The frames of a clip, those of the sample, and the largest interval between them.
    """
    schedule = dataset_opt.get('multigrid')
    num_frame = max(s.shape.num_frame for s in schedule.segments) if schedule else dataset_opt['num_frame']
    if frame_names(dataset_opt) == VIMEO90K_NAMES:
        return num_frame // 2 if dataset_opt.get('flip_sequence') else num_frame, num_frame, 1
    interval = max(dataset_opt.get('interval_list') or [1])
    return (num_frame - 1) * interval + 1, num_frame, interval


def training_clips(dataset_opt: Mapping[str, Any]) -> list[Clip]:
    """The clips that ``datasets.train`` trains on: those listed, without the validation partition.

    The list is ``meta_info_file`` as BasicSR's (``000 100 (720,1280,3)`` a line); without one, what the frame store
    holds, the LMDB's own ``meta_info.txt``, or the folders of ``dataroot_gt``. With ``skip_short_clips`` those that
    are too short for :func:`frames_needed` are left out.

    Raises:
        MissingData: If a folder does not exist.
        OptionError: If the list cannot be read or is empty, or the two frame stores are no pair.
        InputError: If a frame store cannot be opened.
    """
    for kind in kinds_of_frames(dataset_opt):
        root = dataset_opt.get(f'dataroot_{kind}')
        if not isinstance(root, str) or not Path(root).expanduser().is_dir():
            raise MissingData(f'datasets.train.dataroot_{kind}', 'be a folder that exists', root, 'Correct the path.')
    backend = (dataset_opt.get('io_backend') or {}).get('type')
    if backend not in IO_BACKENDS:
        near = get_close_matches(str(backend), IO_BACKENDS, n=1)
        fix = f'Did you mean `{near[0]}`?' if near else 'Set io_backend: {type: disk}.'
        raise OptionError('datasets.train.io_backend.type', f'be {", ".join(IO_BACKENDS)}', backend, fix)
    partition = dataset_opt.get('val_partition')
    if partition is not None and partition not in VAL_PARTITIONS:
        raise OptionError(
            'datasets.train.val_partition',
            f'be {" or ".join(VAL_PARTITIONS)}',
            partition,
            'Leave it out to train on every clip.',
        )
    held_out = VAL_PARTITIONS.get(partition or '', ())
    test_mode = bool(dataset_opt.get('test_mode', False))
    clips = [clip for clip in _listed_clips(dataset_opt, backend) if (clip.name in held_out) is test_mode]
    if dataset_opt.get('skip_short_clips'):
        clips = [clip for clip in clips if clip.num_frame >= frames_needed(dataset_opt)[0]]
    if not clips:
        raise OptionError(
            'datasets.train',
            'hold at least one clip for training',
            0,
            'Check meta_info_file, dataroot_gt, val_partition and skip_short_clips.',
        )
    return clips


def _listed_clips(dataset_opt: Mapping[str, Any], backend: str) -> list[Clip]:
    root = Path(dataset_opt['dataroot_gt']).expanduser()
    meta_info = dataset_opt.get('meta_info_file')
    stored = _stored_clips(dataset_opt, root) if backend == 'packed' else None
    if meta_info is not None:
        return read_meta_info('datasets.train.meta_info_file', Path(meta_info).expanduser())
    if stored is not None:
        return stored
    if backend == 'lmdb':
        return read_lmdb_list('datasets.train.dataroot_gt', root)[0]
    return scan_folders('datasets.train.dataroot_gt', root, frame_names(dataset_opt))


def _stored_clips(dataset_opt: Mapping[str, Any], root: Path) -> list[Clip]:
    """What the pair of stores holds, or the one of the ground truth."""
    gt = FrameStore(root).info
    if kinds_of_frames(dataset_opt) == ('gt',):
        return list(gt.clips)
    lq = FrameStore(Path(dataset_opt['dataroot_lq']).expanduser()).info
    scale = dataset_opt.get('scale', gt.scale)
    shrunk = [clip.shrunk(gt.scale) for clip in gt.clips]
    if gt.scale != scale:
        raise OptionError('scale', f'be that of the frame store ({gt.scale})', scale, 'Prepare a store for it.')
    if shrunk != list(lq.clips):
        raise OptionError(
            'datasets.train.dataroot_lq',
            f'be the pair of {root}',
            dataset_opt['dataroot_lq'],
            'Give STORE/lq beside STORE/gt.',
        )
    return list(gt.clips)


def scan_folders(option: str, root: Path, names: FrameNames) -> list[Clip]:
    """The clips in the folders below ``root``, hidden and system ones left out.

    Raises:
        OptionError: If a folder holds no frames, misses one or holds other images.
    """
    folders = ['']
    for _ in range(names.depth):
        folders = [f'{folder}/{name}' for folder in folders for name in _folders_in(f'{root}{folder}')]
    return [_scan_folder(option, root, folder[1:], names) for folder in folders]


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_system(entry.name) and os.path.isdir(entry.path))


def _scan_folder(option: str, root: Path, name: str, names: FrameNames) -> Clip:
    folder = f'{root}/{name}'
    files = {file for file in os.listdir(folder) if file.endswith('.png') and not is_system(file)}
    num_frame = names.count(files)
    others = sorted(files.difference(map(names.file, range(num_frame)))) if num_frame < len(files) else []
    rule = f'hold folders of frames {names.file(0)}, {names.file(1)}, ... without a gap'
    if num_frame == 0:
        found = f'{folder} with {others[0]}' if others else f'{folder} without {names.file(0)}'
        fix = '`multigrid-vsr prepare` takes frames under any names: train on its store.'
        raise OptionError(option, rule, found, fix)
    if others and names.is_one(others[0]):
        fix = 'Add the frame, or list the clips in meta_info_file.'
        raise OptionError(option, rule, f'{folder} without {names.file(num_frame)}', fix)
    if others:
        raise OptionError(option, rule, f'{folder}/{others[0]} too', 'Move it elsewhere.')
    first = f'{folder}/{names.file(0)}'
    size = image_size(first)
    if size is None:
        raise OptionError(option, 'hold images', first, 'Replace the file.')
    return Clip(name, num_frame, *size)


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
