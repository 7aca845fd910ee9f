"""The newest state of a trial, in one file that is whole or absent."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pgsearch.errors import AttemptReplaced, StorageError
from pgsearch.results.checksum import seal_zip, zip_is_whole
from pgsearch.results.storage import Conflict, StoredFile, stored_file


class Checkpoints:
    """Keeps the newest state of one trial.

    Args:
        file: where: a path, a URL, or a file of a ledger.
        may_write: whether this execution of the trial is still the newest; None is always.
    """

    def __init__(
        self, file: str | Path | StoredFile, *, may_write: Callable[[], bool] | None = None
    ) -> None:
        self.file = stored_file(file)
        self._may_write = may_write
        self._tag = self.file.storage.tag(self.file.key)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state.

        Raises:
            StorageError: it cannot be written.
            AttemptReplaced: a newer execution of the trial has begun.
        """
        buffer = io.BytesIO()  # torch hides the reason when it cannot write to a file itself
        torch.save(state, buffer)
        data = seal_zip(buffer.getvalue())
        while True:
            if self._may_write is not None and not self._may_write():
                raise AttemptReplaced(f"{self.file}: a newer execution of this trial has begun")
            try:
                self._tag = self.file.swap(data, self._tag)
            except Conflict:  # an execution before or after ours wrote since we looked
                self._tag = self.file.storage.tag(self.file.key)
            else:
                return

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, or None before the first.

        Only tensors and plain data are read: nothing in the file can run.

        Raises:
            StorageError: the file is damaged.
        """
        stored = self.file.read()
        if stored is None:
            return None
        self._tag = stored.tag
        if zip_is_whole(stored.data) is False:
            raise self._damaged("its checksum is wrong")
        try:
            state: dict[str, Any] = torch.load(
                io.BytesIO(stored.data), map_location="cpu", weights_only=True
            )
        # The reader promises no type of error for bytes that are damaged or something else.
        except Exception as error:
            first_line = str(error).partition("\n")[0][:120]
            raise self._damaged(f"{type(error).__name__}: {first_line}") from None
        return state

    def _damaged(self, reason: str) -> StorageError:
        return StorageError(
            f"{self.file}: this checkpoint is damaged ({reason}); set it aside with pgsearch "
            "verify SEARCH --repair, or delete it, and repeat the command: the trial begins again "
            "and its recorded epochs stay"
        )
