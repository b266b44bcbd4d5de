"""Which clips a dataset holds: names, lengths and frame sizes. Reads text and headers, never pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError

VAL_PARTITIONS = {'REDS4': ('000', '011', '015', '020'), 'official': tuple(f'{v:03d}' for v in range(240, 270))}


@dataclass(frozen=True)
class Clip:
    """A clip of ``num_frame`` ground-truth frames of ``height`` x ``width`` pixels."""

    name: str
    num_frame: int
    height: int
    width: int


def training_clips(dataset_opt: Mapping[str, Any]) -> list[Clip]:
    """The clips that ``datasets.train`` trains on: those listed, without the validation partition.

    The list is ``meta_info_file`` as BasicSR's (``000 100 (720,1280,3)`` a line); without one, the LMDB's own
    ``meta_info.txt``, or the folders of ``dataroot_gt``.

    Raises:
        OptionError: If the list cannot be read or is empty.
    """
    for key in ('dataroot_gt', 'dataroot_lq'):
        root = dataset_opt.get(key)
        if not isinstance(root, str) or not Path(root).expanduser().is_dir():
            raise OptionError(f'datasets.train.{key}', 'be a folder that exists', root, 'Correct the path.')
    partition = dataset_opt.get('val_partition')
    if partition is not None and partition not in VAL_PARTITIONS:
        raise OptionError(
            'datasets.train.val_partition',
            f'be {" or ".join(VAL_PARTITIONS)}',
            partition,
            'Leave it out to train on every clip.',
        )
    held_out = VAL_PARTITIONS.get(partition or '', ())
    test_mode = bool(dataset_opt.get('test_mode', False))
    clips = [clip for clip in _listed_clips(dataset_opt) if (clip.name in held_out) is test_mode]
    if not clips:
        raise OptionError(
            'datasets.train',
            'hold at least one clip for training',
            0,
            'Check meta_info_file, dataroot_gt and val_partition.',
        )
    return clips


def _listed_clips(dataset_opt: Mapping[str, Any]) -> list[Clip]:
    root = Path(dataset_opt['dataroot_gt']).expanduser()
    meta_info = dataset_opt.get('meta_info_file')
    if meta_info is not None:
        return _read_meta_info('datasets.train.meta_info_file', Path(meta_info))
    if (dataset_opt.get('io_backend') or {}).get('type') == 'lmdb':
        return _read_lmdb_meta_info(root / 'meta_info.txt')
    return [_scan_folder(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]


def _read_meta_info(option: str, path: Path) -> list[Clip]:
    clips = []
    for number, line in enumerate(_read_lines(option, path), 1):
        match = re.fullmatch(r'(\S+) (\d+) \((\d+),(\d+),3\)', line)
        if match is None:
            raise OptionError(
                option, "have lines like '000 100 (720,1280,3)'", f'{line!r} in line {number}', f'Correct {path}.'
            )
        name, *numbers = match.groups()
        clips.append(Clip(name, *map(int, numbers)))
    return clips


def _read_lmdb_meta_info(path: Path) -> list[Clip]:
    """Groups the lines of BasicSR's LMDB list, ``000/00000000.png (720,1280,3) 1``, by clip."""
    counts: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    option = 'datasets.train.dataroot_gt'
    for number, line in enumerate(_read_lines(option, path), 1):
        match = re.fullmatch(r'(.+)/\d+\.\w+ \((\d+),(\d+),3\) \d+', line)
        if match is None:
            raise OptionError(
                option,
                "be an LMDB with lines like '000/00000000.png (720,1280,3) 1' in meta_info.txt",
                f'{line!r} in line {number}',
                f'Correct {path}, or give meta_info_file.',
            )
        name, height, width = match.groups()
        counts[name] = counts.get(name, 0) + 1
        sizes[name] = int(height), int(width)
    return [Clip(name, count, *sizes[name]) for name, count in counts.items()]


def _scan_folder(folder: Path) -> Clip:
    names = {path.name for path in folder.iterdir()}
    num_frame = 0
    while f'{num_frame:08d}.png' in names:
        num_frame += 1
    if num_frame == 0:
        raise OptionError(
            'datasets.train.dataroot_gt',
            'hold folders of frames 00000000.png, 00000001.png, ...',
            f'{folder} without 00000000.png',
            'Rename the frames, or list the clips in meta_info_file.',
        )
    with open(folder / '00000000.png', 'rb') as file:
        header = file.read(24)
    if header[:8] != b'\x89PNG\r\n\x1a\n' or len(header) < 24:
        raise OptionError('datasets.train.dataroot_gt', 'hold PNG frames', folder / '00000000.png', 'Replace the file.')
    width, height = struct.unpack('>II', header[16:])
    return Clip(folder.name, num_frame, height, width)


def _read_lines(option: str, path: Path) -> Iterable[str]:
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise OptionError(
            option,
            'be a file that can be read',
            f'{path} ({error.strerror})',
            'Correct the path, or leave meta_info_file out to use every folder.',
        ) from error
