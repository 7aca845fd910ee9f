"""The feature extractors by name: torchvision's ResNets, `digits_resnet`, and any network of timm.

Shapes: B images, 3 colours, H×W pixels, D features.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from pgsearch.config.model import Pool
from pgsearch.errors import InvalidSpec
from pgsearch.models.digits_resnet import DigitsResNet

TORCHVISION_BACKBONES: Final = ("resnet18", "resnet34", "resnet50", "resnet101")
DIGITS_RESNET: Final = "digits_resnet"
OWN_BACKBONES: Final = (*TORCHVISION_BACKBONES, DIGITS_RESNET)
TIMM_PREFIX: Final = "timm:"

Triple = tuple[float, float, float]

IMAGENET_STATISTICS: Final[tuple[Triple, Triple]] = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A feature extractor, and what freezing it and loading its weights need to know."""

    network: nn.Module
    """Images `[B, 3, H, W]` to pooled features `[B, D]`."""

    num_features: int

    stage_parameters: Sequence[Sequence[nn.Parameter]]
    """The stem's parameters, then each stage's from the input on; together all there are."""

    classifier_names: tuple[str, ...]
    """Modules that a published weights file has and the feature extractor has not."""

    @property
    def num_stages(self) -> int:
        """Number of stages after the stem."""
        return len(self.stage_parameters) - 1


def build_backbone(name: str, pool: Pool = "avg") -> Backbone:
    """Build a backbone with random weights from torch's global random stream.

    Args:
        name: `resnet18`, `resnet34`, `resnet50`, `resnet101`, `digits_resnet`, or `timm:` and a
            name that timm knows (without the pretrained weights its tag may stand for).
        pool: how the last maps become features; `avg` is whatever the network of timm does by
            itself, such as the class token of a ViT.
    """
    if name == DIGITS_RESNET:
        return _digits_backbone(pool)
    if name in TORCHVISION_BACKBONES:
        return _torchvision_backbone(name, pool)
    if name.startswith(TIMM_PREFIX):
        return _timm_backbone(name.removeprefix(TIMM_PREFIX), pool)
    raise _unknown_backbone(name)


def input_statistics(backbone: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel, on a scale of 0 to 1, that images are expected in.

    They belong to the published weights of the backbone; nothing is built to find them.
    """
    if backbone == DIGITS_RESNET:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if backbone in TORCHVISION_BACKBONES:
        return IMAGENET_STATISTICS
    if backbone.startswith(TIMM_PREFIX):
        timm = _import_timm(backbone)
        config = _timm_config(timm, backbone.removeprefix(TIMM_PREFIX))
        return _triple(config.mean), _triple(config.std)
    raise _unknown_backbone(backbone)


def _digits_backbone(pool: Pool) -> Backbone:
    network = DigitsResNet(pool)
    return Backbone(
        network=network,
        num_features=network.num_features,
        stage_parameters=[list(part.parameters()) for part in (network.stem, *network.stages)],
        classifier_names=(),
    )


def _torchvision_backbone(name: str, pool: Pool) -> Backbone:
    import torchvision.models

    network = torchvision.models.get_model(name, weights=None)
    num_features = network.fc.in_features
    network.fc = nn.Identity()
    if pool == "max":
        network.avgpool = nn.AdaptiveMaxPool2d(1)
    stem = [*network.conv1.parameters(), *network.bn1.parameters()]
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return Backbone(
        network=network,
        num_features=num_features,
        stage_parameters=[stem, *(list(stage.parameters()) for stage in stages)],
        classifier_names=("fc",),
    )


def _timm_backbone(name: str, pool: Pool) -> Backbone:
    timm = _import_timm(TIMM_PREFIX + name)
    classifier = _timm_config(timm, name).classifier
    if pool == "max":
        network = _timm_with_max_pool(timm, name)
    else:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    return Backbone(
        network=network,
        num_features=network.head_hidden_size,
        stage_parameters=_timm_stages(timm, network),
        classifier_names=(classifier,) if isinstance(classifier, str) else tuple(classifier or ()),
    )


def _timm_with_max_pool(timm: Any, name: str) -> Any:
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, global_pool="max")
    # timm's networks assert; one that does not know the argument, or the value, says so by type.
    except (AssertionError, TypeError, ValueError) as error:
        raise _no_max_pool(name) from error
    # Some take the argument and ignore it. Convolutional networks hold timm's pooling layer, ViTs
    # the name of their pooling.
    pools = {
        module.pool_type
        for module in network.modules()
        if isinstance(module, timm.layers.SelectAdaptivePool2d)
    }
    if pools != {"max"} and (pools or getattr(network, "global_pool", None) != "max"):
        raise _no_max_pool(name)
    return network


def _no_max_pool(name: str) -> InvalidSpec:
    return InvalidSpec(
        [
            f"backbone {TIMM_PREFIX}{name} has no global max pooling: set model.pool to avg, or "
            "choose a backbone that has it, such as a ResNet"
        ]
    )


def _timm_stages(timm: Any, network: Any) -> list[list[nn.Parameter]]:
    if not hasattr(network, "group_matcher"):  # PiT, MetaFormer: one stage, all or nothing
        return [[], list(network.parameters())]
    names_by_group = timm.models.group_parameters(network, network.group_matcher(coarse=True))
    parameters = dict(network.named_parameters())
    return [
        [parameters[parameter] for parameter in names]
        for _, names in sorted(names_by_group.items())
    ]


def _import_timm(backbone: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InvalidSpec(
            [
                f"backbone {backbone} needs timm, which is not installed: "
                "pip install 'pgsearch[timm]'"
            ]
        ) from error
    return timm


def _timm_config(timm: Any, name: str) -> Any:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise _unknown_backbone(
            TIMM_PREFIX + name, [TIMM_PREFIX + known for known in timm.list_models()]
        )
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise InvalidSpec(
            [f"timm's {architecture} has no tag {tag}: leave it out, or choose one of {tags}"]
        ) from error


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return red, green, blue


def _unknown_backbone(name: str, known: Sequence[str] = OWN_BACKBONES) -> InvalidSpec:
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(nearest)}?)" if nearest else ""
    choices = f"{', '.join(OWN_BACKBONES)}, or {TIMM_PREFIX}NAME with a name that timm knows"
    return InvalidSpec([f"there is no backbone {name}{hint}: choose {choices}"])
