"""One clip, from a video or a folder of images, and back to either."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from multigrid_vsr.core.errors import FrameError, InputError, OptionError, one_line
from multigrid_vsr.frames.source_tree import kind_of, natural
from multigrid_vsr.frames.system_files import is_system

_WRITABLE = ('.mp4', '.mkv', '.mov', '.m4v', '.avi', '.webm')
_CV2_CODERS = {'.avi': 'MJPG', '.webm': 'VP80'}  # without ffmpeg; mp4v otherwise


@dataclass(frozen=True)
class FrameSequence:
    """A clip that can be read.

    Attributes:
        path: Video file or folder.
        files: Images in order; none for a video.
        num_frame: Frames; of a video what its header says, which may be wrong, or ``None``.
        height, width: Of the first frame.
        fps: Frames a second of a video.
    """

    path: Path
    files: tuple[Path, ...]
    num_frame: int | None
    height: int
    width: int
    fps: float | None

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, uint8 (h, w, 3), BGR.

        Raises:
            FrameError: If an image cannot be read, or has another size than the first.
        """
        for path in self.files:
            frame = cv2.imread(str(path))
            if frame is None or frame.shape[:2] != (self.height, self.width):
                got = 'something else' if frame is None else f'{frame.shape[1]}x{frame.shape[0]}'
                raise FrameError(f'{path}: must be an image of {self.width}x{self.height}, got {got}. Mend or move it.')
            yield frame
        if not self.files:
            yield from _decode(self.path)


def open_clip(path: Path) -> FrameSequence:
    """Opens a video, or a folder of images under any names, sorted as people count: 9.png before 10.png.

    Raises:
        InputError: If there is no frame in it.
    """
    if path.is_dir():
        images = [path for path in path.iterdir() if not is_system(path.name) and kind_of(path) == 'image']
        files = tuple(sorted(images, key=lambda image: natural(image.name)))
        names = [file.stem for file in files]
        if double := next((name for name, following in pairwise(sorted(names)) if name == following), None):
            raise InputError(
                f'INPUT: must hold each name once, got {path} with several {double}.*. Rename one of them.'
            )
        first = cv2.imread(str(files[0])) if files else None
        if first is None:
            raise InputError(
                f'INPUT: must be a video or a folder of images, got {path}. Give a folder with images in it.'
            )
        return FrameSequence(path, files, len(files), first.shape[0], first.shape[1], None)
    first = next(_decode(path), None) if path.is_file() else None
    if first is None:
        raise InputError(f'INPUT: must be a video or a folder of images, got {path}. Correct the path.')
    video = cv2.VideoCapture(str(path))
    count, fps = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)
    return FrameSequence(
        path, (), count if count > 0 else None, first.shape[0], first.shape[1], fps if fps > 0 else None
    )


def _decode(path: Path) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    while True:
        there_is_one, frame = video.read()
        if not there_is_one:
            return
        yield frame


class Writer(Protocol):
    """Takes frames in order; what it has written appears under its name with ``close``."""

    def write(self, frame: np.ndarray) -> None: ...

    def close(self) -> None: ...


def open_writer(out: Path, clip: FrameSequence, fps: float | None) -> Writer:
    """A folder of PNG, or a video where the name ends like one: by ffmpeg with the sound of the clip, else by OpenCV.

    Args:
        out: What to write; it does not exist yet.
        clip: Where names, frame rate and sound come from.
        fps: Frames a second; the clip's own, else 25.
    """
    if out.suffix.lower() not in _WRITABLE:
        return FolderWriter(out, clip)
    rate = Fraction(fps or clip.fps or 25).limit_denominator(1001)
    return FfmpegWriter(out, clip, rate) if shutil.which('ffmpeg') else OpenCVWriter(out, rate)


class FolderWriter:
    """PNG files, named as the images they come from, or by number."""

    def __init__(self, out: Path, clip: FrameSequence) -> None:
        self._out = out
        self._unfinished = out.with_name(f'{out.name}.unfinished')
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir()
        self._names = [path.stem for path in clip.files]
        self._count = 0

    def write(self, frame: np.ndarray) -> None:
        name = self._names[self._count] if self._names else f'{self._count:08d}'
        if not cv2.imwrite(str(self._unfinished / f'{name}.png'), frame):
            raise InputError(f'-o: must be a folder that can be written, got {self._unfinished}. Make room.')
        self._count += 1

    def close(self) -> None:
        self._unfinished.rename(self._out)


class FfmpegWriter:
    """A video by ffmpeg, near lossless, with the sound of the clip where that is a video."""

    def __init__(self, out: Path, clip: FrameSequence, rate: Fraction) -> None:
        self._out = out
        self._unfinished = out.with_name(f'{out.stem}.unfinished{out.suffix}')
        self._sound = [] if clip.files else ['-i', os.path.abspath(clip.path), '-map', '0:v', '-map', '1:a?']
        self._copies = clip.path.suffix.lower() == out.suffix.lower()
        self._rate = rate
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, frame: np.ndarray) -> None:
        if self._process is None:
            self._process = self._start(*frame.shape[:2])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.tobytes())
        except BrokenPipeError:
            self._fail()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        coder = ['-c:v', 'libx264', '-crf', '12']
        if self._out.suffix.lower() == '.webm':
            coder = ['-c:v', 'libvpx-vp9', '-crf', '15', '-b:v', '0']
        chroma = 'yuv420p' if height % 2 == width % 2 == 0 else 'yuv444p'  # halves need even sides
        command = ['ffmpeg', '-v', 'error', '-nostdin', '-y', '-f', 'rawvideo', '-pix_fmt', 'bgr24']
        command += ['-s', f'{width}x{height}', '-framerate', str(self._rate), '-i', 'pipe:0', *self._sound, *coder]
        command += ['-pix_fmt', chroma, *(['-c:a', 'copy'] if self._copies else []), os.path.abspath(self._unfinished)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def close(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() != 0:
            self._fail()
        self._unfinished.rename(self._out)

    def _fail(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        reason = one_line(self._process.stderr.read().decode(errors='replace'))
        raise InputError(f'-o: must be a video that ffmpeg can write, got {self._out} ({reason}). Give another suffix.')


class OpenCVWriter:
    """A video by OpenCV, which writes no sound."""

    def __init__(self, out: Path, rate: Fraction) -> None:
        self._out = out
        self._unfinished = out.with_name(f'{out.stem}.unfinished{out.suffix}')
        self._rate = float(rate)
        self._video: cv2.VideoWriter | None = None
        print('ffmpeg is not there: no sound is kept, and OpenCV writes the video.')

    def write(self, frame: np.ndarray) -> None:
        if self._video is None:
            coder = cv2.VideoWriter.fourcc(*_CV2_CODERS.get(self._out.suffix.lower(), 'mp4v'))
            self._video = cv2.VideoWriter(str(self._unfinished), coder, self._rate, frame.shape[1::-1])
            if not self._video.isOpened():
                raise OptionError('-o', 'be a video that OpenCV can write', self._out, 'Write a folder, or get ffmpeg.')
        self._video.write(frame)

    def close(self) -> None:
        assert self._video is not None
        self._video.release()
        self._unfinished.rename(self._out)
