"""Kernels that an iteration of each arch launches on a GPU, and its waits for the device, counted without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import harness
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.launches import check_torch, compare
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.run_options import checked_schedule

# As in BasicSR's option files; (frames, LQ side) of each: neither batch nor side changes what is launched.
NETWORKS: tuple[tuple[dict[str, Any], Sequence[tuple[int, int]]], ...] = (
    ({'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30}, ((7, 64), (11, 64), (15, 64))),
    ({'type': 'IconVSR', 'num_feat': 64, 'num_block': 30, 'temporal_padding': 2}, ((7, 64), (15, 64))),
    ({'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 7}, ((7, 64), (15, 64), (30, 64))),
    ({'type': 'EDVR', 'num_feat': 64, 'num_reconstruct_block': 10, 'num_frame': 5}, ((5, 64),)),
    ({'type': 'DUF', 'num_layer': 16}, ((7, 64),)),
    ({'type': 'TOFlow'}, ((7, 256),)),
)
COLUMNS = (
    *('network', 'frames x LQ', 'BasicSR: forward', 'iteration', 'waits'),
    *('here: forward', 'iteration', 'waits'),
)


def measure(opt_file: str | None = None) -> None:
    """Prints launches and waits of an iteration of each arch as BasicSR has it and as it is here.

    Args:
        opt_file: A training file, for its network at the frames and sizes of its schedule instead.

    Raises:
        InputError: If the file cannot be read, an option breaks its rule, or torch is older than 2.10.
    """
    check_torch()
    networks = NETWORKS if opt_file is None else (_of_file(opt_file),)
    rows = [(*row[:2], *map(str, row[2:])) for network in networks for row in compare(*network)]
    print('Kernels that the forward and a whole iteration launch, and how often it waits for the device:')
    print(format_table(COLUMNS, rows))


def _of_file(path: str) -> tuple[dict[str, Any], Sequence[tuple[int, int]]]:
    opt = read_options(path)
    shapes = (segment.shape for segment in checked_schedule(opt).segments)
    sizes = ((shape.num_frame, shape.gt_size // opt.get('scale', 1)) for shape in shapes)
    return opt['network_g'], tuple(dict.fromkeys(sizes))


if __name__ == '__main__':
    commands = harness.parser('launches', __doc__, '', '-opt options/train_basicvsr_mg.yml')
    commands.add_argument('-opt', metavar='FILE', help='a training file, for its network and shapes')
    harness.run(commands, lambda args: measure(args.opt))
