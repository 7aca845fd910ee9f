"""Batched augmentation and normalisation of uint8 images on any device.

Every image draws its random numbers from its own counter of a counter-based generator, keyed by
seed and epoch. So the result does not depend on how images are grouped into batches, on the
number of workers or on where a run was resumed.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NUM_DRAWS = 15
"""Uniform numbers per image: crop height, crop width, top, left, flip; then whether and how
much for brightness, contrast, saturation, hue and order of the channels."""


_ORDERS = np.array(list(itertools.permutations(range(3))), dtype=np.int64)
_CPU_PIXELS = 2**17
"""Pixels that a CPU works on at a time; with all temporaries they fit a core's cache."""


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
            0.5 as published, 0 leaves the colours alone. See `_distort_colours`.
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
    draws_BD = _uniform_draws(seed, epoch, positions_B)
    num_images, height, width, _ = images_BHWC.shape
    augmented_BCHW = torch.empty(num_images, 3, height, width, device=images_BHWC.device)
    # Nothing below depends on how the images are grouped.
    for part in _parts(num_images, height * width, images_BHWC.device):
        images_PCHW = _channels_first(images_BHWC[part])
        draws_PD = draws_BD[part]
        if photometric > 0:
            _distort_colours(images_PCHW, draws_PD[:, 5:], photometric)
        if crop_min < 1:
            images_PCHW = _random_crop(images_PCHW, draws_PD[:, :4], crop_min)
        if flip > 0:
            _change_some(images_PCHW, draws_PD[:, 4] < flip, lambda images, _: images.flip(3))
        augmented_BCHW[part] = _normalise(images_PCHW, mean, std)
    return augmented_BCHW


def normalise_batch(images_BHWC: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What evaluation sees: uint8 `[B, H, W, 3]` to normalised float32 `[B, 3, H, W]`."""
    return _normalise(_channels_first(images_BHWC), mean, std)


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
) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), shape `[B, NUM_DRAWS]`; more draws later leave these as they are."""
    raw_BD = np.array(
        [
            # The position is the counter's second word: each image has 2**64 blocks of its own.
            np.random.Philox(key=(seed, epoch), counter=(0, int(position), 0, 0)).random_raw(
                NUM_DRAWS
            )
            for position in positions_B
        ],
        dtype=np.uint64,
    )
    return (raw_BD >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _parts(num_images: int, num_pixels: int, device: torch.device) -> list[slice]:
    """Groups of images: as many as fit a core's cache with all temporaries; all, on a GPU."""
    size = max(1, _CPU_PIXELS // num_pixels) if device.type == "cpu" else max(1, num_images)
    return [slice(start, start + size) for start in range(0, num_images, size)]


def _channels_first(images_BHWC: Tensor) -> Tensor:
    """Return a copy: what follows works in place."""
    images_BCHW = images_BHWC.permute(0, 3, 1, 2)
    return images_BCHW.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _distort_colours(
    images_BCHW: Tensor, draws_BD: npt.NDArray[np.float64], probability: float
) -> None:
    """Change brightness, contrast, saturation, hue and order of the channels, in place.

    Source: the photometric distortion of Liu et al., SSD, ECCV 2016
    (doi:10.1007/978-3-319-46448-0_2), as in the code of Wu et al., ECCV 2020
    (doi:10.1007/978-3-030-58548-8_10): brightness ±32, contrast and saturation ×0.5 to ×1.5, hue
    ±18°, then any of the six orders of the channels; levels 0 to 255, nothing is clipped. Hue,
    saturation and value are OpenCV's of float32, which differ from the textbook's below zero.

    Two things differ from that code, and neither changes a level by more than rounding. It puts
    the contrast before or after hue and saturation at random: a positive factor on all levels
    changes neither, so there is one order here. It converts every image to hue, saturation and
    value and back: here only what the conversions and changes come to is computed.
    """
    is_on_B5 = draws_BD[:, 0::2] < probability
    amount_B5 = draws_BD[:, 1::2]
    brightness_B = np.where(is_on_B5[:, 0], 64 * amount_B5[:, 0] - 32, 0.0)
    contrast_B = np.where(is_on_B5[:, 1], 0.5 + amount_B5[:, 1], 1.0)
    saturation_B = np.where(is_on_B5[:, 2], 0.5 + amount_B5[:, 2], 1.0)
    turn_B = (36 * amount_B5[:, 3] - 18) / 60
    orders_B3 = _ORDERS[(6 * amount_B5[:, 4]).astype(np.int64)]

    images_BCHW += _per_image(brightness_B, images_BCHW)
    images_BCHW *= _per_image(contrast_B, images_BCHW)
    _change_some(images_BCHW, is_on_B5[:, 3], lambda images, rows: _turn_hue(images, turn_B[rows]))
    # Darkened images may have negative pixels, which a factor of 1 changes too.
    _change_some(
        images_BCHW,
        is_on_B5[:, 2] | (brightness_B < 0),
        lambda images, rows: _scale_saturation(images, saturation_B[rows]),
    )
    _change_some(
        images_BCHW,
        is_on_B5[:, 4],
        lambda images, rows: images[
            torch.arange(len(rows), device=images.device)[:, None],
            _sent(torch.from_numpy(orders_B3[rows]), images.device),
        ],
    )


def _turn_hue(images_KCHW: Tensor, turn_K: npt.NDArray[np.float64]) -> Tensor:
    """Turn every hue, in units of 60°, by −1 to 1. Value and saturation stay.

    Let `high` and `low` be a pixel's largest and smallest channel. Going up round the circle of
    hues, a channel's distance from `high` is 0 for 120°, rises to `high - low` within 60°, stays
    there for 120° and falls within 60°; the next channel does the same 120° later. So after a turn
    upwards by at most 60°, the distance is

        red + green + blue - low + turn * (high + low) - 2 * (channel + turn * previous channel)

    clamped to 0 and `high - low`; downwards, the next channel takes the place of the previous one.
    That needs no angle, no division and no branch.
    """
    up_K111 = _per_image(turn_K.clip(min=0), images_KCHW)
    down_K111 = _per_image((-turn_K).clip(min=0), images_KCHW)
    channels = images_KCHW.chunk(3, dim=1)
    red, green, blue = channels
    high_K1HW, low_K1HW = _high(images_KCHW), torch.minimum(torch.minimum(red, green), blue)
    span_K1HW = high_K1HW - low_K1HW
    base_K1HW = (high_K1HW + low_K1HW).mul_(up_K111 + down_K111)
    base_K1HW.add_(red).add_(green).add_(blue).sub_(low_K1HW)
    turned_KCHW = torch.empty_like(images_KCHW)
    for c, turned_K1HW in enumerate(turned_KCHW.chunk(3, dim=1)):
        torch.mul(channels[c - 1], up_K111, out=turned_K1HW)
        turned_K1HW.add_(channels[(c + 1) % 3] * down_K111).add_(channels[c]).mul_(2)
        torch.sub(base_K1HW, turned_K1HW, out=turned_K1HW).clamp_(min=0)  # now the distance
        torch.minimum(turned_K1HW, span_K1HW, out=turned_K1HW)
        torch.sub(high_K1HW, turned_K1HW, out=turned_K1HW)
    return turned_KCHW


def _scale_saturation(images_KCHW: Tensor, factor_K: npt.NDArray[np.float64]) -> Tensor:
    """Scale every channel's distance from the largest one, which stays.

    OpenCV divides the distances by the absolute value of the largest channel, and multiplies them
    by that channel on the way back. Where all three are negative the distances change their sign.
    """
    high_K1HW = _high(images_KCHW)
    scale_K1HW = high_K1HW.sign().mul_(_per_image(factor_K, images_KCHW))
    return images_KCHW.sub_(high_K1HW).mul_(scale_K1HW).add_(high_K1HW)


def _high(images_KCHW: Tensor) -> Tensor:
    """Each pixel's largest channel; `amax` takes half as long again."""
    red, green, blue = images_KCHW.chunk(3, dim=1)
    return torch.maximum(torch.maximum(red, green), blue)


def _per_image(values_K: npt.NDArray[np.float64], images_KCHW: Tensor) -> Tensor:
    return _sent(torch.from_numpy(values_K.astype(np.float32)), images_KCHW.device)[
        :, None, None, None
    ]


def _change_some(
    images_BCHW: Tensor,
    is_chosen_B: npt.NDArray[np.bool_],
    change: Callable[[Tensor, npt.NDArray[np.int64]], Tensor],
) -> None:
    """Replace the chosen images by `change(images, rows)`, in place."""
    rows_K = np.flatnonzero(is_chosen_B)
    if rows_K.size:
        index_K = _sent(torch.from_numpy(rows_K), images_BCHW.device)
        images_BCHW.index_copy_(0, index_K, change(images_BCHW.index_select(0, index_K), rows_K))


def _random_crop(images_BCHW: Tensor, draws_BD: npt.NDArray[np.float64], crop_min: float) -> Tensor:
    """Cut out a box with both sides at least `crop_min`, and stretch it over the whole image."""
    height, width = images_BCHW.shape[2:]
    box_height_B = crop_min + (1 - crop_min) * draws_BD[:, 0]
    box_width_B = crop_min + (1 - crop_min) * draws_BD[:, 1]
    y_BH = _sampling_points(box_height_B, (1 - box_height_B) * draws_BD[:, 2], height)
    x_BW = _sampling_points(box_width_B, (1 - box_width_B) * draws_BD[:, 3], width)
    shape = (len(draws_BD), height, width)
    grid_BHW2 = torch.stack([x_BW[:, None, :].expand(shape), y_BH[:, :, None].expand(shape)], dim=3)
    # The outermost points lie less than half a pixel inside the edge: "border" keeps them from
    # being mixed with black.
    return F.grid_sample(
        images_BCHW,
        _sent(grid_BHW2, images_BCHW.device),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _sampling_points(
    side_B: npt.NDArray[np.float64], start_B: npt.NDArray[np.float64], num_pixels: int
) -> Tensor:
    """Centres of the new pixels in `grid_sample`'s coordinates: −1 to 1 from edge to edge."""
    centres_P = (np.arange(num_pixels) + 0.5) / num_pixels
    points_BP = 2 * (start_B[:, None] + side_B[:, None] * centres_P) - 1
    return torch.from_numpy(points_BP.astype(np.float32))


def _normalise(images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    device = images_BCHW.device
    mean_C11 = 255 * _sent(torch.tensor(mean, dtype=torch.float32), device)[:, None, None]
    std_C11 = 255 * _sent(torch.tensor(std, dtype=torch.float32), device)[:, None, None]
    return images_BCHW.sub_(mean_C11).div_(std_C11)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on a device, without waiting for all that a GPU still has to do.

    Safe from memory that is not pinned: CUDA has read it when the call returns.
    """
    return values.to(device, non_blocking=True)
