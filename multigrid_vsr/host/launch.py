"""Starting under a launcher: what it passes, ranks without a GPU, and what all ranks have to know."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.host import command_line
from multigrid_vsr.host.patch import HostChangedError, patch, replace

_FLAG = '--local-rank'


@patch(
    '`parse_options`: `--local-rank`',
    why="`torch.distributed.launch` passes it so, and BasicSR's parser knows `--local_rank` alone: it exits",
    needed='it is among the arguments',
    goes='when BasicSR takes both',
)
def local_rank() -> None:
    def taking_local_rank(original: Callable[..., Any]) -> Callable[..., Any]:

        @functools.wraps(original)
        def parse_options(*args: Any, **kwargs: Any) -> Any:
            spelt = [
                '--local_rank' + word.removeprefix(_FLAG) if word.partition('=')[0] == _FLAG else word
                for word in sys.argv
            ]
            with mock.patch.object(sys, 'argv', spelt):  # the command line that BasicSR takes down stays as it was
                return original(*args, **kwargs)

        return parse_options

    replace('basicsr.utils.options', 'parse_options', taking_local_rank)


@patch(
    '`_init_dist_pytorch`, `_init_dist_slurm`',
    why='without a GPU BasicSR takes the rank modulo 0, and its backend is NCCL, with `num_gpu: 0` too; here ranks on '
    'CPUs meet over gloo. A variable, `scontrol` or a port that is not there is a traceback or hangs; SLURM overwrites '
    '`MASTER_ADDR`',
    needed='they count GPUs',
    goes="on GPUs BasicSR's code runs, with launch mistakes as one line and the `MASTER_ADDR` that was set",
)
def ranks_on_cpus() -> None:
    from basicsr.utils import dist_util

    def on_any_device(original: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(original)
        def init_dist(backend: str, **kwargs: Any) -> None:
            import torch

            _check_launcher(original.__name__.rpartition('_')[2])
            try:
                with mock.patch('subprocess.getoutput', _first_node):
                    if torch.cuda.is_available() and (command_line.written() or {}).get('num_gpu') != 0:
                        return original(backend, **kwargs)
                    with mock.patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                        original('gloo', **kwargs)
            except (RuntimeError, ValueError) as error:
                where = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
                raise OptionError(
                    '--launcher',
                    'let all ranks meet',
                    f'none at {where} ({one_line(error)})',
                    'Is the port taken? Set dist_params.port, or MASTER_PORT, to a free one.',
                ) from error

        return init_dist

    found = {name: getattr(dist_util, name) for name in ('_init_dist_pytorch', '_init_dist_slurm')}
    for name, original in found.items():
        if not {'device_count', 'set_device'} <= set(original.__code__.co_names):
            raise HostChangedError(f'{name} counts no GPUs')
    for name, original in found.items():
        setattr(dist_util, name, on_any_device(original))


_SET_BY = {
    'pytorch': (('RANK',), 'torchrun', 'Start the run by torchrun'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'srun', 'Start the run by srun'),
}


def _check_launcher(launcher: str) -> None:
    """Says what the environment lacks, which BasicSR asks for.

    Raises:
        OptionError: If a variable of the launcher is not set.
    """
    names, by, fix = _SET_BY[launcher]
    lacking = [name for name in names if not os.environ.get(name)]
    if lacking:
        value = f'{launcher} without {", ".join(lacking)}'
        raise OptionError('--launcher', f'be that of a process that {by} starts', value, f'{fix}, or leave it out.')


def check_torchrun() -> None:
    """Looks for ``torchrun`` around processes that are not told of it: each would train the same run.

    Raises:
        OptionError: If it is there, with several processes.
    """
    processes = os.environ.get('WORLD_SIZE', '1')
    if not command_line.has_launcher() and 'TORCHELASTIC_RUN_ID' in os.environ and processes != '1':
        rule = 'be pytorch where torchrun starts several processes'
        raise OptionError('--launcher', rule, f'none in {processes} processes', 'Add --launcher pytorch.')


def _first_node(command: str) -> str:
    """The ``MASTER_ADDR`` that was set; else what BasicSR's command finds.

    Raises:
        OptionError: If it finds none.
    """
    found = os.environ.get('MASTER_ADDR') or subprocess.run(command, shell=True, capture_output=True, text=True).stdout
    if not re.fullmatch(r'\S+', found.strip()):
        fix = 'Set MASTER_ADDR to the name of the first node.'
        raise OptionError('--launcher', 'find the first node by scontrol', 'slurm without an answer of it', fix)
    return found.strip()


PATCHES = (local_rank, ranks_on_cpus)


def is_first_rank() -> bool:
    """Whether this process speaks for all: the first rank, and each process without a launcher."""
    return not command_line.has_launcher() or os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def from_rank_0(value: Any) -> Any:
    """Rank 0's value, on all ranks; without a launcher the value itself."""
    from torch import distributed

    values = [value]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(values, src=0)
    return values[0]


def decided_by_rank_0(rank: int, decide: Callable[[], Any]) -> Any:
    """What rank 0 decides, on all ranks: each may see another file system.

    Args:
        rank: That of this process.
        decide: Called on rank 0 alone.

    Raises:
        InputError: On rank 0, if it cannot decide.
        SystemExit: On the others then.
    """
    decision, error = None, None
    if rank == 0:
        try:
            decision = decide()
        except InputError as refused:
            error = refused
    decision, has_failed = from_rank_0((decision, error is not None))
    if has_failed:
        raise error or SystemExit(1)
    return decision


def is_first_to_say(error: InputError) -> bool:
    """Whether no other rank has said the line of an error yet: what is wrong with a file or the data, each rank finds.

    Without ``--launcher`` each process speaks, whatever a cluster or a notebook has left in its environment.

    Under ``torchrun`` the ranks ask the store that it keeps for them, which is there from before the first to after the
    last. Elsewhere they cannot ask, and the first rank of each machine says what is wrong with options: machines may
    see different files.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        if not command_line.has_launcher():
            return True
        place = next((os.environ[name] for name in ('SLURM_LOCALID', 'LOCAL_RANK') if name in os.environ), '0')
        return place == '0' or not isinstance(error, OptionError)
    from torch.distributed import TCPStore

    host, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    try:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20))
        return store.add(f'said {os.environ.get("TORCHELASTIC_RESTART_COUNT")}: {error}', 1) == 1
    except RuntimeError:  # it has ended already
        return True
