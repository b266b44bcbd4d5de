"""Whether the training set is what the options say, and holds what a schedule asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.frames.clip import VIMEO90K_NAMES, Clip
from multigrid_vsr.frames.clips import frame_names, frames_needed, kinds_of_frames, training_clips
from multigrid_vsr.frames.compare import compare_with_files, say_changed_sources
from multigrid_vsr.frames.frame_store import FrameStore
from multigrid_vsr.options.arch_limits import target_of
from multigrid_vsr.options.known_types import DATASET_TYPES, STOCK_DATASETS
from multigrid_vsr.options.multigrid_block import uses_multigrid


@dataclass(frozen=True)
class CheckedData:
    """What a run trains on, and what its user should know about it, a line each.

    Attributes:
        clips: The clips of a dataset of this project; empty for another one.
        summary: How much it is, in words.
        notes: What should be known.
    """

    clips: tuple[Clip, ...]
    summary: str
    notes: tuple[str, ...]


def check_data(opt: Mapping[str, Any], schedule: Schedule, world_size: int) -> CheckedData:
    """Checks all that can be known of the training set without decoding a frame; of a store, checksums of some frames.

    Of a dataset of BasicSR or the user's own a sample of each shape is loaded.

    Args:
        opt: The options of the run.
        schedule: Shapes of the run.
        world_size: Number of GPUs.

    Raises:
        MissingData: If the training set is not on this machine.
        OptionError: If the list, the ground truth and the LQ frames disagree, a clip is too short or its frames too
            small, or a global batch holds more than the data.
        InputError: If a frame store cannot be opened.
    """
    dataset_opt = {
        'phase': 'train',
        'scale': opt.get('scale', 1),
        **opt['datasets']['train'],
        'multigrid': schedule,
        'degraded': opt['train'].get('degradation') is not None,
    }
    if uses_multigrid(opt) and dataset_opt['type'] not in DATASET_TYPES:
        from multigrid_vsr.data.dataset_check import layout_of, try_dataset  # with BasicSR, which takes seconds

        layout = layout_of(dataset_opt['type'])
        if layout is None:
            num_samples = try_dataset({**dataset_opt, 'target': target_of(opt)}, schedule)
            _check_batches(num_samples, schedule, world_size)
            return CheckedData((), f'{num_samples} samples of {dataset_opt["type"]}.', ())
        dataset_opt['type'] = layout
    clips = training_clips(dataset_opt)
    notes = _left_out(clips, dataset_opt)
    notes += compare_with_files(clips, dataset_opt)
    if dataset_opt['io_backend']['type'] == 'packed':
        for kind in kinds_of_frames(dataset_opt):
            store = FrameStore(Path(dataset_opt[f'dataroot_{kind}']).expanduser())
            store.check([clip.name for clip in clips], opt.get('manual_seed') or 0)
    check_clips(clips, schedule, dataset_opt, world_size)
    notes += say_changed_sources(dataset_opt)
    frames = sum(clip.num_frame for clip in clips)
    return CheckedData(tuple(clips), f'{len(clips)} clips of {frames} frames.', tuple(notes))


def _left_out(clips: Sequence[Clip], dataset_opt: Mapping[str, Any]) -> list[str]:
    if not dataset_opt.get('skip_short_clips'):
        return []
    number = len(training_clips({**dataset_opt, 'skip_short_clips': False})) - len(clips)
    needed = frames_needed(dataset_opt)[0]
    return [f'datasets.train.skip_short_clips: {number} clips of fewer than {needed} frames left out.']


def check_clips(clips: Sequence[Clip], schedule: Schedule, dataset_opt: Mapping[str, Any], world_size: int) -> None:
    """Compares every clip with the largest shape, and all samples with the largest global batch.

    Args:
        clips: The clips of ``datasets.train``.
        schedule: Shapes of the run.
        dataset_opt: ``datasets.train``, with the schedule as ``multigrid``.
        world_size: Number of GPUs.

    Raises:
        OptionError: If a clip is too short or its frames too small, or a global batch holds more than the data.
    """
    needed, num_frame, interval = frames_needed(dataset_opt)
    shortest = min(clips, key=lambda clip: clip.num_frame)
    if shortest.num_frame < needed:
        raise OptionError(
            'datasets.train.num_frame',
            f'fit every clip ({needed} frames needed with an interval of {interval})',
            f'{num_frame} for clip {shortest.name} of {shortest.num_frame} frames',
            'Lower it, or set datasets.train.skip_short_clips: true.',
        )
    gt_size = max(segment.shape.gt_size for segment in schedule.segments)
    smallest = min(clips, key=lambda clip: min(clip.height, clip.width))
    if min(smallest.height, smallest.width) < gt_size:
        raise OptionError(
            'datasets.train.gt_size',
            'fit into every frame',
            f'{gt_size} for clip {smallest.name} of {smallest.height}x{smallest.width}',
            'Lower it, or leave the clip out of meta_info_file.',
        )
    _check_batches(_num_samples(clips, dataset_opt), schedule, world_size)


def count_samples(opt: Mapping[str, Any]) -> int | None:
    """Samples of the training set of a stock file; ``None`` where it is not on this machine or cannot be read."""
    dataset_opt = opt['datasets']['train']
    dataset_opt = {**dataset_opt, 'type': STOCK_DATASETS.get(dataset_opt.get('type'))}
    try:
        return _num_samples(training_clips(dataset_opt), dataset_opt)
    except InputError:
        return None


def _num_samples(clips: Sequence[Clip], dataset_opt: Mapping[str, Any]) -> int:
    """A sample is a frame of a clip in REDS, a clip in Vimeo90K."""
    is_vimeo = frame_names(dataset_opt) == VIMEO90K_NAMES
    return len(clips) if is_vimeo else sum(clip.num_frame for clip in clips)


def _check_batches(num_samples: int, schedule: Schedule, world_size: int) -> None:
    for segment in schedule.segments:
        global_batch = segment.shape.batch_size_per_gpu * world_size
        if global_batch > num_samples:
            option = 'datasets.train' if segment.shape == schedule.full_shape else 'multigrid'
            raise OptionError(
                f'{option}.batch_size_per_gpu',
                f'be at most the {num_samples} samples of the data',
                f'{segment.shape.batch_size_per_gpu} on {world_size} GPUs at gt_size '
                f'{segment.shape.gt_size} and num_frame {segment.shape.num_frame}',
                'Lower it.',
            )
