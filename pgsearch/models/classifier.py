"""The network that is trained: backbone, neck, head.

Shapes: B images, 3 colours, H×W pixels, D features of the backbone, C classes.
"""

from pathlib import Path
from typing import Self

from torch import Tensor, nn

from pgsearch.errors import InvalidSpec
from pgsearch.models.backbones import Backbone, build_backbone
from pgsearch.models.weights import load_weights

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def build_classifier(
    *,
    backbone: str,
    num_classes: int,
    weights: str | Path | None,
    neck: bool,
    neck_dim: int = 256,
    dropout: float = 0.5,
    frozen_stages: int,
    bn_eval: bool,
) -> "Classifier":
    """Build a classifier; what is random comes from torch's global random stream.

    Args:
        backbone: see `build_backbone`.
        num_classes: number of logits, C.
        weights: of the backbone: None for random ones, the path of a file, or `torchvision:NAME`;
            see `pgsearch.models.weights`.
        neck: put Linear, BatchNorm, Dropout (no activation) between backbone and head.
        neck_dim: width of the neck.
        dropout: probability with which the neck drops a feature.
        frozen_stages: 0 trains the whole backbone; k freezes its stem and its first k stages, up
            to all of them (4 of a ResNet, 3 of digits_resnet; timm's own grouping for `timm:`).
        bn_eval: keep all batch norms of the backbone in eval mode during training. Their affine
            parameters train where they are not frozen.

    The published recipe is a ResNet-50 with neck, frozen_stages=1 and bn_eval: Wu et al.,
    ECCV 2020 (doi:10.1007/978-3-030-58548-8_10).
    """
    parts = build_backbone(backbone)
    load_weights(parts, backbone, weights)
    _freeze(parts, backbone, frozen_stages)
    num_features = parts.num_features
    return Classifier(
        parts.network,
        _neck(num_features, neck_dim, dropout) if neck else nn.Identity(),
        _head(neck_dim if neck else num_features, num_classes),
        bn_eval=bn_eval,
    )


class Classifier(nn.Module):
    """Images `[B, 3, H, W]` to logits `[B, C]`.

    In training mode the modules whose parameters are all frozen stay in eval mode, and with
    `bn_eval` so do all batch norms of the backbone: their statistics never move.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: nn.Linear, *, bn_eval: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.bn_eval = bn_eval
        self.train()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        # No torch.no_grad for the frozen stages: they come first, and where neither image nor
        # parameter needs a gradient autograd records nothing.
        logits_BC: Tensor = self.head(self.neck(self.backbone(images_B3HW)))
        return logits_BC

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for what stays in eval mode (see the class)."""
        super().train(mode)
        for module in self.backbone.modules():
            if _is_frozen(module) or (self.bn_eval and isinstance(module, BATCH_NORMS)):
                module.eval()
        return self


def _freeze(parts: Backbone, name: str, frozen_stages: int) -> None:
    if not 0 <= frozen_stages <= parts.num_stages:
        raise InvalidSpec(
            [
                f"frozen_stages must be from 0 (nothing frozen) to {parts.num_stages} (the whole "
                f"of {name}), got {frozen_stages}"
            ]
        )
    if frozen_stages == 0:
        return
    for parameters in parts.stage_parameters[: frozen_stages + 1]:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _neck(num_features: int, neck_dim: int, dropout: float) -> nn.Sequential:
    linear = nn.Linear(num_features, neck_dim)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(neck_dim), nn.Dropout(dropout))


def _head(num_features: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(num_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
