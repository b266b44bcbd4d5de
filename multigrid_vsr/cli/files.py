"""Files that commands write: checked beforehand, whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.whole_file import whole_file


def check_writable(option: str, path: Path) -> None:
    """Asks for a file name in a folder that exists, before the work is done.

    Raises:
        OptionError: If it is none.
    """
    if not path.parent.is_dir():
        raise OptionError(option, 'lie in a folder that exists', path, f'Make {path.parent} first.')
    if os.path.isdir(path):
        raise OptionError(option, 'be a file', f'the folder {path}', 'Give the name of a file.')


def write_whole(option: str, path: Path, content: bytes) -> None:
    """Writes a file that appears under its name as a whole.

    Raises:
        OptionError: If it cannot be written.
    """
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise OptionError(
            option, 'be a file that can be written', f'{path} ({error.strerror})', 'Correct the path.'
        ) from error
