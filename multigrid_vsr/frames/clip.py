"""What a clip is, and how its frames are named."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


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
