"""Batched augmentation and normalisation of uint8 images on any device.

Every image draws its random numbers from its own counter of a counter-based generator, keyed by
seed and epoch. So the result does not depend on how images are grouped into batches, on the
number of workers or on where a run was resumed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NUM_DRAWS = 5
"""Uniform numbers per image: crop height, crop width, top, left, flip."""


def augment_batch(
    images_BHWC: Tensor,
    *,
    seed: int,
    epoch: int,
    positions_B: Sequence[int] | npt.NDArray[np.int64],
    crop_min: float,
    flip: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Crop, resize back, flip and normalise; float32 of shape `[B, 3, H, W]`.

    Args:
        images_BHWC: uint8 images, shape `[B, H, W, 3]`.
        seed: of the run.
        epoch: of the run.
        positions_B: place of each image in the draws of the epoch.
        crop_min: smallest side of the crop as a share of the image's; height and width are drawn
            apart from each other. 1 crops nothing.
        flip: probability of a horizontal flip.
        mean: per channel, on a scale of 0 to 1.
        std: per channel, on a scale of 0 to 1.
    """
    if not 0 < crop_min <= 1 or not 0 <= flip <= 1:
        raise ValueError(
            f"augmentation needs 0 < crop_min <= 1 and 0 <= flip <= 1, "
            f"got crop_min={crop_min} and flip={flip}"
        )
    draws_BD = _uniform_draws(seed, epoch, positions_B)
    images_BCHW = _channels_first(images_BHWC)
    if crop_min < 1:
        images_BCHW = _random_crop(images_BCHW, draws_BD[:, :4], crop_min)
    if flip > 0:
        is_flipped_B = torch.from_numpy(draws_BD[:, 4] < flip).to(images_BCHW.device)
        images_BCHW = torch.where(
            is_flipped_B[:, None, None, None], images_BCHW.flip(3), images_BCHW
        )
    return _normalise(images_BCHW, mean, std)


def normalise_batch(images_BHWC: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What evaluation sees: uint8 `[B, H, W, 3]` to normalised float32 `[B, 3, H, W]`."""
    return _normalise(_channels_first(images_BHWC), mean, std)


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


def _channels_first(images_BHWC: Tensor) -> Tensor:
    images_BCHW = images_BHWC.permute(0, 3, 1, 2)
    return images_BCHW.to(torch.float32, memory_format=torch.contiguous_format)


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
        grid_BHW2.to(images_BCHW.device),
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
    mean_C11 = 255 * images_BCHW.new_tensor(mean)[:, None, None]
    std_C11 = 255 * images_BCHW.new_tensor(std)[:, None, None]
    return (images_BCHW - mean_C11) / std_C11
