from pathlib import Path

import numpy as np
import pandas as pd

from pgsearch.results.scores import ImageScores, write_scores
from pgsearch.results.storage import stored_file


def test_one_row_per_image_with_columns_by_class(tmp_path: Path) -> None:
    write_scores(
        stored_file(tmp_path / "scores" / "s.parquet"),
        {
            "validation": ImageScores(
                ("a.jpg",), np.array([[1, 0]], np.uint8), np.array([[2.5, -1.0]], np.float32)
            ),
            "test": ImageScores(
                ("b.jpg", "c.jpg"),
                np.array([[0, 0], [1, 1]], np.uint8),
                np.array([[0.5, 1.5], [3.0, -4.0]], np.float32),
            ),
        },
        ("cat", "hot dog"),
    )
    frame = pd.read_parquet(tmp_path / "scores" / "s.parquet")
    assert frame.columns.tolist() == [
        "image", "split", "score.cat", "score.hot dog", "target.cat", "target.hot dog",
    ]  # fmt: skip
    assert frame["image"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert frame["split"].tolist() == ["validation", "test", "test"]
    assert frame["score.hot dog"].tolist() == [-1.0, 1.5, -4.0]
    assert frame["target.cat"].tolist() == [1, 0, 1]
    assert frame["target.hot dog"].tolist() == [0, 0, 1]
