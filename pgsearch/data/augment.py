"""Batched augmentation and normalisation of uint8 images on any device.

Every image draws its random numbers from its own counter of a counter-based generator, keyed by
seed and epoch. So the result does not depend on how images are grouped into batches, on the
number of workers or on where a run was resumed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.data.colour import change_hue_and_saturation, draw_colours
from pgsearch.data.crop import LinePlan, crop_places, transposed
from pgsearch.data.on_device import empty_on_device, on_device

Floats = npt.NDArray[np.float64]

NUM_DRAWS = 15
"""Uniform numbers per image: crop height, crop width, top, left, flip; then whether and how
much for brightness, contrast, saturation, hue and order of the channels."""

_CPU_PIXELS = 2**15
"""Pixels that a CPU works on at a time, so that a core's cache still holds what it has written."""


def augment_batch(
    images_BHWC: Tensor,
    *,
    seed: int,
    epoch: int,
    positions_B: Sequence[int] | npt.NDArray[np.int64],
    photometric: float,
    crop_min: float,
    flip: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Distort the colours, crop, resize back, flip, normalise; float32 of shape `[B, 3, H, W]`.

    Args:
        images_BHWC: uint8 images, shape `[B, H, W, 3]`, channels red, green, blue.
        seed: of the run.
        epoch: of the run.
        positions_B: place of each image in the draws of the epoch.
        photometric: probability of each of the five colour distortions, apart from each other;
            0.5 as published, 0 leaves the colours alone. See `pgsearch.data.colour`.
        crop_min: smallest side of the crop as a share of the image's; height and width are drawn
            apart from each other. 1 crops nothing.
        flip: probability of a horizontal flip.
        mean: per channel, on a scale of 0 to 1.
        std: per channel, on a scale of 0 to 1.
    """
    if not 0 < crop_min <= 1 or not 0 <= flip <= 1 or not 0 <= photometric <= 1:
        raise ValueError(
            f"augmentation needs 0 < crop_min <= 1, 0 <= flip <= 1 and 0 <= photometric <= 1, "
            f"got crop_min={crop_min}, flip={flip} and photometric={photometric}"
        )
    if not photometric and crop_min == 1 and not flip:
        return normalise_batch(images_BHWC, mean, std)  # the same bits in less time
    num_images, height, width, _ = images_BHWC.shape
    device = images_BHWC.device
    # A GPU works on all at once. The result does not depend on how the images are grouped.
    size = max(1, _CPU_PIXELS // (height * width) if device.type == "cpu" else num_images)
    draws_BD = _uniform_draws(seed, epoch, positions_B)
    y_BH, x_BW = _draw_crops(draws_BD[:, :5], height, width, crop_min=crop_min, flip=flip)
    colours = draw_colours(draws_BD[:, 5:], photometric)
    scale_B3, shift_B3 = _normalisation(mean, std, colours.brightness_B, colours.contrast_B)
    columns = LinePlan(x_BW, size, device, channels_B3=colours.order_B3)
    rows = LinePlan(y_BH, size, device, scale_B3=scale_B3)
    shift_B311 = _per_channel(shift_B3, device)
    augmented_B3HW = empty_on_device(num_images, 3, height, width, device=device)
    for number, box in enumerate(zip(rows.spans, columns.spans, strict=True)):
        part = slice(number * size, (number + 1) * size)
        box_P3XY = _columns_first(images_BHWC[part, *box])  # what no crop shows is left out
        box_P3XY = change_hue_and_saturation(box_P3XY, colours.of(part))
        box_P3YW = transposed(columns.take(box_P3XY, part))
        torch.add(rows.take(box_P3YW, part), shift_B311[part], out=augmented_B3HW[part])
    return augmented_B3HW


def normalise_batch(images_BHWC: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What evaluation sees: uint8 `[B, H, W, 3]` to normalised float32 `[B, 3, H, W]`."""
    num_images, height, width, _ = images_BHWC.shape
    device = images_BHWC.device
    scale_13, shift_13 = _normalisation(mean, std, np.zeros(1), np.ones(1))
    normalised_B3HW = empty_on_device(num_images, 3, height, width, device=device)
    normalised_B3HW.copy_(images_BHWC.permute(0, 3, 1, 2))
    return normalised_B3HW.mul_(_per_channel(scale_13, device)).add_(_per_channel(shift_13, device))


def draw_views(
    num_views: int, *, seed: int, epoch: int, positions_B: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which of an image's views each draw of an epoch shows, shape `[B]`; all are as likely.

    Args:
        num_views: views of each image; a draw shows one from 0 to `num_views - 1`.
        seed: of the run.
        epoch: of the run.
        positions_B: place of each image in the draws of the epoch.
    """
    block, skipped = divmod(int(positions_B.min()), 4)  # Philox gives four numbers per count
    # The counter's third word tells these numbers from those that an image is augmented by.
    generator = np.random.Philox(key=(seed, epoch), counter=(block, 0, 1, 0))
    raw = generator.random_raw(skipped + int(np.ptp(positions_B)) + 1)[skipped:]
    views_B: npt.NDArray[np.int64] = raw[positions_B - positions_B.min()] % np.uint64(num_views)
    return views_B.astype(np.int64)


def _uniform_draws(
    seed: int, epoch: int, positions_B: Sequence[int] | npt.NDArray[np.int64]
) -> Floats:
    """Numbers in [0, 1), shape `[B, NUM_DRAWS]`; more draws later leave these as they are."""
    generator = np.random.Philox(key=(seed, epoch))
    state = generator.state  # setting it takes a fifth of the time of another generator
    raw_BD = np.empty((len(positions_B), NUM_DRAWS), dtype=np.uint64)
    for raw_D, position in zip(raw_BD, positions_B, strict=True):
        # The position is the counter's second word: each image has 2**64 blocks of its own.
        state["state"]["counter"][1] = position
        generator.state = state
        raw_D[:] = generator.random_raw(NUM_DRAWS)
    return (raw_BD >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _draw_crops(
    draws_BD: Floats, height: int, width: int, *, crop_min: float, flip: float
) -> tuple[Floats, Floats]:
    """Cut out a box with both sides at least `crop_min`, and stretch it over the whole image.

    Returns where the rows, `[B, H]`, and the columns, `[B, W]`, of the result lie in the image.
    """
    height_B, width_B = (crop_min + (1 - crop_min) * draws_BD[:, :2]).T
    y_BH = crop_places(height_B, (1 - height_B) * draws_BD[:, 2], height)
    x_BW = crop_places(width_B, (1 - width_B) * draws_BD[:, 3], width)
    is_flipped_B = draws_BD[:, 4] < flip
    x_BW[is_flipped_B] = x_BW[is_flipped_B, ::-1]
    return y_BH, x_BW


def _columns_first(images_BHWC: Tensor) -> Tensor:
    """Return float32 of shape `[B, 3, W, H]`, in one piece; a permutation takes twice as long."""
    num_images, height, width, _ = images_BHWC.shape
    columns_B1KH = transposed(images_BHWC.reshape(num_images, 1, height, 3 * width))
    columns_B3WH = columns_B1KH.view(num_images, width, 3, height).transpose(1, 2)
    return columns_B3WH.to(torch.float32, memory_format=torch.contiguous_format)


def _normalisation(
    mean: Sequence[float], std: Sequence[float], brightness_B: Floats, contrast_B: Floats
) -> tuple[Floats, Floats]:
    """Factor and summand per channel that change the brightness, the contrast and the scale."""
    scale_B3 = contrast_B[:, None] / np.multiply(255, std)
    shift_B3 = (contrast_B * brightness_B)[:, None] / np.multiply(255, std) - np.divide(mean, std)
    return scale_B3, shift_B3


def _per_channel(values_B3: Floats, device: torch.device) -> Tensor:
    return on_device(values_B3.astype(np.float32), device)[:, :, None, None]
