"""Validation of a video model on any device, with or without metrics, on recurrent and sliding-window test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import distributed
from tqdm import tqdm

from multigrid_vsr.models.progress import shows_progress
from multigrid_vsr.models.shown_pictures import ShownPictures


def validate(model: Any, dataset: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
    """Super-resolves a BasicSR test set, measures every frame and logs the averages.

    BasicSR's own validation needs CUDA, and each of its two models reads one kind of test set.

    Args:
        model: A ``VideoBaseModel`` or a subclass of it.
        dataset: ``VideoRecurrentTestDataset``, ``VideoTestDataset`` or one of their kind.
        current_iter: Iteration, or the name of a test run.
        tb_logger: TensorBoard logger, or ``None``.
        save_img: Whether to write the frames below ``path.visualization``.
    """
    val_opt = model.opt['val']
    metrics = val_opt.get('metrics') or {}
    name = dataset.opt['name']
    rank, world_size = get_dist_info()
    # Made anew at each call: a run may have several test sets.
    model.metric_results = {
        folder: torch.zeros(num_frame, len(metrics), dtype=torch.float32, device=model.device)
        for folder, num_frame in Counter(dataset.data_info['folder']).items()
    }
    pictures = ShownPictures(val_opt.get('tb_images') or 0, tb_logger, name, current_iter)
    has_bar = shows_progress(model.opt)
    for place in tqdm(range(rank, len(dataset), world_size), desc=f'Validate {name}', disable=not has_bar, leave=False):
        data = dataset[place]
        for frame, stem, result, gt in _super_resolve(model, data):
            pictures.add(data, frame, len(model.metric_results[data['folder']]), result, gt)
            if save_img:
                label = current_iter if model.is_train else val_opt.get('suffix') or model.opt['name']
                imwrite(
                    result, str(Path(model.opt['path']['visualization'], name, data['folder'], f'{stem}_{label}.png'))
                )
            for column, metric_opt in enumerate(metrics.values()):
                model.metric_results[data['folder']][frame, column] = calculate_metric(
                    {'img': result, 'img2': gt}, metric_opt
                )
    if not metrics:
        return
    if model.opt['dist']:
        for results in model.metric_results.values():
            distributed.reduce(results, 0)
    if rank == 0:
        model._initialize_best_metric_results(name)
        model._log_validation_metric_values(current_iter, name, tb_logger)


def _super_resolve(model: Any, data: dict[str, Any]) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Gives (row of the folder's results, file stem, result, ground truth) of each frame, images uint8 BGR."""
    model.feed_data({'lq': data['lq'].unsqueeze(0)})
    model.test()
    result, gt = model.output.cpu(), data['gt'].unsqueeze(0)
    del model.lq, model.output  # a whole clip: the training that goes on needs the memory
    if 'idx' in data:  # one frame of a clip, as sliding-window archs are tested
        path = Path(data['lq_path'])
        is_vimeo = 'vimeo' in data['folder'].lower()  # every clip of Vimeo90K has the same file names
        stem = '_'.join([*path.parts[-3:-1], path.stem]) if is_vimeo else path.stem
        yield int(data['idx'].split('/')[0]), stem, tensor2img([result]), tensor2img([gt])
        return
    if model.device.type == 'cuda':
        torch.cuda.empty_cache()
    if result.dim() == 4:  # `val.center_frame_only`
        result, gt = result.unsqueeze(1), gt[:, gt.shape[1] // 2].unsqueeze(1) if gt.dim() == 5 else gt.unsqueeze(1)
    for frame in range(result.shape[1]):
        yield frame, f'{frame:08d}', tensor2img([result[0, frame]]), tensor2img([gt[0, frame]])
