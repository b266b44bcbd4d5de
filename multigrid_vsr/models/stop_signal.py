"""SIGTERM and Ctrl-C, held until an iteration is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopSignal:
    """Remembers that the process was asked to stop, so that it can save first; asked twice, it stops at once.

    Attributes:
        received: The signal, or ``None``.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self._previous = {number: signal.signal(number, self._remember) for number in self._SIGNALS}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.restore()

    def restore(self) -> None:
        """Gives the signals back to who had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
