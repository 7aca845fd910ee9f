"""Long-tailed class counts: the profile of a sampled Pareto density.

Source: Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
Datasets", ECCV 2020 (doi:10.1007/978-3-030-58548-8_10), and the code published with it.
"""

import numpy as np
import numpy.typing as npt


def pareto_profile(
    num_classes: int, *, max_count: int, min_count: int, b: float = 6.0, alpha: float = 0.01
) -> npt.NDArray[np.int64]:
    """Training images that each class should have, the most frequent class first; shape `[C]`.

    `x_i` runs evenly from 1 to `alpha^(−1/b)`, and
    `count_i = int((max_count − min_count)·x_i^−(b+1) + min_count)`.
    The last count is therefore a little above `min_count` (4 for VOC-LT's 1 to 800), as the
    density has not fallen to zero there.
    """
    if num_classes < 1 or not 0 <= min_count <= max_count:
        raise ValueError(
            f"a profile needs num_classes >= 1 and 0 <= min_count <= max_count, got "
            f"num_classes={num_classes}, min_count={min_count}, max_count={max_count}"
        )
    if b <= 0 or not 0 < alpha <= 1:
        raise ValueError(f"a profile needs b > 0 and 0 < alpha <= 1, got b={b}, alpha={alpha}")
    x_C = np.linspace(1.0, alpha ** (-1.0 / b), num_classes)
    counts_C = (max_count - min_count) * x_C ** -(b + 1.0) + min_count
    return counts_C.astype(np.int64)
