"""What memory of a GPU a validation takes, for whole clips and in pieces."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from basicsr.archs import build_network

from benchmarks import harness
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.overlap import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.models.inference import SIDE, Need, Restorer, Tiling, measure_need, peak, restorer_of
from multigrid_vsr.options.option_file import read_options

_TRIED = 12  # frames of the clip that the estimate is compared with
_REDS4 = (100, 180, 320)  # frames of a clip, LQ height and width
_WINDOWS, _TILES = (80, 64), (192,)


def measure(opt_file: str, clip: tuple[int, int, int]) -> None:
    """Measures two small clips on the GPU, prints the estimates for larger ones, and checks one on a third small clip.

    The network is that of an option file, with random weights. A clip is frames, height and width in LQ pixels.

    Raises:
        InputError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise InputError('benchmarks.validation: must run on a machine with a GPU, got none. Run it on one.')
    device = torch.device('cuda')
    restorer = _restorer(read_options(opt_file), device)
    need = measure_need(restorer, device, restorer.least_frames)
    rows = [(words, f'{_gigabytes(need, tiling, *clip):.2f}') for words, tiling in _tilings(restorer, clip[0])]
    print(f'{clip[0]} frames of {clip[1]}x{clip[2]} LQ pixels, GB of the GPU beside the weights:')
    print(format_table(('in pieces of', 'estimate'), rows))
    frames = torch.randint(0, 256, (_TRIED + restorer.least_frames, SIDE, SIDE, 3), dtype=torch.uint8)
    found = peak(partial(restorer, frames), device) / 1e9
    foretold = _gigabytes(need, Tiling(len(frames), 0), len(frames), SIDE, SIDE)
    print(f'{len(frames)} frames of {SIDE}x{SIDE} take {found:.3f} GB, where the estimate is {foretold:.3f}.')


def _restorer(opt: dict[str, Any], device: torch.device) -> Restorer:
    arguments = {key: None if key.endswith('_path') else value for key, value in opt['network_g'].items()}
    return restorer_of(opt, build_network(arguments).to(device).eval(), device)


def _tilings(restorer: Restorer, num_frame: int) -> list[tuple[str, Tiling]]:
    overlap = restorer.context(FRAMES_OVERLAP)
    windows = [restorer.aligned(Tiling(size, overlap)) for size in _WINDOWS if 2 * overlap < size < num_frame]
    tilings = [
        ('a whole clip', Tiling(num_frame, 0)),
        *((f'max_frames {tiling.num_frame}', tiling) for tiling in windows),
    ]
    smallest = windows[-1] if windows else tilings[0][1]
    tiles = [Tiling(smallest.num_frame, smallest.overlap, tile, TILE_OVERLAP) for tile in _TILES]
    return [*tilings, *((f'max_frames {tiling.num_frame}, tile {tiling.tile}', tiling) for tiling in tiles)]


def _gigabytes(need: Need, tiling: Tiling, num_frame: int, height: int, width: int) -> float:
    sides = (min(side, tiling.tile or side) for side in (height, width))
    return need.bytes(min(tiling.num_frame, num_frame), next(sides) * next(sides)) / 1e9


if __name__ == '__main__':
    examples = '-opt options/train_basicvsr_mg.yml', '-opt mg.yml --clip 300 270 480'
    commands = harness.parser('validation', __doc__, *examples)
    commands.add_argument('-opt', required=True, metavar='FILE', help='option file, for its network')
    clip, names = 'the largest clip, LQ pixels (default: that of REDS4, 100 180 320)', ('FRAMES', 'HEIGHT', 'WIDTH')
    commands.add_argument('--clip', type=int, nargs=3, default=_REDS4, metavar=names, help=clip)
    harness.run(commands, lambda args: measure(args.opt, tuple(args.clip)))
