"""The clips of ``infer``: read from a video or images, and written as a video or images."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from multigrid_vsr.core.errors import FrameError, InputError, OptionError, one_line
from multigrid_vsr.core.whole_file import FULL
from multigrid_vsr.frames.images import check_images, decode_image
from multigrid_vsr.frames.sources import Images, kind_of
from multigrid_vsr.frames.video import MATRICES, UNTAGGED, Scaler, Video, matrix_of, opened

_X264, _VP9 = ('libx264', {'crf': '12'}), ('libvpx-vp9', {'crf': '15', 'b': '0'})
_WRITABLE = {  # FFmpeg's name of the container, the encoder and its options
    '.mp4': ('mp4', *_X264),
    '.m4v': ('mp4', *_X264),
    '.mov': ('mov', *_X264),
    '.mkv': ('matroska', *_X264),
    '.avi': ('avi', 'libx264', {'crf': '12', 'bf': '0'}),  # AVI has no times, so no B-frames
    '.ts': ('mpegts', *_X264),
    '.flv': ('flv', *_X264),
    '.webm': ('webm', *_VP9),
}
_TRANSFERS = {5: 6, 9: 14}  # the transfer characteristics of a matrix, if H.273 gives them another number
_TICKS = 90000  # a second, at least: times are exact to 6 us


@dataclass(frozen=True)
class FrameSequence:
    """A clip to read.

    Attributes:
        path: Video file, folder or image.
        files: Images in order; none for a video.
        num_frame: Frames; for a video those that its header promises, or ``None``.
        height, width: Size of the first frame.
        video: The video; ``None`` for images.
        times: When each frame is shown, in seconds; filled while the frames are read.
    """

    path: Path
    files: tuple[Path, ...]
    num_frame: int | None
    height: int
    width: int
    video: Video | None = None
    times: list[Fraction] = field(default_factory=list)

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, uint8 (h, w, 3), BGR.

        Raises:
            FrameError: If an image cannot be read, or a frame differs in size from the first.
        """
        self.times.clear()
        images = ((Fraction(), decode_image(_read(path))) for path in self.files)
        for number, (time, frame) in enumerate(self.video.frames() if self.video else images):
            if frame is None or frame.shape[:2] != (self.height, self.width):
                where, fix = f'{self.path}, frame {number}', 'Cut it there.'
                if self.files:
                    where, fix = f'{self.files[number]}', 'Mend or move it.'
                got = 'something else' if frame is None else f'{frame.shape[1]}x{frame.shape[0]}'
                raise FrameError(f'{where}: must be an image of {self.width}x{self.height}, got {got}. {fix}')
            self.times.append(time)
            yield frame


def open_clip(path: Path) -> FrameSequence:
    """Opens a video, an image, or a folder of images under any names, in natural order: 9.png before 10.png.

    Raises:
        InputError: If it holds no frame, or its images cannot be used.
    """
    if path.is_file() and kind_of(path) != 'image':
        try:
            video = Video(path)
        except FrameError as error:
            fix = 'Mend it, or correct the path.'
            raise OptionError('INPUT', 'be a video or a folder of images', error, fix) from None
        return FrameSequence(path, (), video.num_frame, video.height, video.width, video)
    names = Images('INPUT', path, ['']).files('') if path.is_dir() else ['']
    files = tuple(path / name for name in names)
    first = decode_image(_read(files[0])) if files and path.exists() else None
    if first is None:
        fix = 'Give a folder with images in it.' if path.is_dir() else 'Correct the path.'
        raise OptionError('INPUT', 'be a video or a folder of images', path, fix)
    check_images('INPUT', files)
    return FrameSequence(path, files, len(files), first.shape[0], first.shape[1])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f'{path}: must be readable, got {error.strerror}. Mend or move it.') from None


def check_suffix(out: Path) -> None:
    """Raises an OptionError for a suffix that is not that of a video which PyAV can write here."""
    suffixes = [suffix for suffix, (_, coder, _) in _WRITABLE.items() if coder in av.codecs_available]
    if out.suffix and out.suffix.lower() not in suffixes:
        rule = f'end in {", ".join(suffixes)} for a video, or have no suffix for a folder of PNG'
        raise OptionError('-o', rule, out, 'Rename it.')


def open_writer(out: Path, clip: FrameSequence, fps: float | None) -> Writer:
    """Writes a folder of PNG files, or a video if the name has a suffix.

    ``fps`` is frames a second; ``None`` keeps the times of a video, and takes 25 for images.
    """
    return _VideoWriter(out, clip, fps) if out.suffix else Writer(out, clip)


class Writer:
    """A folder of PNG files, named like the images of the clip, or numbered.

    The result gets its name when the ``with`` block ends without an error. After an error it stays ``.unfinished``.
    """

    def __init__(self, out: Path, clip: FrameSequence) -> None:
        self._out, self._clip, self._count = out, clip, 0
        self._unfinished = out.with_name(f'{out.stem}.unfinished{out.suffix}')
        with self._explaining():
            self._open()

    def write(self, frame: np.ndarray) -> None:
        """Writes the next frame, uint8 (h, w, 3), BGR."""
        with self._explaining():
            self._write(frame)
        self._count += 1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError, av.FFmpegError):
                self._close(is_whole=False)
            return
        with self._explaining():
            self._close(is_whole=True)
            self._unfinished.rename(self._out)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns an error of the disk or of FFmpeg into one line."""
        try:
            yield
        except (OSError, av.FFmpegError) as raised:
            error = self._abort() or raised
            if not isinstance(error, OSError):
                value = f'{self._out} ({one_line(error)})'
                raise OptionError('-o', 'be a video that can be written', value, 'Give a folder.') from error
            kept = f' What is written stays in {self._unfinished}.' if self._unfinished.exists() else ''
            rule, fix = f'be writable, got {self._out} ({error.strerror})', 'Choose another place.'
            if error.errno in FULL:
                disk = Path(os.path.realpath(self._out.parent))
                while not disk.is_mount():
                    disk = disk.parent
                rule, fix = f'lie on a disk with room, got {self._out} on {disk}, which is full', 'Make room.'
            raise InputError(f'-o: must {rule}.{kept} {fix}') from None

    def _open(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir()

    def _write(self, image: np.ndarray) -> None:
        name = self._clip.files[self._count].stem if self._clip.files else f'{self._count:08d}'
        path = self._unfinished / f'{name}.png'
        try:
            path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
        except OSError:
            path.unlink(missing_ok=True)  # half a picture
            raise

    def _close(self, is_whole: bool) -> None:
        pass

    def _abort(self) -> OSError | None:
        """Gives up after an error; returns the error of the disk, if there is one behind it."""
        return None


class _VideoWriter(Writer):
    """A video, near lossless, with the times, aspect, colours and sound of the clip."""

    def __init__(self, out: Path, clip: FrameSequence, fps: float | None) -> None:
        self._keeps_times = clip.video is not None and fps is None
        rate = Fraction(fps) if fps else clip.video.rate if clip.video else None
        self._rate = (rate or Fraction(25)).limit_denominator(1001)
        self._name, self._coder, self._options = _WRITABLE[out.suffix.lower()]
        # At a constant frame rate each frame falls on a tick. AVI has one tick for each frame.
        times = 1 if self._name == 'avi' else -(-_TICKS // self._rate.numerator)
        self._tick = Fraction(1, self._rate.numerator * times) if times > 1 else 1 / self._rate
        self._last, self._late = -1, Fraction(0)
        self._file: _File | None = None
        self._stream: VideoStream | None = None
        self._lost, self._sound_start = 0, Fraction(0)  # packets of sound that cannot be copied; seconds
        super().__init__(out, clip)

    def _open(self) -> None:
        self._file = _File(self._unfinished, 'w')
        # All sound waits in memory for the pictures that belong to it.
        options = {'max_interleave_delta': '0'}
        self._container = av.open(self._file, 'w', self._name, buffer_size=1 << 18, options=options)

    def _write(self, image: np.ndarray) -> None:
        if self._stream is None:
            self._stream = self._start(*image.shape[:2])
        time = self._time()
        self._last = max(round(time / self._tick), self._last + 1)
        self._late = max(self._late, abs(self._last * self._tick - time))
        converted = self._convert(VideoFrame.from_ndarray(image, format='bgr24'))
        converted.pts, converted.time_base = self._last, self._tick
        self._container.mux(self._stream.encode(converted))

    def _time(self) -> Fraction:
        """When the next frame is shown. A time that the input rounded to milliseconds becomes exact again."""
        if not self._keeps_times:
            return self._count / self._rate
        assert self._clip.video is not None
        first, time = self._clip.times[0], self._clip.times[self._count]
        even = first + round((time - first) * self._rate) / self._rate
        return (even if abs(even - time) <= Fraction(1, 1000) else time) - self._clip.video.start

    def _start(self, height: int, width: int) -> VideoStream:
        video = self._clip.video
        matrix, primaries, transfer = video.colours if video else (UNTAGGED,) * 3
        matrix = matrix_of(matrix, height)
        target = 'yuv420p' if height % 2 == width % 2 == 0 else 'yuv444p'
        self._convert = Scaler(width, height, 'bgr24', target, f'out_color_matrix={MATRICES[matrix]}:out_range=tv')
        stream = self._container.add_stream(self._coder, rate=self._rate, options=self._options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = width, height, target, self._tick
        context.thread_type = 'AUTO'
        context.sample_aspect_ratio = video.aspect if video else Fraction(1)
        context.colorspace, context.color_range = matrix, 1
        context.color_primaries = matrix if primaries == UNTAGGED else primaries
        context.color_trc = _TRANSFERS.get(matrix, matrix) if transfer == UNTAGGED else transfer
        if video:
            self._copy_sound(video)
        return stream

    def _copy_sound(self, video: Video) -> None:
        """Copies the packets of sound and subtitles, before the first picture."""
        with opened(video.path) as (source, _):
            others = [stream for stream in source.streams if stream.type in ('audio', 'subtitle')]
            taken = [stream for stream in others if _takes(self._name, stream)]
            left_out = [
                f'{"sound" if stream.type == "audio" else "subtitles"} '
                f'({stream.codec_context.name if stream.codec_context else "unknown"})'
                for stream in others
                if stream not in taken
            ]
            if left_out:
                print(f'{video.path}: {", ".join(left_out)} left out: {self._name} does not take it.')
            copies = {stream.index: self._container.add_stream_from_template(stream) for stream in taken}
            last: dict[int, int] = {}  # the times of a stream have to rise
            for packet in source.demux(taken) if taken else ():
                if packet.dts is None:
                    self._lost += packet.size > 0
                    continue
                delay = 0 if packet.pts is None else packet.pts - packet.dts
                dts = packet.dts - round(video.start / packet.time_base)
                dts = max(dts, last.get(packet.stream_index, dts - 1) + 1)
                if not last:
                    self._sound_start = dts * packet.time_base
                packet.dts = last[packet.stream_index] = dts
                packet.pts = dts + delay
                packet.stream = copies[packet.stream_index]
                try:
                    self._container.mux(packet)
                except av.FFmpegError as error:
                    if isinstance(error, OSError):
                        raise
                    self._lost += 1

    def _close(self, is_whole: bool) -> None:  # after an error too, so that the part that is written can be played
        assert self._file is not None
        if self._file.closed:
            return
        with contextlib.closing(self._file):
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            os.fsync(self._file.fileno())
        if is_whole:
            self._say_losses()

    def _say_losses(self) -> None:
        if self._lost:
            print(f'{self._clip.path}: {self._lost} packets of sound are left out: they are damaged.')
        if self._name == 'avi' and self._late > 1e-3:
            late = float(self._late * 1000)
            print(f'{self._out}: AVI has one frame rate, so frames are shown up to {late:.0f} ms off their times.')
        if self._name == 'avi' and self._sound_start > 1e-3:
            early = float(self._sound_start * 1000)
            print(f'{self._out}: AVI has no start of sound, so it is heard {early:.0f} ms early.')

    def _abort(self) -> OSError | None:
        if self._file is None:
            return None
        self._file.close()  # before the container, which would write to it
        return self._file.error


class _File(FileIO):
    """A file that remembers the error of its disk, because a muxer may raise another one."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        written = 0
        try:
            while written < len(data):  # the system may take less at a time
                written += super().write(data[written:])
        except OSError as error:
            self.error = error
            raise
        return written


def _takes(container: str, stream: Any) -> bool:
    """Whether a container takes the packets of a stream unchanged: a trial writes a header."""
    try:
        trial = av.open(BytesIO(), 'w', container)
        trial.add_stream_from_template(stream)
        trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True
