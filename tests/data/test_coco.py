import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgsearch.data.coco import read_coco
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages
from pgsearch.data.published import COCO_CLASSES
from pgsearch.errors import InvalidData
from tests.data.test_voc import TEST_DATA, needs_data

Document = dict[str, Any]


def annotation(image: int, category: int, **changed: Any) -> dict[str, Any]:
    plain = {
        "image_id": image,
        "category_id": category,
        "area": 9.5,
        "bbox": [0.0, 0.0, 3.0, 3.5],
        "iscrowd": 0,
        "segmentation": [[0.0, 0.0, 3.0, 0.0, 3.0, 3.5]],
    }
    return plain | changed


def coco_document(images: dict[int, list[int]], categories: dict[int, str]) -> Document:
    """Ids of images, each with the category ids of its annotations."""
    return {
        "info": {},
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": 48, "height": 40} for n in images
        ],
        "annotations": [annotation(n, c) for n, labels in images.items() for c in labels],
        "categories": [{"id": c, "name": name} for c, name in categories.items()],
    }


def write_coco(root: Path, image_set: str, document: Any) -> Path:
    """One set of a COCO folder, with its images. Returns the JSON's path."""
    path = root / "annotations" / f"instances_{image_set}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    (root / image_set).mkdir(exist_ok=True)
    for image in document["images"]:
        Image.new("L", (48, 40), image["id"] % 256).save(root / image_set / image["file_name"])
    return path


CATEGORIES = {11: "fire hydrant", 3: "car", 90: "hair drier"}


@pytest.fixture
def document() -> Document:
    return coco_document({70: [3, 3, 90], 5: [], 20: [11]}, CATEGORIES)


def _read(root: Path) -> LabelledImages:
    problems = Problems()
    images = read_coco(root, image_set="train2017", problems=problems)
    problems.raise_if_any()
    return images


def _problems(root: Path) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        _read(root)
    return caught.value.problems


def test_images_are_in_the_order_of_the_file_and_classes_in_that_of_their_ids(
    tmp_path: Path, document: Document
) -> None:
    write_coco(tmp_path, "train2017", document)
    images = _read(tmp_path)
    assert images.class_names == ("car", "fire_hydrant", "hair_drier")
    assert images.ids == ("70", "5", "20")
    assert images.paths[0] == "train2017/000000000070.jpg"
    assert images.targets_NC.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert images.smaller_sides_N.tolist() == [40, 40, 40]


@pytest.mark.parametrize(
    ("changed", "is_positive"),
    [
        ({"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [40, 48]}}, True),
        ({"area": 0}, False),
        ({"area": 1e-9}, True),
        ({"bbox": [0, 0, 0.99, 30]}, False),
        ({"bbox": [0, 0, 30, 0.99]}, False),
        ({"bbox": [0, 0, 1, 1]}, True),
    ],
)
def test_what_makes_a_class_positive(
    tmp_path: Path, document: Document, changed: dict[str, Any], is_positive: bool
) -> None:
    document["annotations"].append(annotation(5, 11, **changed))
    write_coco(tmp_path, "train2017", document)
    assert _read(tmp_path).targets_NC[1].tolist() == [0, int(is_positive), 0]


def test_one_good_annotation_suffices(tmp_path: Path, document: Document) -> None:
    document["annotations"] += [annotation(5, 11), annotation(5, 11, area=0)]
    write_coco(tmp_path, "train2017", document)
    assert _read(tmp_path).targets_NC[1].tolist() == [0, 1, 0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path)
    assert problem.startswith(
        f"{tmp_path}/annotations/instances_train2017.json: cannot be read: No such file"
    )
    assert "correct --root" in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not JSON"),
        ('{"images": [', "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "has no list 'categories', 'images', 'annotations'"),
        ('{"images": [], "categories": []}', "has no list 'annotations'"),
        ('{"images": {}, "categories": [], "annotations": []}', "has no list 'images'"),
        ('{"images": [], "categories": [], "annotations": []}', "has no usable category"),
    ],
)
def test_a_file_that_is_no_instances_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "annotations/instances_train2017.json"
    path.parent.mkdir()
    path.write_text(text)
    (problem,) = _problems(tmp_path)
    assert problem.startswith(f"{path}: {expected}")


def _set(key: str, number: int, **changed: Any) -> Callable[[Document], None]:
    return lambda document: document[key][number].update(changed)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_set("annotations", 1, image_id=6), "annotations[1]: image_id is 6, which is not among"),
        (_set("annotations", 0, category_id=4), "annotations[0]: category_id is 4, which is not"),
        (_set("annotations", 0, image_id="70"), "image_id is '70'; it must be a whole number"),
        (_set("annotations", 0, area=None), "annotations[0]: area is None; it must be a number"),
        (_set("annotations", 0, area=float("nan")), "area is nan; it must be a number"),
        (_set("annotations", 0, bbox=[1, 2, 3]), "bbox is [1, 2, 3]; it must be four numbers"),
        (_set("images", 0, file_name="../x.jpg"), "images[0]: file_name is '../x.jpg'; it must"),
        (_set("images", 0, width=0), "images[0]: width is 0; it must be a number of pixels"),
        (_set("images", 1, id=70), "images[1]: id 70 came before"),
        (_set("images", 1, file_name="000000000070.jpg"), "file_name '000000000070.jpg' came bef"),
        (_set("categories", 1, id=True), "categories[1]: id is True; it must be a whole number"),
        (_set("categories", 1, name="hair drier"), "name 'hair drier' came before"),
        (lambda d: d["images"][0].pop("height"), "images[0]: height is missing; it must be"),
        (lambda d: d["annotations"].append(7), "annotations[4]: is '7'; an entry is an object"),
    ],
)
def test_a_bad_entry_is_named(
    tmp_path: Path, document: Document, damage: Callable[[Document], None], expected: str
) -> None:
    path = write_coco(tmp_path, "train2017", document)
    damage(document)
    path.write_text(json.dumps(document))
    problems = _problems(tmp_path)
    assert any(problem.startswith(f"{path}, ") and expected in problem for problem in problems)


def test_all_problems_are_listed_at_once(tmp_path: Path, document: Document) -> None:
    path = write_coco(tmp_path, "train2017", document)
    document["annotations"][0]["image_id"] = document["annotations"][1]["image_id"] = 6
    document["images"][2]["width"] = None
    path.write_text(json.dumps(document))
    text = "\n".join(_problems(tmp_path))
    for place in ("annotations[0]", "annotations[1]", "images[2]"):
        assert place in text


@needs_data
@pytest.mark.parametrize(("image_set", "part"), [("train2017", "train"), ("val2017", "test")])
def test_real_annotations_give_the_published_labels(image_set: str, part: str) -> None:
    facts = json.loads((TEST_DATA / "coco_lt.json").read_text())
    ids = map(str, facts[f"{part}_image_ids"])
    labels_of = dict(zip(ids, facts[f"{part}_label_indices"], strict=True))
    problems = Problems()
    images = read_coco(TEST_DATA / "coco_mini", image_set=image_set, problems=problems)
    problems.raise_if_any()
    assert images.class_names == COCO_CLASSES
    known = [n for n, image_id in enumerate(images.ids) if image_id in labels_of]
    assert len(known) >= 5
    for n in known:
        assert np.flatnonzero(images.targets_NC[n]).tolist() == labels_of[images.ids[n]]
