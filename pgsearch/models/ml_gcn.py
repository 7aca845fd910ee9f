"""ML-GCN: a head whose class weights are computed from word vectors over a graph of labels.

Z.-M. Chen et al., "Multi-Label Image Recognition with Graph Convolutional Networks", CVPR 2019
(arXiv:1904.03582), below: *the paper*; "published" is megvii-research/ML-GCN at commit 5517d6f.

Shapes: B images, D features, N training images, C classes, W numbers of a word vector.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pgsearch.errors import InvalidData

HIDDEN_DIM: Final = 1024
NEGATIVE_SLOPE: Final = 0.2
COLUMN_FLOOR: Final = 1e-6
"""Added to every column sum, as published: a class without a neighbour keeps a column of zeros."""


class MLGCNHead(nn.Module):
    """Features `[B, D]` to logits `[B, C]`: `f Gᵀ`, with `G = Â leaky_relu(Â W θ₁) θ₂`.

    W are the word vectors, Â the normalised adjacency. Both are buffers of the state, so that a
    checkpoint needs neither the labels nor the file of the words.
    """

    word_vectors: Tensor
    adjacency: Tensor

    def __init__(self, word_vectors_CW: Tensor, adjacency_CC: Tensor, num_features: int) -> None:
        super().__init__()
        self.register_buffer("word_vectors", word_vectors_CW)
        self.register_buffer("adjacency", adjacency_CC)
        self.weight1 = _weight(word_vectors_CW.shape[1], HIDDEN_DIM)
        self.weight2 = _weight(HIDDEN_DIM, num_features)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        return features_BD @ self.class_weights_CD().T

    def class_weights_CD(self) -> Tensor:
        """Return G: what the weight of a linear layer without bias would be."""
        hidden_CH = self.adjacency @ (self.word_vectors @ self.weight1)
        hidden_CH = nn.functional.leaky_relu(hidden_CH, NEGATIVE_SLOPE)
        return self.adjacency @ (hidden_CH @ self.weight2)


def _weight(num_in: int, num_out: int) -> nn.Parameter:
    bound = 1 / math.sqrt(num_out)  # of the outputs, not of the inputs: as published
    return nn.Parameter(torch.empty(num_in, num_out).uniform_(-bound, bound))


def label_adjacency(
    targets_NC: npt.NDArray[np.uint8],
    class_names: Sequence[str],
    *,
    threshold: float = 0.4,
    weight: float = 0.25,
) -> npt.NDArray[np.float64]:
    """Return the normalised adjacency Â `[C, C]` of the labels of the training images.

    In this order:

    1. P_ij = n_ij / n_i, of n_i images with class i and n_ij with both, i ≠ j. The diagonal is
       left out, as in the paper's Eq. 8; the published counts hold zeros there.
    2. A_ij = 1 where P_ij ≥ threshold, else 0.
    3. Every column times weight / (its sum + 1e-6), see `COLUMN_FLOOR`: after step 5, what a
       class takes from its neighbours together.
    4. Plus the identity. (The paper's Eq. 8 has 1 − p there and p = 0.2 beside it; the published
       code this ratio, p / (1 − p) = 0.25, and 1.)
    5. Â = D^(−1/2) Aᵀ D^(−1/2), with D the row sums of A: so, transposed, is the published code,
       of which the paper says only "normalised". In Â the weights of step 3 stand in rows: class i
       takes from the classes j with P(i | j) ≥ threshold.

    Beyond that the published code differs in arithmetic only: from step 5 on in float32.

    Args:
        targets_NC: 0 or 1.
        class_names: for messages.
        threshold: t of step 2.
        weight: of the neighbours together, step 3.

    Raises:
        InvalidData: a class is in no image.
    """
    targets_NC = np.asarray(targets_NC, dtype=np.float64)  # uint8 would overflow at 256 images
    num_both_CC = targets_NC.T @ targets_NC
    num_images_C = num_both_CC.diagonal()
    absent = [name for name, n in zip(class_names, num_images_C, strict=True) if n == 0]
    if absent:
        raise InvalidData(
            [
                f"no training image has class {', '.join(absent)}, and the graph of ml_gcn "
                "divides by the number of its images: leave the class out, give it a training "
                "image, or choose another model.head"
            ]
        )
    adjacency_CC = (num_both_CC / num_images_C[:, np.newaxis] >= threshold).astype(np.float64)
    np.fill_diagonal(adjacency_CC, 0)
    adjacency_CC *= weight / (adjacency_CC.sum(axis=0) + COLUMN_FLOOR)
    np.fill_diagonal(adjacency_CC, 1)
    scale_C = 1 / np.sqrt(adjacency_CC.sum(axis=1))
    normalised_CC: npt.NDArray[np.float64] = adjacency_CC.T * scale_C * scale_C[:, np.newaxis]
    return normalised_CC
