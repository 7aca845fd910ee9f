"""Progress of reading a large ledger for the first time."""

import sys
import time

SECONDS_BEFORE_PROGRESS = 2.0


class ReadingProgress:
    """Says on stderr how many files were read, where it takes longer than two seconds."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        """Take notice that `done` of `total` files were read."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        is_terminal = sys.stderr.isatty()
        if done == total:
            if self._is_shown and is_terminal:
                sys.stderr.write("\r\x1b[K")
            self._began, self._is_shown = None, False
        elif now - self._began > SECONDS_BEFORE_PROGRESS and (is_terminal or not self._is_shown):
            text = f"reading new results: {done:,} of {total:,} files"
            sys.stderr.write(f"\r{text}" if is_terminal else f"{text}\n")
            sys.stderr.flush()
            self._is_shown = True
