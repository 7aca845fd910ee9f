"""The networks that are trained: a backbone, an optional neck, a head."""

from pgsearch.models.backbones import Backbone, input_statistics
from pgsearch.models.build import build_model, build_model_to_load, build_trunk, check_model
from pgsearch.models.classifier import Classifier
from pgsearch.models.weights import check_weights, weights_fingerprint

__all__ = [
    "Backbone",
    "Classifier",
    "build_model",
    "build_model_to_load",
    "build_trunk",
    "check_model",
    "check_weights",
    "input_statistics",
    "weights_fingerprint",
]
