"""Option files for the tests, and ways to run them."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from fork_server import ForkServer

from multigrid_vsr.cli import main

CLONE = Path(__file__).parents[1]
TRAIN = (sys.executable, '-m', 'multigrid_vsr.cli', 'train', '-opt')
# The same by BasicSR alone, with the plugin disarmed; the shim is what a user without it puts in by hand.
TRAIN_WITHOUT_PLUGIN = (
    sys.executable,
    '-c',
    'import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_HostFinder"]; '
    'import types, torchvision.transforms.functional as F; '
    'shim = types.ModuleType("torchvision.transforms.functional_tensor"); '
    'shim.rgb_to_grayscale = F.rgb_to_grayscale; sys.modules[shim.__name__] = shim; '
    'from basicsr.train import train_pipeline; train_pipeline("."); '
    'assert not {"multigrid_vsr.host.install", "multigrid_vsr.host.entry"} & set(sys.modules)',
    '-opt',
)
PROBE = Path(__file__).with_name('probe.py')  # ``multigrid-vsr`` with the archs of that file
TRAIN_PROBE = (sys.executable, PROBE, 'train', '-opt')
METRICS = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}}

_OPTIONS = """
name: run
model_type: MultigridVideoModel
scale: 4
num_gpu: 0
manual_seed: 3
datasets:
  train:
    name: clips
    type: MultigridREDSDataset
    io_backend: {type: disk}
    num_frame: 4
    gt_size: 128
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 1
    prefetch_mode: ~
multigrid:
  gt_size: [64, 128]
  num_frame: [2, 3, 4]
  batch_size_per_gpu: [2, 1]
network_g: {type: BasicVSR, num_feat: 4, num_block: 1}
path: {strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: Adam, lr: !!float 1e-3, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [13], restart_weights: [1], eta_min: !!float 1e-7}
  total_iter: 13
  warmup_iter: -1
  pixel_opt: {type: CharbonnierLoss, loss_weight: 1.0, reduction: mean}
logger: {print_freq: 1, save_checkpoint_freq: 1000, use_tb_logger: false, wandb: {project: ~, resume_id: ~}}
"""

# Written by hand: 13 iterations are 6 at gt_size 64 and 7 at 128; 6 are 2 + 2 + 2 and 7 are 2 + 2 + 3 (floor of 7/3
# and 14/3). Each entry is (batch, num_frame, gt_size) of iterations 1 to 13.
SHAPES = (
    [(2, 2, 64)] * 2 + [(2, 3, 64)] * 2 + [(2, 4, 64)] * 2 + [(1, 2, 128)] * 2 + [(1, 3, 128)] * 2 + [(1, 4, 128)] * 3
)
LQ_SHAPES = [(batch, num_frame, 3, gt_size // 4, gt_size // 4) for batch, num_frame, gt_size in SHAPES]


def options(clips: Path, **changes: Any) -> dict[str, Any]:
    """A run of 13 iterations on the clips; ``datasets__train__type='X'`` changes an option, ``None`` removes it."""
    opt = yaml.safe_load(_OPTIONS)
    opt['datasets']['train'].update(dataroot_gt=str(clips / 'gt'), dataroot_lq=str(clips / 'lq'))
    for key, value in changes.items():
        *blocks, last = key.split('__')
        target = opt
        for block in blocks:
            target = target.setdefault(block, {})
        target[last] = copy.deepcopy(value)
        if value is None:
            del target[last]
    if 'periods' in opt.get('train', {}).get('scheduler', {}) and 'train__scheduler__periods' not in changes:
        opt['train']['scheduler']['periods'] = [opt['train'].get('total_iter', 13)]
    return opt


def real_options(clips: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run in which all that a resume may forget matters: EMA, frozen flow, ramps, restarts, a growing shape."""
    return options(
        clips,
        path__experiments_root=str(folder),
        train__ema_decay=0.9,
        train__fix_flow=6,
        train__flow_lr_mul=0.25,
        train__scheduler={'type': 'MultigridCosineLR', 'warmup_iter': 3, 'batch_scaling': 'sqrt'},
        logger__save_checkpoint_freq=2,
        **changes,
    )


def validation_set(
    clips: Path, kind: str = 'VideoRecurrentTestDataset', name: str = 'REDS4', **changes: Any
) -> dict[str, Any]:
    """The clips as a test set of BasicSR's."""
    stock = {'cache_data': True, 'io_backend': {'type': 'disk'}, 'padding': 'reflection_circle'}
    return {
        **own_set(clips, name),
        'type': kind,
        'num_frame': 3 if kind == 'VideoTestDataset' else -1,
        **stock,
        **changes,
    }


def own_set(clips: Path, name: str = 'Mine', **changes: Any) -> dict[str, Any]:
    """The clips as a test set of this project's."""
    roots = {f'dataroot_{kind}': str(clips / kind) for kind in ('gt', 'lq')}
    return {'name': name, 'type': 'MultigridVideoTestDataset', **roots, **changes}


def benchmark(name: str, *arguments: Any, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs a benchmark of this clone."""
    return run(sys.executable, '-m', f'benchmarks.{name}', *arguments, cwd=cwd, PYTHONPATH=str(CLONE), **more)


def write(folder: Path, opt: dict[str, Any], name: str = 'run.yml') -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(opt))
    return path


def _settings(cwd: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One thread, the warnings that a user would have, stdout and stderr together."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
    env.pop('PYTHONWARNINGS', None)
    return {'cwd': cwd, 'env': env, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}


def run(
    *command: Any, cwd: Path, ok: bool = True, seconds: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command with stdout and stderr together, in a fork of :mod:`fork_server` where that can do it."""
    words, settings = [str(word) for word in command], _settings(cwd, environment)
    if ForkServer.takes(words, environment):
        done = _fork_server().run(words, cwd, settings['env'], seconds)
    else:
        done = subprocess.run(words, timeout=seconds, **settings)
    assert (done.returncode == 0) is ok, done.stdout[-4000:]
    return done


@functools.cache
def _fork_server() -> ForkServer:
    return ForkServer()


def refusal(*arguments: Any, main: Callable[[list[str]], object] = main) -> str:
    """What a command prints that ends with exit status 1 and a line, in this process and its folder."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as error:
        main([str(word) for word in arguments])
    assert isinstance(error.value.code, str)  # which Python prints, with exit status 1
    return printed.getvalue() + error.value.code


def train(cwd: Path, opt_file: Path, *arguments: Any, ok: bool = True, **environment: str) -> str:
    """``multigrid-vsr train`` in a process of its own; returns what it printed."""
    return run(*TRAIN, opt_file, *arguments, cwd=cwd, ok=ok, **environment).stdout


@contextlib.contextmanager
def started(*command: Any, cwd: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a command in a session of its own, as a terminal or a job has it; in the end all its processes are killed.

    A signal to the whole group is ``os.killpg(process.pid, number)``.
    """
    process = subprocess.Popen([str(word) for word in command], start_new_session=True, **_settings(cwd, environment))
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:  # else the number may be another's by now
            for pid, _ in processes_below(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
        process.wait()
        process.stdout.close()


def write_images(folder: Path, names: str | Iterable[str], frames: Iterable[np.ndarray], scale: int = 1) -> Path:
    """Writes frames under their names, or under the numbers that ``{}`` in the one name stands for; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(map(names.format, count()) if isinstance(names, str) else names, frames):
        small = frame if scale == 1 else cv2.resize(frame, (frame.shape[1] // scale, frame.shape[0] // scale))
        assert cv2.imwrite(str(folder / name), small)
    return folder


def write_video(path: Path, frames: Sequence[np.ndarray], codec: str = 'MJPG') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, frames[0].shape[1::-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def make_lmdbs(clips: Path, folder: Path) -> None:
    """BasicSR's LMDBs of gt/ and lq/, ``gt.lmdb`` and ``lq.lmdb`` in the folder, made by BasicSR."""
    for kind in ('gt', 'lq'):
        frames = sorted(str(path.relative_to(clips / kind)) for path in (clips / kind).rglob('*.png'))
        keys = [frame.removesuffix('.png') for frame in frames]
        make_lmdb_from_imgs(str(clips / kind), str(folder / f'{kind}.lmdb'), frames, keys)


def wait_for(process: subprocess.Popen[str], iteration: int, seconds: float = 120) -> str:
    """Reads what a run prints until an iteration is done, that one or a later one; returns it.

    A run that has not come so far after the time is killed, and fails.
    """
    return _read_until(
        process, lambda seen, line: any(int(n) >= iteration for n in re.findall(r'iter: +(\d+), ', line)), seconds
    )


def wait_for_line(process: subprocess.Popen[str], text: str, times: int = 1, seconds: float = 120) -> str:
    """Reads what a run prints until a line has the text, so many times; returns it."""
    return _read_until(process, lambda seen, line: seen.count(text) >= times, seconds)


def _read_until(process: subprocess.Popen[str], is_reached: Callable[[str, str], bool], seconds: float) -> str:
    assert process.stdout is not None
    too_late = threading.Timer(seconds, process.kill)
    too_late.start()
    seen = ''
    try:
        for line in process.stdout:
            seen += line
            if is_reached(seen, line):
                return seen
    finally:
        too_late.cancel()
    raise AssertionError(seen[-3000:])


def rest_of(process: subprocess.Popen[str], seconds: float = 90) -> str:
    """What a run prints until its end, which has to come within the time: a run that hangs is killed, and fails."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        raise AssertionError(f'the run hangs: {processes_below(process.pid)}') from None


def processes_below(pid: int) -> set[tuple[int, str]]:
    """All that a process has started, and what these have: its number and the time of its start."""
    found = set()
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found |= {(child, _state_and_start(child)[1])} | processes_below(child)
    return found


def still_running(processes: set[tuple[int, str]], seconds: float = 0) -> set[tuple[int, str]]:
    """Those that have not ended after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = {(pid, start): _state_and_start(pid) for pid, start in processes}
        left = {process for process, (state, start) in found.items() if state != 'Z' and start == process[1]}
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.05)


def _state_and_start(pid: int) -> tuple[str, str]:
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return '', ''
    return fields[0], fields[19]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


def torchrun(*arguments: Any, nodes: int = 1, node: int = 0, port: int | None = None) -> list[Any]:
    """The command of two ranks on this machine, or of one of two nodes with a rank each."""
    launcher = [sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={2 // nodes}', f'--nnodes={nodes}']
    launcher += [f'--node_rank={node}', '--master_addr=127.0.0.1', f'--master_port={port or free_port()}']
    return [*launcher, *arguments, '--launcher', 'pytorch']


def losses(log: str) -> list[str]:
    """The losses in a log, as printed, in order."""
    return re.findall(r'l_pix: (\S+)', log)


def log_of(run_folder: Path) -> str:
    """The newest log of a run."""
    return max(run_folder.glob('train_*.log'), key=lambda path: path.stat().st_mtime_ns).read_text()


def loaded(run_folder: Path, name: int | str) -> dict[str, Any]:
    """A training state by its name, or the weights ``net_g`` of an iteration."""
    path = f'training_states/{name}' if str(name).endswith('.state') else f'models/net_g_{name}.pth'
    return torch.load(run_folder / path, weights_only=True)


def same_bits(first: Any, second: Any) -> bool:
    """Whether two checkpoints, files or what they hold, are equal to the last bit."""
    if isinstance(first, Path):
        return same_bits(*(torch.load(path, weights_only=True) for path in (first, second)))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_bits, first, second))
    return first == second


def assert_same_end(first: Path, second: Path) -> None:
    """Two runs of :func:`real_options` have the same weights, EMA, optimizer and state, to the last bit."""
    names = ('models/net_g_12.pth', 'models/net_g_latest.pth', 'training_states/12.state')
    assert [name for name in names if not same_bits(first / 'run' / name, second / 'run' / name)] == []
