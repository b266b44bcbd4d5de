"""A folder as a shared file system shows it: each read waits, and all share one rate. Linux with FUSE alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multigrid_vsr.core.errors import InputError

_SECONDS = 20  # until it is mounted


@contextlib.contextmanager
def slow_folder(root: Path, mount: Path, latency_ms: float, mb_per_second: float) -> Iterator[None]:
    """Shows ``root`` read-only under ``mount``, in a process of its own.

    Args:
        root: The folder.
        mount: Empty folder.
        latency_ms: What each read waits, in milliseconds, beside others.
        mb_per_second: What all reads together get.

    Raises:
        InputError: If mfusepy or FUSE is missing.
    """
    mount.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, '-m', __name__, root.resolve(), mount, str(latency_ms), str(mb_per_second))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + _SECONDS
        while not mount.is_mount():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                last = (process.communicate()[1].strip().splitlines() or ['no word of it'])[-1]
                raise InputError(f'{mount}: must be mounted with FUSE, got {last}. `pip install mfusepy`, and libfuse.')
            time.sleep(0.05)
        try:
            yield
        finally:
            subprocess.run(('fusermount', '-u', '-z', mount), check=False)
            process.terminate()


def _serve(root: str, mount: str, latency_ms: float, mb_per_second: float) -> None:
    import mfusepy

    free_at, lock = time.monotonic(), threading.Lock()

    class Slow(mfusepy.Operations):
        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            try:
                found = os.lstat(root + path)
            except FileNotFoundError as error:
                raise mfusepy.FuseOSError(error.errno) from None
            names = ('st_mode', 'st_nlink', 'st_size', 'st_uid', 'st_gid', 'st_atime', 'st_mtime', 'st_ctime')
            return {name: getattr(found, name) for name in names}

        def readdir(self, path: str, fh: Any) -> list[str]:
            return ['.', '..', *os.listdir(root + path)]

        def open(self, path: str, flags: int) -> int:
            return os.open(root + path, os.O_RDONLY)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            nonlocal free_at
            with lock:
                free_at = max(free_at, time.monotonic()) + size / (mb_per_second * 1e6)
                wait = free_at - time.monotonic() + latency_ms / 1e3
            time.sleep(wait)
            return os.pread(fh, size, offset)

    mfusepy.FUSE(Slow(), mount, foreground=True, ro=True, nothreads=False)


if __name__ == '__main__':
    _serve(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
