"""Whether the training set and the test sets are what the options say, and hold what a schedule asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.images import Size, check_images, image_size
from multigrid_vsr.frames.pairs import check_names, open_eval_clips
from multigrid_vsr.frames.sources import Images
from multigrid_vsr.frames.training import frames_needed, samples_of_each, training_sets
from multigrid_vsr.options.archs import (
    DATASET_TYPES,
    STOCK_DATASETS,
    STOCK_TEST_SETS,
    TEST_SET_TYPES,
    ArchLimits,
    limits_in,
    limits_of,
    target_of,
    window_of,
)
from multigrid_vsr.options.kinds import did_you_mean
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
        from multigrid_vsr.data.dataset_adapter import layout_of, try_dataset  # with BasicSR, which takes seconds

        layout = layout_of(dataset_opt['type'])
        if layout is None:
            num_samples = try_dataset({**dataset_opt, 'target': target_of(opt)}, schedule)
            _check_batches(num_samples, schedule, world_size)
            return CheckedData((), f'{num_samples} samples of {dataset_opt["type"]}.', ())
        dataset_opt['type'] = layout
    sets = training_sets(dataset_opt)
    left_out = sum(of_root.num_left_out for of_root in sets)
    notes = [note for of_root in sets for note in of_root.check(opt.get('manual_seed') or 0)]
    if left_out:
        needed = frames_needed(dataset_opt)[0]
        notes.insert(0, f'datasets.train.skip_short_clips: {left_out} clips of fewer than {needed} frames left out.')
    clips = tuple(clip for of_root in sets for clip in of_root.clips)
    check_clips(clips, schedule, dataset_opt)
    samples = samples_of_each(sets, dataset_opt)
    _check_batches(sum(samples), schedule, world_size)
    summary = f'{len(clips)} clips of {sum(clip.num_frame for clip in clips)} frames.'
    if len(sets) > 1:
        parts = ' and '.join(f'{100 * part / sum(samples):.1f}%' for part in samples)
        summary += f' {len(sets)} roots, which give {parts} of the samples.'
    return CheckedData(clips, summary, tuple(notes))


def check_clips(clips: Sequence[Clip], schedule: Schedule, dataset_opt: Mapping[str, Any]) -> None:
    """Compares every clip with the largest shape.

    Args:
        clips: The clips of ``datasets.train``.
        schedule: Shapes of the run.
        dataset_opt: ``datasets.train``, with the schedule as ``multigrid``.

    Raises:
        OptionError: If a clip is too short or its frames too small.
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


def count_samples(opt: Mapping[str, Any]) -> int | None:
    """Samples of the training set of a stock file; ``None`` where it is not on this machine or cannot be read."""
    dataset_opt = opt['datasets']['train']
    dataset_opt = {**dataset_opt, 'type': STOCK_DATASETS.get(dataset_opt.get('type'))}
    try:
        return sum(map(len, training_sets(dataset_opt)))
    except InputError:
        return None


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


_OF_FOLDERS = ('VideoTestDataset', 'VideoTestDUFDataset', 'VideoRecurrentTestDataset')
_NAMES = ('vid4', 'reds4', 'redsofficial')  # all that BasicSR's take
_LEAST_SIDES = {'calculate_psnr': 1, 'calculate_ssim': 11}  # SSIM's window
_PADDINGS = ('replicate', 'reflection', 'reflection_circle', 'circle')


def check_test_set(name: str, opt: Mapping[str, Any]) -> int:
    """Compares a test set with what BasicSR's class, the scale and the arch ask of it.

    Args:
        name: Its dotted name, such as ``datasets.val``.
        opt: The options of a training run or a test, with the folders of this test set in place.

    Returns:
        The number of its clips; 0 where the class is not known here.

    Raises:
        OptionError: If something does not fit.
    """
    val_opt = opt['datasets'][name.removeprefix('datasets.')]
    kind = val_opt['type']
    _check_name(name, opt['datasets'])
    if 'meta_info_file' in val_opt and val_opt['meta_info_file'] is None:
        raise OptionError(f'{name}.meta_info_file', 'be a file or left out', None, 'Remove the line.')
    if kind in TEST_SET_TYPES:
        return _check_clips(name, {**val_opt, 'scale': opt.get('scale', 1)}, limits_in(opt) or ArchLimits(), opt)
    if kind in STOCK_TEST_SETS and val_opt['io_backend'].get('type') != 'disk':
        raise OptionError(
            f'{name}.io_backend.type', 'be disk for a test set', val_opt['io_backend'].get('type'), 'Change it.'
        )
    scale, limits = int(opt.get('scale', 1)), limits_of(opt['network_g'])
    if kind == 'VideoTestVimeo90KDataset':
        return _check_septuplets(name, val_opt, scale, limits or ArchLimits())
    if kind not in _OF_FOLDERS:
        return 0
    _check_options(name, val_opt, window_of(opt))
    clips = _clips(name, val_opt)
    for clip, gt, lq in clips:
        if kind == 'VideoTestDUFDataset' and val_opt.get('use_duf_downsampling'):
            continue  # its LQ frames are made of the others
        _check_metrics(opt, clip, _check_pair(name, clip, gt, lq, scale, limits or ArchLimits()))
    return len(clips)


def _check_name(name: str, datasets: Mapping[str, Any]) -> None:
    """Pictures, figures and the best iteration of a test set go by its name."""
    key = name.removeprefix('datasets.')
    for other, dataset_opt in datasets.items():
        if other == key:
            return
        if other != 'train' and isinstance(dataset_opt, Mapping) and dataset_opt.get('name') == datasets[key]['name']:
            rule = f'differ from that of datasets.{other}'
            raise OptionError(f'{name}.name', rule, datasets[key]['name'], 'Give each test set a name of its own.')


def _check_metrics(opt: Mapping[str, Any], clip: str, gt: Size) -> None:
    """Whether borders leave something to measure: BasicSR's PSNR and SSIM give NaN where they do not."""
    for metric, metric_opt in ((opt.get('val') or {}).get('metrics') or {}).items():
        least = _LEAST_SIDES.get(metric_opt.get('type'))
        if least is not None and min(gt) - 2 * metric_opt.get('crop_border', 0) < least:
            raise OptionError(
                f'val.metrics.{metric}.crop_border',
                f'leave {least} pixels or more of each side for {metric_opt["type"]}',
                f'{metric_opt.get("crop_border", 0)} for frames of {gt[0]}x{gt[1]} in clip {clip}',
                'Lower it, or leave the metric or the clip out.',
            )


def _check_clips(name: str, val_opt: Mapping[str, Any], limits: ArchLimits, opt: Mapping[str, Any]) -> int:
    """Clips of any kind: how they pair, and whether the frames of each have one size."""
    if val_opt.get('padding') not in (None, *_PADDINGS):
        raise OptionError(f'{name}.padding', f'be {", ".join(_PADDINGS)}', val_opt['padding'], 'Choose one.')
    sources = open_eval_clips(name, val_opt)
    for clips in sources.pairs:
        if clips.clip.num_frame < limits.min_num_frame:
            rule = f'hold clips of at least {limits.min_num_frame} frames for this arch'
            fix = 'Leave it out with meta_info_file.'
            raise OptionError(f'{name}.dataroot_gt', rule, f'{clips.clip.num_frame} in {clips.clip.name}', fix)
        _check_metrics(opt, clips.clip.name, (clips.clip.height, clips.clip.width))
        for key, source, clip in (('gt', sources.gt, clips.gt), ('lq', sources.lq, clips.lq)):
            if isinstance(source, Images) and clip is not None:
                _one_size(f'{name}.dataroot_{key}', clip.name, [source.root / file for file in source.files(clip.name)])
    return len(sources.pairs)


def _check_options(name: str, val_opt: Mapping[str, Any], window: int | None) -> None:
    if val_opt['name'].lower() not in _NAMES:
        fix = did_you_mean(val_opt['name'].lower(), _NAMES, 'Or set type: MultigridVideoTestDataset, which takes any.')
        raise OptionError(f'{name}.name', 'be Vid4, REDS4 or REDSofficial, as BasicSR asks', val_opt['name'], fix)
    if val_opt['type'] == 'VideoRecurrentTestDataset':
        if not val_opt['cache_data']:
            raise OptionError(f'{name}.cache_data', 'be true for a VideoRecurrentTestDataset', False, 'Change it.')
        return
    if val_opt.get('padding') not in _PADDINGS:
        raise OptionError(f'{name}.padding', f'be {", ".join(_PADDINGS)}', val_opt.get('padding'), 'Choose one.')
    if window is not None and val_opt['num_frame'] != window:
        raise OptionError(
            f'{name}.num_frame', f'be that of the arch ({window})', val_opt['num_frame'], 'Make them equal.'
        )


def _clips(name: str, val_opt: Mapping[str, Any]) -> list[tuple[str, Path, Path]]:
    """The name of each clip, and its folders of ground truth and LQ; BasicSR pairs them by their place alone."""
    gt_root, lq_root = Path(val_opt['dataroot_gt']), Path(val_opt['dataroot_lq'])
    if val_opt.get('meta_info_file') is not None:
        names = _listed(name, val_opt['meta_info_file'])
    else:
        names, lq_names = ([path.name for path in sorted(root.glob('[!.]*'))] for root in (gt_root, lq_root))
        if names != lq_names:
            only = sorted({*names} ^ {*lq_names})
            raise OptionError(
                f'{name}.dataroot_lq',
                'hold the same clips as dataroot_gt',
                f'{", ".join(only[:3])} in one of them alone',
                'Add or remove them, or list the clips in meta_info_file.',
            )
    if not names:
        raise OptionError(f'{name}.dataroot_gt', 'hold folders of frames', f'none in {gt_root}', 'Correct the path.')
    check_names(f'{name}.dataroot_gt', names)
    for clip in names:
        for key, root in (('dataroot_gt', gt_root), ('dataroot_lq', lq_root)):
            if not (root / clip).is_dir():
                raise OptionError(f'{name}.{key}', 'hold a folder for each clip', f'none for {clip!r}', 'Correct it.')
    return [(clip, gt_root / clip, lq_root / clip) for clip in names]


def _listed(name: str, path: str) -> list[str]:
    """The first word of each line, as BasicSR reads them: what stands alone keeps its line end."""
    try:
        names = [line.split(' ')[0] for line in Path(path).read_text(encoding='utf-8').splitlines(keepends=True)]
    except (OSError, UnicodeDecodeError) as error:
        value = f'{path} ({one_line(error)})'
        raise OptionError(f'{name}.meta_info_file', 'be a list in UTF-8', value, 'Save it so.') from error
    for number, clip in enumerate(names, 1):
        if clip != clip.strip():
            raise OptionError(
                f'{name}.meta_info_file',
                "have lines like '000 100 (720,1280,3)'",
                f'{clip.strip()!r} in line {number}',
                'BasicSR wants a space behind the name.',
            )
    return names


def _check_pair(name: str, clip: str, gt_folder: Path, lq_folder: Path, scale: int, limits: ArchLimits) -> Size:
    """Compares the frames of a clip; gives the size of its ground truth."""
    gt, lq = (sorted(path for path in f.iterdir() if not path.name.startswith('.')) for f in (gt_folder, lq_folder))
    if len(gt) != len(lq) or len(gt) < limits.min_num_frame:
        rule = 'hold as many frames as dataroot_gt' + (f', {limits.min_num_frame} or more' * (limits.min_num_frame > 1))
        raise OptionError(f'{name}.dataroot_lq', rule, f'{len(lq)} for {len(gt)} in clip {clip}', 'Mend the clip.')
    sizes = _one_size(f'{name}.dataroot_gt', clip, gt), _one_size(f'{name}.dataroot_lq', clip, lq)
    _check_sizes(name, clip, *sizes, scale, limits)
    return sizes[0]


def _check_sizes(name: str, clip: str, gt: Size, lq: Size, scale: int, limits: ArchLimits) -> None:
    if gt != (lq[0] * scale, lq[1] * scale):
        raise OptionError(
            f'{name}.dataroot_lq',
            f'hold frames of 1/{scale} of the ground truth',
            f'{lq[0]}x{lq[1]} for {gt[0]}x{gt[1]} in clip {clip}',
            'Crop the ground truth to a multiple of scale, or correct the paths.',
        )
    if any(side % limits.lq_divisor for side in lq):
        raise OptionError(
            f'{name}.dataroot_lq',
            f'hold frames whose sides are multiples of {limits.lq_divisor} for this arch',
            f'{lq[0]}x{lq[1]} in clip {clip}',
            'Crop both, or leave the clip out.',
        )


def _one_size(option: str, clip: str, frames: list[Path]) -> Size:
    """Height and width of all frames of a clip."""
    first = _size(option, frames[0])
    check_images(option, frames)
    for path in frames[1:]:
        if _size(option, path) != first:
            raise OptionError(
                option,
                'hold clips of one size',
                '{}x{} for {}x{} in clip {}: {}'.format(*_size(option, path), *first, clip, path.name),
                'Mend the clip.',
            )
    return first


def _size(option: str, path: Path) -> Size:
    size = image_size(path)
    if size is None:
        raise OptionError(option, 'hold images alone', path, 'Remove the file, or mend it.')
    return size


def _check_septuplets(name: str, val_opt: Mapping[str, Any], scale: int, limits: ArchLimits) -> int:
    if val_opt['cache_data']:
        raise OptionError(f'{name}.cache_data', 'be false for a VideoTestVimeo90KDataset', True, 'Change it.')
    if not 1 <= val_opt['num_frame'] <= 7:
        raise OptionError(f'{name}.num_frame', 'be 1 to 7', val_opt['num_frame'], 'A septuplet has 7.')
    if val_opt.get('meta_info_file') is None:
        raise OptionError(f'{name}.meta_info_file', 'be given', None, 'BasicSR needs it.')
    names = _listed(name, val_opt['meta_info_file'])
    first = (9 - val_opt['num_frame']) // 2
    for clip in names:
        gt = Path(val_opt['dataroot_gt'], clip, 'im4.png')
        lq = [Path(val_opt['dataroot_lq'], clip, f'im{first + place}.png') for place in range(val_opt['num_frame'])]
        for path in (gt, *lq):
            if not path.is_file():
                raise OptionError(f'{name}.meta_info_file', 'list clips that exist', f'none at {path}', 'Correct it.')
        sizes = _size(f'{name}.dataroot_gt', gt), _one_size(f'{name}.dataroot_lq', clip, lq)
        _check_sizes(name, clip, *sizes, scale, limits)
    return len(names)
