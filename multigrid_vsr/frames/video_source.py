"""Videos as clips: their frames are counted by decoding, since a header may say more or fewer, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.frames.clip import Clip


class VideoSource:
    """Video files, whatever OpenCV decodes: each is a clip, named by its file.

    Args:
        option: Which option names them.
        root: The folder, or the file.
        files: For each clip its file below ``root``.
        notes: What is to be said about the folder.
        workers: Videos that are counted at a time.
    """

    def __init__(self, option: str, root: Path, files: dict[str, str], notes: list[str], workers: int) -> None:
        self.root = root
        self.names = list(files)
        self.notes = [f'{option}: {note}' for note in notes]
        self._option = option
        self._files = files
        self._workers = workers

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        with ThreadPoolExecutor(self._workers) as pool:
            bar = tqdm(pool.map(self._count, names), f'Count {self._option}', len(names), unit='video', delay=1)
            found = dict(zip(names, bar))
        for name, (clip, in_header) in found.items():
            if 0 < in_header != clip.num_frame:
                self.notes.append(
                    f'{self._option}: {self.where(name, 0)} has {clip.num_frame} frames that decode; its header says '
                    f'{in_header}.'
                )
        return {name: clip for name, (clip, _) in found.items()}

    def files(self, name: str) -> list[str]:
        return [self._files[name]]

    def frames(self, name: str) -> Iterator[np.ndarray | None]:
        video = cv2.VideoCapture(self.where(name, 0))
        while True:
            there_is_one, frame = video.read()
            yield frame if there_is_one else None

    def where(self, name: str, frame: int) -> str:
        return str(self.root / self._files[name])

    def _count(self, name: str) -> tuple[Clip, int]:
        """The clip, and the frames that its header promises."""
        path = self.where(name, 0)
        video = cv2.VideoCapture(path)
        there_is_one, frame = video.read()
        if not there_is_one:
            raise OptionError(self._option, 'hold videos that decode', f'{path} without a frame', 'Mend or remove it.')
        num_frame = 1
        while video.grab():
            num_frame += 1
        return Clip(name, num_frame, *frame.shape[:2]), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
