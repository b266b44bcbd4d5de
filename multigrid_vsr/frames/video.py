"""Videos, decoded by PyAV: upright frames with their times, and a line for what of a video is lost."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise, repeat
from pathlib import Path
from statistics import median
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from av.container import Flags, InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from tqdm import tqdm

from multigrid_vsr.core.errors import FrameError, OptionError
from multigrid_vsr.frames.clip import Clip

# AVColorSpace of ITU-T H.273, and how FFmpeg's scale filter calls its matrix.
MATRICES = {1: 'bt709', 4: 'fcc', 5: 'bt601', 6: 'bt601', 7: 'smpte240m', 9: 'bt2020'}
UNTAGGED = 2
_HDR = {16: 'PQ', 18: 'HLG'}  # transfer characteristics of H.273
_HD_LINES = 720
# Without these flags grey of 8 bits comes out up to 2.4 of 255 beside its value. Dithering would add noise to 10 bits.
EXACT = 'flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:sws_dither=none'


@dataclass
class Count:
    """How many frames of a video have been decoded, and of how many.

    Attributes:
        decoded: Frames that came out whole.
        lost: Packets that gave an error, and frames that FFmpeg marks as damaged; these are left out.
        missing: Frames that the header, or the times of the others, promise and that are not in the file.
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
        """The line for a video of which frames are lost."""
        if not self.lost + self.missing:
            return None
        total = self.decoded + self.lost + self.missing
        return f'{path}: {self.decoded} of {total} frames decode, the others are damaged or cut off'

    def add_missing(self, promised: int, ticks_cut: int) -> None:
        """Works out what is not in the file.

        Args:
            promised: Packets that the header counts; 0 where it does not, or counts what an edit list leaves out.
            ticks_cut: Time that is cut off the end.
        """
        if promised:  # a packet may hold a field, or a frame that is never shown
            is_whole = self.packets >= promised and not self.lost
            self.missing = 0 if is_whole else max(promised - self.decoded - self.lost, 0)
            return
        steps = [after - before for before, after in pairwise(self.times)]
        if not steps:
            return
        step = median(steps)
        if step <= 0:
            return
        even = sum(abs(a_step - step) <= 1 for a_step in steps)
        if even >= 0.9 * len(steps):  # one frame rate: a hole in it is a frame that is gone
            self.missing = max(sum(round(a_step / step) - 1 for a_step in steps) - self.lost, 0)
        self.missing += round(ticks_cut / step)


class Video:
    """A video file of which at least one frame decodes.

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
            self.num_frame = stream.frames or _frames_by_time(container, stream)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            context = stream.codec_context
            self.colours = (frame.colorspace, context.color_primaries, context.color_trc)
        if self.colours[0] not in (*MATRICES, UNTAGGED) and not frame.format.is_rgb:
            raise FrameError(f'{path}: its colours (matrix {self.colours[0]} of H.273) cannot be converted')
        self.height, self.width = _upright(_convert(frame), _display_matrix(frame)).shape[:2]
        is_turned = (self.height, self.width) != (frame.height, frame.width)
        self.aspect = (1 / aspect if is_turned else aspect) if aspect > 0 else Fraction(1)
        self.loss = _loss(path, frame, self.colours[2], context.name == 'gif')

    def frames(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Gives the frames that decode: when each is shown, in seconds, and uint8 (h, w, 3), BGR."""
        for time, frame in self.decode('SLICE'):
            yield time, _upright(_convert(frame), _display_matrix(frame))

    def decode(self, threads: str) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Gives the frames that decode as they are stored, and when each is shown, in seconds.

        Args:
            threads: ``AUTO`` is faster on several cores; of a damaged video it loses frames that ``SLICE`` gives.
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
    """Opens a file and its video; the cover of a song is none.

    Raises:
        FrameError: If it cannot be read, or is no video.
    """
    try:
        with open(path, 'rb') as file, av.open(_Nameless(file), 'r', metadata_errors='replace') as container:
            videos = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
            stream = next((stream for stream in videos if stream.codec_context), None)
            if stream is None:
                raise FrameError(f'{path}: no video is in it that FFmpeg decodes')
            yield container, stream
    except av.FFmpegError as error:
        raise FrameError(f'{path}: does not open as a video ({error.strerror})') from None
    except OSError as error:
        raise FrameError(f'{path}: cannot be read ({error.strerror})') from None


class _Nameless:
    """A file without its name: FFmpeg takes some files for videos by their suffix, ``.txt`` for one."""

    def __init__(self, file: Any) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _frames_by_time(container: InputContainer, stream: VideoStream) -> int | None:
    """How many frames there are by the length and the rate that the header says."""
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else _tagged_length(stream)
    seconds = seconds or (container.duration or 0) / 1e6
    return round(seconds * stream.average_rate) if seconds and stream.average_rate else None


def _tagged_length(stream: VideoStream) -> float | None:
    """The seconds that Matroska's tag of a stream says."""
    tag = re.fullmatch(r'(\d+):(\d+):([\d.]+)', stream.metadata.get('DURATION', ''))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def _decode(container: InputContainer, stream: VideoStream, count: Count, threads: str) -> Iterator[VideoFrame]:
    """Gives the frames that decode, and counts all."""
    stream.thread_type = threads
    container.flags &= ~Flags.gen_pts.value  # type: ignore[operator]  # by which an AVI would begin a frame late
    damaged: set[int | None] = set()
    ends: dict[int, float] = {}
    last_place = -1
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends here
            packet = None
        if packet is None:
            break
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
    promised = 0 if count.unshown else stream.frames
    if container.format.name == 'avi':  # which counts the places of frames too that are shown for longer
        promised -= last_place + 1 - count.packets
    cut = _seconds_cut(container, stream, ends)
    count.add_missing(promised, int(cut / stream.time_base) if stream.time_base else 0)


def _seconds_cut(container: InputContainer, stream: VideoStream, ends: Mapping[int, float]) -> float:
    """How much is cut off the end of a video whose header says how long it is, but not of how many frames.

    Args:
        container: The file.
        stream: The video.
        ends: When the last packet of each stream ends.
    """
    end = ends.get(stream.index, 0)
    frame = float(1 / stream.average_rate) if stream.average_rate else 0
    length = _tagged_length(stream)
    if stream.frames and stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    if length:
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
    """The matrix of colours, a key of ``MATRICES``: that of the tag, and without one by height, as players do it."""
    return tagged if tagged in MATRICES else 1 if height >= _HD_LINES else 6


def scale_graph(width: int, height: int, source: str, target: str, options: str) -> av.filter.Graph:
    """A filter graph that converts frames between formats, exactly rounded.

    Args:
        width, height: Of the frames, which keep their size.
        source, target: FFmpeg's names of the formats.
        options: Those of the scale filter that say which colours are meant.
    """
    graph = av.filter.Graph()
    graph.threads = 1  # others would not be there after a fork
    filters = [
        graph.add('buffer', f'video_size={width}x{height}:pix_fmt={source}:time_base=1/25'),
        graph.add('scale', f'{options}:{EXACT}'),
        graph.add('format', f'pix_fmts={target}'),
        graph.add('buffersink'),
    ]
    for one, following in pairwise(filters):
        one.link_to(following)
    graph.configure()
    return graph


class _Converter(threading.local):
    """Turns decoded frames into uint8 (h, w, 3), BGR, by their tags; with a graph of its own in each thread."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        matrix = MATRICES[matrix_of(frame.colorspace, frame.height)]
        key = (frame.width, frame.height, frame.format.name, matrix, frame.color_range)
        if key != self._key:
            in_range = {1: ':in_range=tv', 2: ':in_range=pc'}.get(frame.color_range, '')
            options = f'in_color_matrix={matrix}{in_range}'
            # To planes it takes a third of the time that it takes to bgr24, with the same values.
            self._graph, self._key = scale_graph(*key[:2], frame.format.name, 'gbrp', options), key
        assert self._graph is not None
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)
        green, blue, red = (rows[:, : frame.width] for rows in _rows(converted))
        return cv2.merge([blue, green, red])


_convert = _Converter()


def _rows(frame: VideoFrame) -> list[np.ndarray]:
    """The bytes of each plane, a row each, with what pads them."""
    planes: Any = frame.planes
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in planes]


def _upright(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turns and flips an image as a display matrix asks, by quarter turns."""
    if not matrix:
        return image
    a, b, _, c, d = struct.unpack('5i', matrix[:20])  # x' = ax + cy, y' = bx + dy
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: VideoFrame) -> bytes:
    return bytes(frame.side_data.get('DISPLAYMATRIX') or b'')  # type: ignore[call-overload]


@dataclass(frozen=True)
class RawFrame:
    """A decoded frame of Y, Cb and Cr, for another process to convert: mostly half as many bytes as BGR.

    Attributes:
        form: FFmpeg's name of its format.
        width, height: In pixels, as it is stored.
        colours: Matrix and range as FFmpeg numbers them.
        display_matrix: How it is turned.
        planes: The bytes of each plane, a row each.
    """

    form: str
    width: int
    height: int
    colours: tuple[int, int]
    display_matrix: bytes
    planes: list[np.ndarray]

    def bgr(self) -> np.ndarray:
        """The frame, upright, uint8 (h, w, 3)."""
        frame = VideoFrame(self.width, self.height, self.form)
        for rows, plane in zip(_rows(frame), self.planes):
            size = min(rows.shape[1], plane.shape[1])
            rows[:, :size] = plane[:, :size]
        frame.colorspace, frame.color_range = self.colours
        return _upright(_convert(frame), self.display_matrix)


def _raw(frame: VideoFrame) -> RawFrame | np.ndarray:
    if len(frame.planes) != 3 or frame.format.is_rgb:
        return _upright(_convert(frame), _display_matrix(frame))
    colours = (frame.colorspace, frame.color_range)
    planes = [rows.copy() for rows in _rows(frame)]
    return RawFrame(frame.format.name, frame.width, frame.height, colours, _display_matrix(frame), planes)


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
