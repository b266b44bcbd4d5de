"""``logger.progress``: a bar on a terminal, below the lines of the log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

from basicsr.utils import get_root_logger
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


def shows_progress(opt: Mapping[str, Any]) -> bool:
    """Whether this process has a bar: on rank 0; with ``auto`` where stderr is a terminal."""
    asked = (opt.get('logger') or {}).get('progress', 'auto')  # a test run has no such block
    return opt['rank'] == 0 and (sys.stderr.isatty() if asked in ('auto', None) else asked)


class Progress:
    """The bar of a run; log files have none of it.

    Args:
        opt: Options of the run.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self._opt = opt
        self._bar: tqdm | None = None
        self._redirected = ExitStack()

    def after_iteration(self, current_iter: int) -> None:
        """Shows that an iteration is done."""
        if not shows_progress(self._opt):
            return
        with suppress(OSError):  # of a terminal that has closed
            if self._bar is None:
                self._redirected.enter_context(logging_redirect_tqdm([get_root_logger()]))
                total = self._opt['train']['total_iter']
                self._bar = tqdm(total=total, initial=current_iter - 1, desc=self._opt['name'], unit='iter')
            self._bar.update(current_iter - self._bar.n)

    def say(self, text: str) -> None:
        """Shows a few words behind the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Ends the bar; lines go where they went before."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
        self._redirected.close()
        self._bar = None
