"""The graph of labels and the head on it, against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgsearch.errors import InvalidData
from pgsearch.models import build_model, build_model_to_load
from pgsearch.models.ml_gcn import MLGCNHead, label_adjacency
from pgsearch.models.word_vectors import random_word_vectors
from tests.models import reference
from tests.models.models import build, class_names, model_config


def some_targets(seed, num_images=40, num_classes=6, density=0.3):
    """Labels in which every class has an image."""
    rng = np.random.default_rng(seed)
    targets_NC = (rng.random((num_images, num_classes)) < density).astype(np.uint8)
    return np.concatenate([targets_NC, np.eye(num_classes, dtype=np.uint8)])


@given(
    seed=st.integers(0, 2**31),
    num_images=st.integers(0, 30),
    num_classes=st.integers(1, 7),
    density=st.floats(0, 1),
    threshold=st.sampled_from([0.0, 0.2, 0.25, 0.4, 0.5, 1.0]),
    weight=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
)
def test_adjacency_equals_loops(seed, num_images, num_classes, density, threshold, weight):
    targets_NC = some_targets(seed, num_images, num_classes, density)
    graph_CC = label_adjacency(
        targets_NC, class_names(num_classes), threshold=threshold, weight=weight
    )
    expected = reference.adjacency(targets_NC.tolist(), threshold, weight)
    np.testing.assert_allclose(graph_CC, expected, rtol=1e-12, atol=1e-15)


def test_adjacency_of_a_small_data_set_by_hand():
    # Dogs come with people, people seldom with dogs: 2 of 5 is 0.4, the threshold itself.
    # Boats are alone. Columns: person, dog, boat.
    targets_NC = np.array([[1, 1, 0]] * 2 + [[1, 0, 0]] * 4 + [[0, 0, 1]], dtype=np.uint8)
    graph_CC = label_adjacency(targets_NC, ("person", "dog", "boat"))
    # P(dog | person) = 1/3 is below it, P(person | dog) = 1 is not: A has dog -> person, and its
    # transpose makes the person take from the dog. Row sums of A: 1, 1.25, 1.
    expected = [[1, 0.25 / 1.25**0.5, 0], [0, 1 / 1.25, 0], [0, 0, 1]]
    np.testing.assert_allclose(graph_CC, expected, rtol=1e-5)
    more = targets_NC[:-2]  # one image of a person fewer, and no boat
    graph_CC = label_adjacency(more[:, :2], ("person", "dog"))
    assert graph_CC[1, 0] > 0, "2 of 5 is at the threshold and counts"


def test_counts_above_255_do_not_overflow():
    targets_NC = np.ones((300, 2), dtype=np.uint8)
    targets_NC[256:, 1] = 0  # 256 images with both
    graph_CC = label_adjacency(targets_NC, ("a", "b"))
    np.testing.assert_allclose(graph_CC, reference.adjacency(targets_NC.tolist(), 0.4, 0.25))
    assert graph_CC[0, 1] > 0


def test_classes_without_a_neighbour_are_left_to_themselves():
    graph_CC = label_adjacency(np.eye(3, dtype=np.uint8), class_names(3))
    np.testing.assert_array_equal(graph_CC, np.eye(3))


def test_a_class_without_an_image_is_named_with_the_fix():
    targets_NC = np.eye(4, dtype=np.uint8)[:2]
    with pytest.raises(InvalidData, match=r"class class2, class3, .*choose another model\.head"):
        build_model(
            model_config(head="ml_gcn"), class_names=class_names(4), train_targets_NC=targets_NC
        )


def small_head(seed=0, num_classes=4, num_features=5):
    torch.manual_seed(seed)
    targets_NC = some_targets(seed, num_classes=num_classes)
    graph_CC = torch.from_numpy(label_adjacency(targets_NC, class_names(num_classes)))
    words_CW = torch.randn(num_classes, 3, dtype=torch.float64)
    return MLGCNHead(words_CW, graph_CC, num_features).double()


@pytest.mark.parametrize("seed", range(4))
def test_head_equals_loops(seed):
    head = small_head(seed)
    features_BD = torch.randn(2, 5, dtype=torch.float64)
    parts = (head.adjacency, head.word_vectors, head.weight1, head.weight2)
    expected = reference.ml_gcn_logits(
        features_BD.tolist(), *(part.detach().numpy() for part in parts)
    )
    np.testing.assert_allclose(head(features_BD).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        features_BD.numpy() @ head.class_weights_CD().detach().numpy().T, expected, atol=1e-9
    )


def test_head_has_the_right_gradient(monkeypatch):
    monkeypatch.setattr("pgsearch.models.ml_gcn.HIDDEN_DIM", 6)
    head = small_head()
    features_BD = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    weights = [head.weight1.detach().clone(), head.weight2.detach().clone()]

    def logits(features_BD, weight1, weight2):
        return torch.func.functional_call(
            head, {"weight1": weight1, "weight2": weight2}, features_BD
        )

    assert torch.autograd.gradcheck(logits, (features_BD, *(w.requires_grad_() for w in weights)))


def test_head_starts_uniform_with_the_bound_of_its_outputs():
    model = build("resnet50", head="ml_gcn", neck=False, pool="max", num_classes=3)
    assert model.head.weight1.shape == (300, 1024)
    assert model.head.weight2.shape == (1024, 2048)
    for weight, bound in ((model.head.weight1, 1 / 32), (model.head.weight2, 2048**-0.5)):
        assert weight.min().item() == pytest.approx(-bound, rel=1e-3)
        assert weight.max().item() == pytest.approx(bound, rel=1e-3)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize(("neck", "num_features"), [(True, 256), (False, 64)])
def test_classifier_takes_graph_from_its_labels_and_settings(neck, num_features):
    targets_NC = some_targets(3)
    config = model_config(head="ml_gcn", neck=neck, gcn_threshold=0.3, gcn_weight=0.5)
    model = build_model(config, class_names=class_names(6), train_targets_NC=targets_NC)
    graph_CC = reference.adjacency(targets_NC.tolist(), 0.3, 0.5)
    np.testing.assert_allclose(model.head.adjacency.numpy(), graph_CC, rtol=1e-6)
    assert torch.equal(model.head.word_vectors, random_word_vectors(6))
    assert model.head.weight2.shape[1] == num_features
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 6)


def test_training_moves_the_weights_and_neither_graph_nor_words():
    model = build(head="ml_gcn", neck=False)
    before = {key: value.clone() for key, value in model.head.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimiser.step()
    moved = {k for k, value in model.head.state_dict().items() if not torch.equal(value, before[k])}
    assert moved == {"weight1", "weight2"}
    assert {"word_vectors", "adjacency"} < set(before)


def test_checkpoint_loads_without_labels_or_words(tmp_path):
    config = model_config(head="ml_gcn", neck=False, pool="max")
    trained = build_model(config, class_names=class_names(6), train_targets_NC=some_targets(1))
    torch.save(trained.state_dict(), tmp_path / "checkpoint.pth")
    absent = config.model_copy(update={"word_vectors": "absent.txt", "weights": "absent.pth"})
    loaded = build_model_to_load(absent, num_classes=6)
    assert bool(loaded.head.adjacency.isnan().all()), "an unfilled graph must not pass for one"
    assert bool(loaded.head.word_vectors.isnan().all())
    loaded.load_state_dict(torch.load(tmp_path / "checkpoint.pth", weights_only=True))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), trained.eval()(images))
