"""`pgsearch data …`, as a user meets it: what is printed and written, and the exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from pgsearch.cli.main import main
from pgsearch.cli.progress import data_progress
from pgsearch.data import load_manifest
from pgsearch.data.published import COCO_CLASSES
from pgsearch.data.voc import VOC_CLASSES
from tests.data.test_coco import coco_document, write_coco
from tests.data.test_voc import TEST_DATA, needs_data, write_voc


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `pgsearch data WORDS…` in this process."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pgsearch", "data", *map(str, words)])
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


def _load(manifest: Path, cache_dir: Path, root: Path | None = None):
    return load_manifest(
        manifest,
        root=root,
        image_size=16,
        validation_fraction=0.0,
        split_seed=0,
        cache_dir=cache_dir,
    )


# ---------------------------------------------------------------- build


def test_voc_lt_is_written_beside_the_images_and_loads(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    result = run("build", "voc-lt", "--root", devkit, ALLOW)
    assert result.code == 0, result.err
    manifest = devkit / "voc_lt.parquet"
    dataset = _load(manifest, tmp_path / "cache")
    assert dataset.class_names == VOC_CLASSES
    assert (dataset.train.num_images, dataset.test.num_images) == (60, 20)
    assert dataset.test.ids[0] == "VOC2007/JPEGImages/000000.jpg"
    assert "60 train, 0 validation, 20 test" in result.out
    assert "0 head, 0 medium, 20 tail" in result.out
    assert f"data: {{name: manifest, manifest: {manifest}}}" in result.out
    metadata = pq.read_schema(manifest).metadata
    assert metadata[b"pgsearch.fingerprint"].decode() in result.out
    assert metadata[b"pgsearch.kind"] == b"voc-lt"
    assert "warning: voc-lt: train images: published 1142, found 60" in result.err


def test_other_counts_are_refused_with_each_class_named(run: Run, devkit: Path) -> None:
    result = run("build", "voc-lt", "--root", devkit)
    assert result.code == 4
    for name in VOC_CLASSES:
        assert f"voc-lt: class '{name}': " in result.err
    assert "class 'person': train images published 775, found 7; test images" in result.err
    assert not (devkit / "voc_lt.parquet").exists()


def test_classes_without_a_training_image_are_left_out_of_a_part(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(f"2008_{n:06}" for n in range(4)))  # aeroplane to boat
    refused = run("build", "voc-lt", "--root", devkit, "--ids", ids)
    assert refused.code == 4
    assert "class 'cow' is in 0 of 4 training images" in refused.err
    result = run("build", "voc-lt", "--root", devkit, "--ids", ids, ALLOW)
    assert result.code == 0, result.err
    assert "left out, for want of a training image: bottle, bus, car, cat, chair, cow" in result.err
    table = pq.read_table(devkit / "voc_lt.parquet")
    assert table.column_names == ["image", "split", *VOC_CLASSES[:4]]
    assert table.num_rows == 24
    assert run("check", devkit / "voc_lt.parquet").code == 4  # it is still not VOC-LT
    checked = run("check", devkit / "voc_lt.parquet", ALLOW)
    assert "warning: " in checked.err
    assert "missing: bottle, bus, car" in checked.err


def test_an_output_elsewhere_says_that_the_root_is_needed(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sub" / "v.parquet"
    result = run("build", "voc-lt", "--root", devkit, ALLOW, "--output", output)
    assert result.code == 0
    assert f"manifest: {output}, root: {devkit}}}" in result.out
    assert f"data.root={devkit} is needed" in result.out
    assert _load(output, tmp_path / "cache", root=devkit).train.num_images == 60


def test_published_ids_replace_the_draw_and_validation_takes_others(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    listed = [f"2008_{n:06}" for n in reversed(range(40))]
    ids.write_text("# published\n" + "\n".join(listed))
    result = run("build", "voc-lt", "--root", devkit, ALLOW, "--ids", ids, "--validation", 12)
    assert result.code == 0, result.err
    dataset = _load(devkit / "voc_lt.parquet", tmp_path / "cache")
    assert dataset.train.ids == tuple(f"VOC2012/JPEGImages/{i}.jpg" for i in listed)
    assert dataset.validation.num_images == 12
    assert not set(dataset.validation.ids) & set(dataset.train.ids)
    procedure = pq.read_schema(devkit / "voc_lt.parquet").metadata[b"pgsearch.procedure"].decode()
    assert procedure.startswith("imported: 40 ids with the sha256 ")
    assert procedure.endswith("validation: 12 others of the pool, stratified, seed 0")


def test_a_class_without_train_images_is_an_error_or_a_warning(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("2008_000000\n2008_000001\n")
    command = ("build", "voc-lt", "--root", devkit, "--ids", ids)
    line = "voc-lt: class 'cow' is in 0 of 2 training images"
    refused, allowed = run(*command), run(*command, ALLOW)
    assert refused.code == 4
    assert line in refused.err
    assert allowed.code == 0
    assert f"warning: {line}" in allowed.err


def test_coco_lt_is_written_and_loads(run: Run, coco: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{n:012}.jpg\n" for n in range(1000, 1100)))
    command = ("build", "coco-lt", "--root", coco, ALLOW)
    result = run(*command, "--ids", ids, "--validation", 20)
    assert result.code == 0, result.err
    dataset = _load(coco / "coco_lt.parquet", tmp_path / "cache")
    assert dataset.class_names == COCO_CLASSES
    assert dataset.train.ids[:2] == ("train2017/000000001000.jpg", "train2017/000000001001.jpg")
    assert dataset.validation.num_images == 20
    assert dataset.test.num_images == 80
    assert run(*command).code == 0
    metadata = pq.read_schema(coco / "coco_lt.parquet").metadata
    assert metadata[b"pgsearch.procedure"].endswith(b"max 1200, min 1, b 6, alpha 0.01; seed 0, after VOC-LT")  # fmt: skip  # noqa: E501


def test_all_that_is_wrong_with_voc_is_listed_at_once(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    (devkit / "VOC2012/Annotations/2008_000003.xml").unlink()
    (devkit / "VOC2007/Annotations/000004.xml").write_text("<annotation>")
    (tmp_path / "ids.txt").write_text("2008_000001\nnone\n")
    result = run("build", "voc-lt", "--root", devkit, ALLOW, "--ids", tmp_path / "ids.txt")
    assert result.code == 4
    assert "VOC2012/Annotations/2008_000003.xml: cannot be read" in result.err
    assert "VOC2007/Annotations/000004.xml: is not well-formed XML" in result.err
    assert "ids.txt, line 2: the id 'none' is not in the pool" in result.err
    assert "Traceback" not in result.err


def test_bad_annotations_do_not_hide_bad_images(run: Run, devkit: Path, tmp_path: Path) -> None:
    annotation = devkit / "VOC2012/Annotations/2008_000003.xml"
    annotation.write_text(annotation.read_text().replace(VOC_CLASSES[3], "dragon"))
    (tmp_path / "ids.txt").write_text("2008_000001\n2008_000002\nnone\n")
    (devkit / "VOC2012/JPEGImages/2008_000001.jpg").unlink()
    for path in ("VOC2012/JPEGImages/2008_000002.jpg", "VOC2007/JPEGImages/000005.jpg"):
        (devkit / path).write_bytes((devkit / path).read_bytes()[:-80])
    (devkit / "VOC2007/JPEGImages/000006.jpg").unlink()
    result = run("build", "voc-lt", "--root", devkit, "--ids", tmp_path / "ids.txt")
    assert result.code == 4
    for expected in ("2008_000003.xml: ", "'dragon'", "the id 'none'",
                     "2008_000001.jpg: is not a file", "000006.jpg: is not a file",
                     "2008_000002.jpg: an image must be whole",
                     "000005.jpg: an image must be whole"):  # fmt: skip
        assert expected in result.err, expected
    assert not (devkit / "voc_lt.parquet").exists()


@pytest.mark.parametrize("options", [["--b", "1e-9"], ["--alpha", "1e-300", "--b", "0.1"]])
def test_a_profile_beyond_all_numbers_is_a_usage_error(
    run: Run, small: Path, tmp_path: Path, options: list[str]
) -> None:
    output = tmp_path / "o.parquet"
    words = ["build", "custom", "--manifest", small, "--output", output, "--max", "9", *options]
    result = run(*words)
    assert result.code == 2
    assert "raise one of them" in result.err


def test_a_root_without_the_years_is_one_message(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("2008_000001\n")
    result = run("build", "voc-lt", "--root", tmp_path, "--ids", tmp_path / "ids.txt")
    assert result.code == 4
    assert f"error: {tmp_path}/VOC2012: is not a folder" in result.err
    assert f"{tmp_path}/VOC2007: is not a folder" in result.err
    assert "not in the pool" not in result.err  # there is none


def test_missing_images_are_listed_with_the_counts(run: Run, devkit: Path) -> None:
    for n in (3, 4):
        (devkit / f"VOC2012/JPEGImages/2008_{n:06}.jpg").unlink()
    result = run("build", "voc-lt", "--root", devkit)
    assert result.code == 4
    for expected in ("2008_000003.jpg: is not a file", "2008_000004.jpg: is not a file",
                     "class 'cow': train images published 4"):  # fmt: skip
        assert expected in result.err


def test_truncated_images_are_listed_and_nothing_is_written(run: Run, devkit: Path) -> None:
    bad = [devkit / "VOC2012/JPEGImages/2008_000003.jpg", devkit / "VOC2007/JPEGImages/000019.jpg"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-200])
    result = run("build", "voc-lt", "--root", devkit, ALLOW)
    assert result.code == 4
    for path in bad:
        assert f"{path}: an image must be whole" in result.err
    assert "truncated" in result.err
    assert not (devkit / "voc_lt.parquet").exists()


def test_a_coco_folder_without_annotations_is_one_message(run: Run, tmp_path: Path) -> None:
    result = run("build", "coco-lt", "--root", tmp_path)
    assert result.code == 4
    for image_set in ("train2017", "val2017"):
        assert f"{tmp_path}/annotations/instances_{image_set}.json: cannot be read" in result.err


def test_two_sets_of_other_categories_are_refused(run: Run, coco: Path) -> None:
    write_coco(coco, "val2017", coco_document({1: [1]}, {1: "cat"}))
    result = run("build", "coco-lt", "--root", coco, ALLOW)
    assert result.code == 4
    assert "the pool and the test images have other classes" in result.err


@pytest.fixture
def own(devkit: Path, run: Run) -> Path:
    """A manifest with train, validation and test that lies beside its images."""
    assert run("build", "voc-lt", "--root", devkit, ALLOW, "--output", devkit / "own.parquet").code == 0  # fmt: skip  # noqa: E501
    return devkit / "own.parquet"


def test_a_custom_long_tail_is_written_and_loads(run: Run, own: Path, tmp_path: Path) -> None:
    output = own.with_name("tail.parquet")
    result = run("build", "custom", "--manifest", own, "--output", output, "--max", 9, "--min", 2)
    assert result.code == 0, result.err
    dataset = _load(output, tmp_path / "cache")
    assert dataset.train.num_images < 60
    assert dataset.test.num_images == 20
    assert dataset.class_counts_C.min() >= 1
    assert "custom, generated: sampled Pareto profile with max 9, min 2" in result.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max", "3", "--min", "4"], "--min 4 must not be above --max 3"),
        (["--max", "3", "--alpha", "0"], "0 < --alpha <= 1"),
        (["--max", "3", "--b", "0"], "--b > 0"),
        (["--max", "3", "--b", "nan"], "--b > 0"),
        (["--max", "3", "--b", "inf"], "--b > 0"),
        (["--max", "3", "--output", "x.csv"], "--output x.csv: a manifest is written as .parquet"),
    ],
)
def test_impossible_long_tails_are_a_mistake_of_usage(
    run: Run, own: Path, words: list[str], expected: str
) -> None:
    output = [] if "--output" in words else ["--output", own.with_name("tail.parquet")]
    result = run("build", "custom", "--manifest", own, *output, *words)
    assert result.code == 2
    assert expected in result.err


def test_a_manifest_is_not_written_over_its_own_source(run: Run, own: Path) -> None:
    before = own.read_bytes()
    result = run("build", "custom", "--manifest", own, "--output", own, "--max", 9)
    assert result.code == 2
    assert "is the manifest itself" in result.err
    assert own.read_bytes() == before


# ---------------------------------------------------------------- check


def test_check_compares_with_what_the_manifest_says_it_is(run: Run, own: Path) -> None:
    result = run("check", own)
    assert result.code == 4
    assert f"{own}: class 'cow': train images published 4, found" in result.out
    allowed = run("check", own, ALLOW)
    assert allowed.code == 0
    assert allowed.out == f"{own}: ok but for the warnings\n"
    assert "warning: " in allowed.err


def test_check_of_another_kind(run: Run, own: Path) -> None:
    result = run("check", own, "--as", "coco-lt", "--json")
    facts = json.loads(result.out)
    assert result.code == 4
    assert facts["kind"] == "coco-lt"
    assert not facts["ok"]
    assert "classes: those of COCO-LT are 80, found 20" in facts["problems"][0]


def test_check_accepts_a_custom_manifest(run: Run, own: Path) -> None:
    output = own.with_name("tail.parquet")
    run("build", "custom", "--manifest", own, "--output", output, "--max", 9)
    assert run("check", output) == Result(0, f"{output}: ok\n", "")
    facts = json.loads(run("check", output, "--json").out)
    assert facts["ok"]
    assert facts["metadata"]["kind"] == "custom"


def test_check_finds_rows_that_were_changed_after_the_build(run: Run, own: Path) -> None:
    table = pq.read_table(own)
    pq.write_table(table.slice(1), own)
    result = run("check", own, ALLOW)
    assert result.code == 4
    assert "a manifest stays as it was built; build it again" in result.out


def test_check_finds_bad_rows_and_images_together(run: Run, own: Path) -> None:
    folder = own.parent / "VOC2012/JPEGImages"
    (folder / "2008_000003.jpg").unlink()
    (folder / "2008_000004.jpg").write_bytes(b"no")
    result = run("check", own, ALLOW)
    assert result.code == 4
    assert "image 'VOC2012/JPEGImages/2008_000003.jpg' is not a file under" in result.out
    assert "2008_000004.jpg: an image must be whole" in result.out
    assert "a manifest stays as it was built" not in result.out


def test_check_says_when_the_root_is_the_mistake(run: Run, own: Path, tmp_path: Path) -> None:
    moved = own.rename(tmp_path / "moved.parquet")
    result = run("check", moved, ALLOW)
    assert result.code == 4
    assert "none of its images is under" in result.out
    assert "--root" in result.out
    assert run("check", moved, ALLOW, "--root", tmp_path / "VOCdevkit").code == 0


def test_check_of_what_is_no_manifest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"no")
    result = run("check", tmp_path / "m.parquet")
    assert result.code == 4
    assert "is not a whole Parquet file" in result.out


# ---------------------------------------------------------------- stats


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """cat 4, dog 2, cow 1 of train; no image is on disk."""
    rows = ["image,split,cow,cat,dog", "1.jpg,train,0,1,1", "2.jpg,train,0,1,1",
            "3.jpg,train,0,1,0", "4.jpg,train,1,1,0", "5.jpg,train,0,0,0",
            "6.jpg,test,1,0,0", "7.jpg,test,1,0,1"]  # fmt: skip
    (tmp_path / "small.csv").write_text("\n".join(rows))
    return tmp_path / "small.csv"


THRESHOLDS = ("--head-min", 3, "--tail-below", 2)


def test_stats_describe_the_long_tail(run: Run, small: Path) -> None:
    result = run("stats", small, *THRESHOLDS, "--json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert facts["images"] == {"train": 5, "validation": 0, "test": 2}
    assert [(row["class"], row["count"], row["group"]) for row in facts["classes"]] == [
        ("cat", 4, "head"),
        ("dog", 2, "medium"),
        ("cow", 1, "tail"),
    ]
    assert facts["groups"] == {"head": 1, "medium": 1, "tail": 1}
    assert facts["imbalance_ratio"] == 4
    assert facts["labels_per_image"] == {"0": 1, "1": 1, "2": 3}
    assert facts["co_occurrences"][:3] == [
        {"given": "dog", "other": "cat", "images": 2, "of": 2, "p": 1.0},
        {"given": "cow", "other": "cat", "images": 1, "of": 1, "p": 1.0},
        {"given": "cat", "other": "dog", "images": 2, "of": 4, "p": 0.5},
    ]


def test_groups_of_another_split_are_those_of_train(run: Run, small: Path) -> None:
    facts = json.loads(run("stats", small, *THRESHOLDS, "--split", "test", "--json").out)
    assert [(row["class"], row["count"], row["group"]) for row in facts["classes"]] == [
        ("cow", 2, "tail"),
        ("dog", 1, "medium"),
        ("cat", 0, "head"),
    ]
    assert facts["imbalance_ratio"] is None


def test_stats_in_the_terminal(run: Run, small: Path) -> None:
    out = run("stats", small, *THRESHOLDS).out
    lines = out.splitlines()
    assert "classes, by their train images: 1 head, 1 medium, 1 tail" in lines
    bars = {line.split()[0]: line for line in lines if "█" in line}
    assert list(bars) == ["cat", "dog", "cow"]
    lengths = [line.count("█") for line in bars.values()]
    assert lengths == sorted(lengths, reverse=True)
    assert bars["cow"].split()[1:3] == ["tail", "1"]
    assert "with dog  100.0 % have cat  (2 of 2)" in lines
    empty = run("stats", small, "--split", "test").out
    assert "largest by smallest class: undefined, without images: cat" in empty


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_plot_is_saved_in_the_format_of_its_name(
    run: Run, small: Path, suffix: str, magic: bytes
) -> None:
    plot = small.with_name(f"tail{suffix}")
    result = run("stats", small, "--plot", plot)
    assert result.code == 0, result.err
    assert plot.read_bytes().startswith(magic)
    assert f"drawn: {plot}" in result.out
    assert len(list(small.parent.glob("*tail*"))) == 1


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--plot", "x.gif"], 2, "--plot x.gif: name a file that ends with .png, .svg, .pdf"),
        (["--head-min", "3"], 2, "--tail-below 20 must not be above --head-min 3"),
        (["--split", "validation"], 4, "no row has the split 'validation'"),
    ],
)
def test_what_stats_cannot_do_is_one_message(
    run: Run, small: Path, words: list[str], code: int, expected: str
) -> None:
    result = run("stats", small, *words)
    assert result.code == code
    assert expected in result.err


def test_the_figure_has_a_bar_in_its_groups_colour_for_each_class() -> None:
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    from pgsearch.analysis.long_tail import GROUP_COLOURS, classes_by_count, draw_long_tail

    frame = classes_by_count(("a", "b", "c", "d"), (20, 0, 300, 19), np.array([1, 2, 0, 2]))
    axes = Figure().add_subplot()
    draw_long_tail(frame, axes, title="T", thresholds=(100, 20))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "a", "d", "b"]
    tops = [round(bar.get_y() + bar.get_height(), 6) for bar in axes.patches]
    assert tops == [300, 20, 19, 0.7]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert colours == [GROUP_COLOURS[g].upper() for g in ("head", "medium", "tail", "tail")]
    assert axes.get_yscale() == "log"
    assert [line.get_ydata()[0] for line in axes.lines] == [100, 20]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["head: 1 classes", "medium: 1 classes", "tail: 2 classes"]
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ["300", "20", "19", "0", "100", "20"]


# ---------------------------------------------------------------- around it


def test_progress_is_silent_at_first_and_then_says_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("pgsearch.cli.progress.time.monotonic", lambda: now[0])
    with data_progress(what="reading") as advance:
        for done in range(30):
            advance(done, 30)
            now[0] += 1
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2 of 30",
        "reading: 12 of 30",
        "reading: 22 of 30",
    ]


def test_help_explains_each_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["build"], ["build", "voc-lt"], ["build", "coco-lt"], ["build", "custom"],
                  ["check"], ["stats"]):  # fmt: skip
        result = run(*words, "-h")
        assert result.code == 0
        assert len(result.out.splitlines()) <= 45, words


def test_neither_torch_nor_ray_is_imported(small: Path) -> None:
    code = (
        "import sys\n"
        "from pgsearch.cli.main import main\n"
        "assert not {'matplotlib', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        f"sys.argv = ['pgsearch', 'data', 'stats', {str(small)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'ray', 'torchvision', 'sklearn', 'scipy', 'optuna', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@needs_data
@pytest.mark.parametrize(
    ("kind", "root", "num_images"),
    [("voc-lt", "voc_mini/VOCdevkit", {"test": 494}), ("coco-lt", "coco_mini", {"test": 310})],
)
def test_parts_of_the_real_data_build_and_check(
    run: Run, tmp_path: Path, kind: str, root: str, num_images: dict[str, int]
) -> None:
    folder, output = TEST_DATA / root, tmp_path / "m.parquet"
    built = run("build", kind, "--root", folder, "--output", output, ALLOW)
    assert built.code == 0, built.err
    facts = json.loads(run("stats", output, "--json").out)
    assert facts["images"]["test"] == num_images["test"]
    assert facts["images"]["train"] > 250
    assert run("check", output, "--root", folder, ALLOW).code == 0
    assert run("check", output, "--root", folder).code == 4
