"""Small models for the tests."""

import numpy as np

from pgsearch.config.model import ModelConfig
from pgsearch.models import build_model


def model_config(backbone="digits_resnet", weights="random", **settings):
    return ModelConfig(backbone=backbone, weights=str(weights), **settings)


def class_names(num_classes):
    return tuple(f"class{c}" for c in range(num_classes))


def build(backbone="digits_resnet", weights="random", *, num_classes=5, trunk=None, **settings):
    """Return the classifier of a configuration, with labels of one image per class."""
    return build_model(
        model_config(backbone, weights, **settings),
        class_names=class_names(num_classes),
        train_targets_NC=np.eye(num_classes, dtype=np.uint8),
        trunk=trunk,
    )
