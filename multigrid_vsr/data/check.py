"""Whether the training set and the test sets fit the options, the arch and the schedule, before a run."""

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
from multigrid_vsr.options.kinds import did_you_mean
from multigrid_vsr.options.multigrid_block import uses_multigrid


def check_data(opt: Mapping[str, Any], schedule: Schedule, world_size: int) -> tuple[str, list[str]]:
    """Checks the training set without decoding a frame; a frame store also compares the checksums of some frames.

    From a dataset of BasicSR or the user's own, one sample of each shape is loaded.

    Returns:
        How much data there is, in words, and what the user should know, a line each.

    Raises:
        MissingData: If the training set is not on this machine.
        OptionError: If ground truth, LQ frames and list disagree, a clip is too short, its frames are too small, or a
            global batch holds more samples than the data.
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
            return f'{num_samples} samples of {dataset_opt["type"]}.', []
        dataset_opt['type'] = layout
    sets = training_sets(dataset_opt)
    needed, num_frame, interval = frames_needed(dataset_opt)
    notes = [note for of_root in sets for note in of_root.check(opt.get('manual_seed') or 0)]
    left_out = sum(of_root.num_left_out for of_root in sets)
    if left_out:
        notes.insert(0, f'datasets.train.skip_short_clips: {left_out} clips of fewer than {needed} frames left out.')
    clips = [clip for of_root in sets for clip in of_root.clips]
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
    samples = samples_of_each(sets, dataset_opt)
    _check_batches(sum(samples), schedule, world_size)
    summary = f'{len(clips)} clips of {sum(clip.num_frame for clip in clips)} frames.'
    if len(sets) > 1:
        parts = ' and '.join(f'{100 * part / sum(samples):.1f}%' for part in samples)
        summary += f' {len(sets)} roots, which give {parts} of the samples.'
    return summary, notes


def _check_batches(num_samples: int, schedule: Schedule, world_size: int) -> None:
    for shape in (segment.shape for segment in schedule.segments):
        if shape.batch_size_per_gpu * world_size > num_samples:
            block = 'datasets.train' if shape == schedule.full_shape else 'multigrid'
            raise OptionError(
                f'{block}.batch_size_per_gpu',
                f'be at most the {num_samples} samples of the data',
                f'{shape.batch_size_per_gpu} on {world_size} GPUs at gt_size {shape.gt_size} and num_frame '
                f'{shape.num_frame}',
                'Lower it.',
            )


def count_samples(opt: Mapping[str, Any]) -> int | None:
    """Samples of the training set of a stock file; ``None`` where it is not on this machine or cannot be read."""
    dataset_opt = opt['datasets']['train']
    dataset_opt = {**dataset_opt, 'type': STOCK_DATASETS.get(dataset_opt.get('type'))}
    try:
        return sum(map(len, training_sets(dataset_opt)))
    except InputError:
        return None


_NAMES = ('vid4', 'reds4', 'redsofficial')  # BasicSR's test sets take no others
_LEAST_SIDES = {'calculate_psnr': 1, 'calculate_ssim': 11}  # SSIM's window
_PADDINGS = ('replicate', 'reflection', 'reflection_circle', 'circle')


def check_test_set(name: str, opt: Mapping[str, Any]) -> None:
    """Compares a test set with what its class, the scale, the arch and the metrics ask for.

    Args:
        name: Its dotted name, such as ``datasets.val``.
        opt: The options of a training run or a test, with the folders of this test set in place.

    Raises:
        OptionError: If something does not fit.
    """
    val_opt = opt['datasets'][name.removeprefix('datasets.')]
    kind, scale = val_opt['type'], int(opt.get('scale', 1))
    _check_name(name, opt['datasets'])
    if 'meta_info_file' in val_opt and val_opt['meta_info_file'] is None:
        raise OptionError(f'{name}.meta_info_file', 'be a file or left out', None, 'Remove the line.')
    if kind in TEST_SET_TYPES:
        if val_opt.get('padding') not in (None, *_PADDINGS):
            raise OptionError(f'{name}.padding', f'be {", ".join(_PADDINGS)}', val_opt['padding'], 'Choose one.')
        sources, limits = open_eval_clips(name, {**val_opt, 'scale': scale}), limits_in(opt) or ArchLimits()
    elif kind in STOCK_TEST_SETS:
        _check_stock_options(name, val_opt, window_of(opt))
        sources, limits = _stock_clips(name, val_opt, scale), limits_of(opt['network_g']) or ArchLimits()
    else:
        return
    for clips in sources.pairs:
        clip = clips.clip
        if clip.num_frame < limits.min_num_frame:
            rule = f'hold clips of at least {limits.min_num_frame} frames for this arch'
            got = f'{clip.num_frame} in {clip.name}'
            raise OptionError(f'{name}.dataroot_gt', rule, got, 'Leave the clip out by meta_info_file.')
        if kind in STOCK_TEST_SETS and clips.lq is not None:
            _check_size(name, clips, scale, limits.lq_divisor)
        for key, source, of_kind in (('gt', sources.gt, clips.gt), ('lq', sources.lq, clips.lq)):
            if isinstance(source, Images) and of_kind is not None:
                size, files = (of_kind.height, of_kind.width), dict.fromkeys(source.files(clip.name))
                _check_frames(f'{name}.dataroot_{key}', clip.name, size, (source.root / file for file in files))
        _check_metrics(opt, clip.name, (clip.height, clip.width))


def _check_name(name: str, datasets: Mapping[str, Any]) -> None:
    """Pictures, figures and the best iteration of a test set go by its name."""
    key = name.removeprefix('datasets.')
    for other, dataset_opt in datasets.items():
        if other == key:
            return
        if other != 'train' and isinstance(dataset_opt, Mapping) and dataset_opt.get('name') == datasets[key]['name']:
            rule = f'differ from that of datasets.{other}'
            raise OptionError(f'{name}.name', rule, datasets[key]['name'], 'Give each test set a name of its own.')


def _check_stock_options(name: str, val_opt: Mapping[str, Any], window: int | None) -> None:
    """Compares the options with the asserts of BasicSR's test sets; ``window`` is the frames that the arch takes."""
    kind, num_frame, cached, padding = (
        val_opt['type'],
        val_opt['num_frame'],
        val_opt['cache_data'],
        val_opt.get('padding'),
    )
    is_recurrent, is_vimeo = kind == 'VideoRecurrentTestDataset', kind == 'VideoTestVimeo90KDataset'
    test_set, backend = val_opt['name'], val_opt['io_backend'].get('type')
    named = did_you_mean(test_set.lower(), _NAMES, 'Or set type: MultigridVideoTestDataset, which takes any.')
    # For each option: whether it is right, what it must be, its value, the fix.
    rules = {'io_backend.type': (backend == 'disk', 'disk for a test set', backend, 'Change it.')}
    if not is_vimeo:
        known = test_set.lower() in _NAMES
        rules['name'] = known, 'Vid4, REDS4 or REDSofficial, as BasicSR asks', test_set, named
    if is_recurrent or is_vimeo:
        right = str(is_recurrent).lower()
        rules['cache_data'] = cached is is_recurrent, f'{right} for a {kind}', cached, 'Change it.'
    if is_vimeo:
        rules['num_frame'] = 1 <= num_frame <= 7, '1 to 7', num_frame, 'A septuplet has 7.'
        rules['meta_info_file'] = 'meta_info_file' in val_opt, 'given', None, 'BasicSR needs it.'
    elif not is_recurrent:
        rules['padding'] = padding in _PADDINGS, ', '.join(_PADDINGS), padding, 'Choose one.'
        is_window = window in (None, num_frame)
        rules['num_frame'] = is_window, f'that of the arch ({window})', num_frame, 'Make them equal.'
    for key, (is_right, rule, value, fix) in rules.items():
        if not is_right:
            raise OptionError(f'{name}.{key}', f'be {rule}', value, fix)


def _stock_clips(name: str, val_opt: Mapping[str, Any], scale: int) -> Sources:
    """The clips of one of BasicSR's test sets: the folders of its list, or all folders."""
    options = OptionNames(f'{name}.dataroot_gt', f'{name}.dataroot_lq', 'scale', f'{name}.meta_info_file')
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
            # BasicSR compares the result with the ground truth of the frame in the middle only.
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
    """The first word of each line, as BasicSR reads it: a name without a space behind it keeps its line end."""
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
    """BasicSR's test sets neither crop nor pad."""
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
    """Whether borders leave something to measure: BasicSR's PSNR and SSIM give NaN where they do not."""
    for metric, metric_opt in ((opt.get('val') or {}).get('metrics') or {}).items():
        least, border = _LEAST_SIDES.get(metric_opt.get('type')), metric_opt.get('crop_border', 0)
        if least is not None and min(gt) - 2 * border < least:
            raise OptionError(
                f'val.metrics.{metric}.crop_border',
                f'leave {least} pixels or more of each side for {metric_opt["type"]}',
                f'{border} for frames of {gt[0]}x{gt[1]} in clip {clip}',
                'Lower it, or leave the metric or the clip out.',
            )
