"""Validation of a video model on any device, whole or in pieces, with or without metrics, on any test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import imwrite
from basicsr.utils.dist_util import get_dist_info
from torch import distributed
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.windows import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.models.inference import Cut, Restorer, super_resolve
from multigrid_vsr.models.progress import shows_progress
from multigrid_vsr.models.restorer import restorer_of
from multigrid_vsr.models.shown_pictures import ShownPictures
from multigrid_vsr.models.test_items import TestItem, read_item


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
    """
    val_opt = model.opt['val']
    metrics = val_opt.get('metrics') or {}
    name = dataset.opt['name']
    rank, world_size = get_dist_info()
    restorer = restorer_of(model.opt, lambda lq: _output(model, lq), model.device, _padding(dataset))
    counts = Counter(dataset.data_info['folder'])
    if val_opt.get('center_frame_only') and len(dataset) == len(counts):  # one frame of each whole clip
        counts = Counter(counts.keys())
    # Made anew at each call: a run may have several test sets.
    model.metric_results = {
        folder: torch.zeros(num_frame, len(metrics), dtype=torch.float32, device=model.device)
        for folder, num_frame in counts.items()
    }
    pictures = ShownPictures(val_opt.get('tb_images') or 0, tb_logger, name, current_iter)
    has_bar = shows_progress(model.opt)
    for place in tqdm(range(rank, len(dataset), world_size), desc=f'Validate {name}', disable=not has_bar, leave=False):
        item = read_item(dataset, place)
        if val_opt.get('center_frame_only') and not item.is_window:
            item = item.middle()
        for frame, result, gt in _super_resolve(restorer, val_opt, item):
            num_frame = len(model.metric_results[item.folder])
            pictures.add(item, frame, num_frame, result, gt)
            if save_img:
                label = current_iter if model.is_train else val_opt.get('suffix') or model.opt['name']
                stem = item.stem or f'{frame:08d}'
                imwrite(result, str(Path(model.opt['path']['visualization'], name, item.folder, f'{stem}_{label}.png')))
            for column, metric_opt in enumerate(metrics.values()):
                model.metric_results[item.folder][frame, column] = calculate_metric(
                    {'img': result, 'img2': gt}, metric_opt
                )
        if model.device.type == 'cuda' and not item.is_window:
            torch.cuda.empty_cache()
    if not metrics:
        return
    if model.opt['dist']:
        for results in model.metric_results.values():
            distributed.reduce(results, 0)
    if rank == 0:
        model._initialize_best_metric_results(name)
        model._log_validation_metric_values(current_iter, name, tb_logger)


def figures(model: Any) -> dict[str, Any]:
    """What the last validation measured, on rank 0: for each metric the mean, and that of each clip."""
    clips = {folder: results.mean(0).tolist() for folder, results in getattr(model, 'metric_results', {}).items()}
    found = {}
    for column, metric in enumerate((model.opt['val'].get('metrics') or {}) if clips else {}):
        of_clips = {folder: means[column] for folder, means in clips.items()}
        found[metric] = {'mean': sum(of_clips.values()) / len(of_clips), 'clips': of_clips}
    return found


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
