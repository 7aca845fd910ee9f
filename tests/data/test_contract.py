"""What every data set keeps to, whatever it is made of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgsearch.data import MultiLabelDataset, digits, load_digits_scenes, load_manifest, manifest
from tests.data.conftest import CLASS_NAMES, Row, write_csv

Loader = Callable[[Path], MultiLabelDataset]


@pytest.fixture(params=["digits", "csv columns", "csv list", "parquet columns", "parquet list"])
def loader(request: pytest.FixtureRequest, folder: Path, good_rows: list[Row]) -> Loader:
    """Loads a data set into the given cache."""
    if request.param == "digits":
        return lambda cache_dir: load_digits_scenes(
            cache_dir=cache_dir, max_count=60, num_validation=20, num_test=30
        )
    kind, labels = request.param.split()
    rows = good_rows if labels == "columns" else [_with_label_list(row) for row in good_rows]
    path = folder / f"manifest.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif labels == "list":
        write_csv(path, [row | {"labels": ";".join(row["labels"])} for row in rows])
    else:
        write_csv(path, rows)
    return lambda cache_dir: load_manifest(
        path,
        root=None,
        image_size=16,
        validation_fraction=0.25,
        split_seed=0,
        cache_dir=cache_dir,
        class_names=CLASS_NAMES,
    )


def _with_label_list(row: Row) -> Row:
    labels = [name for name in CLASS_NAMES if row[name]]
    return {"image": row["image"], "split": row["split"], "labels": labels}


def _splits(dataset: MultiLabelDataset) -> list:
    return [dataset.train, dataset.validation, dataset.test]


def test_splits_are_square_rgb_images_with_a_row_of_0_and_1_each(
    loader: Loader, cache_dir: Path
) -> None:
    dataset = loader(cache_dir)
    side = dataset.image_size
    assert side > 0
    for split in _splits(dataset):
        assert split.num_images == len(split.ids) > 0
        assert split.images_NHWC.shape == (split.num_images, side, side, 3)
        assert split.images_NHWC.dtype == np.uint8
        assert split.targets_NC.shape == (split.num_images, dataset.num_classes)
        assert split.targets_NC.dtype == np.uint8
        assert set(np.unique(split.targets_NC)) == {0, 1}


def test_images_are_mapped_read_only(loader: Loader, cache_dir: Path) -> None:
    for split in _splits(loader(cache_dir)):
        assert isinstance(split.images_NHWC, np.memmap)
        assert not split.images_NHWC.flags.writeable


def test_no_image_is_in_two_splits(loader: Loader, cache_dir: Path) -> None:
    ids = [image_id for split in _splits(loader(cache_dir)) for image_id in split.ids]
    assert len(set(ids)) == len(ids)


def test_counts_are_of_train_and_every_class_can_be_learned(
    loader: Loader, cache_dir: Path
) -> None:
    dataset = loader(cache_dir)
    counts = [int(sum(column)) for column in zip(*dataset.train.targets_NC.tolist(), strict=True)]
    assert dataset.class_counts_C.tolist() == counts
    assert len(dataset.class_names) == dataset.num_classes == len(counts)
    assert all(0 < count < dataset.train.num_images for count in counts)
    dataset.check()


def test_two_builds_agree_in_every_byte(loader: Loader, tmp_path: Path) -> None:
    first, second = loader(tmp_path / "a"), loader(tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    for one, other in zip(_splits(first), _splits(second), strict=True):
        assert one.ids == other.ids
        np.testing.assert_array_equal(one.targets_NC, other.targets_NC)
        np.testing.assert_array_equal(one.images_NHWC, other.images_NHWC)


def test_a_second_load_reads_the_cache(
    loader: Loader, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loader(cache_dir)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(digits, "_draw_scene", never)
    monkeypatch.setattr(manifest, "decode_image", never)
    second = loader(cache_dir)
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.train.images_NHWC, second.train.images_NHWC)


def test_what_a_killed_builder_left_is_not_read(loader: Loader, cache_dir: Path) -> None:
    whole = loader(cache_dir)
    (entry,) = (path for path in cache_dir.iterdir() if path.is_dir())
    left = entry.with_name(f".{entry.name}.0123.partial")
    entry.rename(left)
    (left / "arrays.json").unlink()

    again = loader(cache_dir)
    np.testing.assert_array_equal(again.test.images_NHWC, whole.test.images_NHWC)
    assert [path.name for path in cache_dir.iterdir() if path.is_dir()] == [entry.name]
