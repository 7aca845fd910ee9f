"""A figure as PNG, SVG or PDF, and its numbers as CSV; the same figure gives the same bytes."""

import io
import threading
import warnings
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import pandas as pd

from pgsearch.analysis.figures.figure import Figure
from pgsearch.analysis.figures.style import settings
from pgsearch.analysis.formats import MISSING, Cell, Table, as_csv
from pgsearch.errors import UsageError
from pgsearch.results.local_storage import replace_file

FORMATS: Final = ("png", "svg", "pdf")
DOTS_PER_INCH: Final = 200
# When and by which version it was drawn would make every file another one.
_METADATA: Final[dict[str, dict[str, Any]]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_DRAWING = threading.Lock()


class MissingGlyphWarning(UserWarning):
    """No font of this machine has some letters of a figure, which are drawn as boxes."""


def render(figure: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of a file.

    One thread draws at a time, since matplotlib's settings belong to the process.

    Args:
        figure: what to draw.
        kind: one of `FORMATS`.

    Raises:
        UsageError: another format.
    """
    if kind not in FORMATS:
        raise UsageError(f"figures are saved as {', '.join(FORMATS)}, not as {kind!r}")
    buffer = io.BytesIO()
    # Salted by name: in a page with several drawings no two have an id in common.
    own = {**settings(), "svg.hashsalt": figure.name}
    with _DRAWING, mpl.rc_context(own), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.draw().savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=_METADATA[kind])
    glyphs = [w for w in caught if "missing from font" in str(w.message)]
    for other in caught:
        if other not in glyphs:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if glyphs and kind != "svg":  # whose letters are drawn by what shows it
        warnings.warn(
            f"{figure.name}: no font here has {len(glyphs)} of its letters, which are boxes in PNG "
            "and PDF; install one that has them, such as Noto Sans CJK",
            MissingGlyphWarning,
            stacklevel=2,
        )
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the suffix of `path` says, whole or not at all.

    Raises:
        UsageError: another suffix than those of `FORMATS`.
        StorageError: the file cannot be written.
    """
    data = render(figure, path.suffix.lower().removeprefix("."))
    replace_file(path, lambda file: file.write(data))


def save_numbers(figure: Figure, path: Path) -> None:
    """Write the numbers of a figure as CSV. Raises StorageError."""
    text = numbers_as_csv(figure)
    replace_file(path, lambda file: file.write(text.encode()))


def numbers_as_csv(figure: Figure) -> str:
    """Return the numbers of a figure as CSV, in which no text is a formula."""
    return as_csv(_table(figure))


def _table(figure: Figure) -> Table:
    frame = figure.numbers
    rows = tuple(tuple(map(_cell, row)) for row in frame.itertuples(index=False, name=None))
    return Table(figure.title, tuple(map(str, frame.columns)), rows)


def _cell(value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value, value=value)
    return Cell(MISSING) if pd.isna(value) else Cell(str(value), value=value)
