"""What commands share: their parser and its errors, options as BasicSR parses them, and the files that they write."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.host.launch import should_print
from multigrid_vsr.options.kinds import did_you_mean, refuse

_KINDS = {'int': 'a whole number', 'float': 'a number'}
_EXAMPLES = 'examples:\n'


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Shows examples below the options, and prints mistakes in the form of all errors."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        if examples:
            kwargs['epilog'] = _EXAMPLES + '\n'.join(f'  {example}' for example in examples)
        kwargs['formatter_class'] = _Formatter
        super().__init__(*args, **kwargs)
        self.examples = examples

    def error(self, message: str) -> NoReturn:
        """Ends with exit status 2, the usage and one line, which only the first rank prints."""
        error = _in_our_words(message, [option for action in self._actions for option in action.option_strings])
        if should_print(error):
            self.print_usage(sys.stderr)
            print(error, file=sys.stderr)
        sys.exit(2)


def _in_our_words(message: str, options: Iterable[str]) -> OptionError:
    """A message of ``argparse`` in the form ``<option>: must <rule>, got <value>. <fix>``."""
    if match := re.fullmatch(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        name, value, choices = match[1], match[2], match[3].replace("'", '').split(', ')
        fix = did_you_mean(value, choices, 'Choose among them.')
        return OptionError(name, f'be one of {", ".join(choices)}', value, fix)
    if match := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
        return OptionError(match[1], f'be {_KINDS.get(match[2], match[2])}', match[3], 'Correct the value.')
    if match := re.fullmatch(r'argument (\S+): expected .*', message):
        return OptionError(match[1], 'have a value', None, 'Write it after the option.')
    if match := re.fullmatch(r'the following arguments are required: (.*)', message):
        return OptionError(match[1], 'be given', None, 'See --help.')
    if match := re.fullmatch(r'unrecognized arguments: ((\S+).*)', message):
        return OptionError(match[2], 'be an option of this command', match[1], did_you_mean(match[2], options))
    return OptionError('arguments', 'be as --help says', message, 'Correct them.')


def parsed_by_basicsr(opt_file: str, force_yml: Sequence[str]) -> dict[str, Any]:
    """The options of a training run. BasicSR parses the command line of this process, so this sets it."""
    import basicsr.utils.options

    sys.argv[1:] = ['-opt', opt_file, *(['--force_yml', *force_yml] if force_yml else [])]
    return basicsr.utils.options.parse_options(os.getcwd(), is_train=True)[0]


def check_least(args: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Refuses a value below the least one of its option."""
    for option, bound in least.items():
        value = vars(args)[option.lstrip('-').replace('-', '_')]
        is_below = value is not None and value < bound
        refuse(is_below, option, f'be at least {bound}', value, 'Correct the value.')


def check_writable(option: str, path: Path) -> None:
    """Refuses a file that could not be written, before the work begins."""
    refuse(not path.parent.is_dir(), option, 'lie in a folder that exists', path, f'Make {path.parent} first.')
    refuse(os.path.isdir(path), option, 'be a file', f'the folder {path}', 'Give the name of a file.')


def write_whole(option: str, path: Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        got = f'{path} ({error.strerror})'
        raise OptionError(option, 'be a file that can be written', got, 'Correct the path.') from error
