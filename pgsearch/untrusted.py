"""What anyone may have written: files read within a bound, texts shown on one line."""

import errno
import os
import stat
import unicodedata
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

MAX_LINE: Final = 2_000
"""Characters of a message."""
MAX_UNSIZED_BYTES: Final = 1_000_000
"""Of what the kernel makes up, whose size is not told."""


def read_file(path: str | Path, *, max_bytes: int) -> bytes:
    """Return what is in a file that anyone may have put there.

    Raises OSError: it cannot be read, is a folder, a pipe or a device, or is longer.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # What the kernel makes up has the size 0; and what is asked for is allocated at once.
        wanted = min(size or MAX_UNSIZED_BYTES, max_bytes) + 1
        data = file.read(wanted) or b"" if size <= max_bytes else b""
    if size > max_bytes or len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data


def open_file(path: str | Path) -> BufferedReader:
    """Open a regular file. Raises OSError for a pipe, which may have no writer, or a device."""

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    try:
        file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115  given to the caller
    except ValueError as error:  # the path has a null character or half of a surrogate pair
        raise OSError(errno.EINVAL, f"there is no such path: {error}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def one_line(problem: str) -> str:
    """Return a message as one line that a terminal shows as it is; a long one loses its middle."""
    line = visible(problem)
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 500]} … {line[-500:]}"


def visible(text: str) -> str:
    """Return one line that shows a terminal's controls and other unseen characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if _is_unseen(character) else character
        for character in text
    )


def has_unseen(text: str) -> bool:
    """Whether a text holds what does not show, or changes how what follows shows.

    Controls, line separators, halves of surrogate pairs, and marks that embed or override the
    direction of writing. Joiners and the marks of single characters' direction are letters of
    their languages.
    """
    return not text.isprintable() and any(map(_is_unseen, text))


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.bidirectional(character)
        in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )


def shown(value: Any, *, length: int = 80) -> str:
    """Return a value as a message shows it: on one line, escaped and not without end."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"
