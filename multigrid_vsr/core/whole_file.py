"""A file that appears under its name as a whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: what making room mends


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` when all of it is on the disk.

    What was under the name before stays until then, whenever the process dies and whatever fails in the block.

    Args:
        path: File to write.

    Yields:
        The file, to write bytes to.

    Raises:
        OSError: If it cannot be written.
    """
    unfinished = path.with_name(f'.{path.name}.unfinished')
    try:
        with open(unfinished, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    if hasattr(os, 'O_DIRECTORY'):  # Windows opens no folders
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
