"""What a clip is, and how its frames are named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clip:
    """A clip of ``num_frame`` ground-truth frames of ``height`` x ``width`` pixels."""

    name: str
    num_frame: int
    height: int
    width: int


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


REDS_NAMES = FrameNames('', 8, 0, 1)  # 000/00000000.png
VIMEO90K_NAMES = FrameNames('im', 1, 1, 2)  # 00001/0001/im1.png
