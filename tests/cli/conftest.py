"""Trees of images that the tests of `pgsearch data` share, and how they run it."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pgsearch.cli.main import main
from pgsearch.data import load_manifest
from pgsearch.data.published import COCO_CLASSES
from pgsearch.data.voc import VOC_CLASSES
from tests.data.test_coco import coco_document, write_coco
from tests.data.test_voc import write_voc


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(pgsearch: Run) -> Run:
    """Run `pgsearch data WORDS…` in this process."""
    return functools.partial(pgsearch, "data")


@pytest.fixture
def pgsearch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `pgsearch WORDS…` in this process."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pgsearch", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Result(code, *capsys.readouterr())

    return run


ALLOW = "--allow-other-counts"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A VOCdevkit of 60 + 20 images in which each class is in train."""
    root = tmp_path / "VOCdevkit"
    pool = {f"2008_{n:06}": {VOC_CLASSES[n % 20], VOC_CLASSES[n // 4]} for n in range(60)}
    write_voc(root, 2012, "trainval", {i: sorted(names) for i, names in pool.items()})
    write_voc(root, 2007, "test", {f"{n:06}": [VOC_CLASSES[n]] for n in range(20)})
    return root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    categories = {c + 1: name.replace("_", " ") for c, name in enumerate(COCO_CLASSES)}
    train = {1000 + n: [n % 80 + 1, (n + 1) % 80 + 1] for n in range(160)}
    write_coco(root, "train2017", coco_document(train, categories))
    write_coco(root, "val2017", coco_document({n: [n] for n in range(1, 81)}, categories))
    return root


def load(manifest: Path, cache_dir: Path, root: Path | None = None):
    return load_manifest(
        manifest,
        root=root,
        image_size=16,
        validation_fraction=0.0,
        split_seed=0,
        cache_dir=cache_dir,
    )


@pytest.fixture
def own(devkit: Path, run: Run) -> Path:
    """A manifest with train, validation and test that lies beside its images."""
    assert run("build", "voc-lt", "--root", devkit, ALLOW, "--output", devkit / "own.parquet").code == 0  # fmt: skip  # noqa: E501
    return devkit / "own.parquet"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """cat 4, dog 2, cow 1 of train; no image is on disk."""
    rows = ["image,split,cow,cat,dog", "1.jpg,train,0,1,1", "2.jpg,train,0,1,1",
            "3.jpg,train,0,1,0", "4.jpg,train,1,1,0", "5.jpg,train,0,0,0",
            "6.jpg,test,1,0,0", "7.jpg,test,1,0,1"]  # fmt: skip
    (tmp_path / "small.csv").write_text("\n".join(rows))
    return tmp_path / "small.csv"


THRESHOLDS = ("--head-min", 3, "--tail-below", 2)
