"""Where the frames of a store come from: folders, BasicSR's LMDBs and videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.frames.clip import REDS_NAMES, VIMEO90K_NAMES, Clip, FrameNames
from multigrid_vsr.frames.clips import read_lmdb_list, scan_folders
from multigrid_vsr.frames.frame_readers import open_env

VIDEO_SUFFIXES = ('.mp4', '.mkv', '.avi', '.mov', '.webm', '.m4v')

Payload = bytes | np.ndarray | None  # an encoded image, a decoded frame, or nothing where it cannot be read


class FrameSource(Protocol):
    """Clips, and their frames in order.

    Attributes:
        clips: The clips; of a video, ``num_frame`` is what its header says.
    """

    clips: list[Clip]

    def frames(self, clip: Clip) -> Iterator[Payload]:
        """The frames of a clip, as cheaply as they can be had: who takes them decodes them."""

    def where(self, clip: str, frame: int) -> str:
        """The file that holds a frame, for messages."""


def open_source(option: str, root: Path) -> FrameSource:
    """Opens a folder of clips (as REDS or Vimeo90K), a BasicSR LMDB, a video or a folder of videos.

    Raises:
        InputError: If it is none of these.
    """
    if (root / 'data.mdb').is_file():
        return LmdbSource(option, root)
    if root.is_file() and root.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource([root])
    if root.is_dir():
        videos = sorted(path for path in root.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        if videos:
            return VideoSource(videos)
        is_vimeo = next(root.glob(f'*/*/{VIMEO90K_NAMES.stem(0)}.png'), None) is not None
        return FolderSource(option, root, VIMEO90K_NAMES if is_vimeo else REDS_NAMES)
    raise InputError(f'{option}: must be a folder of clips, an LMDB or a video, got {root}. Correct the path.')


class FolderSource:
    """PNG files in a folder for each clip."""

    def __init__(self, option: str, root: Path, names: FrameNames) -> None:
        self.root = root
        self.names = names
        self.clips = scan_folders(option, root, names)

    def frames(self, clip: Clip) -> Iterator[Payload]:
        for frame in range(clip.num_frame):
            try:
                yield Path(self.where(clip.name, frame)).read_bytes()
            except OSError:
                yield None

    def where(self, clip: str, frame: int) -> str:
        return f'{self.root}/{clip}/{self.names.stem(frame)}.png'


class LmdbSource:
    """A BasicSR LMDB of encoded images."""

    def __init__(self, option: str, root: Path) -> None:
        self.root = root
        self.clips = read_lmdb_list(option, root)
        self._transaction = open_env(str(root), os.getpid()).begin(buffers=True)
        first = self.clips[0].name if self.clips else ''
        self._names = next(
            (n for n in (REDS_NAMES, VIMEO90K_NAMES) if self._transaction.get(f'{first}/{n.stem(0)}'.encode())),
            REDS_NAMES,
        )

    def frames(self, clip: Clip) -> Iterator[Payload]:
        for frame in range(clip.num_frame):
            value = self._transaction.get(f'{clip.name}/{self._names.stem(frame)}'.encode())
            yield None if value is None else bytes(value)

    def where(self, clip: str, frame: int) -> str:
        return f'{clip}/{self._names.stem(frame)} in {self.root}'


class VideoSource:
    """Video files: each is a clip, named by its file."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = {path.stem: path for path in paths}
        self.clips = [self._clip(path) for path in paths]

    @staticmethod
    def _clip(path: Path) -> Clip:
        video = cv2.VideoCapture(str(path))
        size = [
            int(video.get(p)) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        ]
        if not video.isOpened() or min(size) < 1:
            raise InputError(f'{path}: must be a video that can be decoded, got no frames. Leave it out.')
        return Clip(path.stem, *size)

    def frames(self, clip: Clip) -> Iterator[Payload]:
        video = cv2.VideoCapture(str(self.paths[clip.name]))
        for _ in range(clip.num_frame):
            there_is_one, frame = video.read()
            yield frame if there_is_one else None

    def where(self, clip: str, frame: int) -> str:
        return f'{self.paths[clip]}'
