"""What a clip is, how its frames are named, and the lists that name clips."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from multigrid_vsr.core.errors import OptionError


@dataclass(frozen=True)
class Clip:
    """A clip of ``num_frame`` frames of ``height`` x ``width`` pixels, ground truth where nothing else is said."""

    name: str
    num_frame: int
    height: int
    width: int

    def shrunk(self, scale: int) -> Clip:
        """Its LQ clip: 1/scale of the size."""
        return Clip(self.name, self.num_frame, self.height // scale, self.width // scale)


@dataclass(frozen=True)
class FrameNames:
    """How the frames of a clip are named: ``prefix``, then the number with at least ``digits``, from ``first``.

    Attributes:
        depth: Folders from the root to a clip.
    """

    prefix: str
    digits: int
    first: int
    depth: int

    def stem(self, frame: int) -> str:
        """The name of a frame, counted from 0, without its suffix."""
        return f'{self.prefix}{frame + self.first:0{self.digits}d}'

    def file(self, frame: int) -> str:
        """The name of a frame's file."""
        return f'{self.stem(frame)}.png'

    def count(self, files: Collection[str], start: int = 0) -> int:
        """How many frames follow each other without a gap in a folder of these files, where the first are known."""
        while self.file(start) in files:
            start += 1
        return start

    def is_one(self, file: str) -> bool:
        """Whether a file has the name of some frame."""
        number = file.removeprefix(self.prefix).removesuffix('.png')
        return number.isdecimal() and self.file(int(number) - self.first) == file


REDS_NAMES = FrameNames('', 8, 0, 1)  # 000/00000000.png
VIMEO90K_NAMES = FrameNames('im', 1, 1, 2)  # 00001/0001/im1.png


_META_INFO = re.compile(r'(\S+) (\d+) \((\d+),(\d+),3\)')


def read_lines(option: str, path: Path, fix: str) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark.

    Raises:
        OptionError: If it cannot be read, or is in another encoding; ``fix`` is what to do about a missing one.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise OptionError(option, 'be a file that can be read', f'{path} ({error.strerror})', fix) from error
    except UnicodeDecodeError:
        text = '\0'
    if '\0' in text:  # as UTF-16 without a mark has
        raise OptionError(option, 'be text in UTF-8', f'{path} in another encoding', 'Save it as UTF-8.')
    return text.splitlines()


def read_meta_info(option: str, path: Path) -> list[Clip]:
    """The clips of BasicSR's list, ``000 100 (720,1280,3)`` a line.

    Raises:
        OptionError: If it cannot be read.
    """
    clips = []
    lines = read_lines(option, path, 'Correct the path, or leave meta_info_file out to use every clip.')
    for number, line in enumerate(lines, 1):
        match = _META_INFO.fullmatch(line)
        if match is None:
            raise OptionError(
                option, "have lines like '000 100 (720,1280,3)'", f'{line!r} in line {number}', f'Correct {path}.'
            )
        name, *numbers = match.groups()
        clips.append(Clip(name, *map(int, numbers)))
    return clips


def read_clip_names(option: str, path: Path) -> dict[str, Clip | None]:
    """The clips of a list of names, one a line, or of BasicSR's list, which says their length and size too.

    Raises:
        OptionError: If it cannot be read, is empty, or names a clip twice.
    """
    names: dict[str, Clip | None] = {}
    for number, line in enumerate(read_lines(option, path, 'Correct the path.'), 1):
        name = line.strip().rstrip('/')
        match = _META_INFO.fullmatch(name)
        clip = Clip(match[1], *map(int, match.groups()[1:])) if match else None
        name = clip.name if clip else name
        if name in names:
            raise OptionError(option, 'name each clip once', f'{name} again in line {number}', f'Correct {path}.')
        if name:
            names[name] = clip
    if not names:
        raise OptionError(option, 'name clips, one a line', f'{path} without any', 'Correct the path.')
    return names


def read_lmdb_list(option: str, root: Path) -> tuple[list[Clip], dict[str, list[str]]]:
    """The clips of a BasicSR LMDB, and the keys of their frames, from its list.

    Its lines are ``000/00000000.png (720,1280,3) 1``; the key is the name without its suffix.

    Raises:
        OptionError: If the list cannot be read, or the frames of a clip have several sizes.
    """
    keys: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    path = root / 'meta_info.txt'
    for number, key, height, width in _lmdb_entries(option, path):
        name = key.rpartition('/')[0]
        keys.setdefault(name, []).append(key)
        if sizes.setdefault(name, (height, width)) != (height, width):
            first = sizes[name]
            raise OptionError(
                option,
                f'have frames of one size in a clip ({first[0]}x{first[1]} in {name})',
                f'{height}x{width} for {key} in line {number} of {path}',
                'Make the LMDB anew without it.',
            )
    return [Clip(name, len(of_clip), *sizes[name]) for name, of_clip in keys.items()], keys


def _lmdb_entries(option: str, path: Path) -> Iterator[tuple[int, str, int, int]]:
    lines = read_lines(option, path, "Give the folder of an LMDB that BasicSR's make_lmdb_from_imgs has made.")
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r'(.+/.+)\.\w+ \((\d+),(\d+),\d\) \d+', line)
        if match is None:
            raise OptionError(
                option,
                "be an LMDB with lines like '000/00000000.png (720,1280,3) 1' in meta_info.txt",
                f'{line!r} in line {number}',
                f'Correct {path}.',
            )
        key, height, width = match.groups()
        yield number, key, int(height), int(width)


_NAMES = frozenset(
    name.lower()
    for name in (
        '__MACOSX',
        'Thumbs.db',
        'ehthumbs.db',
        'desktop.ini',
        '@eaDir',
        '$RECYCLE.BIN',
        'System Volume Information',
        'lost+found',
        '__pycache__',
    )
)


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden (``._a.png``, ``.ipynb_checkpoints``) or a system's own."""
    return name.startswith('.') or name.lower() in _NAMES
