"""A clip, and the lists that name clips."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from multigrid_vsr.core.errors import OptionError


@dataclass(frozen=True)
class Clip:
    """A clip of frames of ``height`` x ``width`` pixels: ground truth, unless stated otherwise."""

    name: str
    num_frame: int
    height: int
    width: int

    def shrunk(self, scale: int) -> Clip:
        """The LQ clip, with 1/scale of the size."""
        return Clip(self.name, self.num_frame, self.height // scale, self.width // scale)


_META_INFO = re.compile(r'(\S+) (\d+) \((\d+),(\d+),3\)')


def _clip_of(line: str) -> Clip | None:
    match = _META_INFO.fullmatch(line)
    return Clip(match[1], *map(int, match.groups()[1:])) if match else None


def _read_lines(option: str, path: Path, fix: str) -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte order mark; ``fix`` is for a missing file."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise OptionError(option, 'be a file that can be read', f'{path} ({error.strerror})', fix) from error
    except UnicodeDecodeError:
        text = '\0'
    if '\0' in text:  # UTF-16 without a mark
        raise OptionError(option, 'be text in UTF-8', f'{path} in another encoding', 'Save it as UTF-8.')
    return text.splitlines()


def read_meta_info(option: str, path: Path) -> list[Clip]:
    """The clips of a list of BasicSR, with lines such as ``000 100 (720,1280,3)``.

    Raises:
        OptionError: If the list cannot be read.
    """
    clips = []
    lines = _read_lines(option, path, 'Correct the path, or leave meta_info_file out to use every clip.')
    for number, line in enumerate(lines, 1):
        if (clip := _clip_of(line)) is None:
            value = f'{line!r} in line {number}'
            raise OptionError(option, "have lines like '000 100 (720,1280,3)'", value, f'Correct {path}.')
        clips.append(clip)
    return clips


def read_clip_names(option: str, path: Path) -> dict[str, Clip | None]:
    """The clips of a list: a name in each line, or a line of BasicSR's, which also gives length and size.

    Raises:
        OptionError: If the list cannot be read, is empty, or names a clip twice.
    """
    names: dict[str, Clip | None] = {}
    for number, line in enumerate(_read_lines(option, path, 'Correct the path.'), 1):
        name = line.strip().rstrip('/')
        clip = _clip_of(name)
        name = clip.name if clip else name
        if name in names:
            raise OptionError(option, 'name each clip once', f'{name} again in line {number}', f'Correct {path}.')
        if name:
            names[name] = clip
    if not names:
        raise OptionError(option, 'name clips, one a line', f'{path} without any', 'Correct the path.')
    return names


def read_lmdb_names(option: str, root: Path) -> list[str]:
    """The clips of a BasicSR LMDB, by its list with lines such as ``000/00000000.png (720,1280,3) 1``.

    Raises:
        OptionError: If the list cannot be read, or the frames of a clip have several sizes.
    """
    path = root / 'meta_info.txt'
    sizes: dict[str, str] = {}
    lines = _read_lines(option, path, "Give the folder of an LMDB that BasicSR's make_lmdb_from_imgs has made.")
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r'((.+)/.+)\.\w+ \((\d+),(\d+),\d\) \d+', line)
        if match is None:
            rule = "be an LMDB with lines like '000/00000000.png (720,1280,3) 1' in meta_info.txt"
            raise OptionError(option, rule, f'{line!r} in line {number}', f'Correct {path}.')
        key, name, *sides = match.groups()
        size = 'x'.join(sides)
        if sizes.setdefault(name, size) != size:
            rule = f'have frames of one size in a clip ({sizes[name]} in {name})'
            value = f'{size} for {key} in line {number} of {path}'
            raise OptionError(option, rule, value, 'Make the LMDB anew without it.')
    return list(sizes)


_SYSTEM = {'__macosx', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', '@eadir', '$recycle.bin', 'lost+found', '__pycache__'}
_SYSTEM.add('system volume information')


def is_system(name: str) -> bool:
    """Whether a name is that of a hidden file or folder (``._a.png``) or of one that systems make."""
    return name.startswith('.') or name.lower() in _SYSTEM
