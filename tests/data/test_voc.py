import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages
from pgsearch.data.voc import VOC_CLASSES, read_voc
from pgsearch.errors import InvalidData

TEST_DATA = Path(
    os.environ.get("PGSEARCH_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
)
needs_data = pytest.mark.skipif(
    not (TEST_DATA / "voc_lt.json").is_file(),
    reason=f"no reference data in {TEST_DATA}; PGSEARCH_TEST_DATA names their folder",
)


def voc_xml(names: Sequence[str], size: str = "<width>48</width><height>40</height>") -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>1</difficult>"
        f"<part><name>head</name></part></object>"
        for name in names
    )
    return f"<annotation><size>{size}</size>{objects}</annotation>"


def write_voc(root: Path, year: int, image_set: str, images: Mapping[str, Sequence[str]]) -> Path:
    """One year of a VOCdevkit: ids and the names of their objects. Returns the folder."""
    folder = root / f"VOC{year}"
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{image_set}.txt").write_text("".join(f"{i}\n" for i in images))
    for number, (image_id, names) in enumerate(images.items()):
        (folder / f"Annotations/{image_id}.xml").write_text(voc_xml(names))
        grey = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(grey).save(folder / f"JPEGImages/{image_id}.jpg")
    return folder


POOL = {"2008_2": ["dog", "person", "dog"], "2008_1": ["cat"], "2009_7": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_voc(tmp_path, 2012, "trainval", POOL)


def _read(folder: Path) -> LabelledImages:
    problems = Problems()
    images = read_voc(folder.parent, year=2012, image_set="trainval", problems=problems)
    problems.raise_if_any()
    return images


def _problems(folder: Path) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        _read(folder)
    return caught.value.problems


def test_images_come_in_the_order_of_the_list_with_all_objects(folder: Path) -> None:
    images = _read(folder)
    assert images.ids == ("2008_2", "2008_1", "2009_7")
    assert images.paths[0] == "VOC2012/JPEGImages/2008_2.jpg"
    names = [[VOC_CLASSES[c] for c in np.flatnonzero(row)] for row in images.targets_NC]
    assert names == [["dog", "person"], ["cat"], []]  # difficult ones too, parts not
    assert images.smaller_sides_N.tolist() == [40, 40, 40]


def test_progress_counts_to_the_last_file(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    read_voc(
        folder.parent,
        year=2012,
        image_set="trainval",
        problems=Problems(),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_missing_year_and_a_missing_list_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "ImageSets/Main/trainval.txt").unlink()
    assert _problems(folder)[0].startswith(
        f"{folder}/ImageSets/Main/trainval.txt: cannot be read: No such file"
    )
    (problem,) = _problems(tmp_path / "elsewhere/VOC2012")
    assert problem.startswith(f"{tmp_path}/elsewhere/VOC2012: is not a folder; the root is VOCdev")
    assert "correct --root" in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("2008_1\n2008_1\n", "has the id '2008_1' twice"),
        ("2008_1\n../../2008_2\n", "has the line '../../2008_2'; a line is the id"),
        ("2008_1 1\n", "has the line '2008_1 1'"),
    ],
)
def test_a_bad_list_is_named(folder: Path, text: str, expected: str) -> None:
    (folder / "ImageSets/Main/trainval.txt").write_text(text)
    assert any(expected in problem for problem in _problems(folder))


def test_a_list_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "ImageSets/Main/trainval.txt").write_bytes(b"\xff\xfe\x00")
    assert "it is no text" in _problems(folder)[0]


ENTITY_BOMB = (
    '<!DOCTYPE a [<!ENTITY x0 "boom">'
    + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
    + "]><annotation><object><name>&x11;</name></object></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not well-formed XML: no element found"),
        (b"<annotation><object>", "is not well-formed XML"),
        (b'<?xml version="1.0" encoding="no-such"?><annotation/>', "is not well-formed XML"),
        (b"<annotation>\xff</annotation>", "is not well-formed XML"),
        (ENTITY_BOMB.encode(), "declares the document type 'a'"),
        (ENTITY_BOMB.encode("utf-16"), "declares the document type 'a'"),
        (EXTERNAL.encode(), "declares the document type 'a'"),
        (voc_xml(["dog", "Cat", "cow", "zebra"]).encode(), "has objects named 'Cat', 'zebra'; the"),
        (b"<annotation><object/><size><width>9</width><height>9</height></size></annotation>",
         "has objects named ''"),
        (b"<annotation/>", "has '' and '' as size/width and size/height"),
        (voc_xml([], "<width>48</width><height>-1</height>").encode(), "has '48' and '-1' as size"),
    ],
)  # fmt: skip
def test_a_bad_xml_is_named(folder: Path, data: bytes, expected: str) -> None:
    path = folder / "Annotations/2008_1.xml"
    path.write_bytes(data)
    (problem,) = _problems(folder)
    assert problem.startswith(f"{path}: ")
    assert expected in problem
    assert re.search("; (replace|correct) ", problem)


def test_an_endless_xml_is_not_read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsearch.data.voc.MAX_XML_BYTES", 60)
    assert "has more than 60 bytes" in _problems(folder)[0]


def test_all_problems_are_listed_at_once(folder: Path) -> None:
    (folder / "Annotations/2008_1.xml").unlink()
    (folder / "Annotations/2009_7.xml").write_text("<annotation/>")
    missing, unsized = _problems(folder)
    assert missing.startswith(f"{folder}/Annotations/2008_1.xml: cannot be read: No such file")
    assert unsized.startswith(f"{folder}/Annotations/2009_7.xml: has '' and ''")


@needs_data
@pytest.mark.parametrize(("year", "image_set"), [(2012, "trainval"), (2007, "test")])
def test_real_annotations_give_the_published_labels(year: int, image_set: str) -> None:
    problems = Problems()
    root = TEST_DATA / "voc_mini/VOCdevkit"
    images = read_voc(root, year=year, image_set=image_set, problems=problems)
    problems.raise_if_any()
    if year == 2012:
        facts = json.loads((TEST_DATA / "voc2012_trainval_labels.json").read_text())
        labels_of = dict(zip(facts["image_ids"], facts["label_indices"], strict=True))
    else:
        facts = json.loads((TEST_DATA / "voc_lt.json").read_text())
        labels_of = dict(zip(facts["test_image_ids"], facts["test_label_indices"], strict=True))
    assert facts["classes"] == list(images.class_names)
    assert images.num_images == len(images.targets_NC) > 400
    for image_id, targets_C in zip(images.ids, images.targets_NC, strict=True):
        assert np.flatnonzero(targets_C).tolist() == labels_of[image_id]
