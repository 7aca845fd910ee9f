"""Photographs as JPEG files with a manifest, for the benchmarks that need them.

Real ones are those of `$PGSEARCH_TEST_DATA/voc_mini/manifest.csv`; without, noise in the shape of
photographs (500×375 pixels, most of it in low frequencies) takes their place.
"""

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES, WIDTH, HEIGHT = 20, 500, 375


class Photographs(NamedTuple):
    """A manifest, the folder that its paths are relative to, and what they show."""

    manifest: Path
    root: Path
    kind: str


def write_manifest(folder: Path, *, num_train: int, num_test: int) -> Photographs:
    """Write a manifest of so many photographs into a folder, and the photographs if need be."""
    real = Path(os.environ.get("PGSEARCH_TEST_DATA", "no such folder")) / "voc_mini/manifest.csv"
    wanted = {"train": num_train, "test": num_test}
    rows = _real(real, wanted) if real.is_file() else _made_up(folder, wanted)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if real.is_file():
        return Photographs(manifest, real.parent, "photographs of PASCAL VOC")
    return Photographs(manifest, folder, f"noise of {WIDTH}x{HEIGHT} pixels")


def _real(manifest: Path, wanted: dict[str, int]) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        r for split, n in wanted.items() for r in [r for r in rows if r["split"] == split][:n]
    ]
    classes = [name for name in rows[0] if name not in ("image", "split")]
    train = [row for row in chosen if row["split"] == "train"]
    kept = [name for name in classes if 0 < sum(row[name] == "1" for row in train) < len(train)]
    return [{name: row[name] for name in ("image", "split", *kept)} for row in chosen]


def _made_up(folder: Path, wanted: dict[str, int]) -> list[dict[str, str]]:
    random = np.random.default_rng(0)
    rows = []
    for split, number in wanted.items():
        for i in range(number):
            path = folder / f"{split}{i:04d}.jpg"
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.BICUBIC))
            grain = random.integers(-12, 13, smooth.shape)
            pixels = (smooth.astype(np.int64) + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=90)
            labels = {f"class {c:02d}": str(int((i + c) % (c + 2) == 0)) for c in range(CLASSES)}
            rows.append({"image": path.name, "split": split, **labels})
    return rows
