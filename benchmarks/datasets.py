"""What a dataset of BasicSR costs under the schedule, through the adapter, against its own and ours."""

from __future__ import annotations

from pathlib import Path

from benchmarks.frames import SHAPES, Load, dataset_options, ours, prepare_frames, stock
from benchmarks.harness import run_rounds
from benchmarks.loader import ms_a_sample
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import SampleRequest
from multigrid_vsr.data.dataset_adapter import DatasetAdapter


def measure(root: Path, rounds: int) -> None:
    """Times a sample of 1280x720 video through each dataset, and prints the table of docs/your_own_parts.md.

    Raises:
        InputError: If the video of the demo is not installed.
    """
    prepare_frames(root)
    rows = []
    for gt_size, num_frame in SHAPES:
        loads = {
            'stock': stock(root, 'disk', gt_size, num_frame),
            'adapted': _adapted(root, gt_size, num_frame),
            'ours, PNG': ours(root, 'disk', gt_size, num_frame),
            'ours, packed': ours(root, 'packed', gt_size, num_frame),
        }
        ms = ms_a_sample(loads, rounds)
        ratios = [f'{ms["adapted"] / ms[name]:.2f}x' for name in ('stock', 'ours, PNG')]
        ratios.append(f'{ms["adapted"] / ms["ours, packed"]:.0f}x')
        rows.append((f'{gt_size} x {num_frame}', *(f'{value:.2f}' for value in ms.values()), *ratios))
    print('ms a sample, one process; the ratios are adapted / each of the others:')
    print(format_table(('gt x frames', *loads, 'vs stock', 'vs our PNG', 'vs packed'), rows))


def _adapted(root: Path, gt_size: int, num_frame: int) -> Load:
    """BasicSR's dataset through the adapter; the dataset has another shape of its own."""
    from basicsr.data.reds_dataset import REDSRecurrentDataset

    opt = dataset_options(root, 'disk', 256, 15)
    adapter = DatasetAdapter(REDSRecurrentDataset(opt), opt)
    return lambda seed: adapter.sample(SampleRequest(seed % 80, num_frame, gt_size, seed))


if __name__ == '__main__':
    run_rounds('datasets', __doc__, measure)
