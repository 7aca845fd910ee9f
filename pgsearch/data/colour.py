"""Photometric distortion of colours, in a few operations on whole channels.

Source: the distortion of Liu et al., SSD, ECCV 2016 (doi:10.1007/978-3-319-46448-0_2), as in the
code of Wu et al., ECCV 2020 (doi:10.1007/978-3-030-58548-8_10): brightness ±32, contrast and
saturation ×0.5 to ×1.5, hue ±18°, then any of the six orders of the channels; levels 0 to 255,
nothing is clipped. Hue, saturation and value are OpenCV's of float32, which differ from the
textbook's below zero.

That code converts every image to hue, saturation and value and back. Here only what the conversions
and changes come to is computed, which differs by rounding alone:

- Hue and saturation move channels between a pixel's smallest and largest one. What is added to all
  three, or a positive factor on them, moves these along. So brightness and contrast can wait until
  the images are normalised, which is a factor and a summand anyhow.
- For the same reason there is one place for the contrast, which that code puts before or after hue
  and saturation at random.
- The order of the channels is a matter of where each is written to.
"""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.data.on_device import on_device

Floats = npt.NDArray[np.float64]

_ORDERS = np.array(list(itertools.permutations(range(3))), dtype=np.int64)


class Colours(NamedTuple):
    """What is done to the colours of B images."""

    brightness_B: Floats
    """Levels that are added."""
    contrast_B: Floats
    """Factor on all levels, after the brightness."""
    saturation_B: Floats
    """Factor on the saturation."""
    turn_B: Floats
    """Turn of the hue, in units of 60°, from -1 to 1."""
    order_B3: npt.NDArray[np.int64]
    """The old channel that each new one is."""

    def of(self, images: slice) -> "Colours":
        """Return what is done to some of the images."""
        return Colours(
            self.brightness_B[images],
            self.contrast_B[images],
            self.saturation_B[images],
            self.turn_B[images],
            self.order_B3[images],
        )


def draw_colours(draws_BD: Floats, probability: float) -> Colours:
    """Turn uniform numbers, shape `[B, 10]`, into whether and how much each distortion changes."""
    is_on_B5 = draws_BD[:, 0::2] < probability
    amount_B5 = draws_BD[:, 1::2]
    return Colours(
        brightness_B=np.where(is_on_B5[:, 0], 64 * amount_B5[:, 0] - 32, 0.0),
        contrast_B=np.where(is_on_B5[:, 1], 0.5 + amount_B5[:, 1], 1.0),
        saturation_B=np.where(is_on_B5[:, 2], 0.5 + amount_B5[:, 2], 1.0),
        turn_B=np.where(is_on_B5[:, 3], (36 * amount_B5[:, 3] - 18) / 60, 0.0),
        order_B3=_ORDERS[np.where(is_on_B5[:, 4], 6 * amount_B5[:, 4], 0).astype(np.int64)],
    )


def change_hue_and_saturation(images_B3HW: Tensor, colours: Colours) -> Tensor:
    """Return float32 images of other hues and saturations.

    An image where neither changes keeps its bits, also in company of others where they do.
    Brightness, contrast and order of the channels are left to the caller. Of the brightness, the
    saturation has to know.

    Args:
        images_B3HW: float32 levels as they were loaded, 0 to 255. They are not changed.
        colours: what is done to each of these images.
    """
    is_turned = colours.turn_B.any()
    # Darkened images may have negative pixels, which a factor of 1 changes too.
    is_scaled = (colours.saturation_B != 1).any() or (colours.brightness_B < 0).any()
    if not is_turned and not is_scaled:
        return images_B3HW
    red, green, blue = images_B3HW.chunk(3, dim=1)
    high_B1HW = torch.maximum(red, green)
    torch.maximum(high_B1HW, blue, out=high_B1HW)
    if is_turned:
        images_B3HW = _turn_hue(images_B3HW, high_B1HW, colours.turn_B)
    if is_scaled:
        images_B3HW = _scale_saturation(images_B3HW, high_B1HW, colours)
    return images_B3HW


def _turn_hue(images_B3HW: Tensor, high_B1HW: Tensor, turn_B: Floats) -> Tensor:
    """Turn every hue. Value and saturation stay.

    Let `high`, `middle` and `low` be a pixel's channels by size. Going up round the circle of hues,
    a channel is `high` for 120°, falls to `low` within 60°, stays there for 120° and rises within
    60°; the next channel does the same 120° later. So after a turn upwards by at most 60° it is

        2 * (channel + turn * previous channel) - middle - turn * (high + low)

    clamped to `low` and `high`; downwards, the next channel takes the place of the previous one.
    That needs no angle, no division and no branch.

    The sums are written as means with weights, for torch has one operation for these.
    """
    device = images_B3HW.device
    red, green, blue = images_B3HW.chunk(3, dim=1)
    low_B1HW = torch.minimum(red, green)
    middle_B1HW = torch.minimum(torch.maximum(red, green), blue)
    torch.maximum(middle_B1HW, low_B1HW, out=middle_B1HW)
    torch.minimum(low_B1HW, blue, out=low_B1HW)

    size_B = np.abs(turn_B)
    mean_B1HW = torch.lerp(low_B1HW, high_B1HW, 0.5)
    weight_B111 = _per_image(2 * size_B / (1 + 2 * size_B), device)
    torch.lerp(middle_B1HW, mean_B1HW, weight_B111, out=mean_B1HW)
    neighbour_B3 = (np.arange(3) - np.sign(turn_B).astype(np.int64)[:, None]) % 3
    plane_B3 = 3 * np.arange(len(turn_B))[:, None] + neighbour_B3
    neighbours = images_B3HW.flatten(0, 1).index_select(0, on_device(plane_B3.ravel(), device))
    turned_B3HW = neighbours.view_as(images_B3HW)
    weight_B111 = _per_image(size_B / (1 + size_B), device)
    torch.lerp(images_B3HW, turned_B3HW, weight_B111, out=turned_B3HW)
    torch.lerp(mean_B1HW, turned_B3HW, _per_image(2 + 2 * size_B, device), out=turned_B3HW)
    return torch.clamp(turned_B3HW, low_B1HW, high_B1HW, out=turned_B3HW)


def _scale_saturation(images_B3HW: Tensor, high_B1HW: Tensor, colours: Colours) -> Tensor:
    """Scale every channel's distance from the largest one, which stays.

    OpenCV divides the distances by the absolute value of the largest channel, and multiplies them
    by that channel on the way back. Where all three are negative the distances change their sign.
    """
    device = images_B3HW.device
    factor = _per_image(colours.saturation_B, device)
    if (colours.brightness_B < 0).any():
        factor = (high_B1HW + _per_image(colours.brightness_B, device)).sign_().mul_(factor)
    return torch.lerp(high_B1HW, images_B3HW, factor)


def _per_image(values_B: Floats, device: torch.device) -> Tensor:
    return on_device(values_B.astype(np.float32), device)[:, None, None, None]
