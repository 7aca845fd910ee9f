"""A backbone in two parts: stem and first stages, which are frozen, and what is trained after them.

Shapes: B images, 3 colours, H×W pixels, D features, K×h×w maps of a stage.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from pgsearch.errors import InvalidSpec
from pgsearch.models.backbones import OWN_BACKBONES, TIMM_PREFIX
from pgsearch.models.digits_resnet import DigitsResNet

Parts = Sequence[Mapping[str, nn.Module]]
"""Modules by their names in the network: the stem's, each stage's, then what makes features of the
last maps. Run in turn they are the network."""

_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def split_after(
    network: nn.Module, name: str, num_stages: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return stem and first stages, images to maps `[B, K, h, w]`; and the rest, maps to features.

    Both consist of the network's own modules and call their parameters as the network does: the
    state of the rest is a part of the network's.

    Args:
        network: of a backbone, with features `[B, D]`.
        name: the backbone's name.
        num_stages: stages of the first part, from 1.

    Raises:
        InvalidSpec: the network's stages do not run in turn, or none would be left after them.
    """
    parts = _parts(network, name)
    if parts is None:
        raise InvalidSpec(
            [
                f"training.trunk: frozen_through_layer{num_stages} needs stages that run in turn, "
                f"which {', '.join(OWN_BACKBONES)} and timm's ResNets and EfficientNets have and "
                f"{name} has not: set training.trunk to frozen or trained, or choose one of these"
            ]
        )
    last = len(parts) - 2
    if num_stages >= last:
        raise InvalidSpec(
            [
                f"training.trunk: frozen_through_layer{num_stages} leaves none of the {last} "
                f"stages of {name} to train: choose frozen_through_layer{last - 1} or below, or "
                "frozen, which trains neck and head alone"
            ]
        )
    return _in_turn(parts[: num_stages + 1]), _in_turn(parts[num_stages + 1 :])


def _parts(network: nn.Module, name: str) -> Parts | None:
    if isinstance(network, DigitsResNet):
        return _named(network, ["stem"], _numbered(network, "stages"), ["pool"])
    if not name.startswith(TIMM_PREFIX):
        *parts, pool = _named(
            network, ["conv1", "bn1", "relu", "maxpool"], _RESNET_STAGES, ["avgpool"]
        )
        return [*parts, {**pool, "flatten": nn.Flatten(1)}]
    from timm.models.efficientnet import EfficientNet
    from timm.models.resnet import ResNet

    if type(network) is ResNet:
        stem = ["conv1", "bn1", "act1", "maxpool"]
        return _named(network, stem, _RESNET_STAGES, ["global_pool", "fc"])
    if type(network) is EfficientNet:
        end = ["conv_head", "bn2", "global_pool", "classifier"]
        return _named(network, ["conv_stem", "bn1"], _numbered(network, "blocks"), end)
    return None


def _numbered(network: nn.Module, name: str) -> list[str]:
    return [f"{name}.{i}" for i, _ in network.get_submodule(name).named_children()]


def _named(
    network: nn.Module, stem: Sequence[str], stages: Sequence[str], end: Sequence[str]
) -> list[dict[str, nn.Module]]:
    groups = [stem, *([stage] for stage in stages), end]
    return [{name: network.get_submodule(name) for name in names} for names in groups]


def _in_turn(parts: Parts) -> nn.Sequential:
    """Return modules as one; `stages.1` is called so by standing in a module called `stages`."""
    whole = nn.Sequential()
    for part in parts:
        for name, module in part.items():
            outer, _, inner = name.rpartition(".")
            if outer and not hasattr(whole, outer):
                whole.add_module(outer, nn.Sequential())
            whole.get_submodule(outer).add_module(inner, module)
    return whole
