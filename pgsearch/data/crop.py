"""Crops that are stretched over the whole image, along one axis after the other.

A bilinear view is a linear one along each axis: every new line is a mean of two neighbouring lines.
Lines that lie in memory in one piece each are combined several times as fast as four neighbours of
every pixel are looked up.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pgsearch.data.on_device import on_device

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SAME_CHANNELS: Integers = np.arange(3)[None]
_SAME_SCALE: Floats = np.ones((1, 3))


def crop_places(side_B: Floats, start_B: Floats, num_lines: int) -> Floats:
    """Return where the lines of stretched crops lie in their images, shape `[B, N]`.

    An image's first line lies at 0, its second at 1. What lies outside, by less than half a line,
    is moved to the edge: nothing is mixed in from there.

    Args:
        side_B: side of each crop, as a share of the image's.
        start_B: where it begins, on the same scale.
        num_lines: N, lines of an image and of its stretched crop.
    """
    centres_N = np.arange(num_lines) + 0.5
    places_BN = start_B[:, None] * num_lines + side_B[:, None] * centres_N - 0.5
    return places_BN.clip(0, num_lines - 1)


class LinePlan:
    """Which lines of B images, along one axis, their N new lines are made of.

    The images come in parts. `spans` has a slice for each: the old lines that the part needs.

    Args:
        places_BN: where the new lines lie, from `crop_places`.
        part_size: images of a part; the last may have fewer.
        device: that of the images.
        channels_B3: the old channel that each new one is made of; by default the same.
        scale_B3: a factor on each new channel; by default none.
    """

    def __init__(
        self,
        places_BN: Floats,
        part_size: int,
        device: torch.device,
        *,
        channels_B3: Integers = _SAME_CHANNELS,
        scale_B3: Floats = _SAME_SCALE,
    ) -> None:
        num_images, num_lines = places_BN.shape
        before_BN = places_BN.astype(np.int32)
        after_BN = np.minimum(before_BN + 1, num_lines - 1)
        share_BN = places_BN - before_BN
        parts = np.arange(0, num_images, part_size)
        first = np.minimum.reduceat(before_BN.min(axis=1), parts)
        end = np.maximum.reduceat(after_BN.max(axis=1), parts) + 1
        self.spans = [slice(*ends) for ends in zip(first.tolist(), end.tolist(), strict=True)]

        # The lines that a part needs are the rows of a table, by image, channel and line.
        part_B, image_B = np.divmod(np.arange(num_images), part_size)
        row_B3 = (3 * image_B[:, None] + channels_B3) * (end - first)[part_B, None]
        row_B3 -= first[part_B, None]
        lines_BN2 = np.stack([before_BN, after_BN], axis=2)
        weights_BN2 = np.stack([1 - share_BN, share_BN], axis=2)
        rows_B3N2 = row_B3.astype(np.int32)[:, :, None, None] + lines_BN2[:, None]
        weights_B3N2 = scale_B3[:, :, None, None] * weights_BN2[:, None]
        self._rows_B3N2 = on_device(rows_B3N2, device)
        self._weights_B3N2 = on_device(weights_B3N2.astype(np.float32), device)

    def take(self, lines_P3LM: Tensor, part: slice) -> Tensor:
        """Return the new lines of a part's images, shape `[P, 3, N, M]`.

        Args:
            lines_P3LM: the old lines that the part's span names, float32.
            part: its images among the B.
        """
        rows_P3N2 = self._rows_B3N2[part]
        # What sums rows of a table with weights is, in a network, an embedding of bags of words.
        return F.embedding_bag(
            rows_P3N2.flatten(0, 2),
            lines_P3LM.reshape(-1, lines_P3LM.shape[3]),
            per_sample_weights=self._weights_B3N2[part].flatten(0, 2),
            mode="sum",
        ).view(*rows_P3N2.shape[:3], -1)


def transposed(images_BCMN: Tensor) -> Tensor:
    """Exchange the last two axes, in one piece of memory: `[B, C, N, M]`.

    On a CPU, of all operations of torch that transpose only this one uses vector instructions (a
    third of the time at 224 pixels). It shuffles the channels of pixels: here every plane of an
    image is a pixel of M × N channels.
    """
    if images_BCMN.device.type != "cpu":
        return images_BCMN.transpose(2, 3).contiguous()
    num_images, num_channels, num_lines, length = images_BCMN.shape
    planes_1RX = images_BCMN.reshape(1, num_images * num_channels, num_lines * length)
    pixels_1X1R = planes_1RX.transpose(1, 2)[:, :, None]
    shuffled_1X1R = torch.channel_shuffle(pixels_1X1R, num_lines)
    planes_1RX = shuffled_1X1R[:, :, 0].transpose(1, 2)
    return planes_1RX.reshape(num_images, num_channels, length, num_lines)
