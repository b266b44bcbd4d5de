"""Validation of a video model on any device, whole or in pieces, with or without metrics, on any test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import distributed
from tqdm import tqdm

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.overlap import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.data.multigrid_dataset import MultigridVideoTestDataset
from multigrid_vsr.models.inference import Frame, Restorer, Tiling, restorer_of, super_resolve
from multigrid_vsr.models.run import shows_progress
from multigrid_vsr.models.stop_signal import Stopped


@dataclass(frozen=True)
class EvalItem:
    """What is validated at a time.

    Attributes:
        folder: Name of the clip.
        first: Place of the first result in its clip.
        stem: Of the file of that result; ``None`` for its number.
        is_window: Whether the frames are a window around the one that comes out.
        num_frame: Frames that go in.
        lq: Reads them from the first on, (h, w, 3), uint8 BGR or float32 RGB.
        gt: Reads what the results are compared with, uint8 BGR (h, w, 3).
    """

    folder: str
    first: int
    stem: str | None
    is_window: bool
    num_frame: int
    lq: Callable[[], Iterable[Frame]]
    gt: Callable[[], Iterable[np.ndarray]]

    def middle(self) -> EvalItem:
        """The clip as a window around its frame in the middle."""
        return replace(self, is_window=True, gt=lambda: islice(self.gt(), self.num_frame // 2, None))


def read_item(dataset: Any, place: int) -> EvalItem:
    """Takes an item out of a test set. Test sets of this project are read frame by frame."""
    if isinstance(dataset, MultigridVideoTestDataset):
        clip = dataset.clips.clips[place]
        lq, gt = (lambda kind=kind: dataset.frames(place, kind) for kind in ('lq', 'gt'))
        return EvalItem(clip.name, 0, None, False, clip.num_frame, lq, gt)
    data = dataset[place]
    frames, num_frame = data['lq'].permute(0, 2, 3, 1), len(data['lq'])
    if 'idx' not in data:
        return EvalItem(
            data['folder'], 0, None, False, num_frame, lambda: frames, lambda: (tensor2img(gt) for gt in data['gt'])
        )
    path = Path(data['lq_path'])  # one frame of a clip, as sliding-window archs are tested
    is_vimeo = 'vimeo' in data['folder'].lower()  # every clip of Vimeo90K has the same file names
    stem = '_'.join([*path.parts[-3:-1], path.stem]) if is_vimeo else path.stem
    first = int(data['idx'].split('/')[0])
    return EvalItem(data['folder'], first, stem, True, num_frame, lambda: frames, lambda: [tensor2img(data['gt'])])


@dataclass
class ShownPictures:
    """Gives TensorBoard the middle frame of the first clips: LQ, result and ground truth side by side.

    Each rank validates clips of its own. Only the first rank has TensorBoard, and it shows the first of its own clips.
    """

    left: int
    tb_logger: Any
    name: str
    current_iter: int | str
    shown: set[str] = field(default_factory=set)

    def add(self, item: EvalItem, frame: int, num_frame: int, result: np.ndarray, gt: np.ndarray) -> None:
        """Shows a frame of a clip of ``num_frame`` if it is the middle one; images uint8 BGR (h, w, c)."""
        if self.tb_logger is None or not self.left or item.folder in self.shown or frame < num_frame // 2:
            return
        self.left -= 1
        self.shown.add(item.folder)
        lq = next(islice(item.lq(), item.num_frame // 2 if item.is_window else frame, None))
        if isinstance(lq, torch.Tensor):
            lq = tensor2img(lq.permute(2, 0, 1))
        lq = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)  # pixels as they are
        picture = np.hstack([lq, result, gt])[..., ::-1]
        self.tb_logger.add_image(f'{self.name}/{item.folder}', picture, self.current_iter, dataformats='HWC')


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
        Exception: What failed, on all ranks of a training. A failing metric or picture is left out there.
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
        signal, has_failed, *have_raised = model.run.stop_signal.meet(*facts)
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
    """Measures this rank's clips into ``model.metric_results``. Errors of metrics go into ``raised``."""
    val_opt, name = model.opt['val'], dataset.opt['name']
    rank, world_size = get_dist_info()
    stop = model.run.stop_signal if model.is_train else None

    def output(lq: torch.Tensor) -> torch.Tensor:
        if stop is not None:
            stop.leave_if_asked()
        model.feed_data({'lq': lq})
        model.test()
        restored: torch.Tensor = model.output
        del model.lq, model.output  # training goes on and needs the memory
        return restored

    restorer = restorer_of(model.opt, output, model.device, dataset.opt.get('padding') or 'reflection_circle')
    pictures = ShownPictures(val_opt.get('tb_images') or 0, tb_logger, name, current_iter)
    broken: set[str] = set()  # what failed once in this validation
    with stop.can_leave() if stop is not None else nullcontext():
        places = range(rank, len(dataset), world_size)
        for place in tqdm(places, desc=f'Validate {name}', disable=not shows_progress(model.opt), leave=False):
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
    """Does something whose failure does not end a run. After a failure it is not tried again in this validation."""
    if what in broken:
        return
    try:
        do()
    except Exception as error:
        if not model.is_train:
            raise
        broken.add(what)
        model.run.failures.failed(what, error)
    else:
        if model.is_train:
            model.run.failures.worked(what)


def _save_picture(path: Path, image: np.ndarray) -> None:
    """Writes a PNG, whole or not at all."""
    encoded = cv2.imencode('.png', image)[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        fix = 'Make room, or set val.save_img: false.'
        raise InputError(f'{path}: cannot be written ({error.strerror}). {fix}') from None


def _count_raised(model: Any, name: str, raised: dict[str, Exception], anywhere: dict[str, int]) -> None:
    """Logs which metrics raised on any rank, and leaves a metric out after three times in a row."""
    for metric, has_raised in anywhere.items():
        what = f'Metric {metric} of {name}'
        if not has_raised:
            model.run.failures.worked(what)
            continue
        del model.measured[metric]
        if model.run.failures.failed(what, raised.get(metric, 'on another rank')) == _MOST_RAISED:
            left_out(model).add((name, metric))
            get_root_logger().error(f'{what} is left out from here on: it failed {_MOST_RAISED} times in a row.')


def figures(model: Any) -> dict[str, Any]:
    """What the last validation measured, on rank 0: for each metric the mean over clips, and the mean of each clip.

    Frames with an infinite or NaN figure are left out, such as the PSNR of equal frames. ``None``: no frame is left.
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
    """Logs a validation as BasicSR does, without figures that are infinite or NaN."""
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


def _super_resolve(
    restorer: Restorer, val_opt: dict[str, Any], item: EvalItem
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Gives the place in its clip, result and ground truth of each frame, images uint8 BGR."""
    if item.is_window:
        restorer = replace(restorer, window=None)
    results = super_resolve(restorer, item.lq(), _tiling(restorer, val_opt, item))
    count = 0
    for count, (result, gt) in enumerate(zip(results, item.gt()), 1):
        yield item.first + count - 1, result.numpy(), gt
    if count != (1 if item.is_window else item.num_frame):
        raise InputError(
            f'datasets: must be a test set of windows for an arch that gives one frame, got {count} frames for '
            f'{item.num_frame} in clip {item.folder}. Set type: VideoTestDataset.'
        )


def _tiling(restorer: Restorer, val_opt: dict[str, Any], item: EvalItem) -> Tiling:
    """How ``val.max_frames`` and ``val.tile`` cut a clip."""
    tile_overlap = val_opt.get('tile_overlap')
    tiling = Tiling(item.num_frame, 0, val_opt.get('tile'), TILE_OVERLAP if tile_overlap is None else tile_overlap)
    if item.is_window or val_opt.get('max_frames') is None or item.num_frame <= val_opt['max_frames']:
        return tiling
    overlap = val_opt.get('overlap')
    context = restorer.context(FRAMES_OVERLAP if overlap is None else overlap)
    return restorer.aligned(replace(tiling, num_frame=val_opt['max_frames'], overlap=context))
