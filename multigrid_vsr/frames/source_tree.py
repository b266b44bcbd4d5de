"""Which images and videos there are below a folder, and which of them make a clip."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.system_files import is_system

# What OpenCV reads, by suffix, so that the frames of a data set need not be opened; others are tried.
_IMAGES = frozenset(
    '.avif .bmp .dib .exr .hdr .jp2 .jpe .jpeg .jpg .pbm .pfm .pgm .png .pnm .ppm .ras .sr .tif .tiff .webp'.split()
)
_VIDEOS = frozenset(
    '.3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m'.split()
)
_set_log_level = cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel  # OpenCV 4, and 5
_SILENT = 0


@dataclass
class SourceTree:
    """What is below a folder; paths are below it too, with ``/``.

    Attributes:
        images: For each clip the files of its frames, in natural order.
        videos: For each clip its file.
        left_out: Hidden and system files and folders.
        others: What is neither image nor video.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What is not taken, with a count each."""
        rows = ((self.left_out, 'hidden or of the system'), (self.others, 'neither image nor video'))
        return [f'{len(paths)} left out, {what}: {_first(paths)}.' for paths, what in rows if paths]


def natural(name: str) -> list[int | str]:
    """The key of the natural order, in which 10 comes after 9."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r'(\d+)', name))]


def read_tree(option: str, root: Path) -> SourceTree:
    """Finds the clips below ``root``: each folder of images is one, and each video.

    Raises:
        OptionError: If a folder mixes images, videos and folders, is empty, or two videos have one name.
    """
    tree = SourceTree()
    _walk(option, root, '', tree)
    if tree.images and tree.videos:
        image, video = (root / name for name in (next(iter(tree.images.values()))[0], next(iter(tree.videos.values()))))
        raise OptionError(option, 'hold images or videos', f'both, {image} and {video}', 'Prepare one kind at a time.')
    return tree


def _walk(option: str, root: Path, folder: str, tree: SourceTree) -> None:
    kinds: dict[str, list[str]] = {'folder': [], 'image': [], 'video': [], 'other': []}
    with os.scandir(root / folder) as entries:
        found = sorted(entries, key=lambda entry: natural(entry.name))
    for entry in found:
        path = f'{folder}/{entry.name}' if folder else entry.name
        if is_system(entry.name):
            tree.left_out.append(path)
        elif entry.is_symlink() and _leads_back(entry.path):
            raise OptionError(option, 'hold no link that leads back to itself', entry.path, 'Remove the link.')
        else:
            kinds['folder' if entry.is_dir() else kind_of(Path(entry.path))].append(path)
    tree.others += kinds['other']
    if not found and folder:
        raise OptionError(option, 'hold folders of frames', f'{root / folder} empty', 'Fill it, or remove it.')
    images = kinds['image']
    if images and (kinds['folder'] or kinds['video']):
        beside = (kinds['folder'] + kinds['video'])[0]
        raise OptionError(
            option,
            'hold folders of images alone or of folders alone',
            f'{root / images[0]} beside {root / beside}',
            'Move it elsewhere.',
        )
    if images:
        _refuse_equal_names(option, root, images)
        tree.images[folder or root.absolute().name] = images
    _refuse_equal_names(option, root, kinds['video'])
    tree.videos.update((os.path.splitext(path)[0], path) for path in kinds['video'])
    for path in kinds['folder']:
        _walk(option, root, path, tree)


def _leads_back(link: str) -> bool:
    """Whether a link goes to itself or to a folder that it is in."""
    try:
        target = os.path.realpath(link, strict=True)
    except FileNotFoundError:
        return False
    except OSError:  # ELOOP
        return True
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(link))]) == target


def kind_of(path: Path) -> str:
    """``image``, ``video`` or ``other``: by the suffix, or else by what OpenCV can open."""
    suffix = path.suffix.lower()
    if suffix in _IMAGES or suffix in _VIDEOS:
        return 'image' if suffix in _IMAGES else 'video'
    level = _set_log_level(_SILENT)
    try:
        if cv2.haveImageReader(str(path)):
            return 'image'
        return 'video' if path.stat().st_size and cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).grab() else 'other'
    finally:
        _set_log_level(level)


def _refuse_equal_names(option: str, root: Path, paths: Sequence[str]) -> None:
    stems: dict[str, str] = {}
    for path in paths:
        other = stems.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise OptionError(
                option,
                'hold each name once, whatever the suffix',
                f'{root / other} and {root / path}',
                'Rename one of them, or move it elsewhere.',
            )


def check_numbers(option: str, root: Path, files: Sequence[str]) -> None:
    """Finds a frame that is missing: where names are numbered in equal steps but for some gaps.

    Raises:
        OptionError: If one is, naming it.
    """
    stems = [os.path.splitext(path)[0].rpartition('/')[2] for path in files]
    parts = [re.split(r'(\d+)', stem) for stem in stems]
    if len(parts) < 3 or len({len(part) for part in parts}) > 1:
        return
    for place in range(len(parts[0]) - 2, 0, -2):  # the last number that counts the frames
        numbers = [int(part[place]) for part in parts]
        if len(set(numbers)) < len(numbers):
            continue
        steps = [after - before for before, after in pairwise(numbers)]
        step = min(steps)
        if step < 1 or any(s % step for s in steps) or 2 * steps.count(step) <= len(steps):
            return
        gap = next((index for index, s in enumerate(steps) if s != step), None)
        if gap is not None:
            part = list(parts[gap])
            part[place] = f'{numbers[gap] + step:0{len(part[place])}d}'
            folder, suffix = os.path.split(files[gap])[0], os.path.splitext(files[gap])[1]
            raise OptionError(
                option,
                'hold folders of frames numbered without a gap',
                f'{root / folder} without {"".join(part)}{suffix}',
                'Add the frame, or renumber the others if none is missing.',
            )
        return


def _first(paths: Sequence[str]) -> str:
    return ', '.join(paths[:3]) + (', ...' if len(paths) > 3 else '')
