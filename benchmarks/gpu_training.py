"""A minute of real training: BasicSR's training script on the frames of the demo, and the figures of its log."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.worker import CallError
from multigrid_vsr.launches import as_basicsr_has_them
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.report.read import Log, parse_log

_GRACE = 10  # seconds for a run to save and end
_STOCK = 'from benchmarks.gpu_training import train_stock; train_stock()'
_CLONE = str(Path(__file__).parents[1])


def train_stock() -> None:
    """BasicSR's training script with its archs as it has them."""
    from basicsr.train import train_pipeline

    with as_basicsr_has_them():
        train_pipeline(os.getcwd())


def train(root: Path, opt: dict[str, Any], is_stock: bool, seconds: float) -> dict[str, Any]:
    """Trains to the end, or for so many seconds, in a process of its own; returns the :func:`summary` of the log.

    Args:
        root: Folder of the demo; an earlier run of the same name there is deleted.
        opt: The options.
        is_stock: Whether the archs are BasicSR's own.
        seconds: Time it has, its start and end included.

    Raises:
        CallError: If its log has less than two lines.
    """
    folder = root / 'experiments' / opt['name']
    shutil.rmtree(folder, ignore_errors=True)
    (root / f'{opt["name"]}.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    script = ('-c', _STOCK) if is_stock else ('-m', 'multigrid_vsr.cli', 'train')
    command = [sys.executable, *script, '-opt', f'{opt["name"]}.yml']
    path = os.pathsep.join(filter(None, (_CLONE, os.environ.get('PYTHONPATH'))))  # it runs in another folder
    with open(root / f'{opt["name"]}.txt', 'w+') as printed:
        process = subprocess.Popen(
            command, cwd=root, env=os.environ | {'PYTHONPATH': path}, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            process.wait(seconds - _GRACE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        finally:
            process.kill()
            process.wait()
        printed.seek(0)
        last = (printed.read().strip().splitlines() or ['nothing was printed'])[-1]
    logs = sorted(folder.glob('train_*.log'))
    found = summary(parse_log(logs[0].read_text()), opt) if logs else None
    if found is None:
        raise CallError(last[:200])
    return found


def summary(log: Log, opt: dict[str, Any]) -> dict[str, Any] | None:
    """The figures of a log between its first line and its last; ``None`` where it has less than two."""
    if len(log.lines) < 2:
        return None
    first, last = log.lines[0], log.lines[-1]
    schedule = schedule_from_options(opt)
    iterations = range(first.iteration, last.iteration)
    samples = sum(schedule.segment_at(iteration).shape.batch_size_per_gpu for iteration in iterations)
    seconds = (last.time - first.time).total_seconds()
    return {
        'iterations': last.iteration,
        'of': schedule.total_iter,
        'ms': seconds / len(iterations) * 1e3,
        'samples_a_second': samples / seconds,
        'waiting': last.values['data_time'] / last.values['time'],
        'loss': last.values['l_pix'],
    }
