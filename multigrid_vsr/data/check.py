"""Checks the training set and the test sets against the options, the arch and the schedule, before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.frames.images import Size, image_size
from multigrid_vsr.frames.pairs import OptionNames, Pair, Sources, check_names, open_eval_clips, pair
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
from multigrid_vsr.options.kinds import did_you_mean, refuse
from multigrid_vsr.options.multigrid_block import uses_multigrid


def check_data(opt: Mapping[str, Any], schedule: Schedule, world_size: int) -> tuple[str, list[str]]:
    """Checks the training set without decoding frames. A frame store also compares the checksums of some frames.

    A dataset of BasicSR or the user's own loads one sample of each shape.

    Returns:
        A sentence about the size of the data, and lines for the user.

    Raises:
        MissingData: If the training set is not on this machine.
        OptionError: If ground truth, LQ frames and list disagree, a clip is too short, its frames are too small, or a
            global batch needs more samples than there are.
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
        from multigrid_vsr.data.dataset_adapter import layout_of, try_dataset  # imports BasicSR, which takes seconds

        layout = layout_of(dataset_opt['type'])
        if layout is None:
            num_samples = try_dataset({**dataset_opt, 'target': target_of(opt)}, schedule)
            _check_batches(num_samples, schedule, world_size)
            return f'{num_samples} samples of {dataset_opt["type"]}.', []
        dataset_opt['type'] = layout
    sets = training_sets(dataset_opt)
    needed, num_frame, interval = frames_needed(dataset_opt)
    notes = [note for of_root in sets for note in of_root.check(opt.get('manual_seed') or 0)]
    left_out = sum(of_root.num_left_out for of_root in sets)
    if left_out:
        notes.insert(0, f'datasets.train.skip_short_clips: {left_out} clips of fewer than {needed} frames left out.')
    clips = [clip for of_root in sets for clip in of_root.clips]
    clip = min(clips, key=lambda clip: clip.num_frame)
    rule = f'fit every clip ({needed} frames needed with an interval of {interval})'
    got = f'{num_frame} for clip {clip.name} of {clip.num_frame} frames'
    fix = 'Lower it, or set datasets.train.skip_short_clips: true.'
    refuse(clip.num_frame < needed, 'datasets.train.num_frame', rule, got, fix)
    gt_size = max(segment.shape.gt_size for segment in schedule.segments)
    clip = min(clips, key=lambda clip: min(clip.height, clip.width))
    got = f'{gt_size} for clip {clip.name} of {clip.height}x{clip.width}'
    fix = 'Lower it, or leave the clip out of meta_info_file.'
    refuse(min(clip.height, clip.width) < gt_size, 'datasets.train.gt_size', 'fit into every frame', got, fix)
    samples = samples_of_each(sets, dataset_opt)
    _check_batches(sum(samples), schedule, world_size)
    summary = f'{len(clips)} clips of {sum(clip.num_frame for clip in clips)} frames.'
    if len(sets) > 1:
        parts = ' and '.join(f'{100 * part / sum(samples):.1f}%' for part in samples)
        summary += f' {len(sets)} roots, which give {parts} of the samples.'
    return summary, notes


def _check_batches(num_samples: int, schedule: Schedule, world_size: int) -> None:
    for shape in (segment.shape for segment in schedule.segments):
        batch = shape.batch_size_per_gpu
        if batch * world_size > num_samples:
            block = 'datasets.train' if shape == schedule.full_shape else 'multigrid'
            rule = f'be at most the {num_samples} samples of the data'
            got = f'{batch} on {world_size} GPUs at gt_size {shape.gt_size} and num_frame {shape.num_frame}'
            raise OptionError(f'{block}.batch_size_per_gpu', rule, got, 'Lower it.')


def count_samples(opt: Mapping[str, Any]) -> int | None:
    """Samples of the training set of a stock file; ``None`` if it is not on this machine or cannot be read."""
    dataset_opt = opt['datasets']['train']
    dataset_opt = {**dataset_opt, 'type': STOCK_DATASETS.get(dataset_opt.get('type'))}
    try:
        return sum(map(len, training_sets(dataset_opt)))
    except InputError:
        return None


_NAMES = ('vid4', 'reds4', 'redsofficial')  # the only ones that BasicSR's test sets take
_LEAST_SIDES = {'calculate_psnr': 1, 'calculate_ssim': 11}  # SSIM's window
_PADDINGS = ('replicate', 'reflection', 'reflection_circle', 'circle')


def check_test_set(name: str, opt: Mapping[str, Any]) -> None:
    """Checks a test set against its class, the scale, the arch and the metrics.

    Args:
        name: Its dotted name, such as ``datasets.val``.
        opt: The options of a training run or a test; the folders of this test set exist.

    Raises:
        OptionError: If something does not fit.
    """
    val_opt = opt['datasets'][name.removeprefix('datasets.')]
    kind, scale = val_opt['type'], int(opt.get('scale', 1))
    _check_name(name, opt['datasets'])
    is_empty = 'meta_info_file' in val_opt and val_opt['meta_info_file'] is None
    refuse(is_empty, f'{name}.meta_info_file', 'be a file or left out', None, 'Remove the line.')
    if kind in TEST_SET_TYPES:
        padding = val_opt.get('padding') or _PADDINGS[0]
        refuse(padding not in _PADDINGS, f'{name}.padding', f'be {", ".join(_PADDINGS)}', padding, 'Choose one.')
        sources, limits = open_eval_clips(name, {**val_opt, 'scale': scale}), limits_in(opt) or ArchLimits()
    elif kind in STOCK_TEST_SETS:
        _check_stock_options(name, val_opt, window_of(opt))
        sources, limits = _stock_clips(name, val_opt, scale), limits_of(opt['network_g']) or ArchLimits()
    else:
        return
    for clips in sources.pairs:
        clip, least = clips.clip, limits.min_num_frame
        rule, got = f'hold clips of at least {least} frames for this arch', f'{clip.num_frame} in {clip.name}'
        fix = 'Leave the clip out by meta_info_file.'
        refuse(clip.num_frame < least, f'{name}.dataroot_gt', rule, got, fix)
        if kind in STOCK_TEST_SETS and clips.lq is not None:
            _check_size(name, clips, scale, limits.lq_divisor)
        for key, source, of_kind in (('gt', sources.gt, clips.gt), ('lq', sources.lq, clips.lq)):
            if isinstance(source, Images) and of_kind is not None:
                size, files = (of_kind.height, of_kind.width), dict.fromkeys(source.files(clip.name))
                _check_frames(f'{name}.dataroot_{key}', clip.name, size, (source.root / file for file in files))
        _check_metrics(opt, clip.name, (clip.height, clip.width))


def _check_name(name: str, datasets: Mapping[str, Any]) -> None:
    """Refuses two test sets of one name, by which pictures, figures and the best iteration are kept."""
    key = name.removeprefix('datasets.')
    for other, dataset_opt in datasets.items():
        if other == key:
            return
        if other != 'train' and isinstance(dataset_opt, Mapping) and dataset_opt.get('name') == datasets[key]['name']:
            rule = f'differ from the name of datasets.{other}'
            raise OptionError(f'{name}.name', rule, datasets[key]['name'], 'Give each test set a name of its own.')


def _check_stock_options(name: str, val_opt: Mapping[str, Any], window: int | None) -> None:
    """Checks what BasicSR's test sets assert; ``window`` is the number of frames that the arch takes."""

    def must(key: str, is_right: bool, rule: str, fix: str) -> None:
        refuse(not is_right, f'{name}.{key}', f'be {rule}', val_opt.get(key), fix)

    kind, num_frame, test_set = val_opt['type'], val_opt['num_frame'], val_opt['name'].lower()
    backend = val_opt['io_backend'].get('type')
    is_recurrent, is_vimeo = kind == 'VideoRecurrentTestDataset', kind == 'VideoTestVimeo90KDataset'
    refuse(backend != 'disk', f'{name}.io_backend.type', 'be disk for a test set', backend, 'Change it.')
    if not is_vimeo:
        fix = did_you_mean(test_set, _NAMES, 'Or set type: MultigridVideoTestDataset, which takes any.')
        must('name', test_set in _NAMES, 'Vid4, REDS4 or REDSofficial, as BasicSR asks', fix)
    if is_recurrent or is_vimeo:
        value = str(is_recurrent).lower()
        must('cache_data', val_opt['cache_data'] is is_recurrent, f'{value} for a {kind}', 'Change it.')
    if is_vimeo:
        must('num_frame', 1 <= num_frame <= 7, '1 to 7', 'A septuplet has 7.')
        must('meta_info_file', 'meta_info_file' in val_opt, 'given', 'BasicSR needs it.')
    elif not is_recurrent:
        must('padding', val_opt.get('padding') in _PADDINGS, ', '.join(_PADDINGS), 'Choose one.')
        must('num_frame', window in (None, num_frame), f'{window}, as in the arch', 'Change it.')


def _stock_clips(name: str, val_opt: Mapping[str, Any], scale: int) -> Sources:
    """The clips of one of BasicSR's test sets: the folders of its list, or all folders."""
    options = OptionNames.of(name)
    listed = _listed(options.clips, val_opt['meta_info_file']) if 'meta_info_file' in val_opt else None
    sources = {}
    for kind in ('gt', 'lq'):
        if kind == 'lq' and val_opt['type'] == 'VideoTestDUFDataset' and val_opt.get('use_duf_downsampling'):
            continue  # made of the ground truth
        option, root = f'{name}.dataroot_{kind}', Path(val_opt[f'dataroot_{kind}'])
        names = [path.name for path in sorted(root.glob('[!.]*'))] if listed is None else listed
        if not names:
            raise OptionError(option, 'hold folders of frames', f'none in {root}', 'Correct the path.')
        check_names(option, names)
        if val_opt['type'] == 'VideoTestVimeo90KDataset':
            num_frame = val_opt['num_frame']
            first = (9 - num_frame) // 2
            # BasicSR compares only the middle frame with its ground truth.
            numbers = [4] * num_frame if kind == 'gt' else range(first, first + num_frame)
            files = {clip: [f'{clip}/im{number}.png' for number in numbers] for clip in names}
            for path in (root / file for of_clip in files.values() for file in of_clip):
                if not path.is_file():
                    raise OptionError(options.clips, 'list clips that exist', f'none at {path}', 'Correct it.')
        else:
            files = {clip: _frames(option, root, clip) for clip in names}
        sources[kind] = Images(option, root, names, files=files)
    return pair(sources['gt'], sources.get('lq'), scale, None, options)


def _frames(option: str, root: Path, clip: str) -> list[str]:
    """All files in the folder of a clip, in the order of BasicSR."""
    try:
        files = sorted(path.name for path in (root / clip).iterdir() if path.is_file() and path.name[0] != '.')
    except OSError:
        raise OptionError(option, 'hold a folder for each clip', f'none for {clip!r}', 'Correct it.') from None
    return [f'{clip}/{file}' for file in files]


def _listed(option: str, path: str) -> list[str]:
    """The first word of each line, as BasicSR reads it: without a space the line end belongs to the name."""
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(option, 'be a list in UTF-8', f'{path} ({one_line(error)})', 'Save it so.') from error
    names = [line.split(' ')[0] for line in lines]
    for number, clip in enumerate(names, 1):
        if clip != clip.strip():
            got = f'{clip.strip()!r} in line {number}'
            rule, fix = "have lines like '000 100 (720,1280,3)'", 'BasicSR wants a space behind the name.'
            raise OptionError(option, rule, got, fix)
    return names


def _check_size(name: str, clips: Pair, scale: int, divisor: int) -> None:
    """Refuses sizes that need a crop or padding, because BasicSR's test sets do neither."""
    gt, lq = clips.gt, clips.lq
    assert lq is not None
    if (gt.height, gt.width) != (lq.height * scale, lq.width * scale):
        rule = f'hold frames of 1/{scale} of the ground truth'
        fix = 'Crop the ground truth to a multiple of scale, or correct the paths.'
    elif lq.height % divisor or lq.width % divisor:
        rule = f'hold frames whose sides are multiples of {divisor} for this arch'
        fix = 'Crop both, or leave the clip out.'
    else:
        return
    value = f'{lq.height}x{lq.width} for {gt.height}x{gt.width} in clip {gt.name}'
    raise OptionError(f'{name}.dataroot_lq', rule, value, fix)


def _check_frames(option: str, clip: str, expected: Size, frames: Iterator[Path]) -> None:
    """Compares the size of every frame with that of the first."""
    for path in frames:
        size = image_size(path)
        if size is None:
            raise OptionError(option, 'hold only images', path, 'Remove the file, or mend it.')
        if size != expected:
            got = '{}x{} for {}x{} in clip {}: {}'.format(*size, *expected, clip, path.name)
            raise OptionError(option, 'hold clips of one size', got, 'Mend the clip.')


def _check_metrics(opt: Mapping[str, Any], clip: str, gt: Size) -> None:
    """Refuses borders that leave nothing to measure: BasicSR's PSNR and SSIM would be NaN."""
    for metric, metric_opt in ((opt.get('val') or {}).get('metrics') or {}).items():
        least, border = _LEAST_SIDES.get(metric_opt.get('type')), metric_opt.get('crop_border', 0)
        if least is not None and min(gt) - 2 * border < least:
            rule = f'leave {least} pixels or more of each side for {metric_opt["type"]}'
            got = f'{border} for frames of {gt[0]}x{gt[1]} in clip {clip}'
            fix = 'Lower it, or leave the metric or the clip out.'
            raise OptionError(f'val.metrics.{metric}.crop_border', rule, got, fix)
