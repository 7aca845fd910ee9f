import json
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pgsearch.data import ClassAwareSampler, UniformSampler

CLASS_COUNTS = (12, 5, 2, 1)


def _single_label_targets(counts: tuple[int, ...] = CLASS_COUNTS) -> np.ndarray:
    return np.repeat(np.eye(len(counts), dtype=np.uint8), counts, axis=0)


CLASS_OF_IMAGE = _single_label_targets().argmax(axis=1)

Make = Callable[[int], UniformSampler | ClassAwareSampler]


@pytest.fixture(params=["uniform", "class-aware"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "uniform":
        return lambda seed: UniformSampler(17, seed=seed)
    return lambda seed: ClassAwareSampler(_single_label_targets(), seed=seed)


def test_an_epoch_is_int64_indices_of_the_epoch_length(make: Make) -> None:
    sampler = make(0)
    indices = sampler.next_epoch()
    assert indices.dtype == np.int64
    assert indices.shape == (sampler.epoch_length,)


def test_epochs_and_seeds_differ_and_the_same_seed_repeats(make: Make) -> None:
    sampler, twin, other = make(0), make(0), make(1)
    first, second = sampler.next_epoch().tolist(), sampler.next_epoch().tolist()
    assert first != second
    assert [twin.next_epoch().tolist() for _ in range(2)] == [first, second]
    assert other.next_epoch().tolist() != first


@pytest.mark.parametrize("num_before", [0, 1, 5])
def test_a_resumed_sampler_goes_on_with_the_same_indices(make: Make, num_before: int) -> None:
    straight, stopped = make(3), make(3)
    for _ in range(num_before):
        straight.next_epoch()
        stopped.next_epoch()
    resumed = make(3)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for _ in range(4):
        np.testing.assert_array_equal(resumed.next_epoch(), straight.next_epoch())


def test_a_state_is_a_snapshot_that_torch_loads_safely(make: Make, tmp_path) -> None:
    sampler = make(3)
    sampler.next_epoch()
    state = sampler.state_dict()
    torch.save(state, tmp_path / "state.pt")
    expected = sampler.next_epoch()
    resumed = make(3)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    np.testing.assert_array_equal(resumed.next_epoch(), expected)


def test_a_state_of_another_seed_or_data_set_is_refused(make: Make) -> None:
    state = make(3).state_dict()
    with pytest.raises(ValueError, match="saved seed=3, now 4"):
        make(4).load_state_dict(state)
    size, other = ("num_images", 1) if "num_images" in state else ("class_counts", [1])
    with pytest.raises(ValueError, match=f"saved {size}={re.escape(str(other))}, now"):
        make(3).load_state_dict(state | {size: other})


def test_uniform_epochs_are_permutations() -> None:
    sampler = UniformSampler(50, seed=0)
    for _ in range(3):
        assert sorted(sampler.next_epoch()) == list(range(50))


@pytest.mark.parametrize(
    ("largest", "num_classes", "draws", "iterations"),
    # VOC-LT and COCO-LT as published, and one that is rounded down.
    [(775, 20, 3875, 121), (1128, 80, 22_560, 705), (5, 3, 3, 0)],
)
def test_an_epoch_is_as_long_as_published_and_counts_each_class_exactly(
    largest: int, num_classes: int, draws: int, iterations: int
) -> None:
    counts = (largest, *[2] * (num_classes - 1))
    sampler = ClassAwareSampler(_single_label_targets(counts), seed=0)
    indices = sampler.next_epoch()
    assert len(indices) == sampler.epoch_length == draws
    assert len(indices) // 32 == iterations
    # Whole rounds of 3 images for each class; the rest goes to different classes.
    class_of_image = np.repeat(np.arange(num_classes), counts)
    rounds, rest = divmod(draws, 3 * num_classes)
    drawn_C = np.bincount(class_of_image[indices], minlength=num_classes)
    extra = sorted(drawn_C - 3 * rounds)
    assert extra == sorted([3] * (rest // 3) + [rest % 3] + [0] * (num_classes - rest // 3 - 1))


def _turns(sampler: ClassAwareSampler, num_epochs: int) -> list[list[int]]:
    """Images by turn. Every epoch begins a turn, and may end within one."""
    turns = []
    for _ in range(num_epochs):
        indices = sampler.next_epoch().tolist()
        turns += [indices[i : i + 3] for i in range(0, len(indices), 3)]
    return turns


@pytest.mark.parametrize("reduce", [2, 4])  # 24 draws: whole turns; 12: whole turns
def test_each_turn_is_one_class_and_each_round_has_every_class_once(reduce: int) -> None:
    sampler = ClassAwareSampler(_single_label_targets(), seed=0, reduce=reduce)
    turns = _turns(sampler, num_epochs=8)
    classes = []
    for turn in turns:
        (of_turn,) = {int(CLASS_OF_IMAGE[image]) for image in turn}
        classes.append(of_turn)
    rounds = [tuple(classes[i : i + 4]) for i in range(0, len(classes), 4)]
    assert all(sorted(round_) == [0, 1, 2, 3] for round_ in rounds)
    assert len(set(rounds)) > 1


def test_each_class_goes_through_all_its_images_before_any_comes_again() -> None:
    sampler = ClassAwareSampler(_single_label_targets(), seed=0)
    drawn_of_class: dict[int, list[int]] = {c: [] for c in range(4)}
    for turn in _turns(sampler, num_epochs=20):
        for image in turn:
            drawn_of_class[int(CLASS_OF_IMAGE[image])].append(image)
    for c, drawn in drawn_of_class.items():
        count = CLASS_COUNTS[c]
        rounds = [tuple(drawn[i : i + count]) for i in range(0, len(drawn) - count + 1, count)]
        assert all(
            sorted(round_) == np.flatnonzero(c == CLASS_OF_IMAGE).tolist() for round_ in rounds
        )
        if count >= 5:
            assert len(set(rounds)) > 1, "lists are shuffled again"


def test_a_turn_cut_by_the_end_of_an_epoch_is_not_resumed() -> None:
    sampler = ClassAwareSampler(_single_label_targets((7, 2)), seed=0, reduce=2)
    assert sampler.epoch_length == 7  # two turns and a third of one
    sampler.next_epoch()
    second = sampler.next_epoch()
    is_large = second < 7
    assert is_large[:3].all() or not is_large[:3].any()


def test_classes_are_drawn_equally_often_whatever_their_size() -> None:
    counts = (400, 60, 7, 3)
    sampler = ClassAwareSampler(_single_label_targets(counts), seed=0)
    class_of_image = np.repeat(np.arange(4), counts)
    drawn = Counter(class_of_image[sampler.next_epoch()].tolist())
    assert sum(drawn.values()) == 400
    assert all(abs(number - 100) <= 3 for number in drawn.values())


def test_images_of_several_classes_are_drawn_for_each_of_them() -> None:
    targets_NC = np.array([[1, 1], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0]], dtype=np.uint8)
    sampler = ClassAwareSampler(targets_NC, seed=0, reduce=1)
    drawn = Counter(sampler.next_epoch().tolist())
    assert drawn[0] == 7  # 6 turns' worth of class 1 has only this image; once for class 0
    assert [drawn[image] for image in range(1, 6)] == [1] * 5


def test_samplers_refuse_what_they_cannot_draw_from() -> None:
    with pytest.raises(ValueError, match="num_images=0"):
        UniformSampler(0, seed=0)
    with pytest.raises(ValueError, match=r"none of \[1\]"):
        ClassAwareSampler(np.array([[1, 0], [1, 0]], dtype=np.uint8), seed=0)
    with pytest.raises(ValueError, match="reduce=49"):
        ClassAwareSampler(_single_label_targets(), seed=0, reduce=49)
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"got num_samples_per_class={wrong}"):
            ClassAwareSampler(_single_label_targets(), seed=0, num_samples_per_class=wrong)
        with pytest.raises(ValueError, match=f"reduce={wrong}"):
            ClassAwareSampler(_single_label_targets(), seed=0, reduce=wrong)


def test_a_turn_gives_as_many_images_as_asked() -> None:
    sampler = ClassAwareSampler(_single_label_targets(), seed=0, num_samples_per_class=2, reduce=1)
    classes_TK = CLASS_OF_IMAGE[sampler.next_epoch()].reshape(-1, 2)
    assert (classes_TK[:, 0] == classes_TK[:, 1]).all()
    assert (np.sort(classes_TK[:, 0].reshape(-1, 4), axis=1) == np.arange(4)).all()
