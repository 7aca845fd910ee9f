"""`pgsearch data build …`, as a user meets it: what is printed and written, and the exit code."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pgsearch.data.published import COCO_CLASSES
from pgsearch.data.voc import VOC_CLASSES
from tests.cli.conftest import ALLOW, Run, load
from tests.data.test_coco import coco_document, write_coco

# ---------------------------------------------------------------- build


def test_voc_lt_is_written_beside_the_images_and_loads(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    result = run("build", "voc-lt", "--root", devkit, ALLOW)
    assert result.code == 0, result.err
    manifest = devkit / "voc_lt.parquet"
    dataset = load(manifest, tmp_path / "cache")
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
    assert load(output, tmp_path / "cache", root=devkit).train.num_images == 60


def test_published_ids_replace_the_draw_and_validation_takes_others(
    run: Run, devkit: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    listed = [f"2008_{n:06}" for n in reversed(range(40))]
    ids.write_text("# published\n" + "\n".join(listed))
    result = run("build", "voc-lt", "--root", devkit, ALLOW, "--ids", ids, "--validation", 12)
    assert result.code == 0, result.err
    dataset = load(devkit / "voc_lt.parquet", tmp_path / "cache")
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
    dataset = load(coco / "coco_lt.parquet", tmp_path / "cache")
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


def test_a_custom_long_tail_is_written_and_loads(run: Run, own: Path, tmp_path: Path) -> None:
    output = own.with_name("tail.parquet")
    result = run("build", "custom", "--manifest", own, "--output", output, "--max", 9, "--min", 2)
    assert result.code == 0, result.err
    dataset = load(output, tmp_path / "cache")
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
