"""From the configuration of a model to the model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pgsearch.config.model import ModelConfig
from pgsearch.models import weights as weight_files
from pgsearch.models.backbones import Backbone, Triple, build_backbone, input_statistics
from pgsearch.models.classifier import Classifier, build_neck, freeze, is_frozen
from pgsearch.models.heads import CosineHead, linear_head
from pgsearch.models.ml_gcn import MLGCNHead, label_adjacency
from pgsearch.models.stages import split_after
from pgsearch.models.word_vectors import (
    WORD_DIM,
    check_word_vectors,
    random_word_vectors,
    read_word_vectors,
    word_vectors_fingerprint,
)

RANDOM = "random"
TRUNK_SEED = 0  # of what is random in a trunk: all trials share it, whatever their seeds


def build_model(
    config: ModelConfig,
    *,
    class_names: Sequence[str],
    train_targets_NC: npt.NDArray[np.uint8],
    trunk: Backbone | None = None,
) -> Classifier:
    """Return the classifier of a configuration; what is not loaded is drawn from torch's stream.

    The stream is drawn by the backbone, then the neck, then the head. With a trunk it is drawn by
    neck and head alone: for one seed they start the same whoever built the trunk and when, but not
    the same as without a trunk.

    Args:
        config: what to build.
        class_names: of the columns of the labels, C.
        train_targets_NC: labels of the training images, which the graph of ml_gcn is made of.
        trunk: what `build_trunk` returned, to put neck and head on it. It is shared, not copied,
            and is not changed; but loading a state into the classifier or moving it to a device
            writes into it. `frozen_stages`, `bn_eval` and `weights` then say nothing.

    Raises:
        InvalidData: the weights or word vectors are absent, damaged or of another network; a class
            without a training image has no place in the graph.
        InvalidSpec: the backbone is not known, has fewer stages than are to be frozen, or cannot
            pool as asked.
    """
    num_classes = len(class_names)
    graph = None
    if config.head == "ml_gcn":
        graph = _graph(config, class_names, train_targets_NC)
    if trunk is None:
        backbone = build_backbone(config.backbone, config.pool)
        weight_files.load_weights(backbone, config.backbone, _weights(config))
        freeze(backbone, config.backbone, config.frozen_stages)
    else:
        backbone = trunk
        if backbone.network.training or not is_frozen(backbone.network):
            raise ValueError("a trunk that classifiers share must be frozen: use build_trunk")
    return _classifier(config, backbone, num_classes, graph)


def build_trunk(config: ModelConfig) -> Backbone:
    """Return the backbone, weights loaded and pooling as configured, frozen and in eval mode.

    It depends on backbone, weights and pool alone, and leaves torch's random stream where it was.

    Raises:
        InvalidData: the weights are absent, damaged or of another network.
        InvalidSpec: the backbone is not known, or cannot pool as asked.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(TRUNK_SEED)  # not torch.manual_seed: GPUs keep theirs
        trunk = build_backbone(config.backbone, config.pool)
    weight_files.load_weights(trunk, config.backbone, _weights(config))
    trunk.network.requires_grad_(False).eval()
    return trunk


def after_stages(classifier: Classifier, config: ModelConfig, num_stages: int) -> Classifier:
    """Return the part of a classifier after the first stages: maps `[B, K, h, w]` to logits.

    It shares the classifier's modules, and its state is a part of the classifier's.

    Args:
        classifier: what `build_model` returned without a `trunk`.
        config: what it was built of.
        num_stages: stages after the stem that are left out.

    Raises:
        InvalidSpec: the backbone's stages do not run in turn, or none would be left.
    """
    _, rest = split_after(classifier.backbone, config.backbone, num_stages)
    return Classifier(rest, classifier.neck, classifier.head, bn_eval=config.bn_eval)


def build_model_to_load(config: ModelConfig, *, num_classes: int) -> Classifier:
    """Return a classifier for `load_state_dict` to fill: no weights, words or labels are read.

    Until then the graph of ml_gcn is NaN. Torch's random stream is left where it was.
    """
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(config.backbone, config.pool)
        freeze(backbone, config.backbone, config.frozen_stages)
        return _classifier(config, backbone, num_classes, _Graph.unknown(num_classes))


def check_model(
    config: ModelConfig,
    class_names: Sequence[str] | None = None,
    *,
    cached_stages: int | None = None,
) -> None:
    """Raise what `build_model` would, short of reading the weights: nothing is allocated.

    With `class_names` the word vectors are read, and the classes that lack one are named; without,
    only the first line of their file is. With `cached_stages`, also what `after_stages` would.
    """
    with torch.device("meta"), _NothingDrawn():
        classifier = build_model_to_load(config, num_classes=1)
    if cached_stages is not None:
        after_stages(classifier, config, cached_stages)
    weight_files.check_weights(config.backbone, _weights(config))
    if _word_file(config) is None:
        return
    if class_names is None:
        check_word_vectors(config.word_vectors)
    else:
        read_word_vectors(config.word_vectors, class_names)


class _NothingDrawn(TorchFunctionMode):
    """Skips normal draws, for which tensors without values would import torch's compiler: 1 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]
        if func is nn.init.normal_:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def model_statistics(config: ModelConfig) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation that the backbone expects of its input."""
    return input_statistics(config.backbone)


def model_files(config: ModelConfig) -> list[str]:
    """Return the paths of the files that a model is initialised from: weights, word vectors."""
    given = [_weights(config), _word_file(config)]
    return [file for file in given if file and not weight_files.is_published(file)]


def weights_fingerprint(config: ModelConfig) -> str:
    """Return what identifies all that a model is initialised from.

    That is `trunk_fingerprint`, then where ml_gcn reads word vectors a plus and their file's hash.
    """
    words = _word_file(config)
    suffix = "" if words is None else f"+{word_vectors_fingerprint(words)}"
    return trunk_fingerprint(config) + suffix


def trunk_fingerprint(config: ModelConfig) -> str:
    """Return what identifies the initial weights of the backbone; `random` if drawn."""
    return weight_files.weights_fingerprint(_weights(config))


class _Graph(NamedTuple):
    """What the head of ML-GCN is built on."""

    word_vectors_CW: Tensor
    adjacency_CC: Tensor

    @classmethod
    def unknown(cls, num_classes: int) -> "_Graph":
        return cls(
            torch.full((num_classes, WORD_DIM), torch.nan),
            torch.full((num_classes, num_classes), torch.nan),
        )


def _graph(
    config: ModelConfig, class_names: Sequence[str], targets_NC: npt.NDArray[np.uint8]
) -> _Graph:
    adjacency_CC = label_adjacency(
        targets_NC, class_names, threshold=config.gcn_threshold, weight=config.gcn_weight
    )
    words = _word_file(config)
    if words is None:
        word_vectors_CW = random_word_vectors(len(class_names))
    else:
        word_vectors_CW = read_word_vectors(words, class_names)
    return _Graph(word_vectors_CW, torch.from_numpy(adjacency_CC).float())


def _classifier(
    config: ModelConfig, backbone: Backbone, num_classes: int, graph: _Graph | None
) -> Classifier:
    num_features = backbone.num_features
    neck: nn.Module = nn.Identity()
    if config.neck:
        neck = build_neck(num_features, config.neck_dim, config.dropout)
        num_features = config.neck_dim
    head = _head(config, num_features, num_classes, graph)
    return Classifier(backbone.network, neck, head, bn_eval=config.bn_eval)


def _head(
    config: ModelConfig, num_features: int, num_classes: int, graph: _Graph | None
) -> nn.Module:
    match config.head:
        case "linear":
            return linear_head(num_features, num_classes)
        case "cosine":
            return CosineHead(num_features, num_classes, scale=config.cosine_scale)
        case "ml_gcn":
            if graph is None:
                raise ValueError("the head ml_gcn needs a graph")
            return MLGCNHead(*graph, num_features)


def _weights(config: ModelConfig) -> str | None:
    return None if config.weights == RANDOM else config.weights


def _word_file(config: ModelConfig) -> str | None:
    needed = config.head == "ml_gcn" and config.word_vectors != RANDOM
    return config.word_vectors if needed else None
