"""`train --save-scores`, `evaluate` and `predict` as a user meets them, on images of colours."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.cli.test_cli import pgsearch as process

CLASSES = ("red", "green")
SPEC = """
data: {name: manifest, manifest: MANIFEST, image_size: 32, validation_fraction: 0.25, head_min: 20,
       tail_below: 5}
model: {backbone: digits_resnet, weights: random, bn_eval: false, neck: false}
loss: {name: bce}
training: {epochs: 6, batch_size: 8, iterations_per_epoch: 12, warmup_iterations: 5,
           learning_rate: 0.2, photometric: 0, sampler: uniform}
method: grid
variants: {BCE: {}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs that are red, green, both or neither, a spec, and a training on them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(72):
        red, green = number % 2, number // 2 % 2
        pixels = rng.integers(0, 60, (24, 30, 3)) + 180 * np.array([red, green, 0])
        name = f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        rows.append([name, "test" if number >= 48 else "train", red, green])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", *CLASSES], *rows])
    (folder / "colours.yaml").write_text(SPEC.replace("MANIFEST", str(folder / "manifest.csv")))
    result = process(
        "train", str(folder / "colours.yaml"), "--variant", "BCE", "--save", str(folder / "run"),
        "--save-scores", "keep_best_epoch=true", PGSEARCH_CACHE=str(folder / "cache"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSEARCH_CACHE", str(folder / "cache"))


def checkpoint(folder: Path) -> str:
    return str(folder / "run" / "checkpoints" / "00000.pt")


def test_scores_are_saved_and_evaluate_finds_them_again(folder: Path) -> None:
    saved = pd.read_parquet(folder / "run" / "scores" / "00000.parquet")
    assert saved["split"].value_counts().to_dict() == {"test": 24, "validation": 12}
    scores = str(folder / "again.parquet")
    result = process("evaluate", checkpoint(folder), "--json", "--save-scores", scores)
    assert result.returncode == 0, result.stderr
    again = pd.read_parquet(folder / "again.parquet")
    expected = saved[saved["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected, rtol=1e-4, atol=1e-5)
    facts = json.loads(result.stdout)
    epochs = pd.read_parquet(folder / "run" / "epochs")
    last = epochs[epochs["epoch"] == 6].iloc[0]
    assert facts["map"]["total"] == pytest.approx(last["map.test.total"], abs=1e-6)
    assert facts["f1"]["micro"] == pytest.approx(last["f1.test.micro"], abs=1e-6)
    assert facts["map"]["total"] > 0.9  # colours are easy
    assert [row["class"] for row in facts["classes"]] == list(CLASSES)
    assert facts["classes"][0]["positives"] == 12


@pytest.mark.promise(11)
def test_the_best_epoch_is_a_checkpoint_like_any_other(pgsearch: Run, folder: Path) -> None:
    """Of equal epochs the first: colours are learnt before the last."""
    epochs = pd.read_parquet(folder / "run" / "epochs").sort_values("epoch")
    best = epochs.loc[epochs["map.validation.total"].idxmax()]
    file = str(folder / "run" / "checkpoints" / "00000.best.pt")
    result = pgsearch("evaluate", file, "--json", "--split", "validation")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["map"]["total"] == pytest.approx(best["map.validation.total"], abs=1e-6)
    assert facts["loss"] == pytest.approx(best["loss.validation"], rel=1e-4)
    result = pgsearch("predict", file, str(folder / "49.png"))
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["probabilities"].keys() == set(CLASSES)


def test_evaluate_finds_classes_by_name_in_a_manifest_of_its_own(
    pgsearch: Run, folder: Path
) -> None:
    rows = [["image", "green", "split", "red", "blue"]]
    rows += [[f"{n}.png", str(n // 2 % 2), "test", str(n % 2), "0"] for n in range(48, 72)]
    with (folder / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    arguments = ("evaluate", checkpoint(folder), "--json")
    own = json.loads(pgsearch(*arguments).out)
    result = pgsearch(*arguments, "--data", str(folder / "other.csv"))
    assert result.code == 0, result.err
    other = json.loads(result.out)
    assert other["map"] == pytest.approx(own["map"], nan_ok=True)
    assert other["classes"] == own["classes"]
    printed = pgsearch("evaluate", checkpoint(folder)).out
    assert "24 images of test" in printed
    assert f"mAP total {100 * own['map']['total']:.2f}" in printed
    assert "F1  micro " in printed


def test_predict_as_json_and_csv(pgsearch: Run, folder: Path) -> None:
    images = [str(folder / f"{n}.png") for n in (49, 50, 51, 48)]  # red, green, both, neither
    result = pgsearch("predict", checkpoint(folder), *images)
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    assert [row["image"] for row in rows] == images
    found = [[row["probabilities"][name] > 0.5 for name in CLASSES] for row in rows]
    assert found == [[True, False], [False, True], [True, True], [False, False]]
    as_csv = pgsearch("predict", checkpoint(folder), *images, "--format", "csv").out
    header, *lines = csv.reader(io.StringIO(as_csv))
    assert header == ["image", *CLASSES]
    assert [float(value) for value in lines[0][1:]] == pytest.approx(
        [rows[0]["probabilities"][name] for name in CLASSES]
    )


def test_bad_images_are_named_together(pgsearch: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    result = pgsearch(
        "predict", checkpoint(folder), str(tmp_path / "text.jpg"), str(tmp_path / "absent.png")
    )
    assert result.code == 4
    assert f"{tmp_path}/text.jpg: " in result.err
    assert f"{tmp_path}/absent.png: " in result.err
    assert "Traceback" not in result.err


def test_a_split_or_class_that_is_not_there_is_named(pgsearch: Run, folder: Path) -> None:
    other = str(folder / "other.csv")
    result = pgsearch("evaluate", checkpoint(folder), "--data", other, "--split", "train")
    assert result.code == 4
    assert "no row has the split 'train'" in result.err
    (folder / "few.csv").write_text("image,split,red\n48.png,test,0\n")
    result = pgsearch("evaluate", checkpoint(folder), "--data", str(folder / "few.csv"))
    assert result.code == 4
    assert "has no column for the class 'green'" in result.err


def test_a_checkpoint_that_is_not_there_is_a_usage_error(
    pgsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["evaluate", "absent.pt"], ["predict", "absent.pt", "a.jpg"]):
        result = pgsearch(*command)
        assert result.code == 2
        assert "absent.pt: no such file" in result.err


def test_other_data_than_the_training_had_is_refused(pgsearch: Run, folder: Path) -> None:
    manifest = folder / "manifest.csv"
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace("71.png,test,1,1", "71.png,test,0,1"))
        result = pgsearch("evaluate", checkpoint(folder))
    finally:
        manifest.write_text(before)
    assert result.code == 4
    assert "are not those that the checkpoint was trained with" in result.err


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (["evaluate", "--root", "/nonexistent"], 2, "name it with --data"),
        (["evaluate", "--save-scores", "s.csv"], 2, "scores are written as .parquet"),
        (["evaluate", "--save-scores", "file/s.parquet"], 5, "file/s.parquet: cannot be written"),
        (["predict", "48.png", "-o", "."], 5, "cannot be written"),
        (["predict", "48.png", "-o", "file/x.json"], 5, "cannot be written"),
        (["predict", "."], 4, ".: an image must be a readable file, but: Is a directory"),
    ],
)
def test_what_cannot_be_written_or_read_is_one_message(
    pgsearch: Run,
    folder: Path,
    options: list[str],
    code: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "file").touch()
    command, *rest = options
    monkeypatch.chdir(folder)
    result = pgsearch(command, checkpoint(folder), *rest)
    assert result.code == code, result.err
    assert expected in result.err
    assert "Traceback" not in result.err


def test_scores_asked_for_too_late_name_the_remedy(folder: Path, tmp_path: Path) -> None:
    command = ["train", str(folder / "colours.yaml"), "--variant", "BCE", "--save", str(tmp_path)]
    assert process(*command, "training.epochs=1").returncode == 0
    result = process(*command, "training.epochs=1", "--save-scores")
    assert result.returncode == 0
    assert f"pgsearch evaluate {tmp_path}/checkpoints/00000.pt --save-scores" in result.stderr


def test_save_scores_needs_a_folder(pgsearch: Run, folder: Path) -> None:
    result = pgsearch("train", str(folder / "colours.yaml"), "--save-scores")
    assert result.code == 2
    assert "--save-scores needs --save" in result.err
