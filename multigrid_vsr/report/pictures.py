"""Crops of the pictures that validation saved, the same place for every run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.images import decode_image
from multigrid_vsr.frames.pairs import Sources, open_eval_clips, read_frames
from multigrid_vsr.options.archs import STOCK_TEST_SETS, TEST_SET_TYPES
from multigrid_vsr.report.read import Experiment

_SIDE = 128  # of a crop, ground-truth pixels
_MOST_ROWS = 4


class Crop(NamedTuple):
    """A crop, uint8 BGR, and its caption; ``run`` is the number of its run, ``None`` for LQ and ground truth."""

    label: str
    run: int | None
    image: np.ndarray


class Row(NamedTuple):
    """The crops of one frame, side by side."""

    title: str
    crops: list[Crop]


def rows_of_crops(experiments: Sequence[Experiment]) -> list[Row]:
    """Crops of up to four clips: each run's last picture, and LQ and ground truth if they are on this machine.

    A crop lies where the error of a run is largest. Without ground truth it lies where runs differ most, or where the
    last picture of a single run differs most from its first.
    """
    saved = {run: pictures for run, e in enumerate(experiments) if (pictures := _saved(e.folder / 'visualization'))}
    clips: dict[str, list[str]] = {}
    for frame in sorted(set.intersection(*map(set, saved.values()))) if saved else ():
        clips.setdefault(str(Path(frame).parent), []).append(frame)
    middle = [names[len(names) // 2] for names in clips.values()][:_MOST_ROWS]
    opened: dict[str, Sources] = {}
    rows = (_row(frame, experiments, {run: found[frame] for run, found in saved.items()}, opened) for frame in middle)
    return [row for row in rows if row is not None]


def _saved(root: Path) -> dict[str, dict[int, Path]]:
    """The pictures of a run: for each path without the iteration, the files by iteration."""
    found: dict[str, dict[int, Path]] = {}
    for path in root.rglob('*.png'):
        if match := re.fullmatch(r'(.+)_(\d+)', path.stem):
            found.setdefault(str((path.parent / match[1]).relative_to(root)), {})[int(match[2])] = path
    return found


def _row(
    frame: str, experiments: Sequence[Experiment], saved: Mapping[int, Mapping[int, Path]], opened: dict[str, Sources]
) -> Row | None:
    run, files = next(iter(saved.items()))
    paths = [files[min(files)], *(each[max(each)] for each in saved.values())]
    decoded = [image for path in paths if (image := decode_image(path.read_bytes())) is not None]
    if len(decoded) < len(paths) or any(image.shape != decoded[0].shape for image in decoded):
        return None  # a picture is being written, or is from another test set of this name
    first, *images = decoded
    lq, truth, missing = _originals(experiments[run], frame, opened)
    if truth is not None and truth.shape != first.shape:
        truth, missing = None, 'without ground truth: it has another size'
    reference = truth if truth is not None else first if len(images) == 1 else images[-1]
    errors = [np.square(image.astype(np.float32) - reference).mean(axis=2) for image in images]
    top, left = _place_of_largest(np.max(errors, axis=0))

    def crop(image: np.ndarray, scale: int = 1) -> np.ndarray:
        return image[top // scale :, left // scale :][: _SIDE // scale, : _SIDE // scale]

    crops = [
        Crop(f'{experiments[run].name}, {max(each):,}', run, crop(image))
        for (run, each), image in zip(saved.items(), images)
    ]
    if lq is not None and first.shape[0] % lq.shape[0] == 0:
        crops.insert(0, Crop('LQ', None, crop(lq, first.shape[0] // lq.shape[0])))
    if truth is not None:
        crops.append(Crop('ground truth', None, crop(truth)))
    return Row(f'{frame}, {missing}' if missing else frame, crops)


def _place_of_largest(error: np.ndarray) -> tuple[int, int]:
    """The top left corner of the crop with the largest mean error (h, w), on a grid of 4 pixels."""
    side = min(_SIDE, *error.shape)
    means = cv2.boxFilter(error, -1, (side, side), normalize=True, anchor=(0, 0))
    means = means[: error.shape[0] - side + 1 : 4, : error.shape[1] - side + 1 : 4]
    top, left = (int(place) * 4 for place in np.unravel_index(means.argmax(), means.shape))
    return top, left


def _originals(
    experiment: Experiment, frame: str, opened: dict[str, Sources]
) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """LQ frame and ground truth as the test set reads them, and a note if there is no ground truth.

    ``frame`` is the path of a picture: the name of the test set, the clip, and the name or number of the frame.
    ``opened`` keeps test sets open, by their folder of ground truth.
    """
    name, *parts = Path(frame).parts
    root = Path(experiment.options.get('root_path') or '.')
    for key, options in experiment.options.get('datasets', {}).items():
        if key == 'train' or options.get('name') != name:
            continue
        opt = {**options, 'scale': experiment.options.get('scale', 1)}
        opt |= {key: str(root / opt[key]) for key in ('dataroot_gt', 'dataroot_lq') if isinstance(opt.get(key), str)}
        try:
            if opt.get('type') in TEST_SET_TYPES:
                folder = str(opt['dataroot_gt'])
                if folder not in opened:
                    opened[folder] = open_eval_clips(f'datasets.{key}', opt)
                lq, gt = _of_our_set(opened[folder], parts)
            else:
                lq, gt = _of_stock_set(opt, parts)
        except (InputError, OSError, ValueError) as error:
            return None, None, f'without ground truth: {error}'
        return lq, gt, '' if gt is not None else f'without ground truth: no such frame in {opt.get("dataroot_gt")}'
    return None, None, 'without ground truth: the options have no such test set'


def _of_our_set(sources: Sources, parts: Sequence[str]) -> list[np.ndarray | None]:
    names, name = [clip.name for clip in sources.clips], '/'.join(parts[:-1])
    if name not in names:
        raise InputError(f'the test set has no clip {name}')
    place = names.index(name)
    return [next(islice(read_frames(sources, place, kind), int(parts[-1]), None), None) for kind in ('lq', 'gt')]


def _of_stock_set(opt: Mapping[str, Any], parts: Sequence[str]) -> list[np.ndarray | None]:
    """Frames in alphabetical order, as BasicSR pairs them; a picture has the name or the number of its LQ frame."""
    if opt.get('type') == 'VideoTestVimeo90KDataset':  # 00001_0266_im4
        parts = parts[-1].split('_')
    folders = [Path(opt.get(f'dataroot_{kind}') or '', *parts[:-1]) for kind in ('lq', 'gt')]
    lq, gt = (sorted(p for p in f.iterdir() if p.name[0] != '.') if f.is_dir() else [] for f in folders)
    is_named = opt.get('type') in STOCK_TEST_SETS and opt['type'] != 'VideoRecurrentTestDataset'
    place = [path.stem for path in lq].index(parts[-1]) if is_named else int(parts[-1])
    return [decode_image(paths[place].read_bytes()) if place < len(paths) else None for paths in (lq, gt)]
