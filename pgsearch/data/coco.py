"""COCO as it is distributed: one JSON of instances per set of images.

A class is positive if any annotation of it has an area above 0 and a box of at least 1×1 pixels,
crowds included. Classes are in the order of the category ids, and spaces in their names are "_".
Images are in the order of the JSON, as pycocotools' `getImgIds()` gives them to the published
generator: the published test ids are in that order too.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pgsearch.data.class_names import class_name_problems
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages, is_plain_name
from pgsearch.untrusted import open_file, shown

Entry = dict[str, Any]

MIN_BOX_SIDE: Final = 1.0


def read_coco(root: Path, *, image_set: str, problems: Problems) -> LabelledImages:
    """Read the images of `annotations/instances_SET.json`, in the order of that file.

    What is wrong is added to `problems`; an image with a problem may then lack its labels.

    Args:
        root: the folder that holds `annotations` and the folders of images.
        image_set: name of the set, such as "train2017".
        problems: found so far.
    """
    path = root / "annotations" / f"instances_{image_set}.json"
    document = _read_document(path, problems)
    categories = _by_id(
        "categories", "name", _entries(path, document, "categories", problems), problems
    )
    images = _by_id("images", "file_name", _entries(path, document, "images", problems), problems)
    if document and not categories:
        problems.add(
            "annotations",
            f"{path}: has no usable category; labels are made of categories; extract the archive "
            f"again",
        )
    class_names = {key: categories[key]["name"].replace(" ", "_") for key in sorted(categories)}
    for problem in class_name_problems(
        (f"{path}, category {key}", name) for key, name in class_names.items()
    ):
        problems.add("class name", problem)
    class_of = {category: c for c, category in enumerate(sorted(categories))}
    row_of = {image: n for n, image in enumerate(images)}
    targets_NC = np.zeros((len(row_of), len(class_of)), dtype=np.uint8)
    for place, annotation in _entries(path, document, "annotations", problems):
        n, c = row_of.get(annotation["image_id"]), class_of.get(annotation["category_id"])
        if n is None or c is None:
            key = "image_id" if n is None else "category_id"
            problems.add(
                "unknown id",
                f"{place}: {key} is {annotation[key]}, which is not among the "
                f"{'images' if n is None else 'categories'} of the file; an annotation names ids "
                f"of its file; correct or remove it",
            )
        elif _counts(annotation):
            targets_NC[n, c] = 1
    return LabelledImages(
        class_names=tuple(class_names.values()),
        ids=tuple(str(image) for image in images),
        paths=tuple(f"{image_set}/{image['file_name']}" for image in images.values()),
        targets_NC=targets_NC,
        smaller_sides_N=np.array(
            [min(image["width"], image["height"]) for image in images.values()],
            dtype=np.int64,
        ),
    )


def _counts(annotation: Entry) -> bool:
    _, _, width, height = annotation["bbox"]
    return bool(annotation["area"] > 0 and width >= MIN_BOX_SIDE and height >= MIN_BOX_SIDE)


def _read_document(path: Path, problems: Problems) -> Entry:
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8") as file:
            document = json.load(file, object_hook=_without_outline)
    except OSError as error:
        problems.add(
            "annotations",
            f"{path}: cannot be read: {error.strerror}; the root holds annotations/ with the "
            f"instances of 2017; correct --root, or extract the archive of annotations into it",
        )
        return {}
    except (ValueError, RecursionError) as error:
        problems.add(
            "annotations",
            f"{path}: is not JSON: {error}; COCO's annotations are; extract the archive again",
        )
        return {}
    missing = [key for key in FIELDS if not isinstance(document, dict) or key not in document] or [
        key for key in FIELDS if not isinstance(document[key], list)
    ]
    if missing:
        problems.add(
            "annotations",
            f"{path}: has no list {', '.join(repr(key) for key in missing)}; a file of instances "
            f"has the lists images, annotations and categories; extract the archive again",
        )
        return {}
    result: Entry = document
    return result


def _without_outline(value: Entry) -> Entry:
    """Forget each outline once it is parsed: they are nearly all of a file of 470 MB."""
    value.pop("segmentation", None)
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_side(value: Any) -> bool:
    return _is_id(value) and 0 < value < 10**9


def _is_number(value: Any) -> bool:
    # Not math.isfinite: a whole number of JSON may be too large to be a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(part) for part in value)


FIELDS: Final[Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]]] = {
    "categories": {
        "id": (_is_id, "a whole number"),
        "name": (lambda name: isinstance(name, str) and bool(name), "a name"),
    },
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (
            lambda name: isinstance(name, str) and is_plain_name(name),
            "the name of a file without folders",
        ),
        "width": (_is_side, "a number of pixels"),
        "height": (_is_side, "a number of pixels"),
    },
    "annotations": {
        "image_id": (_is_id, "a whole number"),
        "category_id": (_is_id, "a whole number"),
        "area": (_is_number, "a number"),
        "bbox": (_is_box, "four numbers"),
    },
}


def _entries(
    path: Path, document: Entry, key: str, problems: Problems
) -> Iterator[tuple[str, Entry]]:
    """The good entries of a list, each with its place in words."""
    for number, entry in enumerate(document.get(key, [])):
        place = f"{path}, {key}[{number}]"
        if not isinstance(entry, dict):
            problems.add(
                f"entry of {key}",
                f"{place}: is {str(entry)[:40]!r}; an entry is an object; correct the file",
            )
            continue
        wrong = [
            (field, rule)
            for field, (is_good, rule) in FIELDS[key].items()
            if field not in entry or not is_good(entry[field])
        ]
        for field, rule in wrong:
            found = repr(entry[field])[:80] if field in entry else "missing"
            problems.add(
                f"entry of {key}",
                f"{place}: {field} is {found}; it must be {rule}; correct the file",
            )
        if not wrong:
            yield place, entry


def _by_id(
    key: str, name: str, entries: Iterator[tuple[str, Entry]], problems: Problems
) -> dict[int, Entry]:
    """Entries by their ids; neither an id nor a name may come twice."""
    by_id: dict[int, Entry] = {}
    names: set[str] = set()
    for place, entry in entries:
        for field, is_known in (("id", entry["id"] in by_id), (name, entry[name] in names)):
            if is_known:
                problems.add(
                    f"repeated entry of {key}",
                    f"{place}: {field} {shown(entry[field])} came before; it is there once; remove "
                    "one",
                )
        by_id.setdefault(entry["id"], entry)
        names.add(entry[name])
    return by_id
