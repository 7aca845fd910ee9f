import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pgsearch.data import MultiLabelDataset
from pgsearch.errors import InvalidData
from tests.data.conftest import Row, grey_number, write_csv

Load = Callable[..., MultiLabelDataset]

TEST_DATA = Path(
    os.environ.get("PGSEARCH_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
)


@pytest.fixture
def manifest(folder: Path, good_rows: list[Row]) -> Path:
    return write_csv(folder / "manifest.csv", good_rows)


def _problems(load: Load, manifest: Path, **changed: object) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        load(manifest, **changed)
    return caught.value.problems


# ---------------------------------------------------------------- what a good manifest gives


def test_each_image_has_its_own_targets(load: Load, manifest: Path, good_rows: list[Row]) -> None:
    dataset = load(manifest)
    assert dataset.class_names == ("cat", "dog", "cow")
    row_of = {row["image"]: row for row in good_rows}
    seen = []
    for split, name in [
        (dataset.train, "train"),
        (dataset.validation, "train"),  # held out of train
        (dataset.test, "test"),
    ]:
        for image, targets, image_id in zip(
            split.images_NHWC, split.targets_NC, split.ids, strict=True
        ):
            row = row_of[image_id]
            assert f"{grey_number(image)}.png" == image_id
            assert row["split"] == name
            assert targets.tolist() == [row["cat"], row["dog"], row["cow"]]
            seen.append(image_id)
    assert sorted(seen) == sorted(row_of)


@pytest.mark.parametrize("word", ["validation", "val"])
def test_validation_rows_are_taken_as_they_are(
    load: Load, folder: Path, good_rows: list[Row], word: str
) -> None:
    for number in (2, 7):
        good_rows[number]["split"] = word
    dataset = load(write_csv(folder / "m.csv", good_rows))
    assert dataset.validation.ids == ("2.png", "7.png")
    assert dataset.train.ids == tuple(f"{n}.png" for n in range(9) if n not in (2, 7))


def test_without_validation_rows_a_part_of_train_is_held_out(load: Load, manifest: Path) -> None:
    dataset = load(manifest, validation_fraction=0.25)
    assert dataset.train.num_images + dataset.validation.num_images == 9
    assert 2 <= dataset.validation.num_images <= 4
    assert dataset.test.ids == ("9.png", "10.png", "11.png")
    splits = {load(manifest, split_seed=seed).validation.ids for seed in range(5)}
    assert len(splits) > 1


def test_nothing_is_held_out_at_fraction_0(load: Load, manifest: Path) -> None:
    dataset = load(manifest, validation_fraction=0.0)
    assert dataset.train.num_images == 9
    assert dataset.validation.images_NHWC.shape == (0, 16, 16, 3)


def test_class_names_choose_and_order_the_columns(load: Load, manifest: Path) -> None:
    everything, chosen = load(manifest), load(manifest, class_names=("cow", "cat"))
    assert chosen.class_names == ("cow", "cat")
    np.testing.assert_array_equal(chosen.test.targets_NC, everything.test.targets_NC[:, [2, 0]])


def test_classes_of_a_list_column_are_sorted(load: Load, folder: Path, good_rows) -> None:
    rows = [
        {"image": row["image"], "split": row["split"], "labels": " dog ; cat" if n % 2 else ""}
        for n, row in enumerate(good_rows)
    ]
    dataset = load(write_csv(folder / "m.csv", rows))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test.targets_NC.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_parquet_columns_may_be_booleans_or_numbers(load: Load, folder: Path, good_rows) -> None:
    rows = [row | {"cat": bool(row["cat"]), "dog": float(row["dog"])} for row in good_rows]
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    write_csv(folder / "m.csv", good_rows)
    from_parquet, from_csv = load(folder / "m.parquet"), load(folder / "m.csv")
    np.testing.assert_array_equal(from_parquet.train.targets_NC, from_csv.train.targets_NC)
    assert from_parquet.fingerprint == from_csv.fingerprint


def test_a_table_saved_by_excel_is_read(load: Load, folder: Path, manifest: Path) -> None:
    text = manifest.read_text().replace("\r\n", "\n").replace("\n", "\r\n")
    (folder / "excel.csv").write_bytes(("\ufeff" + text + "\r\n").encode())
    assert load(folder / "excel.csv").fingerprint == load(manifest).fingerprint


def test_the_root_may_be_elsewhere(load: Load, folder: Path, good_rows, tmp_path: Path) -> None:
    manifest = write_csv(tmp_path / "m.csv", good_rows)
    assert load(manifest, root=folder).test.ids == ("9.png", "10.png", "11.png")


def test_paths_are_normalised_and_may_be_absolute_inside_the_root(
    load: Load, folder: Path, good_rows: list[Row]
) -> None:
    good_rows[9]["image"] = str(folder / "9.png")
    good_rows[10]["image"] = "./sub/../10.png"
    dataset = load(write_csv(folder / "m.csv", good_rows))
    assert dataset.test.ids == ("9.png", "10.png", "11.png")


def test_progress_counts_up_to_all_images_and_only_while_decoding(
    load: Load, manifest: Path
) -> None:
    calls: list[tuple[int, int]] = []
    load(manifest, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)
    calls.clear()
    load(manifest, progress=lambda done, total: calls.append((done, total)))
    assert calls == []


def test_many_blocks_keep_their_order(
    load: Load, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsearch.data.manifest.BLOCK_SIZE", 5)
    dataset = load(manifest)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.ids == tuple(f"{grey_number(image)}.png" for image in split.images_NHWC)


def test_a_changed_image_is_decoded_again(load: Load, folder: Path, manifest: Path) -> None:
    before = load(manifest)
    Image.new("RGB", (20, 10), (255, 255, 255)).save(folder / "9.png")
    after = load(manifest)
    assert grey_number(before.test.images_NHWC[0]) == 9
    assert (after.test.images_NHWC[0] == 255).all()
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_is_of_contents_not_of_time_or_place(
    load: Load, folder: Path, manifest: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, (1, 1))
    assert load(tmp_path / "copy" / "manifest.csv").fingerprint == load(manifest).fingerprint


def test_the_fingerprint_tells_what_differs(load: Load, folder: Path, good_rows) -> None:
    def fingerprint(rows: list[Row], **changed: object) -> str:
        return load(write_csv(folder / "m.csv", rows), **changed).fingerprint

    # In the test split, so that the held-out images stay the same.
    relabelled = [row | {"cow": 1 if n == 9 else row["cow"]} for n, row in enumerate(good_rows)]
    renamed = [{("sow" if k == "cow" else k): v for k, v in row.items()} for row in good_rows]
    prints = [
        fingerprint(good_rows),
        fingerprint(relabelled),
        fingerprint(renamed),
        fingerprint(good_rows[::-1]),
        fingerprint(good_rows, image_size=17),
        fingerprint(good_rows, validation_fraction=0.5),
    ]
    assert len(set(prints)) == len(prints)


# ---------------------------------------------------------------- what a bad manifest says


def _set(row: int, column: str, value: object) -> Callable[[list[Row]], None]:
    def edit(rows: list[Row]) -> None:
        rows[row][column] = value

    return edit


def _set_all(column: str, value: object, split: str = "train") -> Callable[[list[Row]], None]:
    def edit(rows: list[Row]) -> None:
        for row in rows:
            if row["split"] == split:
                row[column] = value

    return edit


def _drop(column: str) -> Callable[[list[Row]], None]:
    def edit(rows: list[Row]) -> None:
        for row in rows:
            del row[column]

    return edit


def _drop_classes(rows: list[Row]) -> None:
    for column in ("cat", "dog", "cow"):
        _drop(column)(rows)


BAD_ROWS = {
    "unknown split": (
        _set(3, "split", "dev"),
        ["m.csv, line 5", "'dev'", "train, validation (or val) or test", "correct the cell"],
    ),
    "label is not 0 or 1": (
        _set(4, "dog", "2"),
        ["m.csv, line 6", "column 'dog' is '2'", "a label is 0 or 1", "correct the cell"],
    ),
    "empty label": (_set(4, "dog", ""), ["m.csv, line 6", "column 'dog' is ''"]),
    "no image column": (
        _drop("image"),
        ["m.csv", "no column 'image'", "'split', 'cat'", "add or rename it"],
    ),
    "no split column": (_drop("split"), ["m.csv", "no column 'split'", "add or rename it"]),
    "no label columns": (
        _drop_classes,
        ["m.csv", "has no labels", "one 0/1 column per class or one column 'labels'"],
    ),
    "labels twice": (
        lambda rows: [row.update(labels="cat") for row in rows],
        ["m.csv", "'labels' and also 'cat', 'dog', 'cow'", "remove one of the two"],
    ),
    "missing image": (
        _set(5, "image", "gone.png"),
        ["m.csv, line 7", "'gone.png'", "every row needs its image", "add the file"],
    ),
    "folder as image": (_set(5, "image", "folder"), ["m.csv, line 7", "'folder' is not a file"]),
    "null character": (_set(5, "image", "a\0b"), ["m.csv, line 7", "'a\\x00b' is not a file"]),
    "repeated image": (
        _set(5, "image", "./2.png"),
        ["m.csv, line 7", "'./2.png' was named before", "m.csv, line 4", "remove one of the rows"],
    ),
    "path out of the root": (
        _set(5, "image", "sub/../../secret.png"),
        [
            "m.csv, line 7",
            "'sub/../../secret.png'",
            "images lie under the root",
            "correct the path",
        ],
    ),
    "absolute path outside": (
        _set(5, "image", "/etc/hostname"),
        ["m.csv, line 7", "'/etc/hostname' is not a path inside"],
    ),
    "empty path": (_set(5, "image", " "), ["m.csv, line 7", "' ' is not a path inside"]),
    "class never in train": (
        _set_all("cow", 0),
        ["m.csv", "class 'cow' is in 0 of", "with it and without it", "leave the class out"],
    ),
    "class always in train": (
        _set_all("dog", 1),
        ["m.csv", "class 'dog' is in 6 of 6", "with it and without it"],
    ),
    "no test rows": (
        _set_all("split", "train", split="test"),
        ["m.csv", "no row has the split 'test'", "needs images of train and of test", "add some"],
    ),
    "no train rows": (
        _set_all("split", "test"),
        ["m.csv", "no row has the split 'train'", "add some"],
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_one_problem_with_place_value_rule_and_fix(
    load: Load, folder: Path, good_rows: list[Row], case: str
) -> None:
    (folder / "folder").mkdir()
    edit, fragments = BAD_ROWS[case]
    edit(good_rows)
    (problem,) = _problems(load, write_csv(folder / "m.csv", good_rows))
    assert str(folder / "m.csv") in problem
    for fragment in fragments:
        assert fragment in problem


BAD_FILES = {
    "missing": ("m.csv", None, ["does not exist", "a .csv or a .parquet file", "correct the path"]),
    "extension": ("m.xlsx", b"PK", ["'.xlsx'", "a .csv or a .parquet file", "convert"]),
    "nothing in it": ("m.csv", b"", ["no column 'image'"]),
    "only a header": ("m.csv", b"image,split,cat\n", ["has no rows", "one row per image", "add"]),
    "class listed twice": (
        "m.csv",
        b"image,split,cat,cat\n0.png,train,0,1\n",
        ["column 'cat' is there 2 times", "may appear once", "rename or remove"],
    ),
    "wrong number of cells": (
        "m.csv",
        b"image,split,cat\n0.png,train,0\n\na, b.png,train,1\n",
        ["m.csv, line 4: has 4 cells", "the 3 cells of the header", "quote commas"],
    ),
    "not UTF-8": ("m.csv", "image,split,Käse\n".encode("latin-1"), ["text in UTF-8", "save it"]),
    "open quote": ("m.csv", b'image,split,cat\n"0.png,train,0\n', ["unexpected end", "save it"]),
    "no Parquet": (
        "m.parquet",
        b"PAR1 and rubbish",
        ["not a whole Parquet file", "write it again"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_rule_and_fix(load: Load, folder: Path, case: str) -> None:
    name, data, fragments = BAD_FILES[case]
    if data is not None:
        (folder / name).write_bytes(data)
    problems = _problems(load, folder / name)
    assert str(folder / name) in problems[0]
    for fragment in fragments:
        assert fragment in problems[0]


def test_a_truncated_parquet_file_is_named(load: Load, folder: Path, good_rows) -> None:
    path = folder / "m.parquet"
    pq.write_table(pa.Table.from_pylist(good_rows), path)
    path.write_bytes(path.read_bytes()[:-20])
    (problem,) = _problems(load, path)
    assert f"{path}: is not a whole Parquet file" in problem


def test_a_bad_cell_of_parquet_is_named_by_its_row(load: Load, folder: Path, good_rows) -> None:
    rows = [row | {"cat": 1.5 if n == 3 else float(row["cat"])} for n, row in enumerate(good_rows)]
    rows[4]["dog"] = None
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    problems = _problems(load, folder / "m.parquet")
    assert "m.parquet, row 4: column 'cat' is 1.5" in problems[0]
    assert "m.parquet, row 5: column 'dog' is None" in problems[1]


def test_bad_label_lists_are_named(load: Load, folder: Path, good_rows) -> None:
    labels = [["cat"] if n % 2 else [] for n in range(12)]
    labels[1], labels[2], labels[3] = ["cat", "cat"], None, ["cta"]
    rows = [
        {"image": row["image"], "split": row["split"], "labels": of_row}
        for row, of_row in zip(good_rows, labels, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    null, twice, unknown = _problems(load, folder / "m.parquet", class_names=["cat"])
    assert "row 3: column 'labels' is None; it must be a list" in null
    assert "row 2: names the class 'cat' twice" in twice
    assert "row 4: names the class 'cta'; labels must be among the classes asked for" in unknown


def test_class_names_must_be_columns_and_differ(load: Load, manifest: Path) -> None:
    problems = _problems(load, manifest, class_names=["cat", "cat", "horse"])
    assert any("'cat' is there 2 times; a class is named once" in problem for problem in problems)
    assert any("no column for the class 'horse'" in problem for problem in problems)


def test_a_root_that_is_no_folder_is_one_problem(load: Load, manifest: Path) -> None:
    (problem,) = _problems(load, manifest, root=manifest)
    assert f"{manifest}: is not a folder" in problem
    assert "correct the root" in problem


def test_problems_of_every_kind_are_raised_together(
    load: Load, folder: Path, good_rows: list[Row]
) -> None:
    good_rows[0]["image"] = "gone.png"
    good_rows[1]["image"] = "../1.png"
    good_rows[2]["dog"] = "x"
    good_rows[3]["split"] = "dev"
    assert len(_problems(load, write_csv(folder / "m.csv", good_rows))) == 4


def test_problems_of_splits_are_raised_with_those_of_paths(
    load: Load, folder: Path, good_rows: list[Row]
) -> None:
    good_rows[0]["image"] = "gone.png"
    _set_all("cow", 0)(good_rows)
    problems = _problems(load, write_csv(folder / "m.csv", good_rows))
    assert len(problems) == 2
    assert "gone.png" in problems[0]
    assert "'cow' is in 0 of" in problems[1]


def test_at_most_twenty_problems_of_a_kind_are_listed(load: Load, folder: Path) -> None:
    rows = [{"image": f"gone{n}.png", "split": "train", "cat": n % 2} for n in range(33)]
    rows += [{"image": "0.png", "split": "dev", "cat": 0}]
    problems = _problems(load, write_csv(folder / "m.csv", rows))
    assert sum("gone" in problem for problem in problems) == 20
    assert "... and 13 more: missing image" in problems
    assert any("'dev'" in problem for problem in problems), "one kind does not hide another"


def test_no_image_is_decoded_while_the_manifest_has_problems(
    load: Load, folder: Path, good_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("pgsearch.data.manifest.decode_image", never)
    good_rows[11]["image"] = "gone.png"
    _problems(load, write_csv(folder / "m.csv", good_rows))


def test_all_images_that_cannot_be_decoded_are_named_and_nothing_is_cached(
    load: Load, folder: Path, manifest: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsearch.data.manifest.BLOCK_SIZE", 5)
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-30])
    (folder / "11.png").write_bytes(b"text")
    problems = _problems(load, manifest)
    for problem, line, name in zip(problems, (3, 13), ("1.png", "11.png"), strict=True):
        assert f"{manifest}, line {line}: {folder / name}: an image must be whole" in problem
        assert "replace the file or leave it out" in problem
    assert [path for path in cache_dir.iterdir() if path.is_dir()] == []

    (folder / "1.png").write_bytes(whole)
    shutil.copy(folder / "0.png", folder / "11.png")
    assert load(manifest).num_classes == 3


def test_a_folder_of_damaged_images_names_every_one(load: Load, folder: Path, manifest) -> None:
    for path in folder.glob("*.png"):
        path.write_bytes(b"text")
    assert len(_problems(load, manifest)) == 12


# ---------------------------------------------------------------- real photographs


@pytest.mark.slow
@pytest.mark.skipif(
    not (TEST_DATA / "voc_mini" / "manifest.csv").is_file(),
    reason=f"no voc_mini/manifest.csv under {TEST_DATA}; set PGSEARCH_TEST_DATA to its folder",
)
def test_real_photographs(load: Load) -> None:
    manifest = TEST_DATA / "voc_mini" / "manifest.csv"
    dataset = load(manifest, image_size=64, validation_fraction=0.2)
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    assert dataset.class_names == tuple(lines[0][2:])
    assert dataset.train.num_images + dataset.validation.num_images == 1135
    assert dataset.test.num_images == 1537
    row_of = {line[0]: line for line in lines[1:]}
    for split in (dataset.train, dataset.validation, dataset.test):
        for image_id, targets in zip(split.ids, split.targets_NC, strict=True):
            assert targets.tolist() == [int(cell) for cell in row_of[image_id][2:]]

    number = 100
    with Image.open(manifest.parent / dataset.test.ids[number]) as photograph:
        expected = np.asarray(photograph.resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(dataset.test.images_NHWC[number], expected)
    assert dataset.train.images_NHWC.std() > 40

    held_out_C = dataset.validation.targets_NC.sum(axis=0)
    pool_C = held_out_C + dataset.class_counts_C
    assert (held_out_C >= 1).all()
    np.testing.assert_array_less(np.abs(held_out_C - 0.2 * pool_C), 2)
