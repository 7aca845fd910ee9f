"""What a search refuses before Ray starts."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from pgsearch.cli.progress import SearchProgress
from pgsearch.errors import InvalidData, InvalidSpec
from pgsearch.models.backbones import build_backbone
from pgsearch.search.inputs import needs_features, prepare_data
from pgsearch.search.run import run_search
from tests.records import grid


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen grey images of two classes, without a validation split."""
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    rows = [["image", "split", "cat", "dog"]]
    for n in range(16):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
        rows.append([f"{n}.png", "test" if n > 11 else "train", str(n % 2), str(n % 3 % 2)])
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "m.csv"


def data(manifest: Path, fraction: float) -> dict[str, object]:
    return {"name": "manifest", "manifest": str(manifest), "validation_fraction": fraction,
            "image_size": 16}  # fmt: skip


def test_an_objective_on_a_split_that_is_not_there(manifest: Path, tmp_path: Path) -> None:
    search = grid(data=data(manifest, 0.0))
    with pytest.raises(InvalidSpec, match="the objective is on validation, and the data has no"):
        run_search(search, tmp_path / "results", listener=SearchProgress(search, quiet=True))
    assert not (tmp_path / "results").exists()
    found = prepare_data(grid(data=data(manifest, 0.25)))
    assert all(inputs.splits == {"train", "validation", "test"} for inputs in found.values())
    found = prepare_data(grid(data=data(manifest, 0.0), objective={"split": "test"}))
    assert all(inputs.splits == {"train", "test"} for inputs in found.values())


def test_words_that_ml_gcn_lacks_are_named(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("cat " + " ".join(["0.5"] * 300) + "\n")
    search = grid(
        data=data(manifest, 0.25),
        model={"backbone": "digits_resnet", "weights": "random", "head": "ml_gcn",
               "word_vectors": str(tmp_path / "glove.txt")},
    )  # fmt: skip
    with pytest.raises(InvalidData, match=r"glove\.txt.*dog"):
        prepare_data(search)


def test_features_are_computed_where_trials_look_for_them(manifest: Path, tmp_path: Path) -> None:
    weights = tmp_path / "trunk.pth"
    torch.save(build_backbone("digits_resnet").network.state_dict(), weights)
    search = grid(
        data=data(manifest, 0.25),
        model={"backbone": "digits_resnet", "weights": str(weights)},
        training={"trunk": "frozen", "photometric": 0, "crop_min": 1.0, "flip": 0},
    )

    def features() -> set[Path]:
        return set((tmp_path / "cache").glob("features-*"))

    assert needs_features(search)
    prepare_data(search, features_on=None)
    assert not features()
    prepare_data(search, features_on="cpu")
    assert features()
