"""The networks that are trained: a backbone, an optional neck, a linear head."""

from pgsearch.models.backbones import input_statistics
from pgsearch.models.classifier import Classifier, build_classifier
from pgsearch.models.weights import check_weights, weights_fingerprint

__all__ = [
    "Classifier",
    "build_classifier",
    "check_weights",
    "input_statistics",
    "weights_fingerprint",
]
