"""What all benchmarks share: the command line, the folder, interleaved rounds and their medians.

Each runs from a clone as ``python -m benchmarks.NAME``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from multigrid_vsr.cli.arguments import Parser, check_least
from multigrid_vsr.core.errors import InputError

Key = TypeVar('Key')


def parser(name: str, description: str | None, *endings: str) -> Parser:
    """The parser of a benchmark, with the first line of its docstring and the ends of command lines as examples."""
    command = f'python -m benchmarks.{name}'
    examples = [f'{command} {ending}'.rstrip() for ending in endings]
    return Parser(prog=command, examples=examples, description=(description or '').partition('\n')[0])


def add_data(commands: argparse.ArgumentParser, kept: str = 'frames (loader: 0.7 GB) and runs, kept') -> None:
    """Adds ``--data``."""
    commands.add_argument('--data', type=Path, help=f'folder for {kept}; default: one that is deleted')


def run(commands: Parser, measure: Callable[[argparse.Namespace], Any], argv: Sequence[str] | None = None) -> None:
    """Parses a command line and measures; exits with one line where the user can mend what is wrong."""
    args = commands.parse_args(argv)
    try:
        measure(args)
    except InputError as error:
        sys.exit(str(error))


def run_rounds(name: str, description: str | None, measure: Callable[..., None], plots: bool = False) -> None:
    """Runs a benchmark that takes a folder and a number of rounds, and a picture to draw where it draws one."""
    commands = parser(name, description, '', '--rounds 9 --data bench_data', *(['--plot curves.svg'] if plots else []))
    commands.add_argument('--rounds', type=int, default=5, help='interleaved; medians are printed (default: 5)')
    if plots:
        commands.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves there, .png or .svg')
    add_data(commands)

    def measure_rounds(args: argparse.Namespace) -> None:
        check_least(args, {'--rounds': 1})
        with folder(args) as root:
            measure(root, args.rounds, *([args.plot] if plots else []))

    run(commands, measure_rounds)


@contextmanager
def folder(args: argparse.Namespace) -> Iterator[Path]:
    """``--data``, or a folder that is deleted."""
    warnings.filterwarnings('ignore', 'Detected call of `lr_scheduler|torch.meshgrid')  # BasicSR's; they mean nothing
    warnings.filterwarnings('ignore', 'This DataLoader will create')  # more than cores, where they wait for a disk
    with tempfile.TemporaryDirectory() as temporary:
        yield args.data or Path(temporary)


def in_rounds(timers: Mapping[Key, Callable[[], float]], rounds: int, calls: int = 1) -> dict[Key, list[float]]:
    """Calls every timer so many times in each round, and returns all measurements.

    A first round warms up and does not count. The order turns around from round to round, because the second has the
    caches of the first.
    """
    values: dict[Key, list[float]] = {key: [] for key in timers}
    for round_ in range(rounds + 1):
        for key, timer in list(timers.items())[:: 1 if round_ % 2 else -1]:
            measured = [timer() for _ in range(calls)]
            if round_ > 0:
                values[key] += measured
    return values


def medians(timers: Mapping[Key, Callable[[], float]], rounds: int, calls: int = 1) -> dict[Key, float]:
    """The median of each timer over all rounds, see :func:`in_rounds`."""
    return {key: statistics.median(values) for key, values in in_rounds(timers, rounds, calls).items()}
