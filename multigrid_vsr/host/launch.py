"""The start of this process: its command line, option file and launcher, and what its ranks say and decide."""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.host.patch import HostChangedError, patch
from multigrid_vsr.options.multigrid_block import asked_for
from multigrid_vsr.options.option_file import read_options, settle


class CommandLine:
    """A command line of BasicSR.

    Attributes:
        words: The arguments.
        opt_file: The path of the option file, or ``None``.
        has_launcher: Whether each process is one rank, with a device of its own.
        notes: Lines for the user, once :attr:`options` is read: numbers that YAML reads as text.
    """

    def __init__(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument('-opt')
        parser.add_argument('--launcher', default='none')
        parser.add_argument('--debug', action='store_true')
        parser.add_argument('--force_yml', nargs='+', default=[])
        try:
            self._known = parser.parse_known_args(words)[0]
        except argparse.ArgumentError:  # BasicSR's parser will refuse it
            self._known = parser.parse_known_args([])[0]
        self.words = words
        self.opt_file: str | None = self._known.opt
        self.has_launcher = self._known.launcher != 'none'
        self.notes: list[str] = []

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The option file, changed by the command line; empty without a file. Raises an InputError if unreadable."""
        if self.opt_file is None:
            return {}
        opt = read_options(self.opt_file, self._known.force_yml)
        if self._known.debug and not str(opt.get('name')).startswith('debug'):
            opt['name'] = f'debug_{opt.get("name")}'
        self.notes = settle(opt)
        return opt

    @functools.cached_property
    def asked(self) -> tuple[str, Any] | None:
        """The option that asks for this plugin, and its value, as ``asked_for`` finds them."""
        return asked_for(self.options)


_current = CommandLine([])


def current() -> CommandLine:
    """The command line of this process."""
    return _current if _current.words == sys.argv[1:] else read()


def read() -> CommandLine:
    """The command line of this process, with the option file read anew."""
    global _current
    _current = CommandLine(sys.argv[1:])
    return _current


def refuse_if_asked(lacking: str) -> None:
    """Ends the process if the option file asks for this plugin, which cannot work with this ``basicsr``."""
    try:
        asked = CommandLine(sys.argv[1:]).asked
    except InputError:  # this ``basicsr`` will refuse the file
        return
    if asked is not None:
        raise SystemExit(refusal(*asked, lacking) if os.environ.get('RANK', '0') == '0' else 1)


def refusal(option: str, value: Any, lacking: str) -> str:
    """The line for a ``basicsr`` that cannot do what an option asks for; ``lacking`` says what it lacks."""
    return f'{option}: must be run with BasicSR 1.4.2 or later, got {value}. Here {lacking}.'


@patch(
    '`_init_dist_pytorch`, `_init_dist_slurm`',
    why='without a GPU BasicSR takes the rank modulo 0, and it always uses NCCL; here ranks on CPUs use gloo. A '
    'missing variable, a missing `scontrol` or a busy port gives a traceback or hangs; SLURM overwrites `MASTER_ADDR`',
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
                    if torch.cuda.is_available() and current().options.get('num_gpu') != 0:
                        return original(backend, **kwargs)
                    with mock.patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                        original('gloo', **kwargs)
            except (RuntimeError, ValueError) as error:
                where = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
                fix = 'Is the port taken? Set dist_params.port, or MASTER_PORT, to a free one.'
                value = f'none at {where} ({one_line(error)})'
                raise OptionError('--launcher', 'let all ranks meet', value, fix) from error

        return init_dist

    found = {name: getattr(dist_util, name) for name in ('_init_dist_pytorch', '_init_dist_slurm')}
    for name, original in found.items():
        if not {'device_count', 'set_device'} <= set(original.__code__.co_names):
            raise HostChangedError(f'{name} counts no GPUs')
    for name, original in found.items():
        setattr(dist_util, name, on_any_device(original))


PATCHES = (ranks_on_cpus,)
_SET_BY = {
    'pytorch': (('RANK',), 'torchrun'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'srun'),
}


def _check_launcher(launcher: str) -> None:
    """Refuses a launcher whose environment variables are not set."""
    names, by = _SET_BY[launcher]
    lacking = [name for name in names if not os.environ.get(name)]
    if lacking:
        rule, fix = f'be used in a run that {by} starts', f'Start the run by {by}, or leave it out.'
        raise OptionError('--launcher', rule, f'{launcher} without {", ".join(lacking)}', fix)


def _first_node(command: str) -> str:
    """The ``MASTER_ADDR`` of the environment, or else the output of BasicSR's command."""
    found = os.environ.get('MASTER_ADDR') or subprocess.run(command, shell=True, capture_output=True, text=True).stdout
    if not re.fullmatch(r'\S+', found.strip()):
        fix = 'Set MASTER_ADDR to the name of the first node.'
        raise OptionError('--launcher', 'find the first node by scontrol', 'slurm without an answer of it', fix)
    return found.strip()


def check_torchrun() -> None:
    """Refuses several processes of ``torchrun`` without ``--launcher``, because each would train the same run."""
    processes = os.environ.get('WORLD_SIZE', '1')
    if not current().has_launcher and 'TORCHELASTIC_RUN_ID' in os.environ and processes != '1':
        rule = 'be pytorch where torchrun starts several processes'
        raise OptionError('--launcher', rule, f'none in {processes} processes', 'Add --launcher pytorch.')


def print_first(lines: list[str]) -> None:
    """Prints lines, with a launcher only on the first rank."""
    rank = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))
    if lines and (rank == '0' or not current().has_launcher):
        print(*lines, sep='\n')


def should_print(error: InputError) -> bool:
    """Whether this rank prints the line of an error.

    A wrong option is found by every rank, and printed by the first rank of each machine, whose files may differ.
    Another error, such as a damaged frame, may be met by only one rank, so every rank prints it.
    """
    local_rank = os.environ.get('SLURM_LOCALID', os.environ.get('LOCAL_RANK', '0'))
    is_rank = current().has_launcher or 'TORCHELASTIC_RUN_ID' in os.environ  # else the variable may be a leftover
    return local_rank == '0' or not is_rank or not isinstance(error, OptionError)


def from_rank_0(value: Any) -> Any:
    """The value of rank 0, on all ranks; without a launcher the value itself."""
    from torch import distributed

    values = [value]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(values, src=0)
    return values[0]


def decided_by_rank_0(rank: int, decide: Callable[[], Any]) -> Any:
    """The decision of rank 0, on all ranks, because each may see another file system.

    Raises:
        InputError: On rank 0, if ``decide`` raises it.
        SystemExit: Then, on the other ranks.
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
