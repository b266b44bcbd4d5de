"""Videos, decoded by PyAV: upright frames with their times, and a line for what is lost."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from av.container import Flags, InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from tqdm import tqdm

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip

# AVColorSpace of ITU-T H.273, and the names of FFmpeg's scale filter.
MATRICES = {1: 'bt709', 4: 'fcc', 5: 'bt601', 6: 'bt601', 7: 'smpte240m', 9: 'bt2020'}
UNTAGGED = 2
_HDR = {16: 'PQ', 18: 'HLG'}  # transfer characteristics of H.273
_HD_LINES = 720


@dataclass
class Count:
    """What came out of a video that was decoded.

    Attributes:
        decoded: Frames that came out whole.
        lost: Packets that gave an error, and frames that FFmpeg marks as damaged. These are left out.
        missing: Frames that are not in the file, though the header or the times of the others promise them.
        packets: Packets that went in.
        unshown: Packets among them whose frames an edit list leaves out.
        times: When each frame is shown, in ticks.
    """

    decoded: int = 0
    lost: int = 0
    missing: int = 0
    packets: int = 0
    unshown: int = 0
    times: list[int] = field(default_factory=list)

    def problem(self, path: Path | str) -> str | None:
        """The line for a video that lost frames."""
        if not self.lost + self.missing:
            return None
        total = self.decoded + self.lost + self.missing
        return f'{path}: {self.decoded} of {total} frames decode, the others are damaged or cut off'


class Video:
    """A video file in which at least one frame decodes.

    Attributes:
        path: The file.
        num_frame: Frames that its header promises, or ``None``.
        height, width: Of the first frame, upright, in pixels.
        rate: Frames a second, or ``None``.
        start: When the file starts, in seconds: the earliest of pictures and sound.
        aspect: Width of a pixel / its height.
        colours: Matrix, primaries and transfer characteristics as H.273 numbers them; 2 where untagged.
        loss: A line for what 8 bits cannot hold, or ``None``.
        count: How many frames :meth:`frames` has given.

    Raises:
        FrameError: If no frame decodes, or the colours cannot be converted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = Count()
        with opened(path) as (container, stream):
            frame = next(_decode(container, stream, Count(), 'SLICE'), None)
            if frame is None:
                raise FrameError(f'{path}: no frame of it decodes')
            self.rate = stream.guessed_rate or stream.average_rate
            self.start = Fraction(container.start_time or 0, 1_000_000)
            seconds = _length(stream) or (container.duration or 0) / 1e6
            self.num_frame = stream.frames or (round(seconds * (stream.average_rate or 0)) or None)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            context = stream.codec_context
            self.colours = (frame.colorspace, context.color_primaries, context.color_trc)
        if self.colours[0] not in (*MATRICES, UNTAGGED) and not frame.format.is_rgb:
            raise FrameError(f'{path}: its colours (matrix {self.colours[0]} of H.273) cannot be converted')
        self.height, self.width = to_bgr(frame).shape[:2]
        is_turned = (self.height, self.width) != (frame.height, frame.width)
        self.aspect = (1 / aspect if is_turned else aspect) if aspect > 0 else Fraction(1)
        self.loss = _loss(path, frame, self.colours[2], context.name == 'gif')

    def frames(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Gives the frames that decode: when each is shown, in seconds, and uint8 (h, w, 3), BGR."""
        for time, frame in self.decode('SLICE'):
            yield time, to_bgr(frame)

    def decode(self, threads: str) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Gives the frames that decode as they are stored, and when each is shown, in seconds.

        Args:
            threads: ``AUTO`` is faster on several cores; in a damaged video it loses frames that ``SLICE`` gives.
        """
        self.count = Count()
        with opened(self.path) as (container, stream):
            step = 1 / (self.rate or Fraction(25))
            time = -step
            for frame in _decode(container, stream, self.count, threads):
                time += step
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base
                yield time, frame

    def survey(self) -> tuple[Count, str]:
        """Decodes all frames without converting them: how many there are, and with which threads it gives them all."""
        count = Count()
        for threads in ('AUTO', 'SLICE'):
            count = Count()
            with opened(self.path) as (container, stream):
                for _ in _decode(container, stream, count, threads):
                    pass
            if count.decoded == count.packets - count.unshown and not count.missing:
                break
        return count, threads


def is_video(path: Path) -> bool:
    """Whether a file of any name is a video."""
    try:
        Video(path)
    except FrameError:
        return False
    return True


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and its video. The cover of a song does not count.

    Raises:
        FrameError: If it cannot be read, or is no video.
    """
    try:
        # By number: FFmpeg takes some files for videos by the suffix of their name, .txt for one.
        with open(os.open(path, os.O_RDONLY), 'rb') as file, av.open(file, 'r', metadata_errors='replace') as container:
            videos = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
            stream = next((stream for stream in videos if stream.codec_context), None)
            if stream is None:
                raise FrameError(f'{path}: no video is in it that FFmpeg decodes')
            yield container, stream
    except av.FFmpegError as error:
        raise FrameError(f'{path}: does not open as a video ({error.strerror})') from None
    except OSError as error:
        raise FrameError(f'{path}: cannot be read ({error.strerror})') from None


def _length(stream: VideoStream) -> float | None:
    """The seconds that the header, or Matroska's tag, says a stream lasts."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r'(\d+):(\d+):([\d.]+)', stream.metadata.get('DURATION', ''))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def _packets(container: InputContainer) -> Iterator[Packet]:
    with contextlib.suppress(av.FFmpegError):  # the file ends where it cannot be read any more
        yield from container.demux()


def _decode(container: InputContainer, stream: VideoStream, count: Count, threads: str) -> Iterator[VideoFrame]:
    """Gives the frames that decode, and counts all."""
    stream.thread_type = threads
    container.flags &= ~Flags.gen_pts.value  # type: ignore[operator]  # with it an AVI would begin a frame late
    damaged: set[int | None] = set()
    ends: dict[int, float] = {}  # when the last packet of each stream ends, in seconds
    last_place = -1
    for packet in _packets(container):
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends[packet.stream_index] = max(end, ends.get(packet.stream_index, 0))
        if packet.stream_index != stream.index:
            continue
        count.packets += packet.size > 0
        last_place = last_place if packet.dts is None else packet.dts
        count.unshown += packet.is_discard
        if packet.is_corrupt:
            damaged.add(packet.pts)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            count.lost += 1
            continue
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            frame.pts = frame.dts if frame.pts is None else frame.pts  # AVI has no times of its own
            if frame.is_corrupt or (frame.pts is not None and frame.pts in damaged):
                count.lost += 1
                continue
            count.decoded += 1
            if frame.pts is not None:
                count.times.append(frame.pts)
            yield frame
    promised = 0 if count.unshown else stream.frames  # which counts what an edit list leaves out too
    if container.format.name == 'avi':  # which counts the places of frames too that are shown for longer
        promised -= last_place + 1 - count.packets
    if not promised:
        count.missing = _missing_by_time(container, stream, count, ends)
    elif count.packets < promised or count.lost:  # a packet may hold a field, or a frame that is never shown
        count.missing = max(promised - count.decoded - count.lost, 0)


def _missing_by_time(container: InputContainer, stream: VideoStream, count: Count, ends: Mapping[int, float]) -> int:
    """How many frames are not in a file whose header does not count them: holes between times, and a cut end."""
    steps = np.diff(count.times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0:
        return 0
    missing = 0
    if np.mean(np.abs(steps - step) <= 1) >= 0.9:  # one frame rate: a hole in it is a frame that is gone
        missing = max(int(np.round(steps / step).sum()) - len(steps) - count.lost, 0)
    assert stream.time_base is not None
    return missing + round(_seconds_cut(container, stream, ends) / (step * float(stream.time_base)))


def _seconds_cut(container: InputContainer, stream: VideoStream, ends: Mapping[int, float]) -> float:
    """How much is cut off the end of a video, by the length that its header says."""
    end = ends.get(stream.index, 0)
    if length := _length(stream):
        frame = float(1 / stream.average_rate) if stream.average_rate else 0
        return length - end if length - end > 1.5 * frame else 0
    if not container.format.name.startswith(('matroska', 'flv')) or not container.duration:
        return 0
    # That is the length of the longest stream, which need not be the video. Where all end early, the file was cut.
    cut = container.duration / 1e6 - max(ends.values(), default=0)
    return cut if cut > 0.5 and max(ends.values()) - end < 1 else 0


def _loss(path: Path, frame: VideoFrame, transfer: int, is_gif: bool) -> str | None:
    """The line for what 8 bits a channel cannot hold."""
    components, lost = frame.format.components, []
    if transfer in _HDR:
        lost.append(f'HDR ({_HDR[transfer]}), whose brightness is not mapped to SDR')
    if (bits := max(component.bits for component in components)) > 8:
        lost.append(f'{bits} bits a channel, of which 8 are kept')
    if any(component.is_alpha for component in components) and not is_gif:  # a GIF has it for what it has not drawn yet
        lost.append('an alpha channel, which is left out')
    return f'{path}: has {" and ".join(lost)}' if lost else None


def matrix_of(tagged: int, height: int) -> int:
    """The matrix of colours, a key of ``MATRICES``: the tagged one, and without a tag by height, as players do it."""
    return tagged if tagged in MATRICES else 1 if height >= _HD_LINES else 6


class Scaler:
    """Converts frames between formats, exactly rounded.

    ``VideoFrame.reformat`` dithers, and places the colours of 4:2:0 otherwise: 5 % of the bytes differ, by up to 28.

    Args:
        width, height: Of the frames, which keep their size.
        source, target: FFmpeg's names of the formats.
        colours: Options of the scale filter that say which colours are meant.
    """

    # Without these flags grey of 8 bits comes out up to 2.4 of 255 beside its value. Dithering adds noise to 10 bits.
    EXACT = 'flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:sws_dither=none'

    def __init__(self, width: int, height: int, source: str, target: str, colours: str) -> None:
        self._graph = graph = av.filter.Graph()
        graph.threads = 1  # other threads would be gone after a fork
        graph.link_nodes(
            graph.add('buffer', f'video_size={width}x{height}:pix_fmt={source}:time_base=1/25'),
            graph.add('scale', f'{colours}:{self.EXACT}'),
            graph.add('format', f'pix_fmts={target}'),
            graph.add('buffersink'),
        ).configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)
        return converted


@lru_cache(16)
def _to_planes(thread: int, width: int, height: int, form: str, matrix: str, color_range: int) -> Scaler:
    """A converter for each thread, as it has a state. To planes is three times as fast as to bgr24, and the same."""
    in_range = {1: ':in_range=tv', 2: ':in_range=pc'}.get(color_range, '')
    return Scaler(width, height, form, 'gbrp', f'in_color_matrix={matrix}{in_range}')


def to_bgr(frame: VideoFrame, display_matrix: bytes | None = None) -> np.ndarray:
    """Turns a decoded frame into uint8 (h, w, 3), BGR, by its tags, upright."""
    matrix = MATRICES[matrix_of(frame.colorspace, frame.height)]
    convert = _to_planes(threading.get_ident(), frame.width, frame.height, frame.format.name, matrix, frame.color_range)
    green, blue, red = (rows[:, : frame.width] for rows in _rows(convert(frame)))
    image = cv2.merge([blue, green, red])
    display_matrix = _display_matrix(frame) if display_matrix is None else display_matrix
    if not display_matrix:
        return image
    a, b, _, c, d = struct.unpack('5i', display_matrix[:20])  # x' = ax + cy, y' = bx + dy
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _rows(frame: VideoFrame) -> list[np.ndarray]:
    """The bytes of each plane, a row each, with what pads them."""
    planes: Any = frame.planes
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in planes]


def _display_matrix(frame: VideoFrame) -> bytes:
    return bytes(frame.side_data.get('DISPLAYMATRIX') or b'')  # type: ignore[call-overload]


@dataclass(frozen=True)
class RawFrame:
    """A decoded frame of Y, Cb and Cr, for another process to convert: half as many bytes as BGR.

    Attributes:
        form: FFmpeg's name of its format.
        planes: What ``VideoFrame.to_ndarray`` gives.
        colours: Matrix and range as FFmpeg numbers them.
        display_matrix: How it is turned.
    """

    form: str
    planes: np.ndarray
    colours: tuple[int, int]
    display_matrix: bytes

    def bgr(self) -> np.ndarray:
        """The frame, upright, uint8 (h, w, 3)."""
        frame = VideoFrame.from_ndarray(self.planes, self.form)
        frame.colorspace, frame.color_range = self.colours
        return to_bgr(frame, self.display_matrix)


def _raw(frame: VideoFrame) -> RawFrame | np.ndarray:
    if frame.format.name not in ('yuv420p', 'yuvj420p', 'yuv420p10le') or frame.width % 2 or frame.height % 2:
        return to_bgr(frame)
    return RawFrame(
        frame.format.name, frame.to_ndarray(), (frame.colorspace, frame.color_range), _display_matrix(frame)
    )


class VideoSource:
    """Video files: each is a clip, named by its file.

    Args:
        option: Which option names them.
        root: The folder, or the file.
        files: For each clip its file below ``root``.
        notes: What is to be said about the folder.
        workers: Videos that are counted at a time.
        is_strict: Whether a video of which frames are lost is refused.
    """

    def __init__(
        self, option: str, root: Path, files: dict[str, str], notes: list[str], workers: int, is_strict: bool = False
    ) -> None:
        self.root = root
        self.names = list(files)
        self.notes = [f'{option}: {note}' for note in notes]
        self._option = option
        self._files = files
        self._workers = workers
        self._is_strict = is_strict
        self._opened: dict[str, tuple[Video, str]] = {}

    def measure(self, names: Collection[str]) -> dict[str, Clip]:
        with ThreadPoolExecutor(self._workers) as pool:
            bar = tqdm(pool.map(self._count, names), f'Count {self._option}', len(names), unit='video', delay=1)
            return dict(zip(names, bar))

    def files(self, name: str) -> list[str]:
        return [self._files[name]]

    entries = files

    def frames(self, name: str) -> Iterator[RawFrame | np.ndarray | None]:
        video, threads = self._opened[name]
        for _, frame in video.decode(threads):
            yield _raw(frame)
        yield from repeat(None)

    def where(self, name: str, frame: int) -> str:
        return str(self.root / self._files[name])

    def _count(self, name: str) -> Clip:
        try:
            video = Video(self.root / self._files[name])
            count, threads = video.survey()
        except FrameError as error:
            raise OptionError(self._option, 'hold videos that decode', error, 'Mend or remove it.') from None
        problem = count.problem(video.path)
        if problem and self._is_strict:
            raise OptionError(self._option, 'hold whole videos for --strict', problem, 'Mend or remove it.')
        self.notes += [f'{self._option}: {note}.' for note in (video.loss, problem) if note]
        self._opened[name] = video, threads
        return Clip(name, count.decoded, video.height, video.width)
