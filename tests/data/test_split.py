import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pgsearch
from pgsearch.data import load_manifest
from pgsearch.data.choose import Profile, choose_custom, choose_published, read_ids
from pgsearch.data.image_check import check_images
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages
from pgsearch.data.published import VOC_LT, PublishedSplit
from pgsearch.data.split import (
    SplitTable,
    count_problems,
    read_metadata,
    read_split,
    training_problems,
    write_split,
)
from pgsearch.errors import InvalidData, StorageError
from tests.data.conftest import Row, write_csv
from tests.data.test_voc import TEST_DATA, needs_data

NAMES = ("cat", "dog", "cow")
TOY = PublishedSplit(
    kind="toy",
    title="TOY",
    class_names=NAMES,
    train_counts_C=(1, 2, 3),
    test_counts_C=(1, 1, 1),
    num_train=4,
    num_test=5,
    max_count=30,
)


def images(num_images: int, *, prefix: str = "p", seed: int = 0) -> LabelledImages:
    rng = np.random.default_rng(seed)
    ids = tuple(f"{prefix}{n}" for n in range(num_images))
    return LabelledImages(
        class_names=NAMES,
        ids=ids,
        paths=tuple(f"{prefix}/{image_id}.jpg" for image_id in ids),
        targets_NC=(rng.random((num_images, 3)) < [0.6, 0.3, 0.2]).astype(np.uint8),
        smaller_sides_N=np.full(num_images, 200),
    )


POOL, TEST = images(120), images(5, prefix="t", seed=1)


# ---------------------------------------------------------------- choosing


def test_rows_are_train_then_validation_then_test_with_their_own_labels() -> None:
    table = choose_published(TOY, POOL, TEST, ids=(7, 3, 90), num_validation=10)
    assert table.splits_N.tolist() == ["train"] * 3 + ["validation"] * 10 + ["test"] * 5
    assert table.images[:3] == ("p/p7.jpg", "p/p3.jpg", "p/p90.jpg")
    assert table.images[-5:] == TEST.paths
    row_of = {path: row for i in (POOL, TEST) for path, row in zip(i.paths, i.targets_NC)}  # noqa: B905
    for image, targets_C in zip(table.images, table.targets_NC, strict=True):
        np.testing.assert_array_equal(targets_C, row_of[image])
    assert len(set(table.images)) == len(table.images)


def test_a_drawn_train_split_says_how_it_was_drawn() -> None:
    table = choose_published(TOY, POOL, TEST)
    assert 0 < len(table.targets_of("train")) < 120
    assert table.procedure == (
        "generated: sampled Pareto profile with max 30, min 1, b 6, alpha 0.01; seed 0"
    )
    assert table.images == choose_published(TOY, POOL, TEST).images


def test_coco_lt_is_drawn_from_where_voc_lt_ends() -> None:
    fields = {name: getattr(TOY, name) for name in TOY.__dataclass_fields__}
    other = choose_published(PublishedSplit(**{**fields, "kind": "coco-lt"}), POOL, TEST)
    assert "seed 0, after VOC-LT" in other.procedure
    assert other.images != choose_published(TOY, POOL, TEST).images


def test_images_too_small_for_the_published_reader_are_not_drawn() -> None:
    sides_N = np.where(np.arange(120) % 2 == 0, 31, 32)
    pool = LabelledImages(NAMES, POOL.ids, POOL.paths, POOL.targets_NC, sides_N)
    table = choose_published(TOY, pool, TEST)
    drawn = {int(Path(i).stem[1:]) for i in table.images if i.startswith("p")}
    assert drawn
    assert all(n % 2 == 1 for n in drawn)
    assert "p/p2.jpg" in choose_published(TOY, pool, TEST, ids=(2,)).images  # if asked for


@pytest.mark.parametrize("num_validation", [0, 1, 17, 50, 116, 117])
def test_validation_has_exactly_the_images_asked_for_and_takes_none_of_train(
    num_validation: int,
) -> None:
    without = choose_published(TOY, POOL, TEST, ids=(7, 3, 90))
    table = choose_published(TOY, POOL, TEST, ids=(7, 3, 90), num_validation=num_validation)
    assert len(table.targets_of("validation")) == num_validation
    assert table.images[:3] == without.images[:3]
    assert len(set(table.images)) == 3 + num_validation + 5
    if num_validation >= 17:
        assert table.targets_of("validation").any(axis=0).all()
        share = table.targets_of("validation").mean(axis=0)
        np.testing.assert_allclose(share, POOL.targets_NC.mean(axis=0), atol=0.12)


def test_more_validation_than_the_pool_has_is_refused() -> None:
    with pytest.raises(InvalidData, match=r"--validation 118: the pool has 120 .* of which 117"):
        choose_published(TOY, POOL, TEST, ids=(7, 3, 90), num_validation=118)


def test_a_pool_and_a_test_of_other_classes_are_refused() -> None:
    other = LabelledImages(("cat", "dog", "pig"), TEST.ids, TEST.paths, TEST.targets_NC, TEST.ids)
    with pytest.raises(InvalidData, match="have other classes: cow, pig"):
        choose_published(TOY, POOL, other)


@needs_data
@pytest.mark.parametrize("is_imported", [False, True])
def test_voc_lt_is_as_published_in_every_number(is_imported: bool, tmp_path: Path) -> None:
    facts = json.loads((TEST_DATA / "voc_lt.json").read_text())
    pool_facts = json.loads((TEST_DATA / "voc2012_trainval_labels.json").read_text())
    pool = _labelled(pool_facts["image_ids"], pool_facts["label_indices"], facts["classes"])
    test = _labelled(facts["test_image_ids"], facts["test_label_indices"], facts["classes"])
    ids = None
    if is_imported:
        (tmp_path / "ids.txt").write_text("\n".join(facts["train_image_ids"]))
        ids = read_ids(tmp_path / "ids.txt", pool, Problems())
    table = choose_published(VOC_LT, pool, test, ids=ids, num_validation=1000)
    assert count_problems(VOC_LT, table, source="voc-lt") == []
    assert list(table.images[:1142]) == facts["train_image_ids"]
    assert len(table.targets_of("validation")) == 1000


def _labelled(ids: list[str], labels: list[list[int]], names: list[str]) -> LabelledImages:
    targets_NC = np.zeros((len(ids), len(names)), dtype=np.uint8)
    for row, indices in zip(targets_NC, labels, strict=True):
        row[indices] = 1
    sides_N = np.full(len(ids), 300)
    return LabelledImages(tuple(names), tuple(ids), tuple(ids), targets_NC, sides_N)


# ---------------------------------------------------------------- lists of ids


def _pool_of(*ids: str) -> LabelledImages:
    return _labelled(list(ids), [[0]] * len(ids), ["cat"])


def test_ids_may_be_names_of_files_with_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(
        b"\xef\xbb\xbf000000554625.jpg\r\n\r\n# a comment\r\n 9  # another\r\n000.jpg\n"
    )
    pool = _pool_of("9", "554625", "0", "12")
    assert read_ids(path, pool, Problems()) == (1, 0, 2)
    path.write_text("2008_000023.jpg\n2008_000007\n")
    assert read_ids(path, _pool_of("2008_000007", "2008_000023"), Problems()) == (1, 0)


def _id_problems(path: Path, pool: LabelledImages) -> list[str]:
    problems = Problems()
    read_ids(path, pool, problems)
    with pytest.raises(InvalidData) as caught:
        problems.raise_if_any()
    return caught.value.problems


def test_unknown_and_repeated_ids_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("9\n\n10\n000000000009.jpg\n12\n")
    problems = _id_problems(path, _pool_of("9", "12"))
    assert problems == [
        f"{path}, line 3: the id '10' is not in the pool of 2 images; train is chosen from the "
        f"pool; correct or remove the line",
        f"{path}, line 4: the id '000000000009.jpg' was named before (line 1); an image is listed "
        f"once; remove one of the lines",
    ]


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_an_empty_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    (problem,) = _id_problems(tmp_path / "ids.txt", _pool_of("9"))
    assert problem.startswith(f"{tmp_path}/ids.txt: names no id")


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in _id_problems(tmp_path / "ids.txt", _pool_of("9"))[0]
    (tmp_path / "ids.txt").write_bytes(b"\x80\x04\x95")
    assert "it is no text" in _id_problems(tmp_path / "ids.txt", _pool_of("9"))[0]


# ---------------------------------------------------------------- a manifest of one's own


def _custom(manifest: Path, **changed: int) -> SplitTable:
    return choose_custom(manifest, root=None, profile=Profile(**{"max_count": 4, **changed}))


def test_a_long_tail_of_own_images_keeps_the_other_splits(
    folder: Path, good_rows: list[Row]
) -> None:
    good_rows[8]["split"] = "validation"
    table = _custom(write_csv(folder / "m.csv", good_rows[::-1]))
    assert table.images[-4:] == ("8.png", "11.png", "10.png", "9.png")
    assert table.splits_N[-4:].tolist() == ["validation", "test", "test", "test"]
    assert 0 < len(table.images[:-4]) < 8
    assert set(table.splits_N[:-4]) == {"train"}
    row_of = {row["image"]: [row[name] for name in NAMES] for row in good_rows}
    assert table.targets_NC.tolist() == [row_of[image] for image in table.images]
    assert "seed 0; from the rows with the fingerprint" in table.procedure


def test_the_seed_draws_another_tail(folder: Path, good_rows: list[Row]) -> None:
    manifest = write_csv(folder / "m.csv", good_rows)
    chosen = {_custom(manifest, seed=seed).images for seed in range(6)}
    assert len(chosen) > 1


def test_more_images_than_there_are_gives_all(folder: Path, good_rows: list[Row]) -> None:
    table = _custom(write_csv(folder / "m.csv", good_rows), max_count=900, min_count=900)
    assert sorted(table.images[:-3]) == sorted(
        row["image"] for row in good_rows[:9] if row["cat"] or row["dog"] or row["cow"]
    )


def test_a_class_without_train_images_is_refused(folder: Path, good_rows: list[Row]) -> None:
    for row in good_rows[:9]:
        row["cow"] = 0
    with pytest.raises(InvalidData, match="class 'cow' is in no row of the split train"):
        _custom(write_csv(folder / "m.csv", good_rows))


# ---------------------------------------------------------------- the file


@pytest.fixture
def table(folder: Path, good_rows: list[Row]) -> SplitTable:
    return _custom(write_csv(folder / "m.csv", good_rows), max_count=900)


def test_a_written_manifest_is_one_that_training_loads(
    table: SplitTable, folder: Path, tmp_path: Path
) -> None:
    write_split(folder / "out.parquet", table)
    dataset = load_manifest(
        folder / "out.parquet",
        root=None,
        image_size=16,
        validation_fraction=0.0,
        split_seed=0,
        cache_dir=tmp_path / "cache",
    )
    assert dataset.class_names == NAMES
    assert dataset.train.ids + dataset.test.ids == table.images
    np.testing.assert_array_equal(dataset.train.targets_NC, table.targets_of("train"))
    arrow = pq.read_table(folder / "out.parquet")
    assert arrow.column_names == ["image", "split", *NAMES]
    assert {str(arrow.schema.field(name).type) for name in NAMES} == {"uint8"}


def test_its_metadata_say_what_it_is(table: SplitTable, folder: Path) -> None:
    path = folder / "out.parquet"
    write_split(path, table)
    assert read_metadata(path) == {
        "kind": "custom",
        "procedure": table.procedure,
        "fingerprint": table.fingerprint,
        "version": pgsearch.__version__,
    }
    problems = Problems()
    again = read_split(path, root=None, problems=problems)
    assert not problems
    assert again.fingerprint == table.fingerprint
    assert again.images == table.images
    assert read_metadata(folder / "m.csv") == {}
    (folder / "no.parquet").write_bytes(b"no")
    assert read_metadata(folder / "no.parquet") == {}


def test_the_fingerprint_tells_classes_images_splits_labels_and_order(table: SplitTable) -> None:
    fields = {name: getattr(table, name) for name in table.__dataclass_fields__}
    targets_NC = table.targets_NC.copy()
    targets_NC[0, 0] ^= 1
    splits_N = table.splits_N.copy()
    splits_N[0] = "test"
    order = random.Random(1).sample(range(len(table.images)), len(table.images))
    changes = [
        {"class_names": ("cat", "dog", "pig")},
        {"images": ("other.png", *table.images[1:])},
        {"splits_N": splits_N},
        {"targets_NC": targets_NC},
        {
            "images": tuple(table.images[n] for n in order),
            "splits_N": table.splits_N[order],
            "targets_NC": table.targets_NC[order],
        },
    ]
    prints = {SplitTable(**{**fields, **change}).fingerprint for change in changes}
    assert len(prints | {table.fingerprint}) == 6
    assert SplitTable(**{**fields, "procedure": "other"}).fingerprint == table.fingerprint


def test_a_failed_write_leaves_the_old_manifest(
    table: SplitTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "out.parquet"
    path.write_bytes(b"old")

    def full(table: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_split(path, table)
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in folder.glob("*out.parquet*")) == ["out.parquet"]


def test_a_class_with_the_name_of_a_column_is_refused(table: SplitTable, folder: Path) -> None:
    fields = {name: getattr(table, name) for name in table.__dataclass_fields__}
    bad = SplitTable(**{**fields, "class_names": ("cat", "split", "image")})
    with pytest.raises(InvalidData, match=r"a class 'split'.*\n.*a class 'image'"):
        write_split(folder / "out.parquet", bad)
    assert not (folder / "out.parquet").exists()


# ---------------------------------------------------------------- problems


def test_count_problems_end_with_what_to_do() -> None:
    table = choose_published(TOY, POOL, TEST, ids=(1, 2, 3, 4))
    *classes, remedy = count_problems(TOY, table, source="voc_lt.parquet")
    assert classes
    assert all(line.startswith("voc_lt.parquet: ") for line in classes)
    assert remedy.startswith("voc_lt.parquet: this is not TOY as published; use the complete")
    assert "--allow-other-counts" in remedy


def test_training_problems_name_empty_classes_and_splits() -> None:
    table = choose_published(TOY, POOL, images(0), ids=(0,))
    problems = training_problems(table, source="x")
    assert "no row has the split 'test'" in problems[0]
    assert len(problems) == 4  # with one image, each class is in none or in all
    assert all("of 1 training images" in problem for problem in problems[1:])


def test_an_image_that_training_could_not_use_does_not_pass(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "a.tif")  # whole, but its range is not known
    problems = Problems()
    check_images([tmp_path / "a.tif"], problems)
    with pytest.raises(InvalidData, match="mode F"):
        problems.raise_if_any()


def test_only_whole_images_pass(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8))
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg", "f.png")]
    noise.save(paths[0])
    noise.convert("CMYK").save(paths[1])
    noise.save(paths[2])
    noise.save(paths[3], progressive=True)
    whole = paths[0].read_bytes()
    paths[4].write_bytes(whole[: len(whole) * 9 // 10])
    paths[5].write_bytes(paths[2].read_bytes()[:-400])
    for path in paths[:4]:
        assert path.stat().st_size > 1000
    calls: list[tuple[int, int]] = []
    problems = Problems()
    check_images([*paths, tmp_path / "none.jpg"], problems, progress=lambda *c: calls.append(c))
    with pytest.raises(InvalidData) as caught:
        problems.raise_if_any()
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        str(path) for path in (paths[4], paths[5], tmp_path / "none.jpg")
    ]
    assert "truncated" in caught.value.problems[0]
    assert calls[-1] == (7, 7)
