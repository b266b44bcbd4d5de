"""One run that is killed again and again, at random moments.

``pytest tests/test_torture.py --kills 20 -s`` is the long one; it prints what it did.
"""

from __future__ import annotations

import random
import re
import signal
import time

import torch
from runs import TRAIN_PROBE, options, processes_below, rest_of, run, same_bits, started, still_running, wait_for, write

TOTAL = 48
LINE = re.compile(r'iter: +(\d+), (lr:\S+) \[.*?\] (.*) samples/s: .*\n')  # what the clock says is left out
MOMENTS = ('starting', 'training', 'saving')


def torture_options(clips, folder, **changes):
    """All that a resume may forget: EMA, frozen flow, ramps, the scaler, accumulation, random numbers, a growing shape."""
    opt = options(
        clips,
        path__experiments_root=str(folder),
        network_g={'type': 'ThinBasicVSR'},
        datasets__train__gt_size=64,
        datasets__train__batch_size_per_gpu=2,
        multigrid={'gt_size': [32, 64], 'num_frame': [2, 3, 4], 'batch_size_per_gpu': [4, 2], 'micro_batch_size_per_gpu': 2},
        train__amp='fp16',
        train__ema_decay=0.9,
        train__fix_flow=10,
        train__flow_lr_mul=0.25,
        train__scheduler={'type': 'MultigridCosineLR', 'warmup_iter': 5, 'batch_scaling': 'sqrt'},
        train__total_iter=TOTAL,
        logger__save_checkpoint_freq=1,
    )  # fmt: skip
    opt['datasets']['train'].update(changes)
    return opt


def lines_in_logs(folder):
    """Iteration, rates, shape and losses of each line in all logs of a run, those of its false starts too."""
    logs = (path.read_text() for path in folder.glob('run*/train_run_*.log'))
    return [(int(number), rates, values) for log in logs for number, rates, values in LINE.findall(log)]


def wait_for_moment(process, moment, iteration, seconds, folder, rng):
    """Returns in the middle of what the moment is called."""
    if moment == 'starting':
        return time.sleep(rng.uniform(0, seconds))
    wait_for(process, iteration)
    if moment == 'training':
        return time.sleep(rng.uniform(0, 0.3))
    unfinished = f'run/{rng.choice(("models/.net_g", "training_states/."))}*.unfinished'
    deadline = time.monotonic() + 5
    while not any(folder.glob(unfinished)) and process.poll() is None and time.monotonic() < deadline:
        pass


def test_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path, clips, request):
    kills, seed = (request.config.getoption(name) for name in ('kills', 'kill_seed'))
    rng = random.Random(seed)
    print(f'\n{kills} kills, seed {seed}')
    whole, killed, *folders = (tmp_path / name for name in ('whole', 'killed', 'here', 'there'))
    for folder in (whole, killed, *folders):
        folder.mkdir()
    began = time.monotonic()
    with started(*TRAIN_PROBE, write(whole, torture_options(clips, whole)), cwd=whole) as process:
        wait_for(process, 1)
        seconds = time.monotonic() - began
        rest_of(process)
        assert process.returncode == 0
    assert [number for number, _, _ in lines_in_logs(whole)] == list(range(1, TOTAL + 1))

    processes = set()
    moments = rng.sample([MOMENTS[number % 3] for number in range(kills)], kills)
    states = killed / 'run/training_states'
    starts_anew = 0
    for number, (moment, iteration) in enumerate(zip(moments, sorted(rng.choices(range(1, TOTAL + 1), k=kills)))):
        cwd, workers, prefetch = rng.choice(folders), number % 3, rng.choice([None, 'cpu'])
        opt = torture_options(clips, killed, num_worker_per_gpu=workers, prefetch_mode=prefetch)
        starts_anew += not list(states.glob('*.state'))
        with started(*TRAIN_PROBE, write(cwd, opt), '--auto_resume', cwd=cwd) as process:
            wait_for_moment(process, moment, iteration, seconds, killed, rng)
            processes |= processes_below(process.pid)
            process.kill()
            process.wait()
        unfinished = [path.name for path in killed.glob('run/*/.*.unfinished')]
        done = max((int(path.stem) for path in states.glob('*.state')), default=0)
        print(f'{moment}, {workers} workers, prefetch_mode {prefetch}, in {cwd.name}: {done} saved, left {unfinished}')
        assert process.returncode in (-signal.SIGKILL, 0)
    run(*TRAIN_PROBE, write(killed, torture_options(clips, killed)), '--auto_resume', cwd=killed)

    lines = lines_in_logs(killed)
    print(f'{len(lines)} iterations for {TOTAL}, {time.monotonic() - began:.0f} s')
    assert set(lines) == set(lines_in_logs(whole))
    assert len(list(killed.glob('run_archived_*'))) <= starts_anew
    assert still_running(processes, 15) == set()
    names = sorted(str(path.relative_to(whole)) for path in (whole / 'run').glob('*/*.*'))
    assert names == sorted(str(path.relative_to(killed)) for path in (killed / 'run').glob('*/*.*'))
    assert len(names) == 2 * TOTAL + 1  # weights, EMA among them, and state of each iteration; the latest weights
    assert [name for name in names if not same_bits(whole / name, killed / name)] == []
    scalers = [torch.load(whole / f'run/training_states/{n}.state', weights_only=True)['scaler'] for n in (1, TOTAL)]
    assert scalers[0] != scalers[1]
