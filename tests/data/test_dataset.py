import numpy as np
import pytest

from pgsearch.data import MultiLabelDataset, Split
from pgsearch.errors import InvalidData


def _dataset(train_targets_NC: list[list[int]]) -> MultiLabelDataset:
    targets_NC = np.array(train_targets_NC, dtype=np.uint8)
    num_images, num_classes = targets_NC.shape
    images_NHWC = np.zeros((num_images, 8, 8, 3), dtype=np.uint8)
    split = Split(images_NHWC, targets_NC, tuple(map(str, range(num_images))))
    names = tuple("abcdef"[:num_classes])
    return MultiLabelDataset("set", names, split, split, split, fingerprint="0")


def test_check_names_each_class_that_is_in_none_or_all_of_train() -> None:
    with pytest.raises(InvalidData) as caught:
        _dataset([[0, 1, 1], [0, 1, 0], [0, 1, 1]]).check()
    never, always = caught.value.problems
    assert "set: class 'a' is in 0 of 3 training images" in never
    assert "set: class 'b' is in 3 of 3 training images" in always
    assert all("with it and without it; add such images" in problem for problem in (never, always))


def test_check_accepts_what_can_be_learned() -> None:
    _dataset([[0, 1], [1, 0]]).check()
