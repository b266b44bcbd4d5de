"""Two ranks, over gloo: torchrun, two nodes of it, and SLURM's tasks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import basicsr
import pytest
import torch
from runs import (
    PROBE,
    TRAIN,
    assert_same_end,
    free_port,
    loaded,
    log_of,
    losses,
    options,
    processes_below,
    real_options,
    rest_of,
    run,
    started,
    still_running,
    torchrun,
    train,
    wait_for,
    write,
)  # fmt: skip

TRAIN_SCRIPT = Path(basicsr.__file__).parent / 'train.py'
COMMAND = Path(sys.executable).parent / 'multigrid-vsr'


def test_ranks_of_the_old_launcher_train(tmp_path, clips):
    """``torch.distributed.launch`` passes ``--local-rank=N``."""
    opt = options(clips, multigrid=None, train__total_iter=1, path__experiments_root=str(tmp_path))
    launcher = [sys.executable, '-m', 'torch.distributed.launch', '--nproc_per_node=2', f'--master_port={free_port()}']
    opt_file = write(tmp_path, opt)
    printed = run(*launcher, TRAIN_SCRIPT, '-opt', opt_file, '--launcher', 'pytorch', cwd=tmp_path).stdout
    assert len(losses(printed)) == 1
    command = (tmp_path / 'run/run.yml').read_text().splitlines()[2]
    assert command.endswith(f'train.py --local-rank=0 -opt {opt_file} --launcher pytorch')


def test_ranks_that_share_the_batch_train_the_same_bits(tmp_path, clips):
    """20 iterations over boundaries: 2 ranks with batch b against 1 rank with 2b, within float error.

    The mean loss of two halves is that of the whole, so equal figures mean that the ranks held its two halves.
    """
    # Adam divides a gradient by its own size: with a tiny epsilon it would make the rounding of a gradient near 0 a step.
    optimizer = {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99], 'eps': 1e-3}
    changes = {
        'train__optim_g': optimizer,
        'network_g': {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
        'train__total_iter': 20,
        'train__scheduler': {'type': 'MultigridCosineLR'},
    }
    found = []
    for name, batches, full in (('two', [2, 1], 1), ('one', [4, 2], 2)):
        opt = options(clips, **changes, name=name, multigrid__batch_size_per_gpu=batches, path__experiments_root=str(tmp_path),
                      datasets__train__batch_size_per_gpu=full)  # fmt: skip
        opt_file = write(tmp_path, opt, f'{name}.yml')
        if name == 'one':
            train(tmp_path, opt_file)
        else:
            run(*torchrun(TRAIN_SCRIPT, '-opt', opt_file), cwd=tmp_path)
        found.append([float(loss) for loss in losses(log_of(tmp_path / name))])
    assert len(found[0]) == 20
    assert found[0] == pytest.approx(found[1], rel=2e-3)
    first, second = (loaded(tmp_path / name, 'latest')['params'] for name in ('one', 'two'))
    for key, weight in first.items():
        assert torch.allclose(weight, second[key], rtol=0, atol=1e-6), key


def test_dead_rank_ends_the_run_with_an_error(tmp_path, clips):
    opt = options(clips, train__total_iter=100_000, train__scheduler={'type': 'MultigridCosineLR'},
                  path__experiments_root=str(tmp_path))  # fmt: skip
    with started(*torchrun(TRAIN_SCRIPT, '-opt', write(tmp_path, opt)), cwd=tmp_path) as process:
        wait_for(process, 3)
        ranks = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
        rest_of(process)
    assert process.returncode != 0


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory, clips):
    """The run of two ranks that nobody stopped: its folder, and its losses. gloo adds in the same order each time."""
    folder = tmp_path_factory.mktemp('two_ranks')
    log = run(*torchrun(COMMAND, 'train', '-opt', write(folder, real_options(clips, folder))), cwd=folder).stdout
    assert len(losses(log)) == 13
    return folder, losses(log)


def test_ranks_asked_to_stop_save_and_go_on_as_if_they_had_not_been(tmp_path, clips, two_ranks):
    """First all processes are asked, as SLURM does, the workers too; then torchrun alone, which passes it on."""
    folder, whole = two_ranks
    done = 0
    for who, iteration, workers in (('all', 3, 1), ('torchrun', 7, 0)):
        opt_file = write(tmp_path, real_options(clips, tmp_path, datasets__train__num_worker_per_gpu=workers))
        with started(*torchrun(COMMAND, 'train', '-opt', opt_file, '--auto_resume'), cwd=tmp_path) as process:
            log = wait_for(process, iteration)
            processes = processes_below(process.pid)
            for pid in [process.pid] + [pid for pid, _ in processes if who == 'all']:
                os.kill(pid, signal.SIGTERM)
            log += rest_of(process)
        assert process.returncode != 0
        assert log.count('Asked to stop by signal 15: saving first.') == 1  # rank 0 says so
        assert log.count('Traceback') == 1  # torchrun's own
        assert f'SignalException: Process {process.pid} got signal: 15' in log
        assert still_running(processes, 10) == set()
        before, done = done, max(int(path.stem) for path in (tmp_path / 'run/training_states').glob('*.state'))
        assert iteration < done < 13
        assert losses(log) == whole[before:done]
    log = run(*torchrun(COMMAND, 'train', '-opt', opt_file, '--auto_resume'), cwd=tmp_path).stdout
    assert losses(log) == whole[done:]
    assert_same_end(tmp_path, folder)


@pytest.mark.parametrize(('frame', 'failing', 'done'), [(4, 0, 3), (2, 1, 2)])
def test_rank_whose_frame_cannot_be_read_saves_for_all(frame, failing, done, tmp_path, clips, two_ranks):
    """The other rank waits for its gradient and cannot."""
    shutil.copytree(clips, tmp_path / 'clips')
    damaged = tmp_path / f'clips/gt/001/{frame:08d}.png'
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:200])
    opt = real_options(tmp_path / 'clips', tmp_path)
    opt['logger']['save_checkpoint_freq'] = 1000
    opt_file = write(tmp_path, opt)
    log = run(*torchrun(COMMAND, 'train', '-opt', opt_file), cwd=tmp_path, ok=False).stdout
    assert losses(log) == two_ranks[1][:done]
    assert f'clip 001, frame {frame}: {damaged} holds no image that can be decoded' in log
    assert re.search(rf'rank +: {failing} ', log)
    assert [path.name for path in (tmp_path / 'run/training_states').iterdir()] == [f'{done}.state']
    damaged.write_bytes(sound)
    log = run(*torchrun(COMMAND, 'train', '-opt', opt_file, '--auto_resume'), cwd=tmp_path).stdout
    assert losses(log) == two_ranks[1][done:]


def test_ranks_that_go_on_have_their_own_random_states_again(tmp_path, clips, two_ranks):
    opt_file = write(tmp_path, real_options(clips, tmp_path))
    shutil.copytree(two_ranks[0] / 'run', tmp_path / 'run')
    states = tmp_path / 'run/training_states'
    state = loaded(tmp_path / 'run', '10.state')
    assert [sorted(state['rng']), torch.equal(state['rng'][0][0], state['rng'][1][0])] == [[0, 1], False]
    drawn = torch.Generator().manual_seed(5).get_state()
    state['rng'][1][0] = drawn
    torch.save(state, states / '10.state')
    (states / '12.state').unlink()
    run(*torchrun(COMMAND, 'train', '-opt', opt_file, '--auto_resume'), cwd=tmp_path)
    rng = loaded(tmp_path / 'run', '12.state')['rng']
    assert torch.equal(rng[1][0], drawn)
    assert torch.equal(rng[0][0], state['rng'][0][0])


@pytest.mark.parametrize('option', ['find_unused_parameters', 'use_static_graph'])
def test_ranks_wrap_the_network_anew_when_what_trains_changes(option, tmp_path, clips, two_ranks):
    """The flow network is held fixed for 5 of 13 iterations; what is left of the wrapping is not seen in the losses."""
    opt_file = write(tmp_path, {**real_options(clips, tmp_path), option: True})
    log = run(*torchrun(COMMAND, 'train', '-opt', opt_file), cwd=tmp_path).stdout
    assert losses(log) == two_ranks[1]
    assert log.count('find_unused_parameters is off from here.') == (option == 'find_unused_parameters')


def test_arch_that_leaves_layers_out_keeps_the_search_for_unused_parameters(tmp_path, clips):
    """The first iteration has a gradient of each; that says nothing of the second."""
    opt = options(clips, network_g={'type': 'SkippingProbe'}, find_unused_parameters=True, multigrid=None,
                  train__total_iter=6, path__experiments_root=str(tmp_path))  # fmt: skip
    log = run(*torchrun(PROBE, 'train', '-opt', write(tmp_path, opt)), cwd=tmp_path).stdout
    assert len(losses(log)) == 6
    assert 'find_unused_parameters is off' not in log


def slurm(folder, opt_file, *arguments):
    """Two tasks as ``srun`` starts them, and a ``scontrol`` that knows the host of a job."""
    scontrol = folder / 'bin/scontrol'
    scontrol.parent.mkdir(exist_ok=True)
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostname node1" ] && echo 127.0.0.1\n')
    scontrol.chmod(0o755)
    environment = {'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'node1', 'MASTER_PORT': str(free_port()),
                   'PATH': f'{scontrol.parent}{os.pathsep}{os.environ["PATH"]}'}  # fmt: skip
    command = [*TRAIN, opt_file, '--launcher', 'slurm', *arguments]
    return [started(*command, cwd=folder, SLURM_PROCID=str(task), **environment) for task in (0, 1)]


def test_slurm_tasks_train_as_ranks_of_torchrun_and_stop_together(tmp_path, clips, two_ranks):
    """Stopped by a signal that one task alone gets."""
    folder, whole = two_ranks
    opt_file = write(tmp_path, real_options(clips, tmp_path))
    first, second = slurm(tmp_path, opt_file)
    with first as rank_0, second as rank_1:
        seen = losses(wait_for(rank_0, 3))
        os.killpg(rank_1.pid, signal.SIGTERM)
        log = rest_of(rank_0)
        assert 'Traceback' not in log + rest_of(rank_1)
    assert [rank_0.returncode, rank_1.returncode] == [128 + signal.SIGTERM] * 2
    seen += losses(log)
    first, second = slurm(tmp_path, opt_file, '--auto_resume')
    with first as rank_0, second as rank_1:
        log = rest_of(rank_0)
        assert rest_of(rank_1) is not None
    assert [rank_0.returncode, rank_1.returncode] == [0, 0]
    newest = int(re.search(r'Resuming training from epoch: 0, iter: (\d+)', log)[1])
    assert len(seen) == newest
    assert seen + losses(log) == whole
    assert_same_end(tmp_path, folder)


def test_slurm_task_that_dies_ends_the_others(tmp_path, clips):
    """No launcher watches them: the rank that is left has to notice."""
    first, second = slurm(tmp_path, write(tmp_path, options(clips, path__experiments_root=str(tmp_path))))
    with first as rank_0, second as rank_1:
        wait_for(rank_0, 3)
        rank_1.kill()
        rest_of(rank_0)
    assert rank_0.returncode not in (0, -signal.SIGKILL)


def test_node_that_sees_no_checkpoint_goes_on_from_that_of_rank_0(tmp_path, clips, two_ranks):
    """Two nodes with a folder each train as two ranks of one machine; only rank 0 writes."""
    port, opt_file = free_port(), write(tmp_path, real_options(clips, tmp_path))

    def nodes(*arguments):
        roots = [('--force_yml', f'path:experiments_root={tmp_path}/node_{node}') for node in (0, 1)]
        command = (COMMAND, 'train', '-opt', opt_file, *arguments)
        first, second = (
            started(*torchrun(*command, *roots[node], nodes=2, node=node, port=port), cwd=tmp_path) for node in (0, 1)
        )
        with first as node_0, second as node_1:
            logs = [rest_of(node_0, 240), rest_of(node_1, 240)]
        assert [node_0.returncode, node_1.returncode] == [0, 0], logs
        return losses(logs[0])

    folder, whole = two_ranks
    assert nodes() == whole
    states = tmp_path / 'node_0/run/training_states'
    (states / '12.state').unlink()
    (states / '10.state').unlink()
    assert not list(tmp_path.glob('node_1/run/training_states/*.state'))
    assert nodes('--auto_resume') == whole[8:]
    assert_same_end(tmp_path / 'node_0', folder)
