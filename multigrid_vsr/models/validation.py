"""Validation of a video model on any device, whole or in pieces, with or without metrics, on any test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import distributed
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.windows import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.models.inference import Cut, Restorer, super_resolve
from multigrid_vsr.models.progress import shows_progress
from multigrid_vsr.models.restorer import restorer_of
from multigrid_vsr.models.shown_pictures import ShownPictures
from multigrid_vsr.models.stop_signal import Stopped
from multigrid_vsr.models.test_items import TestItem, read_item

_MOST_RAISED = 3  # times in a row before a metric is left out


def validate(model: Any, dataset: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
    """Super-resolves a test set, measures every frame and logs the averages.

    BasicSR's own validation needs CUDA, and each of its two models reads one kind of test set. With ``val.max_frames``
    and ``val.tile`` pieces of a clip are on the device one at a time; frames and results are on the host.

    Args:
        model: A ``VideoBaseModel`` or a subclass of it.
        dataset: ``MultigridVideoTestDataset``, ``VideoRecurrentTestDataset``, ``VideoTestDataset`` or one of their
            kind.
        current_iter: Iteration, or the name of a test run.
        tb_logger: TensorBoard logger, or ``None``.
        save_img: Whether to write the frames below ``path.visualization``.

    Raises:
        Stopped: On all ranks of a training, if one of them was asked to stop.
        Exception: What failed, on all ranks of a training; but a metric or a picture is left out there.
    """
    name = dataset.opt['name']
    metrics = {key: metric for key, metric in _metrics(model).items() if (name, key) not in left_out(model)}
    counts = Counter(dataset.data_info['folder'])
    if model.opt['val'].get('center_frame_only') and len(dataset) == len(counts):  # one frame of each whole clip
        counts = Counter(counts.keys())
    # Made anew at each call: a run may have several test sets.
    model.metric_results = {
        folder: torch.zeros(num_frame, len(metrics), dtype=torch.float32, device=model.device)
        for folder, num_frame in counts.items()
    }
    model.measured = {metric: column for column, metric in enumerate(metrics)}
    raised: dict[str, Exception] = {}
    error: Exception | None = None
    try:
        _measure(model, dataset, current_iter, tb_logger, save_img, metrics, raised)
    except Stopped:
        pass  # all ranks leave together, below
    except Exception as failure:
        if not model.is_train:
            raise
        error = failure
    if model.is_train:
        facts = [int(error is not None), *(int(metric in raised) for metric in metrics)]
        signal, has_failed, *have_raised = model._keeper.stop_signal.meet(*facts)
        if signal:
            raise Stopped(signal)
        if has_failed:
            raise error or RuntimeError('on another rank')
        _count_raised(model, name, raised, dict(zip(metrics, have_raised)))
    if not model.measured:
        return
    rank, _ = get_dist_info()
    if model.opt['dist']:
        for results in model.metric_results.values():
            distributed.reduce(results, 0)
    if rank == 0:
        model._initialize_best_metric_results(name)
        _log(model, name, current_iter, tb_logger)


def left_out(model: Any) -> set[tuple[str, str]]:
    """Test sets and the metrics that raised there three times in a row."""
    return model.__dict__.setdefault('_left_out_metrics', set())


def _metrics(model: Any) -> dict[str, Any]:
    return model.opt['val'].get('metrics') or {}


def _measure(
    model: Any,
    dataset: Any,
    current_iter: int | str,
    tb_logger: Any,
    save_img: bool,
    metrics: dict[str, Any],
    raised: dict[str, Exception],
) -> None:
    """This rank's share of the clips: figures into ``model.metric_results``, what a metric raised into ``raised``."""
    val_opt, name = model.opt['val'], dataset.opt['name']
    rank, world_size = get_dist_info()
    stop = model._keeper.stop_signal if model.is_train else None

    def output(lq: torch.Tensor) -> torch.Tensor:
        if stop is not None:
            stop.leave_if_asked()
        return _output(model, lq)

    restorer = restorer_of(model.opt, output, model.device, _padding(dataset))
    pictures = ShownPictures(val_opt.get('tb_images') or 0, tb_logger, name, current_iter)
    broken: set[str] = set()  # what failed once in this validation
    has_bar = shows_progress(model.opt)
    with stop.can_leave() if stop is not None else nullcontext():
        for place in tqdm(
            range(rank, len(dataset), world_size), desc=f'Validate {name}', disable=not has_bar, leave=False
        ):
            item = read_item(dataset, place)
            if val_opt.get('center_frame_only') and not item.is_window:
                item = item.middle()
            for frame, result, gt in _super_resolve(restorer, val_opt, item):
                if stop is not None:
                    stop.leave_if_asked()
                num_frame = len(model.metric_results[item.folder])
                _beside(model, broken, 'Showing a picture', partial(pictures.add, item, frame, num_frame, result, gt))
                if save_img:
                    label = current_iter if model.is_train else val_opt.get('suffix') or model.opt['name']
                    stem = item.stem or f'{frame:08d}'
                    path = Path(model.opt['path']['visualization'], name, item.folder, f'{stem}_{label}.png')
                    _beside(model, broken, 'Saving a picture', partial(_save_picture, path, result))
                for column, (metric, metric_opt) in enumerate(metrics.items()):
                    if metric in raised:
                        continue
                    try:
                        value = calculate_metric({'img': result, 'img2': gt}, metric_opt)
                        model.metric_results[item.folder][frame, column] = value
                    except Exception as error:
                        if not model.is_train:
                            raise
                        raised[metric] = error
            if model.device.type == 'cuda' and not item.is_window:
                torch.cuda.empty_cache()


def _beside(model: Any, broken: set[str], what: str, do: Callable[[], None]) -> None:
    """Does what does not end a run; after a failure not again in this validation."""
    if what in broken:
        return
    try:
        do()
    except Exception as error:
        if not model.is_train:
            raise
        broken.add(what)
        model.watch.beside.failed(what, error)
    else:
        if model.is_train:
            model.watch.beside.worked(what)


def _save_picture(path: Path, image: np.ndarray) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        InputError: If the disk does not take it.
    """
    encoded = cv2.imencode('.png', image)[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise InputError(
            f'{path}: cannot be written ({error.strerror}). Make room, or set val.save_img: false.'
        ) from None


def _count_raised(model: Any, name: str, raised: dict[str, Exception], anywhere: dict[str, int]) -> None:
    """Says which metrics raised, on a rank of any; leaves one out after three times in a row."""
    for metric, has_raised in anywhere.items():
        what = f'Metric {metric} of {name}'
        if not has_raised:
            model.watch.beside.worked(what)
            continue
        del model.measured[metric]
        if model.watch.beside.failed(what, raised.get(metric, 'on another rank')) == _MOST_RAISED:
            left_out(model).add((name, metric))
            get_root_logger().error(f'{what} is left out from here on: it failed {_MOST_RAISED} times in a row.')


def figures(model: Any) -> dict[str, Any]:
    """What the last validation measured, on rank 0: for each metric the mean, and that of each clip.

    Frames whose figure is infinite or NaN are left out, as the PSNR of equal frames is. ``None``: none is left.
    """
    of_basicsr = {metric: column for column, metric in enumerate(_metrics(model))}
    columns = getattr(model, 'measured', of_basicsr)
    found = {}
    for metric, column in columns.items() if hasattr(model, 'metric_results') else ():
        clips = {}
        for folder, results in model.metric_results.items():
            values = results[:, column]
            values = values[values.isfinite()]
            clips[folder] = values.mean().item() if len(values) else None
        numbers = [value for value in clips.values() if value is not None]
        found[metric] = {'mean': sum(numbers) / len(numbers) if numbers else None, 'clips': clips}
    return found


def _log(model: Any, name: str, current_iter: int | str, tb_logger: Any) -> None:
    """BasicSR's lines and values of a validation, without figures that are no numbers."""
    lines = f'Validation {name}\n'
    for metric, found in figures(model).items():
        column = model.measured[metric]
        odd = {folder: int((~results[:, column].isfinite()).sum()) for folder, results in model.metric_results.items()}
        if any(odd.values()):
            where = ', '.join(f'{count} of {folder}' for folder, count in odd.items() if count)
            get_root_logger().warning(
                f'{metric} of {name} is infinite or NaN for frames, as PSNR is for equal ones ({where}): the mean is '
                'that of the others.'
            )
        if found['mean'] is None:
            continue
        model._update_best_metric_result(name, metric, found['mean'], current_iter)
        clips = {folder: value for folder, value in found['clips'].items() if value is not None}
        best = model.best_metric_results[name][metric]
        lines += f'\t # {metric}: {found["mean"]:.4f}'
        lines += ''.join(f'\t # {folder}: {value:.4f}' for folder, value in clips.items())
        lines += f'\n\t    Best: {best["val"]:.4f} @ {best["iter"]} iter\n'
        if tb_logger:
            tb_logger.add_scalar(f'metrics/{metric}', found['mean'], current_iter)
            for folder, value in clips.items():
                tb_logger.add_scalar(f'metrics/{metric}/{folder}', value, current_iter)
    get_root_logger().info(lines)


def _output(model: Any, lq: torch.Tensor) -> torch.Tensor:
    """What a model makes of frames (1, t, c, h, w), as its own ``test`` does."""
    model.feed_data({'lq': lq})
    model.test()
    output = model.output
    del model.lq, model.output  # the training that goes on needs the memory
    return output


def _padding(dataset: Any) -> str:
    return dataset.opt.get('padding') or 'reflection_circle'


def _super_resolve(
    restorer: Restorer, val_opt: dict[str, Any], item: TestItem
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Gives the place in its clip, result and ground truth of each frame, images uint8 BGR."""
    if item.is_window:
        restorer = replace(restorer, window=None)
    results = super_resolve(restorer, item.lq(), _cut(restorer, val_opt, item))
    count = 0
    for count, (result, gt) in enumerate(zip(results, item.gt()), 1):
        yield item.first + count - 1, result.numpy(), gt
    if count != (1 if item.is_window else item.num_frame):
        raise InputError(
            f'datasets: must be a test set of windows for an arch that gives one frame, got {count} frames for '
            f'{item.num_frame} in clip {item.folder}. Set type: VideoTestDataset.'
        )


def _cut(restorer: Restorer, val_opt: dict[str, Any], item: TestItem) -> Cut:
    """How ``val.max_frames`` and ``val.tile`` cut a clip."""
    tile_overlap = val_opt.get('tile_overlap')
    cut = Cut(item.num_frame, 0, val_opt.get('tile'), TILE_OVERLAP if tile_overlap is None else tile_overlap)
    if item.is_window or val_opt.get('max_frames') is None or item.num_frame <= val_opt['max_frames']:
        return cut
    overlap = val_opt.get('overlap')
    context = restorer.context(FRAMES_OVERLAP if overlap is None else overlap)
    return restorer.aligned(replace(cut, num_frame=val_opt['max_frames'], overlap=context))
