"""The command ``multigrid-vsr`` as a whole: examples, errors, exit statuses, one line under a launcher."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from runs import TRAIN, options, run, torchrun, write
from shell_lines import commands_of

from multigrid_vsr.cli import COMMANDS, build_parser, main
from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.host.launch import should_print

COMMAND = Path(sys.executable).parent / 'multigrid-vsr'
ROOT = Path(__file__).parents[1]


def leaves(parser):
    """The parsers of commands that have none below them."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [leaf for action in below for child in action.choices.values() for leaf in leaves(child)] or [parser]


PARSERS = leaves(build_parser())


def test_commands_are_those_of_the_page():
    page = (ROOT / 'docs/commands.md').read_text()
    listed = [line.split('`')[1] for line in page.splitlines() if line.startswith('| `')]
    assert listed == [command.__name__.rpartition('.')[2] for command in COMMANDS]
    assert len(PARSERS) == len(COMMANDS)


@pytest.mark.parametrize(
    'parser', PARSERS, ids=lambda parser: parser.prog.removeprefix('multigrid-vsr ').replace(' ', '_')
)
def test_help_has_examples_that_the_parser_takes(parser):
    shown = parser.format_help()
    assert parser.examples
    for example in parser.examples:
        assert f'  {example}\n' in shown
        (arguments,) = commands_of(example)
        parsed = build_parser().parse_args(arguments)
        assert parsed.parser_below.prog == parser.prog


BAD = [
    (['pln'], 'COMMAND: must be one of train, plan, batch, .*, got pln. Did you mean `plan`?'),
    ([], 'COMMAND: must be given, got nothing. See --help.'),
    (['plan'], '-opt: must be given, got nothing. See --help.'),
    (['plan', '-opt'], '-opt: must have a value, got nothing. Write it after the option.'),
    (['plan', '-opt', 'x', '--mesure'], '--mesure: must be an option of this command, got --mesure. Did you mean `--measure`?'),
    (['plan', '-opt', 'x', 'more'], 'more: must be an option of this command, got more. Remove it.'),
    (['plan', '-opt', 'x', '--gpus', 'two'], '--gpus: must be a whole number, got two. Correct the value.'),
    (['convert', '-opt', 'x', '-o', 'y', '--recipe', 'papr'], '--recipe: must be one of paper, fast, plain, got papr. Did you mean `paper`?'),
    (['demo', '--itres', '3'], '--itres: must be an option of this command, got --itres 3. Did you mean `--iters`?'),
    (['train'], '-opt: must be given, got nothing. See --help.'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'line'), BAD, ids=[' '.join(row[0]) or 'nothing' for row in BAD])
def test_command_line_that_cannot_be_read_ends_with_the_usage_and_one_line(arguments, line, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    usage, said = capsys.readouterr().err.rsplit('\n', 2)[:2]
    assert end.value.code == 2
    assert usage.startswith('usage: multigrid-vsr')
    before, _, after = line.partition('.*')
    assert said.startswith(before)
    assert said.endswith(after)


def test_number_below_the_least_is_refused_by_plan_too():
    with pytest.raises(SystemExit, match=r'^--gpus: must be at least 1, got 0\. Correct the value\.$'):
        main(['plan', '-opt', 'x', '--gpus', '0'])


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_command_whose_reader_has_gone_ends_silently(unbuffered):
    """As by ``head``, with what the last write leaves in a buffer, and without one."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([COMMAND, 'schema'], stdout=writing, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, '')


def test_broken_pipe_that_is_not_the_output_is_not_hidden(monkeypatch):
    def broken(args):
        raise BrokenPipeError('a worker')

    monkeypatch.setattr('multigrid_vsr.cli.schema.run', broken)
    reading, writing = os.pipe()
    with os.fdopen(writing, 'w') as stdout:
        monkeypatch.setattr(sys, 'stdout', stdout)
        with pytest.raises(BrokenPipeError, match='a worker'):
            main(['schema'])
    os.close(reading)


@pytest.mark.parametrize(('name', 'place', 'expected'), [
    ('SLURM_LOCALID', '0', [True, True]), ('SLURM_LOCALID', '3', [False, True]), ('LOCAL_RANK', '1', [False, True]),
])  # fmt: skip
def test_first_rank_of_a_machine_says_what_is_wrong_with_options(name, place, expected, monkeypatch):
    monkeypatch.setenv(name, place)
    monkeypatch.setattr(sys, 'argv', ['train.py', '--launcher', 'slurm'])
    errors = [OptionError('scale', 'be 4', 2, 'Correct it.'), InputError('a frame that this rank alone has read')]
    assert [should_print(error) for error in errors] == expected


def test_ranks_say_a_mistake_in_the_file_once(tmp_path, clips):
    opt_file = write(tmp_path, options(clips, multigrid__gt_sizes=[64, 128]))
    done = run(*torchrun(COMMAND, 'train', '-opt', opt_file), cwd=tmp_path, ok=False)
    assert done.stdout.count('multigrid.gt_sizes: must be one of') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


@pytest.mark.parametrize(
    'environment', [{'LOCAL_RANK': '1', 'RANK': '1', 'WORLD_SIZE': '2'}, {'SLURM_LOCALID': '2', 'SLURM_PROCID': '2'}]
)
def test_process_without_a_launcher_says_what_is_wrong_whatever_its_environment(environment, tmp_path, clips):
    opt_file = write(tmp_path, options(clips, multigrid__gt_sizes=[64, 128]))
    done = run(*TRAIN, opt_file, cwd=tmp_path, ok=False, **environment)
    assert done.stdout.startswith('multigrid.gt_sizes: must be one of')


LAUNCHED = {'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_NODELIST': 'localhost'}
MISTAKES = [
    ('pytorch', {}, '--launcher: must be used in a run that torchrun starts, got pytorch without RANK. Start the run by torchrun, or leave it out.'),
    ('slurm', {}, '--launcher: must be used in a run that srun starts, got slurm without SLURM_PROCID, SLURM_NTASKS, SLURM_NODELIST. Start the run by srun, or leave it out.'),
    ('slurm', LAUNCHED, '--launcher: must find the first node by scontrol, got slurm without an answer of it. Set MASTER_ADDR to the name of the first node.'),
]  # fmt: skip


@pytest.mark.parametrize(('launcher', 'environment', 'line'), MISTAKES)
def test_launch_mistake_is_one_line_before_anything_is_written(launcher, environment, line, tmp_path, clips):
    done = run(*TRAIN, write(tmp_path, options(clips)), '--launcher', launcher, cwd=tmp_path, ok=False, **environment)
    assert done.stdout.splitlines()[-1] == line
    assert 'Traceback' not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


def test_torchrun_whose_ranks_are_not_told_of_it_is_one_line(tmp_path, clips):
    """Else both would train the same run."""
    command = torchrun(COMMAND, 'train', '-opt', write(tmp_path, options(clips)))[:-2]
    printed = run(*command, cwd=tmp_path, ok=False).stdout
    line = (
        '--launcher: must be pytorch where torchrun starts several processes, got none in 2 processes. '
        'Add --launcher pytorch.'
    )
    assert printed.count(line) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


def test_port_that_is_taken_is_one_line_and_the_address_that_was_set_is_kept(tmp_path, clips):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        opt_file = write(tmp_path, options(clips, dist_params={'backend': 'gloo', 'port': port}))
        environment = {**LAUNCHED, 'MASTER_ADDR': '127.0.0.1'}
        done = run(*TRAIN, opt_file, '--launcher', 'slurm', cwd=tmp_path, ok=False, **environment)
    line = done.stdout.splitlines()[-1]
    assert line.startswith(f'--launcher: must let all ranks meet, got none at 127.0.0.1:{port} (')
    assert line.endswith('Is the port taken? Set dist_params.port, or MASTER_PORT, to a free one.')
    assert 'Traceback' not in done.stdout
