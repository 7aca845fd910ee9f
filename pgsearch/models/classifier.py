"""The network that is trained: backbone, neck, head.

Shapes: B images, 3 colours, H×W pixels, D features of the backbone, C classes.
"""

from typing import Self

from torch import Tensor, nn

from pgsearch.errors import InvalidSpec
from pgsearch.models.backbones import Backbone

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Classifier(nn.Module):
    """Images `[B, 3, H, W]` to logits `[B, C]`.

    In training mode the modules whose parameters are all frozen stay in eval mode, and with
    `bn_eval` so do all batch norms of the backbone: their statistics never move. A backbone that
    is frozen as a whole is not even switched for a moment: others may share it.

    The parts work alone: `head(neck(features_BD))` gives the logits of features that were computed
    before. Without this package, the state of a ResNet-50 with neck and linear head loads so:

        network = torchvision.models.resnet50(); network.fc = nn.Identity()
        neck = nn.Sequential(nn.Linear(2048, 256), nn.BatchNorm1d(256), nn.Dropout(0.5))
        nn.Sequential(OrderedDict(backbone=network, neck=neck, head=nn.Linear(256, C)))

    and `load_state_dict` (with `pool: max` the network's `avgpool` is `nn.AdaptiveMaxPool2d(1)`;
    without neck, `neck = nn.Identity()`).
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: nn.Module, *, bn_eval: bool
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
        self.training = mode
        self.neck.train(mode)
        self.head.train(mode)
        self.backbone.train(mode and not is_frozen(self.backbone))
        for module in self.backbone.modules():
            if is_frozen(module) or (self.bn_eval and isinstance(module, BATCH_NORMS)):
                module.eval()
        return self


def is_frozen(module: nn.Module) -> bool:
    """Tell whether a module has parameters and none of them trains."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def freeze(backbone: Backbone, name: str, frozen_stages: int) -> None:
    """Freeze the stem and the first stages of a backbone.

    Args:
        backbone: what `build_backbone(name)` returned.
        name: the backbone's name.
        frozen_stages: 0 trains the whole backbone; k freezes its stem and its first k stages, up
            to all of them (4 of a ResNet, 3 of digits_resnet; timm's own grouping for `timm:`).
    """
    if not 0 <= frozen_stages <= backbone.num_stages:
        raise InvalidSpec(
            [
                f"frozen_stages must be from 0 (nothing frozen) to {backbone.num_stages} (the "
                f"whole of {name}), got {frozen_stages}"
            ]
        )
    if frozen_stages == 0:
        return
    for parameters in backbone.stage_parameters[: frozen_stages + 1]:
        for parameter in parameters:
            parameter.requires_grad_(False)


def build_neck(num_features: int, neck_dim: int, dropout: float) -> nn.Sequential:
    """Return Linear, BatchNorm, Dropout; no activation.

    Source: the published recipe of Wu et al., ECCV 2020 (doi:10.1007/978-3-030-58548-8_10).
    """
    linear = nn.Linear(num_features, neck_dim)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(neck_dim), nn.Dropout(dropout))
