"""The clips that ``datasets.train`` trains on, from one root or several, compared with the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import read_meta_info
from multigrid_vsr.frames.pairs import OptionNames, check_backend, crop_notes, pair
from multigrid_vsr.frames.sources import ClipSource, CropSource, Images, VideoSource, open_source
from multigrid_vsr.frames.store import FrameStore
from multigrid_vsr.options.kinds import refuse

VAL_PARTITIONS = {'REDS4': ('000', '011', '015', '020'), 'official': tuple(f'{v:03d}' for v in range(240, 270))}
_TRAIN = 'datasets.train'
_NAMES = OptionNames.of(_TRAIN)


class MissingData(OptionError):
    """The training set is not on this machine."""


def is_vimeo(dataset_opt: Mapping[str, Any]) -> bool:
    """Whether a sample of ``datasets.train`` is a whole clip, as in Vimeo90K, and not a frame of a clip, as in REDS."""
    return dataset_opt.get('type') == 'MultigridVimeo90KDataset'


def kinds_of_frames(dataset_opt: Mapping[str, Any]) -> tuple[str, ...]:
    """``gt``, and ``lq`` unless the model makes it (``train.degradation``)."""
    return ('gt',) if dataset_opt.get('degraded') else ('gt', 'lq')


def frames_needed(dataset_opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """The frames that a clip needs for the longest sample, the frames of that sample, and their largest interval.

    ``dataset_opt`` is ``datasets.train``, with the :class:`Schedule`, if there is one, as ``multigrid``.
    """
    schedule = dataset_opt.get('multigrid')
    num_frame = max(s.shape.num_frame for s in schedule.segments) if schedule else dataset_opt['num_frame']
    if is_vimeo(dataset_opt):
        return num_frame // 2 if dataset_opt.get('flip_sequence') else num_frame, num_frame, 1
    interval = max(dataset_opt.get('interval_list') or [1])
    return (num_frame - 1) * interval + 1, num_frame, interval


class TrainingSet:
    """The clips of one ``dataroot_gt`` and its ``dataroot_lq``, without the validation partition.

    ``meta_info_file`` lists the clips as BasicSR does; without it every clip of ``dataroot_gt`` is taken.
    ``skip_short_clips`` leaves out clips that are shorter than :func:`frames_needed`.

    Attributes:
        clips: The clips, with the size of the ground truth.
        num_left_out: How many clips were too short.

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
        partition = dataset_opt.get('val_partition')
        if partition not in (None, *VAL_PARTITIONS):
            rule, fix = f'be {" or ".join(VAL_PARTITIONS)}', 'Leave it out to train on every clip.'
            raise OptionError(f'{_TRAIN}.val_partition', rule, partition, fix)
        held_out = VAL_PARTITIONS.get(partition or '', ())
        test_mode = bool(dataset_opt.get('test_mode', False))
        listed, self._gt = dataset_opt.get('meta_info_file'), None
        if listed is not None:
            clips = read_meta_info(_NAMES.clips, Path(listed).expanduser())
            clips = [clip for clip in clips if (clip.name in held_out) is test_mode]
        else:
            self._gt = self._source('gt')
            names = [name for name in self._gt.names if (name in held_out) is test_mode]
            if isinstance(self._gt, Images):
                names.sort(key=lambda name: name.split('/'))  # samples are numbered in this order
            clips = list(self._gt.measure(names).values())
        least = frames_needed(dataset_opt)[0] if dataset_opt.get('skip_short_clips') else 0
        self.clips = [clip for clip in clips if clip.num_frame >= least]
        self.num_left_out = len(clips) - len(self.clips)
        if not self.clips:
            fix = 'Check meta_info_file, dataroot_gt, val_partition and skip_short_clips.'
            raise OptionError(_TRAIN, 'hold at least one clip for training', 0, fix)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_gt': None}  # each process opens its own

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.clips) if is_vimeo(self.opt) else sum(clip.num_frame for clip in self.clips)

    def _source(self, kind: str, names: Sequence[str] | None = None) -> ClipSource:
        option, root = f'{_TRAIN}.dataroot_{kind}', Path(self.opt[f'dataroot_{kind}']).expanduser()
        source = open_source(option, root, names=names)
        check_backend(_TRAIN, source, self.opt)
        if isinstance(source, VideoSource):
            fix = 'Pack them with `multigrid-vsr prepare`.'
            raise OptionError(option, 'hold images, an LMDB or a frame store', f'videos in {root}', fix)
        return source

    def open(self, kind: str) -> CropSource:
        """Opens the frames for crops; ``kind`` is ``lq`` or ``gt``."""
        clips = {clip.name: clip if kind == 'gt' else clip.shrunk(self.opt['scale']) for clip in self.clips}
        source = self._source(kind, list(clips))
        if isinstance(source, Images):
            source.clips = clips  # the size that each frame must have
        return cast(CropSource, source)

    def check(self, seed: int) -> list[str]:
        """Compares ground truth, LQ frames and list, by names and one header of each clip.

        Of a store it compares the checksums of a few frames, which the seed draws.

        Returns:
            Lines for the user.

        Raises:
            OptionError: If a clip differs.
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
            first = longer[0]
            notes.append(
                f'{_NAMES.clips}: lists fewer frames than there are of {len(longer)} clips, '
                f'{listed[first.name].num_frame} of the {first.num_frame} of {first.name}. The others are not used.'
            )
        return notes


def training_sets(dataset_opt: Mapping[str, Any]) -> list[TrainingSet]:
    """The clips of each root of ``datasets.train``; errors are those of :class:`TrainingSet`."""
    roots, several = dataset_opt.get('dataroot_gt'), {}
    for key in ('dataroot_gt', 'dataroot_lq', 'meta_info_file', 'weight'):
        value = dataset_opt.get(key)
        if value is None or (key == 'dataroot_lq' and 'lq' not in kinds_of_frames(dataset_opt)):
            continue
        option, several[key] = f'{_TRAIN}.{key}', value
        if isinstance(roots, list):
            rule = f'be a list of {len(roots)}, one for each dataroot_gt'
            is_other = not isinstance(value, list) or len(value) != len(roots)
            refuse(is_other, option, rule, value, 'Add or remove entries.')
        else:
            refuse(isinstance(value, list), option, 'be one, as dataroot_gt is', value, 'Make dataroot_gt a list too.')
    if not isinstance(roots, list):
        return [TrainingSet(dataset_opt)]
    return [TrainingSet({**dataset_opt, **dict(zip(several, values))}) for values in zip(*several.values())]


def samples_of_each(sets: Sequence[TrainingSet], dataset_opt: Mapping[str, Any]) -> list[int]:
    """The samples of each root in a pass over the data. ``weight`` repeats samples, and leaves none out."""
    weights = dataset_opt.get('weight')
    if weights is None:
        return [len(of_root) for of_root in sets]
    unit = max(len(of_root) / weight for of_root, weight in zip(sets, weights))
    return [max(len(of_root), math.ceil(unit * weight)) for of_root, weight in zip(sets, weights)]
