"""Scores of single images as Parquet: one row per image, columns named by class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pgsearch.results.rows import as_parquet
from pgsearch.results.storage import StoredFile


class ImageScores(NamedTuple):
    """Raw scores of the images of one split, N images and C classes."""

    ids: Sequence[str]
    targets_NC: npt.NDArray[Any]
    logits_NC: npt.NDArray[np.float32]


def write_scores(
    file: StoredFile, scores_by_split: Mapping[str, ImageScores], class_names: Sequence[str]
) -> None:
    """Write scores, whole or not at all.

    Columns: `image`, `split`, then for each class `score.CLASS` (the logit z; σ(z) is the
    probability) and `target.CLASS` (1 where the image contains the class, else 0).

    Raises StorageError.
    """
    columns: dict[str, Any] = {
        "image": [image for scores in scores_by_split.values() for image in scores.ids],
        "split": [split for split, scores in scores_by_split.items() for _ in scores.ids],
    }
    logits_NC = np.concatenate([scores.logits_NC for scores in scores_by_split.values()])
    targets_NC = np.concatenate([scores.targets_NC for scores in scores_by_split.values()])
    for c, name in enumerate(class_names):
        columns[f"score.{name}"] = pa.array(logits_NC[:, c].astype(np.float32))
    for c, name in enumerate(class_names):
        columns[f"target.{name}"] = pa.array(targets_NC[:, c].astype(np.uint8))
    file.write(as_parquet(pa.table(columns)))
