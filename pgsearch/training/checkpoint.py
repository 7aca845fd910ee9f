"""The newest state of a trial, in one file that is whole or absent."""

import io
from pathlib import Path
from typing import Any

import torch

from pgsearch.errors import StorageError
from pgsearch.results.storage import replace_file


class Checkpoints:
    """Keeps the newest state of one trial in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state. Raises StorageError."""
        buffer = io.BytesIO()  # torch hides the reason when it cannot write to a file itself
        torch.save(state, buffer)
        replace_file(self.path, lambda file: file.write(buffer.getbuffer()))

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, or None before the first.

        Only tensors and plain data are read: nothing in the file can run.

        Raises:
            StorageError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        # The reader promises no type of error for bytes that are damaged or something else.
        except Exception as error:
            first_line = str(error).partition("\n")[0][:120]
            raise StorageError(
                f"{self.path}: this checkpoint is damaged ({type(error).__name__}: {first_line}); "
                "delete it and repeat the command: the trial begins again and its recorded epochs "
                "stay"
            ) from None
        return state
