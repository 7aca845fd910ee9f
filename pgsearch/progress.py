"""Who is told how far long work is that lies deep inside a call."""

from collections.abc import Callable
from contextvars import ContextVar

reading: ContextVar[Callable[[int, int], None] | None] = ContextVar("reading", default=None)
"""Is called with the number of files of results that were read and that there are to read."""
