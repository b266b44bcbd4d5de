"""Which clips ``datasets.train`` trains on, from one root or several, and whether they are what lies on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import read_meta_info
from multigrid_vsr.frames.pairs import OptionNames, check_backend, crop_notes, pair
from multigrid_vsr.frames.sources import ClipSource, CropSource, Images, open_for_crops, open_source
from multigrid_vsr.frames.store import FrameStore
from multigrid_vsr.frames.video import VideoSource
from multigrid_vsr.options.table import IO_BACKENDS

VAL_PARTITIONS = {'REDS4': ('000', '011', '015', '020'), 'official': tuple(f'{v:03d}' for v in range(240, 270))}
_TRAIN = 'datasets.train'
_NAMES = OptionNames(f'{_TRAIN}.dataroot_gt', f'{_TRAIN}.dataroot_lq', 'scale', f'{_TRAIN}.meta_info_file')


class MissingData(OptionError):
    """The training set is not on this machine."""


def is_vimeo(dataset_opt: Mapping[str, Any]) -> bool:
    """Whether a sample of ``datasets.train`` is a clip, as in Vimeo90K; else it is a frame of one, as in REDS."""
    return dataset_opt.get('type') == 'MultigridVimeo90KDataset'


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
    if is_vimeo(dataset_opt):
        return num_frame // 2 if dataset_opt.get('flip_sequence') else num_frame, num_frame, 1
    interval = max(dataset_opt.get('interval_list') or [1])
    return (num_frame - 1) * interval + 1, num_frame, interval


class TrainingSet:
    """The clips below one ``dataroot_gt`` and its ``dataroot_lq``: those listed, without the validation partition.

    The list is ``meta_info_file`` as BasicSR's (``000 100 (720,1280,3)`` a line); without one, every clip of
    ``dataroot_gt``. With ``skip_short_clips`` those that are too short for :func:`frames_needed` are left out.

    Args:
        dataset_opt: ``datasets.train``, with one root of each kind.

    Attributes:
        clips: The clips, with the size of the ground truth.
        num_left_out: How many were too short.

    Raises:
        MissingData: If a folder does not exist.
        OptionError: If the list cannot be read or is empty, or the clips cannot be used.
        InputError: If a frame store cannot be opened.
    """

    def __init__(self, dataset_opt: Mapping[str, Any]) -> None:
        self.opt = dataset_opt
        for kind in kinds_of_frames(dataset_opt):
            root = dataset_opt.get(f'dataroot_{kind}')
            if not isinstance(root, str) or not Path(root).expanduser().is_dir():
                raise MissingData(f'{_TRAIN}.dataroot_{kind}', 'be a folder that exists', root, 'Correct the path.')
        backend = (dataset_opt.get('io_backend') or {}).get('type')
        if backend not in IO_BACKENDS:
            near = get_close_matches(str(backend), IO_BACKENDS, n=1)
            fix = f'Did you mean `{near[0]}`?' if near else 'Set io_backend: {type: disk}.'
            raise OptionError('datasets.train.io_backend.type', f'be {", ".join(IO_BACKENDS)}', backend, fix)
        partition = dataset_opt.get('val_partition')
        if partition is not None and partition not in VAL_PARTITIONS:
            fix = 'Leave it out to train on every clip.'
            rule = f'be {" or ".join(VAL_PARTITIONS)}'
            raise OptionError('datasets.train.val_partition', rule, partition, fix)
        held_out, test_mode = VAL_PARTITIONS.get(partition or '', ()), bool(dataset_opt.get('test_mode', False))
        listed, self._gt = dataset_opt.get('meta_info_file'), None
        if listed is not None:
            clips = read_meta_info(_NAMES.clips, Path(listed).expanduser())
            clips = [clip for clip in clips if (clip.name in held_out) is test_mode]
        else:
            self._gt = self._source('gt')
            names = [name for name in self._gt.names if (name in held_out) is test_mode]
            if isinstance(self._gt, Images):
                names.sort(key=lambda name: name.split('/'))  # an order by which samples are numbered
            clips = list(self._gt.measure(names).values())
        is_skipping, least = dataset_opt.get('skip_short_clips'), 0
        if is_skipping:
            least = frames_needed(dataset_opt)[0]
        self.clips = [clip for clip in clips if clip.num_frame >= least]
        self.num_left_out = len(clips) - len(self.clips)
        if not self.clips:
            raise OptionError(
                'datasets.train',
                'hold at least one clip for training',
                0,
                'Check meta_info_file, dataroot_gt, val_partition and skip_short_clips.',
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_gt': None}  # each process opens its own

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.clips) if is_vimeo(self.opt) else sum(clip.num_frame for clip in self.clips)

    def _source(self, kind: str, names: Sequence[str] | None = None) -> ClipSource:
        option, root = f'{_TRAIN}.dataroot_{kind}', Path(self.opt[f'dataroot_{kind}']).expanduser()
        source = open_source(option, root, names=names)
        check_backend('datasets.train', source, self.opt)
        if isinstance(source, VideoSource):
            fix = 'Pack them with `multigrid-vsr prepare`.'
            raise OptionError(option, 'hold images, an LMDB or a frame store', f'videos in {root}', fix)
        return source

    def open(self, kind: str) -> CropSource:
        """Opens the frames for crops; ``kind`` is ``lq`` or ``gt``."""
        clips = self.clips if kind == 'gt' else [clip.shrunk(self.opt['scale']) for clip in self.clips]
        root = Path(self.opt[f'dataroot_{kind}']).expanduser()
        return open_for_crops(f'{_TRAIN}.dataroot_{kind}', root, clips)

    def check(self, seed: int) -> list[str]:
        """Looks every clip up in both trees: its frames are there, and LQ x scale is the ground truth, is the list.

        One header a clip is read, and of a store a few frames, drawn by the seed. What takes longer than a second
        shows its progress.

        Returns:
            What is no error but should be known, a line each.

        Raises:
            OptionError: If a clip differs, naming it and both values.
            InputError: If a store does not have the bytes that it was written with.
        """
        listed = {clip.name: clip for clip in self.clips}
        gt = self._gt or self._source('gt', list(listed))
        lq = self._source('lq', list(listed)) if 'lq' in kinds_of_frames(self.opt) else None
        pairs = pair(gt, lq, self.opt['scale'], listed, _NAMES, is_training=True).pairs
        for store in (gt, lq):
            if isinstance(store, FrameStore):
                store.check(list(listed), seed)
        notes = crop_notes(pairs, 'scale')
        longer = [pair.gt for pair in pairs if pair.gt.num_frame > listed[pair.gt.name].num_frame]
        if longer:
            notes.append(
                f'{_TRAIN}.meta_info_file: lists fewer frames than there are of {len(longer)} clips, '
                f'{listed[longer[0].name].num_frame} of the {longer[0].num_frame} of {longer[0].name}. The others are '
                'not trained on.'
            )
        return notes


_OF_EACH_ROOT = ('dataroot_gt', 'dataroot_lq', 'meta_info_file', 'weight')


def training_sets(dataset_opt: Mapping[str, Any]) -> list[TrainingSet]:
    """The clips of each root of ``datasets.train``; errors are those of :class:`TrainingSet`."""
    roots, several = dataset_opt.get('dataroot_gt'), {}
    if not isinstance(roots, list):
        for key in _OF_EACH_ROOT[1:]:
            if isinstance(dataset_opt.get(key), list):
                fix = 'Make dataroot_gt a list too.'
                raise OptionError(f'{_TRAIN}.{key}', 'be one, as dataroot_gt is', dataset_opt[key], fix)
        return [TrainingSet(dataset_opt)]
    for key in _OF_EACH_ROOT:
        value = dataset_opt.get(key)
        if value is None or (key == 'dataroot_lq' and 'lq' not in kinds_of_frames(dataset_opt)):
            continue
        if not isinstance(value, list) or len(value) != len(roots):
            rule = f'be a list of {len(roots)}, one for each dataroot_gt'
            raise OptionError(f'{_TRAIN}.{key}', rule, value, 'Add or remove entries.')
        several[key] = value
    return [
        TrainingSet({**dataset_opt, **{key: value[place] for key, value in several.items()}})
        for place in range(len(roots))
    ]


def samples_of_each(sets: Sequence[TrainingSet], dataset_opt: Mapping[str, Any]) -> list[int]:
    """How many samples of each root a pass over the data has: all of it, and more where ``weight`` asks for that."""
    weights = dataset_opt.get('weight')
    if weights is None:
        return [len(of_root) for of_root in sets]
    unit = max(len(of_root) / weight for of_root, weight in zip(sets, weights))
    return [max(len(of_root), math.ceil(unit * weight)) for of_root, weight in zip(sets, weights)]
