import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgsearch.data.augment import augment_batch, draw_views, normalise_batch

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
        "photometric": 0.0,
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


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (1, 6), (6, 1)])
def test_crops_are_bilinear_and_mirrored_afterwards(shape: tuple[int, int]) -> None:
    images = _images(12, side=14)[:, : shape[0], : shape[1]]
    levels_BCHW = _augment(images, crop_min=0.5, seed=3, epoch=1, **NO_SCALE)
    for position, (image, levels_CHW) in enumerate(zip(images, levels_BCHW, strict=True)):
        draws = _draws(3, 1, position)
        expected_HWC = image.numpy().astype(np.float64)
        for axis, num_pixels in enumerate(shape):
            side = 0.5 + 0.5 * draws[axis]
            start = (1 - side) * draws[2 + axis]
            places = (start + side * (np.arange(num_pixels) + 0.5) / num_pixels) * num_pixels - 0.5
            expected_HWC = np.apply_along_axis(
                lambda line, places=places: np.interp(places, np.arange(len(line)), line),
                axis,
                expected_HWC,
            )
        if draws[4] < 0.5:
            expected_HWC = expected_HWC[:, ::-1]
        np.testing.assert_allclose(
            levels_CHW.permute(1, 2, 0), expected_HWC, atol=1e-3, err_msg=f"image {position}"
        )


def test_crops_let_no_black_in_from_outside() -> None:
    white = torch.full((200, 16, 16, 3), 255, dtype=torch.uint8)
    assert (_augment(white, **NO_SCALE) > 254.9).all()


def test_all_three_channels_see_the_same_crop() -> None:
    grey = _images(20)[:, :, :, :1].expand(-1, -1, -1, 3)
    levels = _augment(grey, **NO_SCALE)
    assert torch.equal(levels[:, 0], levels[:, 1])
    assert torch.equal(levels[:, 0], levels[:, 2])


@pytest.mark.parametrize("photometric", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [[1] * 32, [5, 27], [31, 1]])
def test_grouping_into_batches_changes_no_bit(sizes: list[int], photometric: float) -> None:
    images = _images(32, side=33)
    whole = _augment(images, photometric=photometric)
    start, parts = 0, []
    for size in sizes:
        positions = range(start, start + size)
        part = images[start : start + size]
        parts.append(_augment(part, positions_B=positions, photometric=photometric))
        start += size
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("num_pixels", [1, 3 * 20 * 20, 2**40])
def test_how_much_is_worked_on_at_a_time_changes_no_bit(
    num_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _images(8, side=20)
    expected = _augment(images, photometric=0.5)
    monkeypatch.setattr("pgsearch.data.augment._CPU_PIXELS", num_pixels)
    assert torch.equal(_augment(images, photometric=0.5), expected)


@pytest.mark.parametrize("photometric", [0.0, 0.5])
def test_an_image_is_augmented_by_its_position_not_its_place_in_the_batch(
    photometric: float,
) -> None:
    images = _images(6)
    positions = np.array([40, 7, 0, 3, 2, 900])
    there = _augment(images, positions_B=positions, photometric=photometric)
    back = _augment(images.flip(0), positions_B=positions[::-1].copy(), photometric=photometric)
    assert torch.equal(there, back.flip(0))


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 3, 2, 1)])
def test_the_images_are_not_changed(dtype: torch.dtype, layout: tuple[int, ...]) -> None:
    # Also in layouts that need no copy on the way to `[B, 3, H, W]` or `[B, 3, W, H]` of float32.
    stored = _images(4).permute(layout).to(dtype).contiguous()
    images = stored.permute(tuple(np.argsort(layout)))
    before = images.clone()
    _augment(images, photometric=1.0)
    for position in range(16):  # each with some of the distortions
        _augment(images[:1], positions_B=[position], photometric=0.5)
    normalise_batch(images, MEAN, STD)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "wrong", [{"crop_min": 0.0}, {"crop_min": 1.1}, {"flip": 1.5}, {"photometric": -0.1}]
)
def test_impossible_amounts_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="augmentation needs"):
        _augment(_images(1), **wrong)


# -------------------------------------------------------------------- colours


def _draws(seed: int, epoch: int, position: int) -> list[float]:
    """The numbers of an image: 5 for crop and flip, then 2 for each distortion."""
    raw = np.random.Philox(key=(seed, epoch), counter=(0, position, 0, 0)).random_raw(15)
    return [int(number >> 11) / 2**53 for number in raw.tolist()]


def _to_hsv(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """OpenCV's conversion of floats (modules/imgproc/src/color_hsv.simd.hpp)."""
    eps = np.finfo(np.float32).eps
    value = max(red, green, blue)
    span = value - min(red, green, blue)
    if value == red:
        hue = (green - blue) * 60 / (span + eps)
    elif value == green:
        hue = (blue - red) * 60 / (span + eps) + 120
    else:
        hue = (red - green) * 60 / (span + eps) + 240
    return hue % 360, span / (abs(value) + eps), value


def _from_hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    sector = math.floor(hue / 60) % 6
    part = hue / 60 - math.floor(hue / 60)
    low = value * (1 - saturation)
    falling = value * (1 - saturation * part)
    rising = value * (1 - saturation * (1 - part))
    return [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ][sector]


def _distorted(
    image_HWC: np.ndarray, draws: list[float], probability: float, *, contrast_last: bool
) -> np.ndarray:
    """What the published code does to one image, one pixel at a time."""
    on = [draw < probability for draw in draws[5::2]]
    amounts = draws[6::2]
    brightness = 64 * amounts[0] - 32 if on[0] else 0
    contrast = 0.5 + amounts[1] if on[1] else 1
    saturation_factor = 0.5 + amounts[2] if on[2] else 1
    turn = 36 * amounts[3] - 18 if on[3] else 0
    order = list(permutations(range(3)))[int(6 * amounts[4])] if on[4] else (0, 1, 2)
    distorted = np.empty(image_HWC.shape)
    for y, x in np.ndindex(*image_HWC.shape[:2]):
        levels = [float(level) + brightness for level in image_HWC[y, x]]
        if not contrast_last:
            levels = [level * contrast for level in levels]
        hue, saturation, value = _to_hsv(*levels)
        hue += turn
        hue = hue - 360 if hue > 360 else hue + 360 if hue < 0 else hue
        levels = list(_from_hsv(hue, saturation * saturation_factor, value))
        if contrast_last:
            levels = [level * contrast for level in levels]
        distorted[y, x] = [levels[channel] for channel in order]
    return distorted


def _colourful() -> Tensor:
    """All sorts of colours: any, dark, grey, and with two equal channels."""
    images = _images(96, side=8)
    images[:, 2:4] = images[:, 2:4] % 33
    images[:, 4] = images[:, 4, :, :1]
    images[:, 5, :, 1] = images[:, 5, :, 0]
    images[:, 6, :, 2] = images[:, 6, :, 1]
    images[:, 7, :, 0] = images[:, 7, :, 2]
    images[:, 7, 0], images[:, 7, 1] = 0, 255
    return images


@pytest.mark.parametrize("contrast_last", [False, True])
@pytest.mark.parametrize("photometric", [0.5, 1.0])
def test_colours_follow_the_published_code(photometric: float, contrast_last: bool) -> None:
    images = _colourful()
    levels_BCHW = _augment(
        images, photometric=photometric, crop_min=1.0, flip=0.0, seed=5, epoch=3, **NO_SCALE
    )
    for position, (image, levels_CHW) in enumerate(zip(images, levels_BCHW, strict=True)):
        expected_HWC = _distorted(
            image.numpy(), _draws(5, 3, position), photometric, contrast_last=contrast_last
        )
        np.testing.assert_allclose(
            levels_CHW.permute(1, 2, 0), expected_HWC, atol=1e-3, err_msg=f"image {position}"
        )


def test_colours_are_distorted_before_the_crop_and_nothing_is_clipped() -> None:
    images = _images(16)
    distorted = _augment(images, photometric=0.8, crop_min=1.0, flip=0.0, **NO_SCALE)
    assert distorted.min() < -30
    assert distorted.max() > 330
    then_cropped = _augment(distorted.permute(0, 2, 3, 1), photometric=0.0, **NO_SCALE)
    levels = _augment(images, photometric=0.8, **NO_SCALE)
    torch.testing.assert_close(levels, then_cropped, atol=1e-3, rtol=0)


def _amounts_from_levels(num_images: int, photometric: float) -> dict[str, np.ndarray]:
    """What was done to each image, read off two greys and a colour whose channels stay in order."""
    image = torch.tensor([[[100] * 3, [150] * 3, [200, 100, 50]]], dtype=torch.uint8)
    levels_BCP = _augment(
        image.expand(num_images, 1, 3, 3),
        photometric=photometric,
        crop_min=1.0,
        flip=0.0,
        **NO_SCALE,
    )[:, :, 0].double()
    contrast_B = (levels_BCP[:, 0, 1] - levels_BCP[:, 0, 0]) / 50
    brightness_B = levels_BCP[:, 0, 0] / contrast_B - 100
    colour_BC = levels_BCP[:, :, 2] / contrast_B[:, None] - brightness_B[:, None]
    high_B, middle_B, low_B = colour_BC.sort(dim=1, descending=True).values.unbind(1)
    return {
        "brightness": brightness_B.numpy(),
        "contrast": contrast_B.numpy(),
        "saturation": ((high_B - low_B) / 150).numpy(),
        "hue": (60 * (middle_B - low_B) / (high_B - low_B) - 20).numpy(),
        "order": colour_BC.argsort(dim=1, descending=True).numpy(),
    }


RANGES = {
    "brightness": (-32, 32),
    "contrast": (0.5, 1.5),
    "saturation": (0.5, 1.5),
    "hue": (-18, 18),
}


def _happened(amounts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: np.abs(amounts[name] - (low + high) / 2) > (high - low) * 1e-5
        for name, (low, high) in RANGES.items()
    }


@pytest.mark.parametrize("photometric", [0.2, 0.5])
def test_each_distortion_comes_as_often_as_asked_and_apart_from_the_others(
    photometric: float,
) -> None:
    amounts = _amounts_from_levels(4000, photometric)
    happened = _happened(amounts)
    is_reordered = (amounts["order"] != [0, 1, 2]).any(axis=1)
    for name, did in happened.items():
        assert did.mean() == pytest.approx(photometric, abs=0.03), name
    assert is_reordered.mean() == pytest.approx(photometric * 5 / 6, abs=0.03)
    together = np.corrcoef([*happened.values(), is_reordered])
    assert np.abs(together - np.eye(5)).max() < 0.05


@pytest.mark.parametrize("name", list(RANGES))
def test_amounts_are_uniform_over_their_ranges(name: str) -> None:
    low, high = RANGES[name]
    amounts = _amounts_from_levels(4000, 1.0)[name]
    width = high - low
    assert amounts.min() > low - 1e-4 * width
    assert amounts.max() < high + 1e-4 * width
    deciles = np.quantile(amounts, np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(low, high, 11), atol=0.03 * width)


def test_amounts_are_drawn_apart_from_each_other_and_from_the_crop() -> None:
    amounts = _amounts_from_levels(1500, 1.0)
    boxes = [_crop_boxes(axis, 1500, 40, crop_min=0.8) for axis in (0, 1)]
    numbers = [amounts[name] for name in RANGES] + [box[:, i] for box in boxes for i in (0, 1)]
    of_amounts = np.corrcoef(numbers)[:4]
    assert np.abs(of_amounts - np.eye(8)[:4]).max() < 0.1


def test_all_six_orders_of_the_channels_come_equally_often() -> None:
    orders = _amounts_from_levels(6000, 1.0)["order"]
    counts = dict.fromkeys(permutations(range(3)), 0)
    for order in orders.tolist():
        counts[tuple(order)] += 1
    assert all(abs(count - 1000) < 100 for count in counts.values()), counts


def test_draws_of_the_colours_are_pinned() -> None:
    # Other draws would silently be other training runs: a change needs a line in the changelog.
    image = torch.tensor([[[200, 100, 50], [9, 7, 30]]], dtype=torch.uint8)
    levels = _augment(
        image.expand(3, 1, 2, 3),
        photometric=0.5,
        crop_min=1.0,
        flip=0.0,
        seed=7,
        epoch=2,
        **NO_SCALE,
    )
    expected_BCP = [
        [[139.831, 4.894], [54.257, 5.897], [34.958, 20.975]],
        [[200.0, 18.714], [146.259, 17.640], [119.388, 30.0]],
        [[136.800, 27.955], [62.474, 46.419], [182.892, 34.802]],
    ]
    np.testing.assert_allclose(levels[:, :, 0], expected_BCP, atol=2e-3)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_levels() -> None:
    images = _colourful()
    on_cpu = _augment(images, photometric=0.5, **NO_SCALE)
    on_gpu = _augment(images.cuda(), photometric=0.5, **NO_SCALE)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=0.01, rtol=0)


def test_views_are_drawn_by_seed_epoch_and_position_alone_and_as_often() -> None:
    def drawn(positions: Any, seed: int = 5, epoch: int = 1) -> np.ndarray:
        return draw_views(3, seed=seed, epoch=epoch, positions_B=np.asarray(positions))

    whole = drawn(range(3000))
    np.testing.assert_array_equal(drawn([7, 3, 2999, 8]), whole[[7, 3, 2999, 8]])
    for start in (1, 2, 3, 4, 1001):
        np.testing.assert_array_equal(drawn(range(start, start + 32)), whole[start : start + 32])
    np.testing.assert_allclose(np.bincount(whole) / 3000, 1 / 3, atol=0.03)
    for other in (drawn(range(3000), seed=6), drawn(range(3000), epoch=2), np.roll(whole, 1)):
        assert (other == whole).mean() == pytest.approx(1 / 3, abs=0.04)
