"""The clips of a test set: whole, paired by name, wherever their frames are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.frame_sources import FrameSource, LmdbSource, open_source
from multigrid_vsr.frames.pair_tasks import Task, decode_pair
from multigrid_vsr.frames.pairs import OptionNames, Sources, crop_notes, pair
from multigrid_vsr.frames.store_source import StoreSource


def open_test_clips(name: str, opt: Mapping[str, Any]) -> Sources:
    """Opens the clips of a ``MultigridVideoTestDataset``.

    Args:
        name: Its dotted name, such as ``datasets.val``.
        opt: Its options: ``dataroot_gt``; optionally ``dataroot_lq``, ``io_backend``, ``meta_info_file``, ``scale``.

    Raises:
        OptionError: If clips do not pair, or the back end is another one.
        InputError: If a frame store was not finished.
    """
    options = OptionNames(f'{name}.dataroot_gt', f'{name}.dataroot_lq', 'scale', f'{name}.meta_info_file')
    gt = _open(name, 'gt', opt)
    lq = _open(name, 'lq', opt) if opt.get('dataroot_lq') is not None else None
    listed = opt.get('meta_info_file')
    sources = pair(gt, lq, int(opt.get('scale', 1)), Path(listed).expanduser() if listed else None, options)
    notes = [*gt.notes, *(lq.notes if lq else ()), *crop_notes(sources.pairs, f'{options.gt}, scale')]
    return replace(sources, notes=tuple(notes))


def read_frames(sources: Sources, place: int, kind: str) -> Iterator[np.ndarray]:
    """The frames of a clip in order, uint8 (h, w, 3), BGR, cut to the size that fits the scale.

    Args:
        sources: The clips.
        place: Which of them.
        kind: ``gt`` or ``lq``; without LQ clips that is the ground truth by BasicSR's bicubic ``imresize``.

    Raises:
        FrameError: If a frame is missing, damaged or of another size than its clip.
    """
    clips = sources.pairs[place]
    is_lq = kind == 'lq' and sources.lq is not None and clips.lq is not None
    source, name = (sources.lq, clips.lq.name) if is_lq else (sources.gt, clips.gt.name)  # type: ignore[union-attr]
    assert source is not None
    for number, payload in zip(range(clips.clip.num_frame), source.frames(name)):
        task = Task(clips, number, *((None, payload) if is_lq else (payload, None)))
        frames, problem = decode_pair(sources.scale, task, (kind,))
        if problem is not None:
            where = source.where(name, number)
            raise FrameError(f'clip {clips.clip.name}, frame {number}: {problem} ({where})')
        yield frames[kind]


def check_names(option: str, names: Iterable[str]) -> None:
    """Asks for names in UTF-8: OpenCV crashes where it writes a picture under another.

    Raises:
        OptionError: If a clip has another.
    """
    for name in names:
        if name != name.encode(errors='ignore').decode():
            raise OptionError(option, 'hold clips with names in UTF-8', os.fsencode(name), 'Rename it.')


def _open(name: str, kind: str, opt: Mapping[str, Any]) -> FrameSource:
    root = Path(opt[f'dataroot_{kind}']).expanduser()
    source = open_source(f'{name}.dataroot_{kind}', root)
    check_names(f'{name}.dataroot_{kind}', source.names)
    asked = (opt.get('io_backend') or {}).get('type')
    found = {LmdbSource: 'lmdb', StoreSource: 'packed'}.get(type(source), 'disk')
    if asked not in (None, found):
        raise OptionError(f'{name}.io_backend.type', f'be {found} for {root}', asked, 'Change it, or the path.')
    return source
