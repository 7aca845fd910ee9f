"""The two numerical rules that every loss obeys.

Shape suffixes in this room: B images in a batch, C classes, G class groups, K factors.
"""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Bring half precision and integers to float32; float64 stays.

    After this no loss uses an operation that autocast lowers (matrix products, convolutions),
    so a loss has the same value inside and outside of an autocast region.
    """
    return in_dtype(values, torch.promote_types(values.dtype, torch.float32))


def in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values.to(dtype)`, without the time that it takes torch to change nothing."""
    return values if values.dtype == dtype else values.to(dtype)


def softplus(values: Tensor) -> Tensor:
    """log(1 + eˣ), exact at both ends.

    By default `torch.nn.functional.softplus` returns x itself above 20, which is 2e-9 off in
    float64; above 40 x is the result in float64 too.
    """
    return torch.nn.functional.softplus(values, threshold=40)
