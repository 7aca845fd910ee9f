from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgsearch.data.augment import augment_batch, normalise_batch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NO_SCALE: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
"""Normalisation that gives the levels 0 to 255 back."""


def _images(num_images: int, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _augment(images_BHWC: Tensor, **changed: Any) -> Tensor:
    arguments: dict[str, Any] = {
        "seed": 0,
        "epoch": 0,
        "positions_B": range(len(images_BHWC)),
        "crop_min": 0.8,
        "flip": 0.5,
        "mean": MEAN,
        "std": STD,
    }
    return augment_batch(images_BHWC, **(arguments | changed))


def test_normalise_subtracts_the_mean_and_divides_by_the_std() -> None:
    images = _images(2)
    normalised = normalise_batch(images, MEAN, STD)
    expected = (images.numpy().transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / (
        np.reshape(STD, (3, 1, 1))
    )
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous()
    np.testing.assert_allclose(normalised, expected, atol=1e-5)


def test_without_crop_and_flip_it_is_normalise_bit_for_bit() -> None:
    images = _images(5)
    plain = normalise_batch(images, MEAN, STD)
    assert torch.equal(_augment(images, crop_min=1.0, flip=0.0), plain)


def test_a_certain_flip_mirrors_left_and_right_only() -> None:
    images = _images(3)
    mirrored = normalise_batch(images, MEAN, STD).flip(3)
    assert torch.equal(_augment(images, crop_min=1.0, flip=1.0), mirrored)


@pytest.mark.parametrize("flip", [0.2, 0.5])
def test_flips_come_as_often_as_asked(flip: float) -> None:
    images = torch.tensor([[0, 255]], dtype=torch.uint8)[None, :, :, None].expand(4000, 1, 2, 3)
    levels = _augment(images, crop_min=1.0, flip=flip, **NO_SCALE)
    is_flipped_B = levels[:, 0, 0, 0] > levels[:, 0, 0, 1]
    assert is_flipped_B.float().mean() == pytest.approx(flip, abs=0.03)


def _crop_boxes(axis: int, num_images: int, side: int, **changed: Any) -> np.ndarray:
    """Start and end of each crop in pixels along an axis, read off the image of a ramp."""
    ramp = torch.arange(side, dtype=torch.uint8)
    image_HWC = ramp[:, None] if axis == 0 else ramp[None, :]
    images = image_HWC.expand(side, side)[None, :, :, None].expand(num_images, side, side, 3)
    levels = _augment(images, flip=0.0, **NO_SCALE, **changed)[:, 0].double()
    line_BP = levels[:, :, side // 2] if axis == 0 else levels[:, side // 2, :]
    # A bilinear view of a ramp is a ramp, except for the clamped pixels at the very edges. A pixel
    # centre is 0.5 to the right of its level.
    slope_B = (line_BP[:, -3] - line_BP[:, 2]) / (side - 5)
    start_B = line_BP[:, 2] + 0.5 - 2.5 * slope_B
    return torch.stack([start_B, start_B + slope_B * side], dim=1).numpy()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("crop_min", [0.8, 0.5])
def test_crops_lie_inside_the_image_and_are_uniform(axis: int, crop_min: float) -> None:
    side = 50
    boxes = _crop_boxes(axis, 1500, side, crop_min=crop_min)
    assert (boxes[:, 0] > -1e-3).all()
    assert (boxes[:, 1] < side + 1e-3).all()
    sides = (boxes[:, 1] - boxes[:, 0]) / side
    assert (sides > crop_min - 1e-4).all()
    deciles = np.quantile(sides, np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(crop_min, 1, 11), atol=0.1 * (1 - crop_min))
    places = boxes[:, 0] / (side - side * sides)  # 0 at one end, 1 at the other
    np.testing.assert_allclose(
        np.quantile(places[sides < 0.99], np.linspace(0, 1, 11)), np.linspace(0, 1, 11), atol=0.06
    )


def test_height_and_width_of_a_crop_are_drawn_apart() -> None:
    boxes = [_crop_boxes(axis, 1500, 40, crop_min=0.8) for axis in (0, 1)]
    heights, widths = (box[:, 1] - box[:, 0] for box in boxes)
    tops, lefts = (box[:, 0] for box in boxes)
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.1
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1


def test_crops_let_no_black_in_from_outside() -> None:
    white = torch.full((200, 16, 16, 3), 255, dtype=torch.uint8)
    assert (_augment(white, **NO_SCALE) > 254.9).all()


def test_all_three_channels_see_the_same_crop() -> None:
    grey = _images(20)[:, :, :, :1].expand(-1, -1, -1, 3)
    levels = _augment(grey, **NO_SCALE)
    assert torch.equal(levels[:, 0], levels[:, 1])
    assert torch.equal(levels[:, 0], levels[:, 2])


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [8, 4]])
def test_grouping_into_batches_changes_no_bit(sizes: list[int]) -> None:
    images = _images(12, side=33)
    whole = _augment(images)
    start, parts = 0, []
    for size in sizes:
        positions = range(start, start + size)
        parts.append(_augment(images[start : start + size], positions_B=positions))
        start += size
    assert torch.equal(torch.cat(parts), whole)


def test_an_image_is_augmented_by_its_position_not_its_place_in_the_batch() -> None:
    images = _images(6)
    positions = np.array([40, 7, 0, 3, 2, 900])
    there = _augment(images, positions_B=positions)
    back = _augment(images.flip(0), positions_B=positions[::-1].copy()).flip(0)
    assert torch.equal(there, back)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epoch": 1}, {"positions_B": range(1, 9)}])
def test_seed_epoch_and_position_each_give_other_draws(changed: dict[str, Any]) -> None:
    same = _images(1).expand(8, -1, -1, -1)
    before, after = _augment(same), _augment(same, **changed)
    if "positions_B" in changed:
        assert torch.equal(after[:-1], before[1:])
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_draws_are_pinned() -> None:
    # Other draws would silently be other training runs: a change needs a line in the changelog.
    images = torch.tensor([[0, 255]], dtype=torch.uint8)[None, :, :, None].expand(24, 1, 2, 3)
    levels = _augment(images, crop_min=1.0, seed=7, epoch=2, **NO_SCALE)
    flipped = "".join("01"[int(image[0, 0, 0] > image[0, 0, 1])] for image in levels)
    assert flipped == "101011010110101011111000"
    box = _crop_boxes(1, 2, 50, crop_min=0.8, seed=7, epoch=2)
    np.testing.assert_allclose(box, [[4.0421, 48.0410], [1.6424, 44.9887]], atol=1e-3)


def test_the_images_are_not_changed() -> None:
    images = _images(4)
    before = images.clone()
    _augment(images)
    normalise_batch(images, MEAN, STD)
    assert torch.equal(images, before)


@pytest.mark.parametrize("wrong", [{"crop_min": 0.0}, {"crop_min": 1.1}, {"flip": 1.5}])
def test_impossible_amounts_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="augmentation needs"):
        _augment(_images(1), **wrong)
