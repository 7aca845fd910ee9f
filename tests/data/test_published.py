import json

import numpy as np
import pytest

from pgsearch.data.published import COCO_LT, VOC_LT, PublishedSplit, differences
from tests.data.test_voc import TEST_DATA, needs_data

BOTH = pytest.mark.parametrize("published", [VOC_LT, COCO_LT], ids=lambda p: p.kind)
TOY = PublishedSplit(
    kind="toy",
    title="TOY",
    class_names=("cat", "dog"),
    train_counts_C=(3, 100),
    test_counts_C=(1, 2),
    num_train=101,
    num_test=3,
    max_count=100,
)
TOY_SPLITS_N = np.repeat(["train", "test", "validation"], [101, 3, 1])


def _toy_targets() -> np.ndarray:
    targets_NC = np.zeros((105, 2), dtype=np.uint8)
    targets_NC[:3, 0] = targets_NC[1:101, 1] = 1
    targets_NC[101, 0] = targets_NC[102:104, 1] = 1
    targets_NC[104] = 1  # validation does not count
    return targets_NC


def _differences(targets_NC: np.ndarray, names: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return differences(TOY, names, TOY_SPLITS_N[: len(targets_NC)], targets_NC)


def test_what_is_as_published_has_no_difference() -> None:
    assert _differences(_toy_targets()) == []


def test_each_class_that_differs_is_named_with_both_numbers() -> None:
    targets_NC = _toy_targets()
    targets_NC[0, 1] = 1
    targets_NC[103, 1] = 0
    assert _differences(targets_NC) == [
        "class 'dog': train images published 100, found 101; test images published 2, found 1"
    ]


def test_numbers_of_images_and_sizes_of_groups_are_compared() -> None:
    targets_NC = np.delete(_toy_targets(), [100, 104], axis=0)
    splits_N = np.delete(TOY_SPLITS_N, [100, 104])
    assert differences(TOY, TOY.class_names, splits_N, targets_NC) == [
        "train images: published 101, found 100",
        "classes in head/medium/tail: published 1/0/1, found 0/1/1",
        "class 'dog': train images published 100, found 99",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("dog", "cat"), "classes: are those of TOY, but in another order"),
        (("cat", "cow"), "classes: those of TOY are 2, found 2; missing: dog; not among them: cow"),
        (("cat",), "classes: those of TOY are 2, found 1; missing: dog; not among them: none"),
    ],
)
def test_other_classes_are_the_only_difference(names: tuple[str, ...], expected: str) -> None:
    assert _differences(_toy_targets()[:, : len(names)], names) == [expected]


@BOTH
def test_the_facts_agree_with_each_other(published: PublishedSplit) -> None:
    num_classes = {20: VOC_LT, 80: COCO_LT}
    assert num_classes[len(published.class_names)] is published
    assert len(set(published.class_names)) == len(published.class_names)
    for counts_C, num_images in (
        (published.train_counts_C, published.num_train),
        (published.test_counts_C, published.num_test),
    ):
        assert len(counts_C) == len(published.class_names)
        assert 0 < min(counts_C) <= max(counts_C) < num_images
    # Groups as the paper gives them; the smallest and the largest class too.
    sizes = [
        sum(low <= count < high for count in published.train_counts_C)
        for low, high in ((100, 10**6), (20, 100), (1, 20))
    ]
    assert sizes == ([6, 6, 8] if published is VOC_LT else [22, 33, 25])
    ends = (min(published.train_counts_C), max(published.train_counts_C))
    assert ends == ((4, 775) if published is VOC_LT else (6, 1128))


@needs_data
@BOTH
def test_the_facts_are_those_of_the_published_lists(published: PublishedSplit) -> None:
    facts = json.loads((TEST_DATA / f"{published.kind.replace('-', '_')}.json").read_text())
    labels = [*facts["train_label_indices"], *facts["test_label_indices"]]
    targets_NC = np.zeros((len(labels), len(facts["classes"])), dtype=np.uint8)
    for row, indices in zip(targets_NC, labels, strict=True):
        row[indices] = 1
    splits_N = np.repeat(["train", "test"], [facts["num_train"], facts["num_test"]])
    assert differences(published, facts["classes"], splits_N, targets_NC) == []
