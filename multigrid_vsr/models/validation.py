"""Validation of a video model on any device, whole or in pieces, with or without metrics, on any test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
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
from multigrid_vsr.models.inference import Frame, Tiling, restorer_of, super_resolve
from multigrid_vsr.models.run import shows_progress
from multigrid_vsr.models.stop_signal import Stopped


@dataclass(frozen=True)
class _Item:
    """What is validated at a time."""

    folder: str  # name of the clip
    num_frame: int  # frames that go in
    lq: Callable[[], Iterable[Frame]]  # reads them from the first on, (h, w, 3), uint8 BGR or float32 RGB
    gt: Callable[[], Iterable[np.ndarray]]  # reads what the results are compared with, uint8 BGR (h, w, 3)
    is_window: bool = False  # around the one frame that comes out
    first: int = 0  # place of the first result in its clip
    stem: str | None = None  # of the file of that result; `None` for its number

    def middle(self) -> _Item:
        """The clip as a window around its frame in the middle."""
        return replace(self, is_window=True, gt=lambda: islice(self.gt(), self.num_frame // 2, None))


def _read_item(dataset: Any, place: int) -> _Item:
    """Takes an item out of a test set. Test sets of this project are read frame by frame."""
    if isinstance(dataset, MultigridVideoTestDataset):
        clip = dataset.clips.clips[place]
        lq, gt = (lambda kind=kind: dataset.frames(place, kind) for kind in ('lq', 'gt'))
        return _Item(clip.name, clip.num_frame, lq, gt)
    data = dataset[place]
    frames = data['lq'].permute(0, 2, 3, 1)
    if 'idx' not in data:
        return _Item(data['folder'], len(frames), lambda: frames, lambda: map(tensor2img, data['gt']))
    path = Path(data['lq_path'])  # one frame of a clip, as sliding-window archs are tested
    is_vimeo = 'vimeo' in data['folder'].lower()  # every clip of Vimeo90K has the same file names
    stem = '_'.join([*path.parts[-3:-1], path.stem]) if is_vimeo else path.stem
    first, image = int(data['idx'].split('/')[0]), tensor2img(data['gt'])
    return _Item(data['folder'], len(frames), lambda: frames, lambda: [image], True, first, stem)


_MOST_RAISED = 3  # times in a row before a metric is left out


def validate(model: Any, dataset: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
    """Super-resolves a test set, measures every frame and logs the averages.

    BasicSR's own validation needs CUDA, and each of its two models reads one kind of test set. With ``val.max_frames``
    and ``val.tile`` pieces of a clip are on the device one at a time; frames and results are on the host.

    Args:
        model: A ``VideoBaseModel`` or a subclass of it.
        dataset: ``MultigridVideoTestDataset``, or a test set of BasicSR's kind with whole clips or with windows.
        current_iter: Iteration, or the name of a test run.
        tb_logger: TensorBoard logger, or ``None``.
        save_img: Whether to write the frames below ``path.visualization``.

    Raises:
        Stopped: On all ranks of a training, if one of them was asked to stop.
        Exception: What failed, on all ranks of a training. A failing metric or picture is left out there.
    """
    counts = Counter(dataset.data_info['folder'])
    if model.opt['val'].get('center_frame_only') and len(dataset) == len(counts):  # one frame of each whole clip
        counts = Counter(counts.keys())
    validation = _Validation(model, dataset.opt['name'], current_iter, tb_logger, save_img)
    metrics = list(validation.metrics)
    # Made anew at each call: a run may have several test sets.
    model.metric_results = {
        folder: torch.zeros(num_frame, len(metrics), dtype=torch.float32, device=model.device)
        for folder, num_frame in counts.items()
    }
    model.measured = {metric: column for column, metric in enumerate(metrics)}
    error: Exception | None = None
    try:
        validation.measure(dataset)
    except Stopped:
        pass  # all ranks leave together, below
    except Exception as failure:
        if not model.is_train:
            raise
        error = failure
    if model.is_train:
        facts = [int(error is not None), *(int(metric in validation.raised) for metric in metrics)]
        signal, has_failed, *have_raised = model.run.stop_signal.meet(*facts)
        if signal:
            raise Stopped(signal)
        if has_failed:
            raise error or RuntimeError('on another rank')
        validation.count_raised(dict(zip(metrics, have_raised)))
    if not model.measured:
        return
    if model.opt['dist']:
        for results in model.metric_results.values():
            distributed.reduce(results, 0)
    if get_dist_info()[0] == 0:
        model._initialize_best_metric_results(validation.name)
        _log(model, validation.name, current_iter, tb_logger)


class _Validation:
    """One validation of one test set, on this rank."""

    def __init__(self, model: Any, name: str, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        self.name = name
        left_out = model.__dict__.setdefault('_left_out_metrics', set())  # of each test set, till the end of the run
        self.metrics = {metric: opt for metric, opt in _metrics(model).items() if (name, metric) not in left_out}
        self.raised: dict[str, Exception] = {}  # by metric
        self._model = model
        self._val_opt = model.opt['val']
        self._current_iter = current_iter
        self._tb_logger = tb_logger
        self._save_img = save_img
        self._stop = model.run.stop_signal if model.is_train else None
        self._broken: set[str] = set()  # what failed once in this validation
        self._shown: set[str] = set()  # clips of which TensorBoard has a picture

    def measure(self, dataset: Any) -> None:
        """Measures this rank's clips into ``model.metric_results``."""
        model, (rank, world_size) = self._model, get_dist_info()
        padding = dataset.opt.get('padding') or 'reflection_circle'
        self._restorer = restorer_of(model.opt, self._output, model.device, padding)
        places = range(rank, len(dataset), world_size)
        with self._stop.can_leave() if self._stop is not None else nullcontext():
            for place in tqdm(places, desc=f'Validate {self.name}', disable=not shows_progress(model.opt), leave=False):
                item = _read_item(dataset, place)
                if self._val_opt.get('center_frame_only') and not item.is_window:
                    item = item.middle()
                for frame, result, gt in self._super_resolve(item):
                    self._leave_if_asked()
                    self._beside('Showing a picture', self._show, item, frame, result, gt)
                    if self._save_img:
                        self._beside('Saving a picture', self._save, item, frame, result)
                    self._measure(item.folder, frame, result, gt)
                if model.device.type == 'cuda' and not item.is_window:
                    torch.cuda.empty_cache()

    def _leave_if_asked(self) -> None:
        if self._stop is not None:
            self._stop.leave_if_asked()

    def _output(self, lq: torch.Tensor) -> torch.Tensor:
        self._leave_if_asked()
        model = self._model
        model.feed_data({'lq': lq})
        model.test()
        restored: torch.Tensor = model.output
        del model.lq, model.output  # training goes on and needs the memory
        return restored

    def _super_resolve(self, item: _Item) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Gives the place in its clip, result and ground truth of each frame, images uint8 BGR."""
        restorer, pieces = self._restorer, ('max_frames', 'overlap', 'tile', 'tile_overlap')
        max_frames, overlap, tile, tile_overlap = map(self._val_opt.get, pieces)
        tiling = Tiling(item.num_frame, 0, tile, TILE_OVERLAP if tile_overlap is None else tile_overlap)
        if item.is_window:
            restorer = replace(restorer, window=None)
        elif max_frames is not None and item.num_frame > max_frames:
            context = restorer.context(FRAMES_OVERLAP if overlap is None else overlap)
            tiling = restorer.aligned(replace(tiling, num_frame=max_frames, overlap=context))
        count = 0
        for count, (result, gt) in enumerate(zip(super_resolve(restorer, item.lq(), tiling), item.gt()), 1):
            yield item.first + count - 1, result.numpy(), gt
        if count != (1 if item.is_window else item.num_frame):
            raise InputError(
                f'datasets: must be a test set of windows for an arch that gives one frame, got {count} frames for '
                f'{item.num_frame} in clip {item.folder}. Set type: VideoTestDataset.'
            )

    def _measure(self, folder: str, frame: int, result: np.ndarray, gt: np.ndarray) -> None:
        for column, (metric, metric_opt) in enumerate(self.metrics.items()):
            if metric in self.raised:
                continue
            try:
                value = calculate_metric({'img': result, 'img2': gt}, metric_opt)
                self._model.metric_results[folder][frame, column] = value
            except Exception as error:
                if self._stop is None:
                    raise
                self.raised[metric] = error

    def _beside(self, what: str, do: Callable[..., None], *arguments: Any) -> None:
        """Does something whose failure does not end a run. After a failure it is not tried again in this validation."""
        if what in self._broken:
            return
        try:
            do(*arguments)
        except Exception as error:
            if self._stop is None:
                raise
            self._broken.add(what)
            self._model.run.failures.failed(what, error)
        else:
            if self._stop is not None:
                self._model.run.failures.worked(what)

    def _show(self, item: _Item, frame: int, result: np.ndarray, gt: np.ndarray) -> None:
        """Gives TensorBoard the middle frame of the first clips: LQ, result and ground truth side by side.

        Only the first rank has TensorBoard, and it shows the first of its own clips.
        """
        folder, wanted = item.folder, self._val_opt.get('tb_images') or 0
        is_middle = frame >= len(self._model.metric_results[folder]) // 2
        if self._tb_logger is None or len(self._shown) >= wanted or folder in self._shown or not is_middle:
            return
        self._shown.add(folder)
        lq = next(islice(item.lq(), item.num_frame // 2 if item.is_window else frame, None))
        if isinstance(lq, torch.Tensor):
            lq = tensor2img(lq.permute(2, 0, 1))
        lq = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)  # pixels as they are
        picture = np.hstack([lq, result, gt])[..., ::-1]
        self._tb_logger.add_image(f'{self.name}/{folder}', picture, self._current_iter, dataformats='HWC')

    def _save(self, item: _Item, frame: int, image: np.ndarray) -> None:
        """Writes a PNG, whole or not at all."""
        opt = self._model.opt
        label = self._current_iter if self._model.is_train else self._val_opt.get('suffix') or opt['name']
        file = f'{item.stem or f"{frame:08d}"}_{label}.png'
        path = Path(opt['path']['visualization'], self.name, item.folder, file)
        encoded = cv2.imencode('.png', image)[1]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.tobytes())
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            fix = 'Make room, or set val.save_img: false.'
            raise InputError(f'{path}: cannot be written ({error.strerror}). {fix}') from None

    def count_raised(self, anywhere: dict[str, int]) -> None:
        """Logs which metrics raised on any rank, and leaves a metric out after three times in a row."""
        model = self._model
        for metric, has_raised in anywhere.items():
            what = f'Metric {metric} of {self.name}'
            if not has_raised:
                model.run.failures.worked(what)
                continue
            del model.measured[metric]
            if model.run.failures.failed(what, self.raised.get(metric, 'on another rank')) == _MOST_RAISED:
                model._left_out_metrics.add((self.name, metric))
                get_root_logger().error(f'{what} is left out from here on: it failed {_MOST_RAISED} times in a row.')


def _metrics(model: Any) -> dict[str, Any]:
    return model.opt['val'].get('metrics') or {}


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
        if where := ', '.join(f'{count} of {folder}' for folder, count in odd.items() if count):
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
