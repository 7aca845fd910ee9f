"""From the configuration of a model to the model."""

import torch
from torch import nn

from pgsearch.config.model import ModelConfig
from pgsearch.models import weights as weight_files
from pgsearch.models.backbones import Triple, input_statistics
from pgsearch.models.classifier import build_classifier

RANDOM = "random"


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Return the classifier of a configuration; what is not loaded is drawn from torch's stream.

    Raises:
        InvalidData: the weights are absent, damaged or of another network.
        InvalidSpec: the backbone is not known, or has fewer stages than are to be frozen.
    """
    return build_classifier(
        backbone=config.backbone,
        num_classes=num_classes,
        weights=_weights(config),
        neck=config.neck,
        neck_dim=config.neck_dim,
        dropout=config.dropout,
        frozen_stages=config.frozen_stages,
        bn_eval=config.bn_eval,
    )


def check_model(config: ModelConfig) -> None:
    """Raise what `build_model` would, short of reading the weights: nothing is allocated."""
    with torch.device("meta"):
        build_model(config.model_copy(update={"weights": RANDOM}), num_classes=1)
    weight_files.check_weights(config.backbone, _weights(config))


def model_statistics(config: ModelConfig) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation that the backbone expects of its input."""
    return input_statistics(config.backbone)


def weights_fingerprint(config: ModelConfig) -> str:
    """Return what identifies the initial weights of the backbone; `random` if drawn."""
    return weight_files.weights_fingerprint(_weights(config))


def _weights(config: ModelConfig) -> str | None:
    return None if config.weights == RANDOM else config.weights
