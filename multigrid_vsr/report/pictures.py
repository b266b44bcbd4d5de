"""The same crop of every run's pictures, where validation saved them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from multigrid_vsr.report.experiment import Experiment

_SIDE = 128  # of a crop, ground-truth pixels
_MOST_ROWS = 4


@dataclass(frozen=True)
class Crop:
    """A crop with what stands below it; ``run`` is the place of its run, or ``None`` for LQ and ground truth."""

    label: str
    run: int | None
    data: str


@dataclass(frozen=True)
class Row:
    """The crops of one frame, side by side."""

    title: str
    crops: list[Crop]


def rows_of_crops(experiments: Sequence[Experiment]) -> list[Row]:
    """Crops of up to four clips: LQ and ground truth where they are on this machine, and each run's last picture.

    The crop is where a run is farthest from the ground truth; without it, where the runs differ most, and for one run
    alone, where its last picture differs most from its first.
    """
    saved = [_saved(experiment) for experiment in experiments]
    with_pictures = [pictures for pictures in saved if pictures]
    if not with_pictures:
        return []
    frames = sorted(set.intersection(*(set(pictures) for pictures in with_pictures)))
    clips: dict[str, list[str]] = {}
    for frame in frames:
        clips.setdefault(str(Path(frame).parent), []).append(frame)
    chosen = [names[len(names) // 2] for names in clips.values()][:_MOST_ROWS]
    return [row for frame in chosen if (row := _row(frame, experiments, saved)) is not None]


def _saved(experiment: Experiment) -> dict[str, dict[int, Path]]:
    """The pictures of a run: the path without the iteration, and the file of each iteration."""
    root = experiment.folder / 'visualization'
    found: dict[str, dict[int, Path]] = {}
    for path in root.rglob('*.png'):
        if match := re.fullmatch(r'(.+)_(\d+)', path.stem):
            found.setdefault(str((path.parent / match[1]).relative_to(root)), {})[int(match[2])] = path
    return found


def _row(frame: str, experiments: Sequence[Experiment], saved: Sequence[Mapping[str, Any]]) -> Row | None:
    runs = [run for run, pictures in enumerate(saved) if pictures]
    labels = [f'{experiments[run].name}, {max(saved[run][frame]):,}' for run in runs]
    read = [cv2.imread(str(saved[run][frame][max(saved[run][frame])])) for run in runs]
    first = cv2.imread(str(saved[runs[0]][frame][min(saved[runs[0]][frame])]))
    images = [image for image in read if image is not None]
    if first is None or len({image.shape for image in [first, *images]}) > 1 or len(images) < len(runs):
        return None  # one that is being written, or of another test set under the same name
    truth = _original(experiments[runs[0]], frame, 'dataroot_gt')
    if truth is not None and truth.shape != images[0].shape:
        truth = None
    reference = truth if truth is not None else first if len(images) == 1 else images[-1]
    errors = [np.square(image.astype(np.float32) - reference).mean(axis=2) for image in images]
    top, left = place_of_largest(np.max(errors, axis=0), _SIDE)
    crops = [
        Crop(label, run, _png(image[top : top + _SIDE, left : left + _SIDE]))
        for label, run, image in zip(labels, runs, images)
    ]
    lq = _original(experiments[runs[0]], frame, 'dataroot_lq')
    if lq is not None and images[0].shape[0] % lq.shape[0] == 0:
        scale = images[0].shape[0] // lq.shape[0]
        side = _SIDE // scale
        crops.insert(0, Crop('LQ', None, _png(lq[top // scale :, left // scale :][:side, :side])))
    if truth is not None:
        crops.append(Crop('ground truth', None, _png(truth[top : top + _SIDE, left : left + _SIDE])))
    return Row(frame, crops)


def place_of_largest(error: np.ndarray, side: int) -> tuple[int, int]:
    """The top left corner of the window whose mean is largest, on a grid of 4 pixels.

    Args:
        error: (h, w).
        side: Side of the window; of a smaller image the whole.
    """
    side = min(side, *error.shape)
    means = cv2.boxFilter(error, -1, (side, side), normalize=True, anchor=(0, 0))
    means = means[: error.shape[0] - side + 1 : 4, : error.shape[1] - side + 1 : 4]
    top, left = (int(place) * 4 for place in np.unravel_index(means.argmax(), means.shape))
    return top, left


def _original(experiment: Experiment, frame: str, root: str) -> np.ndarray | None:
    """A frame of the test set that a picture came from, if it is on this machine: by its name, else by its number."""
    dataset, *parts = Path(frame).parts
    for options in experiment.options.get('datasets', {}).values():
        if options.get('name') == dataset and isinstance(options.get(root), str):
            folder = Path(experiment.options.get('root_path') or '.', options[root], *parts[:-1])
            files = sorted(folder.glob('*.png'))
            number = int(parts[-1]) if parts[-1].isdigit() else len(files)
            named = [path for path in files if path.stem == parts[-1]] or files[number : number + 1]
            return cv2.imread(str(named[0])) if named else None
    return None


def _png(image: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode('.png', image)[1].tobytes()).decode()
