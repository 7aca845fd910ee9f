"""A network for evaluation alone: its batch norms folded into the convolutions before them.

In evaluation mode a batch norm is one factor and one summand per channel, which the convolution can
apply itself. That saves reading and writing every map once more.
"""

import copy
from collections import Counter
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Pairs = tuple[tuple[str, str], ...]

_pairs: "WeakKeyDictionary[nn.Module, Pairs]" = WeakKeyDictionary()
"""Tracing takes longer than folding, and a network is evaluated after every epoch."""


def folded(network: nn.Module) -> nn.Module:
    """Return a copy with batch norms folded; the network itself where there is nothing to fold.

    The copy computes the same up to rounding and shares no memory with the network, whose state,
    mode and random streams are left alone. What cannot be folded stays: a batch norm whose
    convolution something else reads too, and every one of a network that `torch.fx` cannot trace.

    Args:
        network: in evaluation mode.
    """
    pairs = _pairs.get(network)
    if pairs is None:
        pairs = _pairs[network] = foldable_pairs(network)
    if not pairs:
        return network
    with torch.no_grad():
        copied = copy.deepcopy(network)
        for convolution, batch_norm in pairs:
            # Of any number of dimensions, but the types of torch name them one by one.
            before = cast(nn.Conv2d, copied.get_submodule(convolution))
            norm = cast(nn.BatchNorm2d, copied.get_submodule(batch_norm))
            copied.set_submodule(convolution, fuse_conv_bn_eval(before, norm))
            copied.set_submodule(batch_norm, _rest_of(norm))
    return copied


def foldable_pairs(network: nn.Module) -> Pairs:
    """Return the names of each convolution that one batch norm alone reads, and of that one."""
    # Tracing leaves cycles behind that hold what was traced until the garbage collector comes.
    network = copy.deepcopy(network).to("meta")
    try:
        graph = _Tracer().trace(network)
    # The tracer promises no type of error for a network that branches on what it computes.
    except Exception:
        return ()
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = Counter(modules[str(node.target)] for node in calls)
    read_directly = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    pairs = []
    for node in calls:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        names = str(source.target), str(node.target)
        convolution, norm = (modules[name] for name in names)
        if (
            type(convolution) in CONVOLUTIONS
            and _is_foldable(norm)
            and num_calls[convolution] == num_calls[norm] == 1
            and not any(read.startswith(f"{name}.") for read in read_directly for name in names)
        ):
            pairs.append(names)
    return tuple(pairs)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return _is_foldable(module) or super().is_leaf_module(module, module_qualified_name)


def _is_foldable(module: nn.Module) -> bool:
    # Their own types alone: another subclass may compute anything.
    known = type(module) in BATCH_NORMS or _has_activation(module)
    return known and getattr(module, "running_mean", None) is not None


def _has_activation(module: nn.Module) -> bool:
    """Whether it is timm's batch norm, which drops and activates too."""
    kind = type(module)
    return kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.layers")


def _rest_of(norm: nn.Module) -> nn.Module:
    """Return what a batch norm does beside normalising."""
    if not _has_activation(norm):
        return nn.Identity()
    return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
