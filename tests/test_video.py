"""Videos in and out of ``infer``, ``prepare`` and test sets: what decodes, with which colours and times, and what is said.

The network enlarges bilinearly, so what has to come out is known. Videos are made by PyAV, and looked at as raw planes.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import re
import resource
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from runs import refusal, write_images

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.demo import find_video, read_frames
from multigrid_vsr.frames.clip import Clip
from multigrid_vsr.frames.pairs import open_eval_clips, open_sources
from multigrid_vsr.frames.pairs import read_frames as read_frames_of
from multigrid_vsr.frames.store import FrameStore


@ARCH_REGISTRY.register()
class Bilinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, lq):
        up = torch.nn.functional.interpolate(lq.flatten(0, 1), scale_factor=4, mode='bilinear', align_corners=False)
        return up.unflatten(0, lq.shape[:2]) + self.bias


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('run')
    (root / 'models').mkdir()
    torch.save({'params': Bilinear().state_dict()}, root / 'models/net_g_9.pth')
    (root / 'run.yml').write_text('scale: 4\nnetwork_g: {type: Bilinear}\n')
    return root


@pytest.fixture
def infer(run_folder, tmp_path, monkeypatch, capsys):
    """``multigrid-vsr infer INPUT -o OUTPUT`` in the test's folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(source, out, *arguments):
        main(['infer', source, '-o', out, '-w', str(run_folder / 'models/net_g_9.pth'), *map(str, arguments)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refuses(run_folder, tmp_path, monkeypatch):
    """The same where it ends with exit status 1; gives its last line."""
    monkeypatch.chdir(tmp_path)

    def run(source, out, *arguments):
        printed = refusal('infer', source, '-o', out, '-w', run_folder / 'models/net_g_9.pth', *arguments)
        return printed.splitlines()[-1]

    return run


def moving(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    frames = []
    for _, frame in zip(range(count), read_frames(find_video('carphone_pristine.mp4'))):
        frames.append(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))
    return frames


def write(
    path, images, coder='libx264', form='yuv420p', rate=25, times=None, sound=None, options=None, **context
) -> Path:
    """Writes a video.

    Args:
        path: The file.
        images: BGR, or the three planes as they are.
        coder, form, options: How it is encoded.
        rate: Frames a second.
        times: When each frame is shown, in thousandths of a second.
        sound: Seconds after which half a second of sound begins.
        **context: Properties of the codec's context.
    """
    # The index of an MP4 comes first, as on the web, so that one that is cut off can be read.
    with av.open(str(path), 'w', options={'movflags': 'faststart'} if str(path).endswith('.mp4') else {}) as container:
        stream = container.add_stream(coder, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2] if is_bgr(images[0]) else images[0][0].shape
        stream.pix_fmt = form
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        track = container.add_stream('aac', rate=8000, layout='mono') if sound is not None else None
        for number, image in enumerate(images):
            if is_bgr(image):
                frame = av.VideoFrame.from_ndarray(image, format='bgr24').reformat(format=form)
            else:
                frame = av.VideoFrame(stream.width, stream.height, form)
                for plane, values in zip(frame.planes, image):
                    padded = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                    padded[:, : values.shape[1]] = values
                    plane.update(padded.tobytes())
            frame.pts, frame.time_base = (times[number], Fraction(1, 1000)) if times else (number, 1 / Fraction(rate))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            wave = (np.sin(np.arange(4096) * 0.3) * 0.5).astype(np.float32)[None]
            piece = av.AudioFrame.from_ndarray(wave, format='fltp', layout='mono')
            piece.sample_rate, piece.pts, piece.time_base = 8000, int(sound * 8000), Fraction(1, 8000)
            container.mux(track.encode(piece))
            container.mux(track.encode(None))
    return Path(path)


def is_bgr(image) -> bool:
    return isinstance(image, np.ndarray) and image.shape[-1] == 3


def planes_of(path) -> list[list[np.ndarray]]:
    """The planes of the frames of a video as they were encoded."""
    with av.open(str(path)) as container:
        return [
            [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width] for plane in frame.planes]
            for frame in container.decode(video=0)
        ]


def times_of(path, kind='video') -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.get({kind: 0})[0]
        container.flags &= ~1  # AVFMT_FLAG_GENPTS: AVI has no other times than those of decoding
        packets = [packet for packet in container.demux(stream) if packet.size]
        return sorted(float((p.dts if p.pts is None else p.pts) * p.time_base) for p in packets)


def sound_of(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def pngs(folder) -> np.ndarray:
    return np.stack([cv2.imread(str(path)) for path in sorted(Path(folder).iterdir())])


def bilinear(frames) -> np.ndarray:
    lq = torch.from_numpy(np.stack(frames).astype(np.float32) / 255).permute(0, 3, 1, 2)
    up = torch.nn.functional.interpolate(lq, scale_factor=4, mode='bilinear', align_corners=False)
    return (up.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


# Reading

forks = pytest.mark.filterwarnings('ignore:.*use of fork')  # of Python 3.12, where threads have been started
CHECKSUMS = [('carphone_pristine.mp4', 0x9AF71EC3), ('bikes.mp4', 0x76FD9400), ('bigbuckbunny.mp4', 0x553713F4)]


@pytest.mark.parametrize(('name', 'expected'), CHECKSUMS)
def test_decoded_frames_have_the_same_bytes_everywhere(name, expected):
    """With any OpenCV and PyAV: the checksum of the first ten frames."""
    checksum = 0
    for _, frame in zip(range(10), read_frames(find_video(name))):
        checksum = zlib.crc32(frame, checksum)
    assert hex(checksum) == hex(expected)


def in_a_fork(check) -> None:
    gc.collect()  # an encoder from before the fork would be freed there without its threads
    process = multiprocessing.get_context('fork').Process(target=check)
    process.start()
    process.join(60)
    process.kill()
    process.join()
    assert process.exitcode == 0


@forks
def test_frames_are_converted_after_a_fork_too():
    """As a worker of torch's loader does it, whose parent has converted frames already."""
    first = next(read_frames(find_video('bikes.mp4')))

    def check():
        assert np.array_equal(next(read_frames(find_video('bikes.mp4'))), first)

    in_a_fork(check)


@pytest.mark.parametrize(('name', 'coder'), [('a.mp4', 'libx264'), ('a.mpg', 'mpeg2video'), ('a.avi', 'mpeg4')])
def test_interlaced_video_gives_its_frames(name, coder, infer):
    """OpenCV hands them out black, with 4.13 and 5.0."""
    frames = moving(6)
    options = {'flags': '+ilme+ildct', **({'crf': '5', 'x264opts': 'tff=1'} if coder == 'libx264' else {})}
    write(name, frames, coder, options=options, bit_rate=4_000_000)
    infer(name, 'out')
    assert np.abs(pngs('out').astype(int) - bilinear(frames)).mean() < 6
    sources = open_eval_clips('datasets.val', {'dataroot_gt': name, 'scale': 4})
    for found, frame in zip(read_frames_of(sources, 0, 'gt'), frames):
        assert np.abs(found.astype(int) - frame).mean() < 6


WEIGHTS = {'bt601': (0.299, 0.114), 'bt709': (0.2126, 0.0722), 'bt2020': (0.2627, 0.0593)}  # of red and blue
GREYS = [(v, v, v) for v in (0, 16, 96, 128, 200, 255)]
FLATS = [(191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191), (255, 0, 0), (0, 255, 0),
         (0, 0, 255)]  # fmt: skip
TAGS = [
    ('bt601', 'tv', 8, {'colorspace': 6, 'color_range': 1}, 192),
    ('bt709', 'tv', 8, {'colorspace': 1, 'color_range': 1}, 192),
    ('bt2020', 'tv', 10, {'colorspace': 9, 'color_range': 1}, 192),
    ('bt601', 'pc', 8, {'colorspace': 5, 'color_range': 2}, 192),
    ('bt709', 'pc', 8, {'colorspace': 1, 'color_range': 2}, 192),
    ('bt709', 'tv', 10, {'colorspace': 1, 'color_range': 1}, 192),
    ('bt601', 'tv', 8, {}, 704),
    ('bt709', 'tv', 8, {}, 720),
]


def to_planes(rgb, matrix, levels, bits, height):
    """Flat stripes of 16 pixels as Y, Cb and Cr, by the definitions of ITU-R BT.601, BT.709 and BT.2020."""
    red, blue = WEIGHTS[matrix]
    columns = []
    for r, g, b in np.array(rgb) / 255:
        y = red * r + (1 - red - blue) * g + blue * b
        cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
        unit, most = 2 ** (bits - 8), 2**bits - 1
        if levels == 'pc':
            values = y * most, cb * most + 128 * unit, cr * most + 128 * unit
        else:
            values = (16 + 219 * y) * unit, (128 + 224 * cb) * unit, (128 + 224 * cr) * unit
        columns.append([min(max(round(value), 0), most) for value in values])
    planes = np.array(columns).T[:, None, :].repeat(height, 1).repeat(16, 2)
    return planes.astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize(('matrix', 'levels', 'bits', 'tags', 'height'), TAGS)
def test_colours_are_read_by_their_tags(matrix, levels, bits, tags, height, infer):
    """To 1 of 255 on grey and 2 on saturated flats; without tags by the height, as players do it."""
    rgb = GREYS + FLATS
    planes = to_planes(rgb, matrix, levels, bits, height)
    halves = [planes[0], planes[1][::2, ::2], planes[2][::2, ::2]]  # as nearly all videos have them
    for form, image in (('yuv444p', planes), ('yuv420p', halves)):
        write('a.mkv', [image], 'ffv1', form if bits == 8 else f'{form}10le', **tags)
        infer('a.mkv', form)
        middle = pngs(form)[0][96, 32::64][:, ::-1].astype(int)
        errors = np.abs(middle - np.array(rgb)).max(axis=1)
        assert errors[: len(GREYS)].max() <= 1
        assert errors.max() <= 2


LOSSES = [
    ('yuv420p10le', {'color_trc': 16, 'colorspace': 9, 'color_primaries': 9}, 'HDR (PQ), whose brightness is not mapped to SDR and 10 bits a channel, of which 8 are kept'),
    ('yuv420p10le', {'color_trc': 18, 'colorspace': 9, 'color_primaries': 9}, 'HDR (HLG), whose brightness is not mapped to SDR and 10 bits a channel, of which 8 are kept'),
    ('yuv444p12le', {}, '12 bits a channel, of which 8 are kept'),
    ('bgra', {}, 'an alpha channel, which is left out'),
]  # fmt: skip


@pytest.mark.parametrize(('form', 'tags', 'what'), LOSSES)
def test_what_8_bits_cannot_hold_is_said(form, tags, what, infer):
    write('a.mkv', moving(2), 'ffv1', form, **tags)
    assert f'a.mkv: has {what}.' in infer('a.mkv', 'out.mp4').splitlines()
    clips = open_eval_clips('datasets.val', {'dataroot_gt': 'a.mkv', 'scale': 4})
    assert clips.notes == (f'datasets.val.dataroot_gt: a.mkv: has {what}.',)
    with av.open('out.mp4') as container:
        context = container.streams.video[0].codec_context
        assert context.color_trc == tags.get('color_trc', 6)
        assert context.color_primaries == tags.get('color_primaries', 6)


def turned(path, matrix):
    """Writes a display matrix into the track header of an MP4."""
    data = bytearray(path.read_bytes())
    place = data.index(b'tkhd') + 44
    data[place : place + 36] = b''.join(value.to_bytes(4, 'big', signed=True) for value in matrix)
    path.write_bytes(data)


ONE = 1 << 16
TURNS = [
    ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, -1)),  # a telephone held upright
    ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 2)),
    ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 1)),
    ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), lambda image: image[:, ::-1]),
]


@pytest.mark.parametrize(('matrix', 'turn'), TURNS)
def test_video_is_read_upright_and_its_pixels_keep_their_shape(matrix, turn, infer):
    frames = moving(3)
    turned(write('a.mp4', frames, options={'crf': '1'}, form='yuv444p', sample_aspect_ratio=Fraction(4, 3)), matrix)
    infer('a.mp4', 'png')
    assert np.abs(pngs('png').astype(int) - bilinear([turn(frame).copy() for frame in frames])).mean() < 4
    infer('a.mp4', 'out.mp4')
    with av.open('out.mp4') as container:
        (stream,) = container.streams.video
        is_turned = stream.width == 128
        assert stream.sample_aspect_ratio == (Fraction(3, 4) if is_turned else Fraction(4, 3))


# Damaged


def damage(path, share=0.4, count=1500):
    data = bytearray(Path(path).read_bytes())
    place = int(len(data) * share)
    data[place : place + count] = random.Random(0).randbytes(count)
    Path(path).write_bytes(data)


def cut(path, share=0.6):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


DAMAGED = [
    ('a.mp4', 'libx264', cut),
    ('a.mkv', 'libx264', cut),
    ('a.webm', 'libvpx-vp9', cut),
    ('a.avi', 'mpeg4', cut),
    ('a.mp4', 'libx264', damage),
    ('a.mkv', 'libx264', damage),
    ('a.ts', 'mpeg2video', damage),
    ('a.avi', 'mjpeg', damage),
]


@pytest.mark.parametrize(('name', 'coder', 'spoil'), DAMAGED, ids=[f'{n} {s.__name__}' for n, _, s in DAMAGED])
def test_frames_that_do_not_decode_are_left_out_with_a_line(name, coder, spoil, infer, refuses):
    frames = moving(100, 64, 96)
    write(name, frames, coder, 'yuvj420p' if coder == 'mjpeg' else 'yuv420p', gop_size=12)
    spoil(name)
    printed = infer(name, 'out.mkv').splitlines()
    kept = len(planes_of('out.mkv'))
    assert 20 < kept < 100
    line = f'{name}: {kept} of 100 frames decode, the others are damaged or cut off.'
    assert printed[-2:] == [line, f'{kept} frames of 384x256: out.mkv']
    sources = open_sources(Path(name), None, 4)
    assert (sources.clips[0].num_frame, sources.notes) == (kept, (f'--gt: {line}',))
    assert refuses(name, 'no', '--strict') == (
        f'INPUT: must be a whole video for --strict, got {line} Mend it, or leave --strict out.'
    )
    assert refusal('prepare', '--gt', name, '-o', 'no', '--strict').splitlines()[-1] == (
        f'--gt: must hold whole videos for --strict, got {line} Mend or remove it.'
    )
    assert not Path('no').exists()


def test_whole_videos_pass_strict(infer):
    for name, coder in (('a.mp4', 'libx264'), ('b.mkv', 'libx264'), ('c.webm', 'libvpx'), ('d.ts', 'mpeg2video')):
        write(name, moving(30), coder, sound=0.9 if name == 'b.mkv' else None)
        printed = infer(name, f'out_{name[0]}', '--strict')
        assert printed == f'The clip as a whole.\n30 frames of 192x128: out_{name[0]}\n'


@pytest.mark.parametrize(('first', 'length'), [(3, 20), (0, 12)])
def test_video_that_is_trimmed_without_being_coded_anew_passes_strict(first, length, infer):
    """An edit list leaves frames out that are in the file; cutting programs write one."""
    write('a.mp4', moving(30), options={'bf': '0'})
    data = bytearray(Path('a.mp4').read_bytes())
    place = data.index(b'elst') + 12
    assert data[place : place + 8] == (1200).to_bytes(4, 'big') + bytes(4)  # all of it, from the first frame on
    data[place : place + 8] = (40 * length).to_bytes(4, 'big') + (512 * first).to_bytes(4, 'big')
    Path('a.mp4').write_bytes(data)
    assert infer('a.mp4', 'out', '--strict').endswith(f'{length} frames of 192x128: out\n')


def test_sound_that_is_longer_than_the_video_does_not_end_it(infer):
    """OpenCV gives up after 4096 packets of sound."""
    write('a.mkv', moving(30), sound=900)
    assert '30 frames of' in infer('a.mkv', 'out.mkv', '--strict')


def test_video_that_changes_its_size_is_refused_and_the_unfinished_one_plays(refuses):
    write('a.ts', moving(40), 'mpeg2video')
    write('b.ts', moving(10, 64, 64), 'mpeg2video')
    Path('a.ts').write_bytes(Path('a.ts').read_bytes() + Path('b.ts').read_bytes())
    line = refuses('a.ts', 'out.mp4', '--num_frame', 9, '--overlap', 2)
    assert re.fullmatch(r'a.ts, frame 3\d: must be an image of 48x32, got 64x64. Cut it there.', line)
    assert not Path('out.mp4').exists()
    assert len(planes_of('out.unfinished.mp4')) >= 20


# Writing

SUFFIXES = ['.mp4', '.m4v', '.mov', '.mkv', '.avi', '.ts', '.flv', '.webm']


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_written_video_holds_the_frames_and_is_tagged(suffix, infer):
    frames = moving(12)
    write('in.mkv', frames, 'ffv1', 'bgr0', rate=Fraction(30000, 1001))
    infer('in.mkv', f'out{suffix}')
    with av.open(f'out{suffix}') as container:
        (stream,) = container.streams.video
        found = [frame.to_ndarray(format='bgr24') for frame in container.decode(stream)]
        context = stream.codec_context
        assert (stream.width, stream.height, context.pix_fmt) == (192, 128, 'yuv420p')
        assert (context.colorspace, context.color_range) == (6, 1)
        assert stream.average_rate == pytest.approx(30000 / 1001, rel=1e-3)
    assert len(found) == 12
    assert np.abs(np.stack(found).astype(int) - bilinear(frames)).mean() < 4
    assert sorted(path.name for path in Path().iterdir()) == ['in.mkv', f'out{suffix}']


WRITTEN = [
    ('frames', 128, 6, (6, 6)),  # lines of the result, matrix, primaries and transfer characteristics
    ('frames', 720, 1, (1, 1)),
    ({'colorspace': 1, 'color_primaries': 1, 'color_trc': 1}, 128, 1, (1, 1)),
    ({'colorspace': 9, 'color_primaries': 9, 'color_trc': 14}, 720, 9, (9, 14)),
    ({'colorspace': 5, 'color_primaries': 5}, 720, 5, (5, 6)),
]
OF_MATRIX = {1: 'bt709', 5: 'bt601', 6: 'bt601', 9: 'bt2020'}


@pytest.mark.parametrize(('tags', 'lines', 'matrix', 'others'), WRITTEN)
def test_written_colours_are_what_the_network_gave(tags, lines, matrix, others, infer):
    """White is white, and grey grey: to 1 of 255 on grey and 2 on saturated flats, by the definitions of the tags."""
    flats = np.repeat(np.array(GREYS + FLATS, np.uint8), 16, axis=0)[None, :, ::-1].repeat(lines // 4, 0)
    if tags == 'frames':
        source = str(write_images(Path('in'), '{}.png', [flats] * 3))
    else:
        planes = to_planes(GREYS + FLATS, OF_MATRIX[tags['colorspace']], 'tv', 8, lines // 4)
        source = str(write('in.mkv', [planes] * 3, 'ffv1', 'yuv444p', color_range=1, **tags))
    infer(source, 'out.mp4')
    with av.open('out.mp4') as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (matrix, 1)
        assert (context.color_primaries, context.color_trc) == others
    y, cb, cr = planes_of('out.mp4')[1]
    red, blue = WEIGHTS[OF_MATRIX[matrix]]
    for place, rgb in enumerate(GREYS + FLATS):
        column = place * 64 + 32
        luma = (float(y[lines // 2, column]) - 16) / 219
        b_y, r_y = ((float(plane[lines // 4, column // 2]) - 128) / 224 for plane in (cb, cr))
        r, b = luma + 2 * (1 - red) * r_y, luma + 2 * (1 - blue) * b_y
        g = (luma - red * r - blue * b) / (1 - red - blue)
        error = max(abs(min(max(value, 0), 1) * 255 - wanted) for value, wanted in zip((r, g, b), rgb))
        assert error <= (1.2 if rgb in GREYS else 2.5), (rgb, error)  # 8 bits of luma are 1.16 of 255 apart


def test_times_of_a_variable_frame_rate_are_kept(infer):
    times = [*range(0, 400, 40), *range(400, 1400, 100)]
    write('in.mp4', moving(20), times=times)
    for name in ('out.mp4', 'out.mkv'):
        infer('in.mp4', name)
        assert times_of(name) == pytest.approx([time / 1000 for time in times], abs=1e-3)
    infer('in.mp4', 'out.avi')  # all on fiftieths of a second
    assert times_of('out.avi') == pytest.approx([time / 1000 for time in times], abs=1e-3)
    assert '20 frames of' in infer('out.avi', 'again', '--strict')
    write('odd.mp4', moving(20), times=[time + (time // 40 % 3) * 7 for time in times])
    assert 'out2.avi: AVI has one frame rate, so frames are shown up to ' in infer('odd.mp4', 'out2.avi')
    infer('in.mp4', 'fast.mp4', '--fps', 50)
    assert times_of('fast.mp4') == pytest.approx([number / 50 for number in range(20)], abs=1e-4)


@pytest.mark.parametrize(('options', 'first'), [({'bf': '0'}, 0), ({'bf': '2'}, 0.04)])
def test_avi_without_times_is_read_in_time(options, first, infer):
    """With B-frames FFmpeg decodes the first one a frame early."""
    write('in.avi', moving(20), 'mpeg4', options=options)
    infer('in.avi', 'out.mkv')
    assert times_of('out.mkv') == pytest.approx([first + number / 25 for number in range(20)], abs=1e-3)


def test_images_become_a_video_of_the_rate_that_is_asked_for(infer):
    write_images(Path('in'), '{}.png', moving(5))
    infer('in', 'out.mp4', '--fps', 10)
    assert times_of('out.mp4') == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize('rate', [Fraction(24000, 1001), 25, Fraction(30000, 1001)])
def test_frame_rate_that_a_container_rounds_is_whole_again(rate, infer):
    """Matroska has milliseconds: 33, 67, 100."""
    write('in.mkv', moving(30), rate=rate)
    infer('in.mkv', 'out.mp4')
    assert times_of('out.mp4') == pytest.approx([number / float(rate) for number in range(30)], abs=2e-5)
    with av.open('out.mp4') as container:
        assert container.streams.video[0].average_rate == rate


@pytest.mark.parametrize(
    ('name', 'out', 'sound'),
    [('in.mp4', 'out.mp4', 0.8), ('in.mkv', 'out.mkv', 0), ('in.ts', 'out.mp4', 0.8), ('in.mp4', 'out.mov', 0)],
)
def test_sound_is_copied_and_stays_in_time(name, out, sound, infer):
    write(name, moving(20), sound=sound)
    printed = infer(name, out)
    assert printed.splitlines()[-1] == f'20 frames of 192x128: {out}'
    before, after = (times_of(path, 'audio')[0] - times_of(path)[0] for path in (name, out))
    assert after == pytest.approx(before, abs=0.002)
    if name.endswith('.ts'):  # where each packet has a header that MP4 does not have
        assert len(sound_of(out)) == len(sound_of(name)) > 3
    else:
        assert sound_of(out) == sound_of(name) != []


def test_sound_that_avi_cannot_delay_is_said(infer):
    write('in.mp4', moving(20), sound=0.8)
    assert 'out.avi: AVI has no start of sound, so it is heard 672 ms early.' in infer('in.mp4', 'out.avi').splitlines()
    assert sound_of('out.avi') == sound_of('in.mp4')


def test_picture_that_begins_after_its_sound_stays_in_time(infer):
    write('in.mkv', moving(20), times=range(823, 1623, 40), sound=0)
    infer('in.mkv', 'out.mkv')
    before, after = (times_of(path)[0] - times_of(path, 'audio')[0] for path in ('in.mkv', 'out.mkv'))
    assert before == after == pytest.approx(0.823, abs=0.13)


def test_sound_that_a_container_does_not_take_is_left_out_with_a_line(infer):
    write('in.mp4', moving(8), sound=0)
    printed = infer('in.mp4', 'out.webm')
    assert printed.splitlines()[0] == 'The clip as a whole.'
    assert 'in.mp4: sound (aac) left out: webm does not take it.' in printed.splitlines()
    with av.open('out.webm') as container:
        assert [stream.type for stream in container.streams] == ['video']


def test_damaged_sound_is_copied_as_it_is(infer):
    """ffmpeg complained of each packet, nobody read that, and both waited for ever."""
    write('in.mkv', moving(8), sound=0)
    packets = sound_of('in.mkv')
    data = Path('in.mkv').read_bytes()
    for packet in packets[2:]:
        data = data.replace(packet, random.Random(0).randbytes(len(packet)))
    Path('in.mkv').write_bytes(data)
    assert sound_of('in.mkv') != packets
    infer('in.mkv', 'out.mp4')
    assert sound_of('out.mp4') == sound_of('in.mkv')


@pytest.mark.parametrize('name', ['x.wmv', 'x.mpg', 'x.gif', 'x.png', 'x.mp4v', 'frames_v1.5'])
def test_suffix_that_cannot_be_written_is_refused_before_anything_is_read(name, refuses):
    write('in.mp4', moving(2))
    assert refuses('gone.mp4', name) == (
        '-o: must end in .mp4, .m4v, .mov, .mkv, .avi, .ts, .flv, .webm for a video, or have no suffix for a folder '
        f'of PNG, got {name}. Rename it.'
    )
    assert not Path(name).exists()


def test_encoder_that_is_not_there_is_no_choice(refuses, monkeypatch):
    monkeypatch.setattr(av, 'codecs_available', av.codecs_available - {'libx264'})
    assert refuses('gone.mp4', 'x.mp4').startswith('-o: must end in .webm for a video, or have no suffix')


@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.webm'])
def test_full_disk_ends_with_1_and_names_it(suffix, refuses):
    write('in.mp4', moving(20))
    os.symlink('/dev/full', f'out.unfinished{suffix}')
    disk = next(path for path in Path.cwd().parents if path.is_mount())
    assert refuses('in.mp4', f'out{suffix}') == (
        f'-o: must lie on a disk with room, got out{suffix} on {disk}, which is full. What is written stays in '
        f'out.unfinished{suffix}. Make room.'
    )
    assert not Path(f'out{suffix}').exists()


@forks
@pytest.mark.parametrize('out', ['out.mp4', 'out'])
def test_file_that_cannot_grow_leaves_what_is_written(out, refuses):
    """A limit of 20 kB, in a process of its own: Python ignores the signal and the write fails."""
    write('in.mp4', moving(40), options={'crf': '1'})
    os.rename('in.mp4', 'in.mov')

    def check():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        what = f'got {out} (File too large). What is written stays in out.unfinished{Path(out).suffix}.'
        assert refuses('in.mov', out) == f'-o: must be writable, {what} Choose another place.'

    in_a_fork(check)
    assert not Path(out).exists()
    left = Path('out.unfinished' + Path(out).suffix)
    assert left.is_dir() or left.stat().st_size > 10_000


# Names

LATIN = os.fsdecode(b'\xe9t\xe9')


def test_names_that_are_no_utf_8_are_read_and_written(infer, capsys):
    frames = moving(4)
    os.mkdir(LATIN)
    for number, frame in enumerate(frames):
        Path(LATIN, os.fsdecode(b'\xe9t\xe9_%02d.png' % number)).write_bytes(cv2.imencode('.png', frame)[1].tobytes())
    infer(LATIN, f'{LATIN}_out')
    names = sorted(os.listdir(os.fsencode(f'{LATIN}_out')))
    assert names == [b'\xe9t\xe9_%02d.png' % number for number in range(4)]
    os.mkdir('videos')
    write('a.mp4', frames)
    os.rename('a.mp4', f'videos/{LATIN}.mp4')
    Path('videos', os.fsdecode(b'r\xe9sum\xe9.txt')).write_text('notes')
    main(['prepare', '--gt', 'videos', '-o', 'store', '--workers', '1'])
    assert FrameStore('store/gt').info.clips == (Clip(LATIN, 4, 32, 48),)
    assert infer(f'videos/{LATIN}.mp4', f'{LATIN}.mkv').endswith('4 frames of 192x128: \\udce9t\\udce9.mkv\n')


def test_clip_of_a_test_set_whose_name_is_no_utf_8_is_refused(tmp_path):
    """Its pictures would be written by OpenCV."""
    (tmp_path / 'gt' / LATIN).mkdir(parents=True)
    (tmp_path / 'gt' / LATIN / '0.png').write_bytes(cv2.imencode('.png', moving(1)[0])[1].tobytes())
    with pytest.raises(
        OptionError, match=r"^datasets.val.dataroot_gt: must hold clips with names in UTF-8, got b'\\xe9t\\xe9'. Ren"
    ):
        open_eval_clips('datasets.val', {'dataroot_gt': str(tmp_path / 'gt')})


def test_one_image_is_one_frame(infer):
    """OpenCV takes the number in its name for the first of a sequence."""
    frames = moving(3)
    write_images(Path('in'), '{}.png', frames)
    infer('in/1.png', 'out')
    assert [path.name for path in Path('out').iterdir()] == ['1.png']
    assert np.array_equal(pngs('out'), bilinear(frames[1:2]))
