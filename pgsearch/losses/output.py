"""What every loss module returns."""

from typing import NamedTuple

from torch import Tensor


class LossOutput(NamedTuple):
    """A batch's loss and the factors that it was computed with.

    Attributes:
        loss: mean over the B*C elements, a scalar.
        factors: name to effective factor of this batch, each `[C]`, detached. A loss without
            factors leaves it empty.
    """

    loss: Tensor
    factors: dict[str, Tensor]
