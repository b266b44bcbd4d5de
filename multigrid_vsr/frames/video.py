"""Videos, decoded by PyAV: upright frames with their times, and lines for what is lost."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
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

from multigrid_vsr.core.errors import FrameError

# Matrices by their numbers in ITU-T H.273, with their names in FFmpeg's scale filter.
MATRICES = {1: 'bt709', 4: 'fcc', 5: 'bt601', 6: 'bt601', 7: 'smpte240m', 9: 'bt2020'}
UNTAGGED = 2
_HDR = {16: 'PQ', 18: 'HLG'}  # transfer characteristics of H.273


@dataclass
class Count:
    """The result of decoding a video."""

    decoded: int = 0  # whole frames
    lost: int = 0  # packets that gave an error, and frames that FFmpeg marks as damaged
    missing: int = 0  # frames that the header or gaps in the times promise, but that are not in the file
    packets: int = 0
    unshown: int = 0  # packets with frames that an edit list leaves out
    times: list[int] = field(default_factory=list)  # when each frame is shown, in ticks

    def problem(self, path: Path | str) -> str | None:
        """A line if frames are lost or missing."""
        total = self.decoded + self.lost + self.missing
        line = f'{path}: {self.decoded} of {total} frames decode, the others are damaged or cut off'
        return line if total > self.decoded else None


class Video:
    """A video file in which at least one frame decodes.

    Attributes:
        path: The file.
        num_frame: Frames that the header promises, or ``None``.
        height, width: Size of the first frame, upright, in pixels.
        rate: Frames a second, or ``None``.
        start: When the pictures or the sound start, whichever is first, in seconds.
        aspect: Width of a pixel / its height.
        colours: Matrix, primaries and transfer characteristics as H.273 numbers them; 2 if untagged.
        loss: A line for what 8 bits cannot hold, or ``None``.
        count: The result of the last decoding.

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
            seconds = _seconds(stream) or (container.duration or 0) / 1e6
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

    def frames(self, threads: str = 'SLICE') -> Iterator[tuple[Fraction, np.ndarray]]:
        """The frames that decode: when each is shown, in seconds, and its pixels, uint8 (h, w, 3), BGR.

        ``AUTO`` threads are faster, but lose frames of some damaged videos.
        """
        return ((time, to_bgr(frame)) for time, frame in self._decoded(threads))

    def _decoded(self, threads: str) -> Iterator[tuple[Fraction, VideoFrame]]:
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
        """Decodes all frames without converting them; returns the result, and the fastest threads that lose nothing."""
        for threads in ('AUTO', 'SLICE'):
            for _ in self._decoded(threads):
                pass
            if self.count.decoded == self.count.packets - self.count.unshown and not self.count.missing:
                break
        return self.count, threads


def is_video(path: Path) -> bool:
    """Whether a file of any name is a video."""
    try:
        Video(path)
    except FrameError:
        return False
    return True


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and its first video stream, which is not the cover picture of a song.

    Raises:
        FrameError: If the file cannot be read, or is no video.
    """
    try:
        # Without a name, because FFmpeg takes a file called .txt for a video.
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


def _seconds(stream: VideoStream) -> float | None:
    """The length of a stream in seconds, by the header or by Matroska's tag."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r'(\d+):(\d+):([\d.]+)', stream.metadata.get('DURATION', ''))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def _packets(container: InputContainer) -> Iterator[Packet]:
    with contextlib.suppress(av.FFmpegError):  # the file ends where reading fails
        yield from container.demux()


def _decode(container: InputContainer, stream: VideoStream, count: Count, threads: str) -> Iterator[VideoFrame]:
    """The frames that decode; fills ``count``."""
    stream.thread_type = threads
    container.flags &= ~Flags.gen_pts.value  # type: ignore[operator]  # or an AVI would begin a frame late
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
    promised = 0 if count.unshown else stream.frames  # the header also counts frames that an edit list leaves out
    if container.format.name == 'avi':  # the header counts a frame once for each tick that it is shown
        promised -= last_place + 1 - count.packets
    if not promised:
        count.missing = _missing_by_time(container, stream, count, ends)
    elif count.packets < promised or count.lost:  # else packets hold fields, or frames that are never shown
        count.missing = max(promised - count.decoded - count.lost, 0)


def _missing_by_time(container: InputContainer, stream: VideoStream, count: Count, ends: Mapping[int, float]) -> int:
    """Counts missing frames by gaps in the times and a cut end, for a header without a number of frames."""
    steps = np.diff(count.times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0:
        return 0
    missing = 0
    if np.mean(np.abs(steps - step) <= 1) >= 0.9:  # at a constant frame rate a gap is a missing frame
        missing = max(int(np.round(steps / step).sum()) - len(steps) - count.lost, 0)
    assert stream.time_base is not None
    return missing + round(_seconds_cut(container, stream, ends) / (step * float(stream.time_base)))


def _seconds_cut(container: InputContainer, stream: VideoStream, ends: Mapping[int, float]) -> float:
    """The seconds that are cut off the end of a video, by the length in its header."""
    end = ends.get(stream.index, 0)
    if length := _seconds(stream):
        frame = float(1 / stream.average_rate) if stream.average_rate else 0
        return length - end if length - end > 1.5 * frame else 0
    if not container.format.name.startswith(('matroska', 'flv')) or not container.duration:
        return 0
    # The duration is that of the longest stream, perhaps of the sound. If all streams end early, the file was cut.
    cut = container.duration / 1e6 - max(ends.values(), default=0)
    return cut if cut > 0.5 and max(ends.values()) - end < 1 else 0


def _loss(path: Path, frame: VideoFrame, transfer: int, is_gif: bool) -> str | None:
    """A line for what 8 bits a channel cannot hold."""
    components, lost = frame.format.components, []
    if transfer in _HDR:
        lost.append(f'HDR ({_HDR[transfer]}), whose brightness is not mapped to SDR')
    if (bits := max(component.bits for component in components)) > 8:
        lost.append(f'{bits} bits a channel, of which 8 are kept')
    if any(component.is_alpha for component in components) and not is_gif:  # in a GIF alpha means "not drawn yet"
        lost.append('an alpha channel, which is left out')
    return f'{path}: has {" and ".join(lost)}' if lost else None


def matrix_of(tagged: int, height: int) -> int:
    """The colour matrix, a key of ``MATRICES``: the tagged one, or else by the height, as players do it."""
    return tagged if tagged in MATRICES else 1 if height >= 720 else 6


class Scaler:
    """Converts frames between pixel formats, with exact rounding.

    ``VideoFrame.reformat`` dithers and places 4:2:0 chroma differently: 5 % of the bytes differ, by up to 28.
    ``source`` and ``target`` are FFmpeg's names of formats, ``colours`` are options of its scale filter.
    """

    # Without these flags 8-bit grey is off by up to 2.4 of 255, and dithering adds noise to 10 bits.
    EXACT = 'flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:sws_dither=none'

    def __init__(self, width: int, height: int, source: str, target: str, colours: str) -> None:
        self._graph = graph = av.filter.Graph()
        graph.threads = 1  # a forked process would have no other threads
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
    """A converter for one thread, because it has a state. Planes take a third of the time of bgr24 and are equal."""
    in_range = {1: ':in_range=tv', 2: ':in_range=pc'}.get(color_range, '')
    return Scaler(width, height, form, 'gbrp', f'in_color_matrix={matrix}{in_range}')


def to_bgr(frame: VideoFrame) -> np.ndarray:
    """The pixels of a decoded frame, uint8 (h, w, 3), BGR, upright, with its colour tags applied."""
    matrix = MATRICES[matrix_of(frame.colorspace, frame.height)]
    convert = _to_planes(threading.get_ident(), frame.width, frame.height, frame.format.name, matrix, frame.color_range)
    planes: Any = convert(frame).planes
    rows = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : frame.width] for plane in planes)
    green, blue, red = rows
    image = cv2.merge([blue, green, red])
    turn = bytes(frame.side_data.get('DISPLAYMATRIX') or b'')  # type: ignore[call-overload]
    if not turn:
        return image
    a, b, _, c, d = struct.unpack('5i', turn[:20])  # x' = ax + cy, y' = bx + dy
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
