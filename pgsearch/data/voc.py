"""PASCAL VOC as it is distributed: lists of ids, one XML of annotations per image.

A class is positive if the XML has any object of it, the difficult ones included.
"""

from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import numpy as np

from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages, Progress, is_plain_name
from pgsearch.untrusted import read_file, shown

VOC_CLASSES: Final = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

MAX_XML_BYTES: Final = 10_000_000
"""The largest of the official files has 20 thousand."""

MAX_LIST_BYTES: Final = 100_000_000


def read_voc(
    root: Path, *, year: int, image_set: str, problems: Problems, progress: Progress | None = None
) -> LabelledImages:
    """Read the images that `ImageSets/Main/SET.txt` of a year lists, in the order of that list.

    What is wrong is added to `problems`; an image with a problem may then lack its labels.

    Args:
        root: the folder VOCdevkit.
        year: of the folder, such as 2012 for VOC2012.
        image_set: name of the list, such as "trainval".
        problems: found so far.
        progress: called with the number of XML files that are read and that there are.
    """
    folder = root / f"VOC{year}"
    ids = _read_list(folder, image_set, problems)
    targets_NC = np.zeros((len(ids), len(VOC_CLASSES)), dtype=np.uint8)
    smaller_sides_N = np.zeros(len(ids), dtype=np.int64)
    for n, image_id in enumerate(ids):
        path = folder / "Annotations" / f"{image_id}.xml"
        try:
            names, smaller_sides_N[n] = _read_annotation(path)
            targets_NC[n, _class_indices(names)] = 1
        except _BadAnnotation as error:
            problems.add("annotation", f"{path}: {error}")
        if progress is not None:
            progress(n + 1, len(ids))
    return LabelledImages(
        class_names=VOC_CLASSES,
        ids=tuple(ids),
        paths=tuple(f"VOC{year}/JPEGImages/{image_id}.jpg" for image_id in ids),
        targets_NC=targets_NC,
        smaller_sides_N=smaller_sides_N,
    )


def _read_list(folder: Path, image_set: str, problems: Problems) -> list[str]:
    if not folder.is_dir():
        problems.add(
            "no folder",
            f"{folder}: is not a folder; the root is VOCdevkit, which holds VOC2012 and VOC2007; "
            f"correct --root, or extract the archives of both years into it",
        )
        return []
    path = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    try:
        lines = read_file(path, max_bytes=MAX_LIST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        problems.add(
            "image list",
            f"{path}: cannot be read: {reason}; it lists the images of {folder.name}; extract the "
            f"archive of that year again",
        )
        return []
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        problems.add(
            "image list",
            f"{path}: is empty; it lists the images of {folder.name}, one id per line; extract "
            f"the archive of that year again",
        )
    return _checked_ids(path, ids, problems)


def _checked_ids(path: Path, ids: list[str], problems: Problems) -> list[str]:
    good: dict[str, None] = {}
    for image_id in ids:
        if not is_plain_name(image_id) or " " in image_id:
            problems.add(
                "image list",
                f"{path}: has the line {shown(image_id)}; a line is the id of an image, such as "
                f"2008_000023; correct it",
            )
        elif image_id in good:
            problems.add(
                "image list",
                f"{path}: has the id {shown(image_id)} twice; an image is listed once; remove one",
            )
        else:
            good[image_id] = None
    return list(good)


class _BadAnnotation(Exception):
    """An XML cannot be used. The message is its value, the rule and the fix."""


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type before its entities are declared: they can expand to gigabytes.

    Recent versions of expat limit that themselves; which version there is, is up to the machine.
    """

    def doctype(self, name: str, *_: object) -> None:
        raise _BadAnnotation(
            f"declares the document type {shown(name)}; an annotation of VOC has none, and it "
            f"could define endless text; replace the file"
        )


def _read_annotation(path: Path) -> tuple[list[str], int]:
    """Names of the objects, and the smaller side in pixels."""
    try:
        data = read_file(path, max_bytes=MAX_XML_BYTES)
    except OSError as error:
        raise _BadAnnotation(
            f"cannot be read: {error.strerror}; every listed image has an XML of a few thousand "
            f"bytes; add or replace the file, or remove the id from the list"
        ) from error
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314  _NoDoctype makes it safe
    try:
        parser.feed(data)
        annotation = parser.close()
    # An unknown or false encoding is a LookupError or a ValueError.
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise _BadAnnotation(
            f"is not well-formed XML: {error}; replace the file from the archive"
        ) from error
    names = [(thing.findtext("name") or "").strip() for thing in annotation.findall("object")]
    return names, _smaller_side(annotation)


def _smaller_side(annotation: ElementTree.Element) -> int:
    texts = [(annotation.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if not all(text.isascii() and text.isdigit() and 0 < len(text) < 10 for text in texts):
        found = " and ".join(shown(text) for text in texts)
        raise _BadAnnotation(
            f"has {found} as size/width and size/height; an annotation of VOC gives both in "
            f"pixels; correct the file"
        )
    return min(int(text) for text in texts)


def _class_indices(names: list[str]) -> list[int]:
    unknown = sorted(set(names) - set(VOC_CLASSES))
    if unknown:
        raise _BadAnnotation(
            f"has objects named {', '.join(shown(name) for name in unknown)}; the classes are "
            f"{', '.join(VOC_CLASSES)}; correct the name"
        )
    return sorted(VOC_CLASSES.index(name) for name in set(names))
