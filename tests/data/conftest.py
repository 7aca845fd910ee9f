import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgsearch.data import MultiLabelDataset, load_manifest

CLASS_NAMES = ("cat", "dog", "cow")
Row = dict[str, Any]


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve flat images whose grey level tells which one they are; see `good_rows`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (20, 10), (20 * number,) * 3).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def good_rows() -> list[Row]:
    """Rows of a valid manifest: cat in every third image, dog in every second, cow in few."""
    return [
        {
            "image": f"{number}.png",
            "split": ("train", "test")[number >= 9],
            "cat": int(number % 3 == 0),
            "dog": int(number % 2 == 0),
            "cow": int(number in (1, 4, 10)),
        }
        for number in range(12)
    ]


@pytest.fixture
def load(cache_dir: Path) -> Callable[..., MultiLabelDataset]:
    """`load_manifest` with the arguments that few tests are about."""

    def load(manifest: Path, **changed: Any) -> MultiLabelDataset:
        arguments: dict[str, Any] = {
            "root": None,
            "image_size": 16,
            "validation_fraction": 0.25,
            "split_seed": 0,
            "cache_dir": cache_dir,
        }
        return load_manifest(manifest, **(arguments | changed))

    return load


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def grey_number(image_HWC: np.ndarray) -> int:
    """Which of the flat images of `folder` this is."""
    return round(float(image_HWC.mean()) / 20)
