"""Data that means harm: names, tables and images are refused in one line, or do nothing at all."""

import hashlib
import io
import json
import os
import pickle
import struct
import threading
import time
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from pgsearch.data import MultiLabelDataset, image_files
from pgsearch.data.cache import ArrayPlan, cached_arrays
from pgsearch.data.choose import read_ids
from pgsearch.data.class_names import class_name_problems
from pgsearch.data.coco import read_coco
from pgsearch.data.dataset import Split
from pgsearch.data.image_check import check_images
from pgsearch.data.image_files import UnreadableImage, decode_image
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages
from pgsearch.data.split import SplitTable, read_metadata, read_split, write_split
from pgsearch.data.voc import read_voc
from pgsearch.errors import InvalidData
from pgsearch.results.scores import ImageScores, write_scores
from pgsearch.results.storage import stored_file
from tests import hostile
from tests.data.conftest import Row, write_csv
from tests.data.test_coco import coco_document, write_coco

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(12),
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("little_memory"),
]

Load = Callable[..., MultiLabelDataset]


def refused(load: Callable[[], object], error: type[Exception] = InvalidData) -> str:
    """The message of what is refused, once it is known to do no harm itself."""
    return "\n".join(hostile.refused(load, error))


# ------------------------------------------------------------------ class names

HOSTILE_NAMES = [
    "", " ", "\u3000", "\u200b", "\u200f", 201 * "x", 10_000 * "x", "a\0b", "a\nb", "a\tb", "a\rb",
    "a\x1b[2Jb", "\x1b]0:a\x07", "a\x7fb", "a\x85b", "a\u2028b", "\u202eevil", "a\u2066b",
]  # fmt: skip
SURROGATE = "a\ud800b"
ODD_NAMES = [
    "[bold]x[/]", "[/]", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "a_b&c%", "score.x",
    "target.x", "$x$", r"$\frac{", r"\n", 'a"b', "a'b", "%s{0}{x}", "../x", "/etc/x", "None", "nan",
    "0", "é", "e\u0302", "π", "😀", "👩\u200d🔬", "می\u200cخواهم", "שלום", "日本　語", 200 * "x",
]  # fmt: skip


def _columns(rows: list[Row], name: str) -> list[Row]:
    return [{(name if key == "cat" else key): value for key, value in row.items()} for row in rows]


def _lists(rows: list[Row], name: str) -> list[Row]:
    return [
        {
            "image": row["image"],
            "split": row["split"],
            "labels": [new for old, new in (("cat", name), ("dog", "dog")) if row[old]],
        }
        for row in rows
    ]


def _manifest(folder: Path, rows: list[Row], kind: str, name: str) -> Path:
    rows = _columns(rows, name) if "columns" in kind else _lists(rows, name)
    path = folder / f"manifest.{kind.split()[0]}"
    if "parquet" in kind:
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif "list" in kind:
        write_csv(path, [row | {"labels": ";".join(row["labels"])} for row in rows])
    else:
        write_csv(path, rows)
    return path


KINDS = ["csv columns", "parquet columns", "csv list", "parquet list"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name[:12]))
def test_a_class_name_that_does_not_show_is_refused(
    load: Load, folder: Path, good_rows: list[Row], kind: str, name: str
) -> None:
    if kind == "csv list" and not name.strip():
        pytest.skip("between two semicolons it is no label")
    path = _manifest(folder, good_rows, kind, name)
    said = refused(lambda: load(path))
    found = name.strip() if kind.startswith("csv") else name
    assert str(path) in said
    assert ", column 3: " in said or ", line " in said or ", row " in said
    assert repr(found)[:70].rstrip("'") in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:12]))
def test_an_odd_class_name_is_kept_as_it_is(
    load: Load, folder: Path, good_rows: list[Row], kind: str, name: str
) -> None:
    if kind == "csv list" and ";" in name:
        pytest.skip("it is two labels")
    dataset = load(_manifest(folder, good_rows, kind, name))
    dataset.check()
    assert name in dataset.class_names
    scores = folder / "scores.parquet"
    logits_NC = np.zeros(dataset.test.targets_NC.shape, np.float32)
    images = ImageScores(dataset.test.ids, dataset.test.targets_NC, logits_NC)
    write_scores(stored_file(scores), {"test": images}, dataset.class_names)
    columns = pq.read_table(scores).column_names
    assert columns[2:] == [
        f"{kind}.{c}" for kind in ("score", "target") for c in dataset.class_names
    ]
    assert len(set(columns)) == len(columns)
    table = SplitTable(
        kind="", procedure="", class_names=dataset.class_names, images=dataset.test.ids,
        splits_N=np.repeat("test", dataset.test.num_images), targets_NC=dataset.test.targets_NC,
    )  # fmt: skip
    write_split(folder / "again.parquet", table)
    again = read_split(folder / "again.parquet", root=None, problems=Problems())
    assert again.class_names == dataset.class_names
    assert again.fingerprint == table.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_class_names_that_look_the_same_are_refused(
    load: Load, folder: Path, good_rows: list[Row], kind: str
) -> None:
    rows = [{("e\u0301" if k == "dog" else k): v for k, v in row.items()} for row in good_rows]
    if "list" in kind:
        for row, old in zip(rows, good_rows, strict=True):
            labels = (["é"] if old["cat"] else []) + (["e\u0301"] if old["dog"] else [])
            row.clear()
            row |= {"image": old["image"], "split": old["split"], "labels": labels}
        path = folder / f"m.{kind.split()[0]}"
        if "csv" in kind:
            write_csv(path, [row | {"labels": ";".join(row["labels"])} for row in rows])
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path = _manifest(folder, rows, kind, "é")
    said = refused(lambda: load(path))
    assert r"'e\u0301'" in said
    assert r"'\xe9'" in said
    assert "rename one" in said


@pytest.mark.parametrize("name", [*HOSTILE_NAMES[1:], SURROGATE], ids=lambda n: ascii(n[:12]))
def test_a_category_of_coco_is_a_class_name_too(tmp_path: Path, name: str) -> None:
    document = coco_document({1: [1]}, {1: name})
    write_coco(tmp_path, "train2017", document)
    problems = Problems()
    read_coco(tmp_path, image_set="train2017", problems=problems)
    if set(name) == {" "}:
        assert not problems  # as published, spaces are "_"
    else:
        assert "the class name" in refused(problems.raise_if_any)


def test_categories_of_coco_that_end_as_one_name(tmp_path: Path) -> None:
    document = coco_document({1: [1]}, {1: "hot dog", 2: "hot_dog"})
    write_coco(tmp_path, "train2017", document)
    problems = Problems()
    read_coco(tmp_path, image_set="train2017", problems=problems)
    assert "'hot_dog' is there before" in refused(problems.raise_if_any)


@pytest.mark.parametrize(
    "names",
    [("a\x1b[2Jb", "dog"), ("dog", "dog"), ("é", "e\u0301"), (3, "dog"), (None, "dog"), ("", "x")],
    ids=ascii,
)
def test_every_data_set_keeps_to_the_rule(names: tuple[Any, ...]) -> None:
    targets_NC = np.array([[0, 1], [1, 0]], np.uint8)
    split = Split(np.zeros((2, 8, 8, 3), np.uint8), targets_NC, ("0", "1"))
    dataset = MultiLabelDataset("own", names, split, split, split, "")
    assert "own, class " in refused(dataset.check)


@settings(deadline=None)
@given(names=st.lists(st.text(st.characters(codec=None), max_size=5), unique=True, max_size=8))
def test_names_are_refused_or_show(names: list[str]) -> None:
    problems = class_name_problems((f"class {c}", name) for c, name in enumerate(names))
    for problem in problems:
        assert not [c for c in problem if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    if not problems:
        assert all(name.strip() for name in names)
        assert len({unicodedata.normalize("NFC", name) for name in names}) == len(names)
        json.dumps(names, ensure_ascii=False).encode()


def test_many_classes_take_no_more_time_than_they_must(load: Load, folder: Path) -> None:
    names = [f"c{n}" for n in range(60_000)]
    path = folder / "m.csv"
    for header, expected in ((names, "more: label"), (["c"] * 60_000, "60000 times")):
        path.write_text(",".join(["image", "split", *header]) + "\n0.png,train" + ",2" * 60_000)
        assert expected in refused(lambda: load(path))


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    "image",
    ["", " ", ".", "..", "../x.png", "a/../../x.png", "/etc/passwd", "~/x.png", "a\0b", 5_000 * "x",
     3_000 * "x/", "pipe", "zero", "loop", "folder", "unseen\x1b[2J.png", "\u202egnp.x", "a\nb"],
    ids=lambda image: ascii(image[:12]),
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv columns", "parquet columns"])
def test_an_image_is_a_file_under_the_root(
    load: Load, folder: Path, good_rows: list[Row], image: str, kind: str
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder.parent / "x.png").write_bytes((folder / "0.png").read_bytes())
    for name in ("unseen\x1b[2J.png", "\u202egnp.x"):
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    before = sorted(folder.parent.iterdir())
    good_rows[3]["image"] = image
    path = _manifest(folder, good_rows, kind, "cat")
    said = refused(lambda: load(path))
    assert f"{path}, " in said
    assert repr(image)[:60].rstrip("'") in said
    assert sorted(folder.parent.iterdir()) == before  # nothing was written, no cache either


def test_absolute_paths_inside_the_root_and_links_are_fine(
    load: Load, folder: Path, good_rows: list[Row]
) -> None:
    elsewhere = folder.parent / "elsewhere.png"
    (folder / "0.png").rename(elsewhere)
    (folder / "0.png").symlink_to(elsewhere)
    good_rows[1]["image"] = str(folder / "1.png")
    good_rows[2]["image"] = "./a/../2.png"
    dataset = load(write_csv(folder / "m.csv", good_rows))
    assert {"0.png", "1.png", "2.png"} <= {*dataset.train.ids, *dataset.validation.ids}


SPECIAL = ["pipe", "zero", "loop", "folder", "absent"]


def _special(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.symlink_to({"zero": "/dev/zero", "loop": path.name}[kind])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_manifest_is_a_regular_file(load: Load, tmp_path: Path, suffix: str, kind: str) -> None:
    path = _special(tmp_path / f"m{suffix}", kind)
    assert "does not exist or is no file" in refused(lambda: load(path))
    assert read_metadata(path) == {}


@pytest.mark.parametrize("name", [5_000 * "x", "a\0", "\ud800", "\x1b[2J"], ids=ascii)
def test_a_manifest_has_a_path(load: Load, tmp_path: Path, name: str) -> None:
    assert "does not exist" in refused(lambda: load(tmp_path / f"{name}.csv"))


@pytest.mark.parametrize("kind", SPECIAL)
def test_lists_and_annotations_are_regular_files(tmp_path: Path, kind: str) -> None:
    lists = tmp_path / "VOC2012" / "ImageSets" / "Main"
    annotations = tmp_path / "VOC2012" / "Annotations"
    for folder in (lists, annotations, tmp_path / "annotations"):
        folder.mkdir(parents=True)
    (lists / "good.txt").write_text("a\n")
    _special(lists / "bad.txt", kind)
    _special(annotations / "a.xml", kind)
    _special(tmp_path / "annotations" / "instances_bad.json", kind)
    _special(tmp_path / "ids", kind)
    none = np.zeros((0, 1), np.uint8)
    pool = LabelledImages(("a",), (), (), none, np.zeros(0, np.int64))
    for read in (
        lambda found: read_voc(tmp_path, year=2012, image_set="bad", problems=found),
        lambda found: read_voc(tmp_path, year=2012, image_set="good", problems=found),
        lambda found: read_coco(tmp_path, image_set="bad", problems=found),
        lambda found: read_ids(tmp_path / "ids", pool, found),
    ):
        problems = Problems()
        read(problems)
        assert "cannot be read" in refused(problems.raise_if_any)


@pytest.mark.parametrize("number", ["1e400", "1" + 400 * "0", "1" + 5_000 * "0", "NaN"])
@pytest.mark.parametrize("field", ["area", "bbox", "id"])
def test_numbers_of_coco_have_an_end(tmp_path: Path, field: str, number: str) -> None:
    write_coco(tmp_path, "train2017", coco_document({1: [1]}, {1: "cat"}))
    path = tmp_path / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    where = document["images"][0] if field == "id" else document["annotations"][0]
    where[field] = ["MARK", 0, 2, 2] if field == "bbox" else "MARK"
    path.write_text(json.dumps(document).replace('"MARK"', number))
    problems = Problems()
    read_coco(tmp_path, image_set="train2017", problems=problems)
    assert str(path) in refused(problems.raise_if_any)


def _table(rows: list[Row], **columns: pa.Array) -> pa.Table:
    table = pa.Table.from_pylist(rows)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


COLUMNS: dict[str, dict[str, pa.Array]] = {
    "text that is not UTF-8": {"split": pa.array(12 * [b"\xff"]).view(pa.string())},
    "a path that is not UTF-8": {"image": pa.array(12 * [b"\xff"]).view(pa.string())},
    "a day that does not exist": {
        "split": pa.array(12 * [2**31 - 1], pa.int32()).cast(pa.date32())
    },
    "bytes": {"split": pa.array(12 * [b"\xff\x1b[2J"])},
    "a mapping": {"cat": pa.array(12 * [[("a", 1)]], pa.map_(pa.string(), pa.int64()))},
    "nothing": {"cat": pa.nulls(12)},
    "no number": {"cat": pa.array(12 * [float("nan")])},
    "a long text": {"split": pa.array(12 * [100_000 * "x"])},
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_of_parquet_may_hold_anything(
    load: Load, folder: Path, good_rows: list[Row], case: str
) -> None:
    pq.write_table(_table(good_rows, **COLUMNS[case]), folder / "m.parquet")
    assert str(folder / "m.parquet") in refused(lambda: load(folder / "m.parquet"))


def test_a_small_parquet_of_many_rows_is_refused(load: Load, folder: Path) -> None:
    rows = pa.table(
        {
            "image": pa.DictionaryArray.from_arrays(pa.array(1_000_000 * [0], pa.int32()), ["a"]),
            "cat": pa.array(np.zeros(1_000_000, np.uint8)),
        }
    )
    with pq.ParquetWriter(folder / "m.parquet", rows.schema) as writer:
        for _ in range(11):
            writer.write_table(rows)
    assert (folder / "m.parquet").stat().st_size < 100_000
    assert "11,000,000 rows, and 10,000,000" in refused(lambda: load(folder / "m.parquet"))


def test_a_small_parquet_of_long_texts_is_refused(load: Load, folder: Path) -> None:
    index = pa.array(20_000 * [0], pa.int32())
    columns = {
        "image": pa.DictionaryArray.from_arrays(index, ["a"]),
        "split": pa.DictionaryArray.from_arrays(index, [300_000 * "x"]),
        "cat": pa.array(20_000 * [0]),
    }
    pq.write_table(pa.table(columns), folder / "m.parquet")
    assert "not a whole Parquet file of a manifest: " in refused(lambda: load(folder / "m.parquet"))


def test_a_million_bad_cells_are_counted_not_kept(load: Load, folder: Path) -> None:
    (folder / "m.csv").write_text("image,split,cat\n" + 30_000 * f"{100 * 'x'},{100 * 'y'},z\n")
    said = refused(lambda: load(folder / "m.csv"))
    assert "... and 29980 more: label" in said
    assert len(said) < 50_000


# ------------------------------------------------------------------ pickles


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pkl"])
def test_a_pickle_is_no_manifest(
    load: Load, tmp_path: Path, payload: hostile.Payload, suffix: str
) -> None:
    (tmp_path / f"m{suffix}").write_bytes(pickle.dumps(payload))
    refused(lambda: load(tmp_path / f"m{suffix}"))


EXTENSIONS = ["arrow.py_extension_type", "arrow.opaque", "pandas.period", "pandas.interval", "own"]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_pickles_in_the_metadata_of_parquet_are_not_read(
    load: Load, folder: Path, good_rows: list[Row], payload: hostile.Payload, extension: str
) -> None:
    table = pa.Table.from_pylist(good_rows)
    index = table.schema.get_field_index("cat")
    field = table.schema.field(index).with_metadata(
        {"ARROW:extension:name": extension, "ARROW:extension:metadata": pickle.dumps(payload)}
    )
    schema = table.schema.set(index, field).with_metadata(
        {key: pickle.dumps(payload) for key in ("pandas", "pgsearch.kind", "ARROW:schema")}
        | {b"\xff": b"\xff"}
    )
    path = folder / "m.parquet"
    pq.write_table(table.cast(schema), path)
    read_metadata(path)
    try:
        load(path)
    except InvalidData:
        assert str(path) in refused(lambda: load(path))


PLAN = {"images": ArrayPlan((4,), "int64")}


def _forged_entry(cache_dir: Path, array: bytes) -> Path:
    """An entry of the cache whose contents file is right about the bytes of a hostile array."""
    entry = cache_dir / "key"
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "images.npy").write_bytes(array)
    arrays = {"images": {"shape": [4], "dtype": "int64", "file_bytes": len(array)}}
    digest = hashlib.sha256(json.dumps(arrays).encode()).hexdigest()
    (entry / "arrays.json").write_text(json.dumps({"arrays": arrays, "sha256": digest}))
    return entry


def _require_built_anew(cache_dir: Path) -> None:
    arrays = cached_arrays(
        cache_dir, "key", plan=PLAN, build=lambda: [{"images": np.arange(4, dtype=np.int64)}]
    )
    assert arrays["images"].tolist() == [0, 1, 2, 3]


def _saved_objects(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(4 * [hostile.Payload(mark)], dtype=object), allow_pickle=True)
    return file.getvalue()


def _saved_archive(mark: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.array(4 * [hostile.Payload(mark)], dtype=object), allow_pickle=True)
    return file.getvalue()


def _as_integers(mark: Path) -> bytes:
    return _saved_objects(mark).replace(b"'|O'", b"'<i8'")


@pytest.mark.parametrize(
    "forge",
    [
        lambda mark: pickle.dumps(hostile.Payload(mark)),
        _saved_objects,
        _saved_archive,
        _as_integers,
    ],
    ids=["pickle", "objects", "archive", "objects as integers"],
)
def test_a_forged_array_of_the_cache_is_built_anew(
    cache_dir: Path, tmp_path: Path, forge: Callable[[Path], bytes]
) -> None:
    _forged_entry(cache_dir, forge(tmp_path / "pwned"))
    if forge is _as_integers:  # numbers, whatever their bytes were: nothing that can run
        entry = _forged_entry(cache_dir, forge(tmp_path / "pwned"))
        assert np.load(entry / "images.npy").dtype == np.int64
    else:
        _require_built_anew(cache_dir)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "contents",
    [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000, b"\xff\xfe", b"null", b" " * 2_000_000],
    ids=["deep list", "deep mapping", "number", "no text", "null", "long"],
)
def test_a_forged_contents_file_is_built_anew(cache_dir: Path, contents: bytes) -> None:
    entry = _forged_entry(cache_dir, b"")
    (entry / "arrays.json").write_bytes(contents)
    _require_built_anew(cache_dir)


@pytest.mark.parametrize("name", ["arrays.json", "images.npy"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "loop", "folder"])
def test_a_file_of_the_cache_that_is_none_is_built_anew(
    cache_dir: Path, name: str, kind: str
) -> None:
    entry = _forged_entry(cache_dir, b"")
    (entry / name).unlink()
    _special(entry / name, kind)
    _require_built_anew(cache_dir)


# ------------------------------------------------------------------ images


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (width + 1)) * height) if pixels is None else pixels
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _gif(screen: int, side: int) -> bytes:
    image = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\0;"
    return b"GIF89a" + struct.pack("<HH", screen, screen) + b"\x80\0\0" + b"\0" * 6 + image


def _jpeg_of_many_passes() -> bytes:
    """Each pass over 16 million pixels takes 10 bytes of the file."""
    data = _saved(Image.new("L", (4000, 4000), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    header = data[last : last + 2 + struct.unpack(">H", data[last + 2 : last + 4])[0]]
    return data[:-2] + 1_200 * header + b"\xff\xd9"


def _jpeg_of_many_exif_blocks() -> bytes:
    data = _saved(Image.new("L", (8, 8)), "JPEG")
    block = b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0" + b"MM\0*"
    return data[:2] + 101 * block + data[2:]


IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 50,000 a side": (lambda: _png(50_000, 50_000, pixels=b""), "at most 89,478,485 pixels"),
    "PNG just too large": (lambda: _png(9_460, 9_460, pixels=b""), "at most 89,478,485 pixels"),
    "GIF of 65,535 a side": (lambda: _gif(65_535, 65_535), "at most 89,478,485 pixels"),
    "GIF larger than its screen": (lambda: _gif(1, 65_535), "at most 89,478,485 pixels"),
    "TIFF of 60,000 a side": (
        lambda: (
            _saved(Image.new("L", (1_001, 1_003)), "TIFF")
            .replace(struct.pack("<I", 1_001), struct.pack("<I", 60_000))
            .replace(struct.pack("<I", 1_003), struct.pack("<I", 60_000))
        ),
        "at most 89,478,485 pixels",
    ),
    "BMP without its pixels": (
        lambda: (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 9000, 9000, 1, 24, *6 * [0])
        ),
        "truncated",
    ),
    "PPM without its pixels": (lambda: b"P6 9000 9000 255\n", "truncated"),
    "JPEG of many passes": (_jpeg_of_many_passes, "passes over them"),
    "JPEG of many EXIF blocks": (_jpeg_of_many_exif_blocks, "blocks of EXIF"),
    "a text that unpacks": (
        lambda: _png(8, 8, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 20_000_000))),
        "must be whole",
    ),
    "texts that unpack": (
        lambda: _png(
            8, 8, extra=100 * _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 1_000_000))
        ),
        "must be whole",
    ),
    "a profile that unpacks": (
        lambda: _png(8, 8, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 20_000_000))),
        "must be whole",
    ),
    "nothing": (lambda: b"", "cannot be recognised"),
    "a pickle": (lambda: pickle.dumps([1]), "cannot be recognised"),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot be recognised"),
    "PDF": (lambda: b"%PDF-1.4\n", "cannot be recognised"),
    "JPEG 2000": (lambda: _saved(Image.new("L", (8, 8)), "JPEG2000"), "cannot be recognised"),
    "ICO": (lambda: _saved(Image.new("L", (16, 16)), "ICO"), "cannot be recognised"),
}


def _decode(path: Path) -> None:
    decode_image(path, image_size=16)


def _check(path: Path) -> None:
    problems = Problems()
    check_images([path], problems)
    problems.raise_if_any()


READERS = pytest.mark.parametrize(
    ("read", "error"), [(_decode, UnreadableImage), (_check, InvalidData)], ids=["decode", "check"]
)


@READERS
@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_hostile_image_is_refused(
    tmp_path: Path, case: str, read: Callable[[Path], None], error: type[Exception]
) -> None:
    make, expected = IMAGES[case]
    (tmp_path / "a.jpg").write_bytes(make())
    assert expected in refused(lambda: read(tmp_path / "a.jpg"), error)


@READERS
@pytest.mark.parametrize("kind", SPECIAL)
def test_an_image_is_a_regular_file(
    tmp_path: Path, kind: str, read: Callable[[Path], None], error: type[Exception]
) -> None:
    path = _special(tmp_path / "a.jpg", kind)
    assert "must be a readable file" in refused(lambda: read(path), error)


@READERS
def test_a_huge_file_is_refused_unread(
    tmp_path: Path, read: Callable[[Path], None], error: type[Exception]
) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(100 * 2**30)
    assert "more than 715,827,880 bytes" in refused(lambda: read(tmp_path / "a.jpg"), error)


@READERS
@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%!PS\n"])
def test_no_image_is_run_by_ghostscript(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: bytes,
    read: Callable[[Path], None],
    error: type[Exception],
) -> None:
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.jpg").write_bytes(start + b"%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "cannot be recognised" in refused(lambda: read(tmp_path / "a.jpg"), error)
    assert not (tmp_path / "pwned").exists()


@READERS
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_much_that_is_said_about_an_image_does_not_matter(
    tmp_path: Path, read: Callable[[Path], None], error: type[Exception]
) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 65_000
    profile = b"\xff" * 10_000_000
    image = Image.new("L", (8, 8))
    (tmp_path / "a.jpg").write_bytes(
        _saved(image, "JPEG", exif=exif, icc_profile=profile[:900_000])
    )
    begun = time.process_time()
    read(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(_png(8, 8, extra=_chunk(b"eXIf", b"MM\0*" + profile)))
    read(tmp_path / "a.jpg")
    assert time.process_time() - begun < hostile.MAX_SECONDS


def test_threads_decode_only_what_fits_into_memory_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = image_files._Room(100)
    monkeypatch.setattr(image_files, "_ROOM", room)
    now: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def watch(image: Image.Image) -> Image.Image:
        with lock:
            now.append(image.width * image.height)
            most.append(sum(now))
        time.sleep(0.005)
        with lock:
            now.remove(image.width * image.height)
        return image.convert("RGB")

    monkeypatch.setattr(image_files, "_to_rgb", watch)
    paths = []
    for n in range(24):
        paths.append(tmp_path / f"{n}.png")
        Image.new("L", (10, 1 + 3 * (n % 4))).save(paths[-1])  # 10, 40, 70 and 100 pixels
    problems = Problems()
    check_images(paths, problems)
    assert not problems
    assert max(most) <= 100
    assert len(most) == 24
