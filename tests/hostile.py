"""What attacks share: a payload that must not run, little memory, and errors that do no harm."""

import os
import pickle
import resource
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MAX_SECONDS = 2
MEMORY_BYTES = 600_000_000


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """What must not be unpickled; it works, and nothing in a test does."""
    mark = tmp_path / "pwned"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()
    mark.unlink()
    yield Payload(mark)
    assert not mark.exists()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What asks for more fails with a MemoryError, which is no message."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def refused(load: Callable[[], object], error: type[Exception]) -> list[str]:
    """The problems of what is refused soon, once they are known to do no harm themselves."""
    begun = time.process_time()
    with pytest.raises(error) as caught:
        load()
    assert time.process_time() - begun < MAX_SECONDS
    problems: list[str] = getattr(caught.value, "problems", [str(caught.value)])
    for problem in problems:
        assert len(problem) < 3_000
        assert not [c for c in problem if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        assert "\u202e" not in problem
    return problems
