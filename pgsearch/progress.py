"""Who is told how far long work is that lies deep inside a call."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Is called with how much is done and how much there is to do."""

reading: ContextVar[Callable[[], AbstractContextManager[Progress]] | None] = ContextVar(
    "reading", default=None
)
"""Gives who is told of the files while many of the results are read."""
