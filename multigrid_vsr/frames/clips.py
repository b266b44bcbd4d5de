"""Which clips a dataset holds: names, lengths and frame sizes. Reads text and headers, never pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import REDS_NAMES, VIMEO90K_NAMES, Clip, FrameNames
from multigrid_vsr.frames.frame_store import FrameStore

IO_BACKENDS = ('disk', 'lmdb', 'packed')
VAL_PARTITIONS = {'REDS4': ('000', '011', '015', '020'), 'official': tuple(f'{v:03d}' for v in range(240, 270))}


def frame_names(dataset_opt: Mapping[str, Any]) -> FrameNames:
    """How the frames of ``datasets.train`` are named."""
    return VIMEO90K_NAMES if dataset_opt.get('type') == 'MultigridVimeo90KDataset' else REDS_NAMES


def training_clips(dataset_opt: Mapping[str, Any]) -> list[Clip]:
    """The clips that ``datasets.train`` trains on: those listed, without the validation partition.

    The list is ``meta_info_file`` as BasicSR's (``000 100 (720,1280,3)`` a line); without one, what the frame store
    holds, the LMDB's own ``meta_info.txt``, or the folders of ``dataroot_gt``.

    Raises:
        OptionError: If the list cannot be read or is empty, or the two frame stores are no pair.
        InputError: If a frame store cannot be opened.
    """
    for key in ('dataroot_gt', 'dataroot_lq'):
        root = dataset_opt.get(key)
        if not isinstance(root, str) or not Path(root).expanduser().is_dir():
            raise OptionError(f'datasets.train.{key}', 'be a folder that exists', root, 'Correct the path.')
    backend = (dataset_opt.get('io_backend') or {}).get('type')
    if backend not in IO_BACKENDS:
        near = get_close_matches(str(backend), IO_BACKENDS, n=1)
        fix = f'Did you mean `{near[0]}`?' if near else 'Set io_backend: {type: disk}.'
        raise OptionError('datasets.train.io_backend.type', f'be {", ".join(IO_BACKENDS)}', backend, fix)
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
    clips = [clip for clip in _listed_clips(dataset_opt, backend) if (clip.name in held_out) is test_mode]
    if not clips:
        raise OptionError(
            'datasets.train',
            'hold at least one clip for training',
            0,
            'Check meta_info_file, dataroot_gt and val_partition.',
        )
    return clips


def _listed_clips(dataset_opt: Mapping[str, Any], backend: str) -> list[Clip]:
    root = Path(dataset_opt['dataroot_gt']).expanduser()
    meta_info = dataset_opt.get('meta_info_file')
    stored = _stored_clips(dataset_opt, root) if backend == 'packed' else None
    if meta_info is not None:
        return _read_meta_info('datasets.train.meta_info_file', Path(meta_info))
    if stored is not None:
        return stored
    if backend == 'lmdb':
        return read_lmdb_list('datasets.train.dataroot_gt', root)
    return scan_folders('datasets.train.dataroot_gt', root, frame_names(dataset_opt))


def _stored_clips(dataset_opt: Mapping[str, Any], root: Path) -> list[Clip]:
    """What the pair of stores holds."""
    gt, lq = FrameStore(root).info, FrameStore(Path(dataset_opt['dataroot_lq']).expanduser()).info
    scale = dataset_opt.get('scale', gt.scale)
    shrunk = [Clip(c.name, c.num_frame, c.height // gt.scale, c.width // gt.scale) for c in gt.clips]
    if gt.scale != scale:
        raise OptionError('scale', f'be that of the frame store ({gt.scale})', scale, 'Prepare a store for it.')
    if shrunk != list(lq.clips):
        raise OptionError(
            'datasets.train.dataroot_lq',
            f'be the pair of {root}',
            dataset_opt['dataroot_lq'],
            'Give STORE/lq beside STORE/gt.',
        )
    return list(gt.clips)


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


def read_lmdb_list(option: str, root: Path) -> list[Clip]:
    """The clips of a BasicSR LMDB: the lines of its list, ``000/00000000.png (720,1280,3) 1``, grouped by folder.

    Raises:
        OptionError: If the list cannot be read.
    """
    counts: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    path = root / 'meta_info.txt'
    for number, line in enumerate(_read_lines(option, path), 1):
        match = re.fullmatch(r'(.+)/[a-z]*\d+\.\w+ \((\d+),(\d+),3\) \d+', line)
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


def scan_folders(option: str, root: Path, names: FrameNames) -> list[Clip]:
    """The clips in the folders below ``root``.

    Raises:
        OptionError: If a folder holds no frames or misses one.
    """
    folders = sorted(path for path in root.glob('/'.join(['*'] * names.depth)) if path.is_dir())
    return [_scan_folder(option, root, folder, names) for folder in folders]


def _scan_folder(option: str, root: Path, folder: Path, names: FrameNames) -> Clip:
    files = {path.stem for path in folder.iterdir() if path.suffix == '.png'}
    num_frame = 0
    while names.stem(num_frame) in files:
        num_frame += 1
    if num_frame < len(files) or num_frame == 0:
        raise OptionError(
            option,
            f'hold folders of frames {names.stem(0)}.png, {names.stem(1)}.png, ... without a gap',
            f'{folder} without {names.stem(num_frame)}.png',
            'Add the frame, or list the clips in meta_info_file.',
        )
    first = folder / f'{names.stem(0)}.png'
    with open(first, 'rb') as file:
        header = file.read(24)
    if header[:8] != b'\x89PNG\r\n\x1a\n' or len(header) < 24:
        raise OptionError(option, 'hold PNG frames', first, 'Replace the file.')
    width, height = struct.unpack('>II', header[16:])
    return Clip(str(folder.relative_to(root)), num_frame, height, width)


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
