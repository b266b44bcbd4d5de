"""Whether the training clips hold what a schedule asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.frames.clip import VIMEO90K_NAMES, Clip
from multigrid_vsr.frames.clips import frame_names


def check_clips(clips: Sequence[Clip], schedule: Schedule, dataset_opt: Mapping[str, Any], world_size: int) -> None:
    """Compares every clip with the largest shape, and all samples with the largest global batch.

    Args:
        clips: The clips of ``datasets.train``.
        schedule: Shapes of the run.
        dataset_opt: ``datasets.train``.
        world_size: Number of GPUs.

    Raises:
        OptionError: If a clip is too short or its frames too small, or a global batch holds more than the data.
    """
    shapes = [segment.shape for segment in schedule.segments]
    num_frame = max(shape.num_frame for shape in shapes)
    is_vimeo = frame_names(dataset_opt) == VIMEO90K_NAMES
    flips = is_vimeo and bool(dataset_opt.get('flip_sequence'))
    interval = 1 if is_vimeo else max(dataset_opt.get('interval_list') or [1])
    needed = num_frame // 2 if flips else (num_frame - 1) * interval + 1
    shortest = min(clips, key=lambda clip: clip.num_frame)
    if shortest.num_frame < needed:
        raise OptionError(
            'datasets.train.num_frame',
            f'fit every clip ({needed} frames needed with an interval of {interval})',
            f'{num_frame} for clip {shortest.name} of {shortest.num_frame} frames',
            'Lower it, or leave the clip out of meta_info_file.',
        )
    gt_size = max(shape.gt_size for shape in shapes)
    smallest = min(clips, key=lambda clip: min(clip.height, clip.width))
    if min(smallest.height, smallest.width) < gt_size:
        raise OptionError(
            'datasets.train.gt_size',
            'fit into every frame',
            f'{gt_size} for clip {smallest.name} of {smallest.height}x{smallest.width}',
            'Lower it, or leave the clip out of meta_info_file.',
        )
    # A sample is a frame of a clip in REDS, a clip in Vimeo90K.
    num_samples = len(clips) if is_vimeo else sum(clip.num_frame for clip in clips)
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
