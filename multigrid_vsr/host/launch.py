"""Starting under a launcher: what it passes, ranks without a GPU, and what all ranks have to know."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from multigrid_vsr.core.errors import InputError
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
    'CPUs meet over gloo',
    needed='they count GPUs',
    goes="on GPUs BasicSR's code runs",
)
def ranks_on_cpus() -> None:
    from basicsr.utils import dist_util

    def on_any_device(original: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(original)
        def init_dist(backend: str, **kwargs: Any) -> None:
            import torch

            if torch.cuda.is_available() and (command_line.written() or {}).get('num_gpu') != 0:
                return original(backend, **kwargs)
            with mock.patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                original('gloo', **kwargs)

        return init_dist

    found = {name: getattr(dist_util, name) for name in ('_init_dist_pytorch', '_init_dist_slurm')}
    for name, original in found.items():
        if not {'device_count', 'set_device'} <= set(original.__code__.co_names):
            raise HostChangedError(f'{name} counts no GPUs')
    for name, original in found.items():
        setattr(dist_util, name, on_any_device(original))


PATCHES = (local_rank, ranks_on_cpus)


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
