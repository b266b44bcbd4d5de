"""``multigrid-vsr infer``: super-resolves a video or a folder of frames."""

from __future__ import annotations

import argparse
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigrid_vsr.cli.arguments import check_least, check_writable
from multigrid_vsr.core.errors import OptionError, one_line
from multigrid_vsr.core.overlap import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.options.option_file import copy_in_run_folder, read_options

if TYPE_CHECKING:
    from multigrid_vsr.frames.sequence import FrameSequence
    from multigrid_vsr.models.inference import Restorer, Tiling

_TRIED = (0, 2, 4, 8, 16, 28)  # overlaps that --measure compares
_EXAMPLES = (
    'multigrid-vsr infer video.mp4 -w experiments/my_run/models/net_g_latest.pth -o video_x4.mp4',
    'multigrid-vsr infer frames/ -w net_g_300000.pth -opt options/train_basicvsr_mg.yml -o frames_x4',
    'multigrid-vsr infer video.mkv -w net_g_latest.pth -opt my_run.yml -o out.mkv --num_frame 60 --tile 256',
    'multigrid-vsr infer video.mp4 -w experiments/my_run/models/net_g_latest.pth --measure 60',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'infer',
        help='super-resolve a video or a folder of frames',
        description='Runs the network of an option file over a clip of any length. A clip that memory holds goes '
        'through as a whole. A longer one goes in windows that overlap, a larger one in tiles too. A video keeps its '
        'times, colours and sound.',
        examples=_EXAMPLES,
    )
    parser.add_argument('input', type=Path, metavar='INPUT', help='video, image, or folder of images')
    parser.add_argument('-w', '--weights', type=Path, required=True, metavar='FILE', help='weight file of BasicSR')
    parser.add_argument('-o', dest='out', type=Path, metavar='OUTPUT', help='video, or folder of PNG')
    parser.add_argument('-opt', help="option file of the run (default: the copy in the weights' run folder)")
    parser.add_argument('--param_key', choices=('params', 'params_ema'), help='weights (default: the EMA if there)')
    for option, default, words in (
        ('--num_frame', None, 'frames of a window (default: as many as fit)'),
        ('--overlap', FRAMES_OVERLAP, 'frames of context on each side of a window, not kept (default: %(default)s)'),
        ('--tile', None, 'LQ side of a tile (default: whole frames where they fit)'),
        ('--tile_overlap', TILE_OVERLAP, 'LQ pixels of context of a tile (default: %(default)s)'),
        ('--measure', None, 'print how far windows of the first N frames are from the whole, and write nothing'),
    ):
        parser.add_argument(option, type=int, default=default, metavar='N', help=words)
    parser.add_argument('--fps', type=float, help="frames a second of a video (default: the input's, else 25)")
    parser.add_argument('--strict', action='store_true', help='refuse a video with frames that do not decode')
    return parser


def run(args: argparse.Namespace) -> None:
    """Restores the clip, or measures the effect of the overlap."""
    _check(args)
    opt = read_options(args.opt or _option_file(args.weights))
    import torch

    from multigrid_vsr.frames.sequence import open_clip
    from multigrid_vsr.models.inference import load_restorer

    clip = open_clip(args.input)
    if clip.video and args.strict and (problem := clip.video.survey()[0].problem(args.input)):
        raise OptionError('INPUT', 'be a whole video for --strict', problem, 'Mend it, or leave --strict out.')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    restorer = load_restorer(opt, args.weights, args.param_key, device)
    least = restorer.least_frames
    if clip.num_frame is not None and clip.num_frame < least:
        raise OptionError('INPUT', f'have at least {least} frames for this arch', clip.num_frame, 'Give a longer clip.')
    if args.measure:
        print(_measurement(restorer, clip, args.measure))
    else:
        _restore_in_pieces(args, restorer, clip)


def _check(args: argparse.Namespace) -> None:
    check_least(args, {'--num_frame': 1, '--overlap': 0, '--tile': 32, '--tile_overlap': 0, '--measure': 2})
    if args.fps is not None and not 0 < args.fps <= 1000:
        raise OptionError('--fps', 'be above 0 and at most 1000', args.fps, 'Correct the value.')
    for size, context in (('num_frame', 'overlap'), ('tile', 'tile_overlap')):
        value, overlap = getattr(args, size), getattr(args, context)
        if value is not None and value <= 2 * overlap:
            raise OptionError(f'--{size}', f'be above twice --{context} ({overlap})', value, f'Lower --{context} too.')
    if args.measure:
        return
    if args.out is None:
        raise OptionError('-o', 'be given', None, 'Say where the result goes.')
    from multigrid_vsr.frames.sequence import check_suffix

    check_suffix(args.out)
    if os.path.lexists(args.out):
        raise OptionError('-o', 'not exist yet', args.out, 'Give another name.')
    check_writable('-o', args.out)


def _option_file(weights: Path) -> Path:
    """The copy in the folder of the run, if the weights are in its ``models/``."""
    found = copy_in_run_folder(weights.absolute().parent.parent)
    if found is None:
        raise OptionError('-opt', 'be given where the weights lie in no folder of a run', None, 'Give its option file.')
    return found


def _restore_in_pieces(args: argparse.Namespace, restorer: Restorer, clip: FrameSequence) -> None:
    """Restores the clip in the given windows and tiles, or else in those that fit in memory."""
    from multigrid_vsr.models.inference import Tiling, choose_tiling, need_and_memory
    from multigrid_vsr.models.preflight import is_out_of_memory

    overlap, least = restorer.context(args.overlap), restorer.least_frames // 2
    if overlap < least:
        raise OptionError('--overlap', f'be at least {least} for this arch', overlap, 'Raise it.')
    tiling = Tiling(args.num_frame or 0, overlap, args.tile, args.tile_overlap)
    need, memory = need_and_memory(restorer) if args.num_frame is None else (None, 0.0)
    while True:
        if need is not None:
            height, width = (min(side, args.tile or side) for side in (clip.height, clip.width))
            found = choose_tiling(need, memory, clip.num_frame, height, width, tiling)
            tiling = replace(tiling, num_frame=found.num_frame, tile=args.tile or found.tile)
        tiling = restorer.aligned(tiling)
        try:
            return _restore(restorer, clip, tiling, args.out, args.fps)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if need is None:
                fix = 'Lower it, or give a smaller --tile.'
                raise OptionError('--num_frame', 'fit into memory', one_line(error), fix) from None
        height, width = (min(side, tiling.tile or side) for side in (clip.height, clip.width))
        memory = need.bytes(min(tiling.num_frame, clip.num_frame or tiling.num_frame), height * width) / 2
        print('That is more than memory holds: the clip is started again in smaller pieces.')


def _restore(restorer: Restorer, clip: FrameSequence, tiling: Tiling, out: Path, fps: float | None) -> None:
    from tqdm import tqdm

    from multigrid_vsr.frames.sequence import open_writer
    from multigrid_vsr.models.inference import super_resolve

    is_whole = clip.num_frame is not None and clip.num_frame <= tiling.num_frame
    frames = 'The clip as a whole' if is_whole else f'Windows of {tiling.num_frame} frames, overlap {tiling.overlap}'
    print(frames + (f'; tiles of {tiling.tile} LQ pixels, overlap {tiling.tile_overlap}.' if tiling.tile else '.'))
    if clip.video and clip.video.loss:
        print(f'{clip.video.loss}.')
    with open_writer(out, clip, fps) as writer, tqdm(total=clip.num_frame, desc='Restore', unit='frame') as bar:
        for frame in super_resolve(restorer, clip.frames(), tiling):
            writer.write(frame.numpy())
            bar.update()
    if clip.video and (problem := clip.video.count.problem(clip.path)):
        print(f'{problem}.')
    print(f'{bar.n} frames of {frame.shape[1]}x{frame.shape[0]}: {out}')


def _measurement(restorer: Restorer, clip: FrameSequence, count: int) -> str:
    from multigrid_vsr.core.plan import format_table
    from multigrid_vsr.models.inference import Tiling, differences

    frames = list(itertools.islice(clip.frames(), count))
    overlaps = [overlap for overlap in _TRIED if 2 * overlap < len(frames)]
    tilings = [restorer.aligned(Tiling(len(frames) // 2 + overlap, overlap)) for overlap in overlaps]
    found = differences(restorer, frames, tilings)
    rows = [(f'{tiling.overlap}', f'{difference:.6f}') for tiling, difference in zip(tilings, found)]
    return format_table(('overlap', 'largest difference / 255'), rows)
