"""`pgsearch data check` and `data stats`, as a user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pgsearch.cli.progress import data_progress
from tests.cli.conftest import ALLOW, THRESHOLDS, Result, Run
from tests.data.test_voc import TEST_DATA, needs_data

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
