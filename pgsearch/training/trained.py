"""A trained classifier from its checkpoint: to evaluate it, and to predict with it.

Shapes: N images, H = W pixels, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import nn

from pgsearch.config import TrialSpec
from pgsearch.data.augment import normalise_batch
from pgsearch.data.class_names import class_name_problems
from pgsearch.errors import InvalidData, StorageError, UsageError
from pgsearch.models.build import build_model_to_load, model_statistics
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.evaluate import compute_logits
from pgsearch.training.precision import Precision, autocast
from pgsearch.training.state import newer_version, precision_of


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A network with all that its scores mean."""

    network: nn.Module
    trial: TrialSpec
    class_names: tuple[str, ...]
    class_groups_C: npt.NDArray[np.int64]
    """Of the counts that it was trained with."""
    epoch: int
    """Epochs that it has finished; an interrupted trial may stand in the middle of the next."""
    data_fingerprint: str
    """Of the images, labels and splits that it was trained with."""
    precision: Precision
    """Arithmetic that it was trained with."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it expects."""
        return self.trial.data.image_size

    def logits(
        self,
        images_NHWC: npt.NDArray[np.uint8],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return raw scores z `[N, C]` of uint8 images; σ(z) is the probability of a class.

        Computed as in the trial's own evaluation: the same precision, one view.

        Raises NonFiniteLoss where a score is not finite.
        """
        device = next(self.network.parameters()).device
        statistics = model_statistics(self.trial.model)

        def inputs(rows: slice) -> torch.Tensor:
            if progress is not None:
                progress(min(rows.stop, len(images_NHWC)), len(images_NHWC))
            images_BHWC = torch.from_numpy(np.array(images_NHWC[rows]))
            return normalise_batch(images_BHWC.to(device), *statistics)

        return compute_logits(
            self.network,
            inputs,
            len(images_NHWC),
            batch_size=batch_size,
            autocast=autocast(device, self.precision),
        )


def load_trained(path: Path) -> TrainedClassifier:
    """Load the classifier of a checkpoint, onto a GPU if there is one.

    Raises:
        UsageError: there is no such file.
        InvalidData: it is damaged, not a checkpoint of pgsearch or one of a newer pgsearch, or its
            trial has not come far enough: in its first epoch, or without its frozen trunk.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; a search keeps the checkpoints of its best trials in "
            "RESULTS/NAME/checkpoints"
        )
    try:
        state: Any = Checkpoints(path).load()
        _require_usable(path, state)
        trial = TrialSpec.model_validate(state["trial"])
        if (precision := precision_of(state)) is None:
            raise ValueError("it does not tell its precision")  # noqa: TRY301  as above
        record: dict[str, Any] = state["record"]
        class_names, groups = tuple(record["class_names"]), record["class_groups"]
        if problems := class_name_problems(("its record", name) for name in class_names):
            raise ValueError(problems[0])  # noqa: TRY301  as of any other part that is not ours
        weights, epoch = dict(state["model"]), int(state["epoch"])
        data_fingerprint = str(record["data_fingerprint"])
    # StorageError: its remedy, to begin the trial again, is for a search that goes on.
    except (StorageError, KeyError, IndexError, TypeError, ValueError, ValidationError) as error:
        raise _not_ours(path, error) from None
    network = build_model_to_load(trial.model, num_classes=len(class_names))
    missing = network.state_dict().keys() - weights.keys()
    if trial.training.trunk != "trained" and any(n.startswith("backbone.") for n in missing):
        raise InvalidData(
            [
                f"{path}: of a trial that stands at epoch {epoch} of {trial.training.epochs}; "
                "the frozen part joins the checkpoint after the last epoch: finish the trial first"
            ]
        )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise _not_ours(path, error) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    network.to(memory_format=torch.channels_last)
    return TrainedClassifier(
        network, trial, class_names, np.asarray(groups), epoch, data_fingerprint, precision
    )


def _require_usable(path: Path, state: Any) -> None:
    """Refuse a state of a newer pgsearch, and one before the end of the first epoch."""
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}")
    if problem := newer_version(state):
        raise InvalidData([f"{path}: {problem}"])
    if state["record"] is None:
        raise InvalidData(
            [f"{path}: of a trial that stands in the middle of epoch 1; finish the trial first"]
        )


def _not_ours(path: Path, error: Exception) -> InvalidData:
    if isinstance(error, ValidationError):
        error = ValueError(error.errors()[0]["msg"])
    first_line = str(error).removeprefix(f"{path}: ").partition("; ")[0].partition("\n")[0]
    return InvalidData(
        [
            f"{path}: damaged, or not a checkpoint that this version of pgsearch wrote "
            f"({first_line}); give the file of a trial that it trained"
        ]
    )
