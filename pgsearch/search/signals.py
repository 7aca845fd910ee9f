"""Signals of users and batch systems: the first stops cleanly, the second at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from pgsearch.errors import EXIT_INTERRUPTED

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what systems send before they kill; what SLURM is told to send ahead of a time limit."""


class StopSignals:
    """Turns signals into a stop; a context manager that puts the old handlers back.

    Until `stop_with` is called there is nothing to save, and a signal raises KeyboardInterrupt.
    After it the first signal calls what it was given, and the second ends the process at once with
    the exit code of an interrupted search. Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self._active = threading.current_thread() is threading.main_thread()
        self._stop: Callable[[], None] | None = None
        self._received = 0

    def __enter__(self) -> "StopSignals":
        if self._active:
            # None: a handler that was not installed from Python and cannot be put back.
            self._before = {n: signal.getsignal(n) or signal.SIG_DFL for n in STOP_SIGNALS}
            self.install()
        return self

    def stop_with(self, stop: Callable[[], None]) -> None:
        """Call `stop` at the first signal from now on."""
        self._stop = stop
        self.install()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals, again where others took them: Ray SIGTERM, Tune SIGUSR1."""
        if self._active:
            for number in STOP_SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stop is None:
            raise KeyboardInterrupt
        self._received += 1
        if self._received == 1:
            self._stop()
            return
        show_cursor = b"\x1b[?25h" if sys.stderr.isatty() else b""
        os.write(2, show_cursor + b"\nstopped at once; repeat the same command to go on\n")
        os._exit(EXIT_INTERRUPTED)
