import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from pgsearch.class_groups import GROUPS, class_groups
from pgsearch.data import MultiLabelDataset, digits, load_digits_scenes, pareto_profile


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> MultiLabelDataset:
    return load_digits_scenes(cache_dir=tmp_path_factory.mktemp("digits"))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_bytes_of_the_default_are_pinned(default: MultiLabelDataset) -> None:
    # A change here moves every number ever measured on this data set: it needs a new
    # GENERATOR_VERSION and a line in the changelog under Numerics.
    pinned = {
        name: (_sha256(split.images_NHWC)[:16], _sha256(split.targets_NC)[:16])
        for name, split in [
            ("train", default.train),
            ("validation", default.validation),
            ("test", default.test),
        ]
    }
    assert pinned == {
        "train": ("e6ca9aa9ff78b01a", "22ba069e496b7c91"),
        "validation": ("a5c6ea74707edaec", "bbd6caa7f3fc3fde"),
        "test": ("9339e976b4b99f9c", "4fb12680f315887f"),
    }


def test_training_counts_are_exactly_the_profile(default: MultiLabelDataset) -> None:
    profile = pareto_profile(10, max_count=800, min_count=4)
    assert sorted(default.class_counts_C, reverse=True) == profile.tolist()
    present = {GROUPS[group] for group in class_groups(default.class_counts_C)}
    assert present == {"head", "medium", "tail"}


def test_the_seed_draws_which_digit_is_frequent(cache_dir: Path) -> None:
    orders = {
        tuple(np.argsort(_small(cache_dir, seed=seed).class_counts_C).tolist()) for seed in range(4)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scenes_show_one_to_four_digits(default: MultiLabelDataset, split: str) -> None:
    num_digits_N = getattr(default, split).targets_NC.sum(axis=1)
    assert set(num_digits_N.tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_digits_of_validation_and_test_are_equally_likely(
    default: MultiLabelDataset, split: str
) -> None:
    shares_C = getattr(default, split).targets_NC.mean(axis=0)
    assert (shares_C > 0.12).all()
    assert (shares_C < 0.23).all()


def test_no_handwriting_is_in_two_splits() -> None:
    from sklearn.datasets import load_digits

    by_split = digits._handwriting_by_split(np.random.default_rng(0))
    glyphs = {
        split: sorted(glyph.tobytes() for of_digit in by_class for glyph in of_digit)
        for split, by_class in by_split.items()
    }
    everything = sorted(image.astype(np.int64).tobytes() for image in load_digits().images)
    assert sorted(glyphs["train"] + glyphs["validation"] + glyphs["test"]) == everything
    for digit in range(10):
        num_glyphs = [len(by_split[split][digit]) for split in ("train", "validation", "test")]
        np.testing.assert_allclose(
            np.divide(num_glyphs, sum(num_glyphs)), [0.5, 0.15, 0.35], atol=0.02
        )


def test_each_split_is_drawn_from_its_own_handwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[bytes]] = {}
    glyphs = {
        split: [np.full((3, 8, 8), 10 * s + digit % 5) for digit in range(10)]
        for s, split in enumerate(digits.SPLITS)
    }
    monkeypatch.setattr(digits, "_handwriting_by_split", lambda rng: glyphs)
    pick = digits._pick

    def recording_pick(of_digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picked.add(int(of_digit[0, 0, 0]) // 10)
        return pick(of_digit, rng)

    monkeypatch.setattr(digits, "_pick", recording_pick)
    targets = {split: np.eye(10, dtype=np.uint8) for split in digits.SPLITS}
    picked: set[int] = set()
    for block in digits._draw_splits(targets, image_size=48, seed=0):
        (split,) = block
        seen.setdefault(split, set()).update(picked)
        picked.clear()
    assert seen == {"train": {0}, "validation": {1}, "test": {2}}


@pytest.mark.parametrize(("num_digits", "typical", "most"), [(2, 0.1, 0.4), (4, 0.35, 0.55)])
def test_no_digit_is_hidden_by_another(num_digits: int, typical: float, most: float) -> None:
    rng = np.random.default_rng(0)
    worst = []
    for _ in range(300):
        boxes: list[digits.Box] = []
        for _ in range(num_digits):
            boxes.append(digits._free_box(digits._glyph_size(48, rng), boxes, 48, rng))
        masks = []
        for top, left, height, width in boxes:
            assert 0 <= top <= 48 - height
            assert 0 <= left <= 48 - width
            masks.append(np.zeros((48, 48), dtype=bool))
            masks[-1][top : top + height, left : left + width] = True
        worst.append(
            max(
                (one & other).sum() / min(one.sum(), other.sum())
                for one, other in itertools.combinations(masks, 2)
            )
        )
    assert np.mean(worst) < typical
    assert max(worst) < most


def test_a_digit_is_lighter_than_what_it_is_written_on() -> None:
    scene = np.full((48, 48, 3), 50)
    glyph = np.zeros((8, 8), dtype=np.int64)
    glyph[2:6, 2:6] = 16
    digits._add_ink(scene, glyph, (8, 16, 20, 20), np.array([100, 100, 100]))
    assert scene[18, 26].tolist() == [150, 150, 150]
    outside = np.ones((48, 48), dtype=bool)
    outside[8:28, 16:36] = False
    assert (scene[outside] == 50).all()


def test_stretching_is_linear_interpolation() -> None:
    for num_in, num_out in [(10, 24), (6, 48), (10, 7)]:
        centres = (np.arange(num_out) + 0.5) * num_in / num_out - 0.5
        expected = np.interp(centres, np.arange(num_in), np.arange(num_in) ** 2)
        stretched = digits._stretching(num_in, num_out) @ np.arange(num_in) ** 2
        np.testing.assert_allclose(stretched / digits.WEIGHT_SUM, expected, atol=0.5)


@pytest.mark.parametrize("argument", ["seed", "image_size", "max_count", "num_test"])
def test_arguments_do_not_share_a_cache_entry(tmp_path: Path, argument: str) -> None:
    base = {"seed": 0, "image_size": 40, "max_count": 30, "num_test": 12}
    changed = base | {argument: base[argument] + 8}
    _small(tmp_path / "shared", **base)
    beside_another = _small(tmp_path / "shared", **changed)
    alone = _small(tmp_path / "own", **changed)
    for one, other in [
        (beside_another.train, alone.train),
        (beside_another.validation, alone.validation),
        (beside_another.test, alone.test),
    ]:
        np.testing.assert_array_equal(one.images_NHWC, other.images_NHWC)


@pytest.mark.parametrize("argument", ["seed", "image_size", "max_count", "num_test"])
def test_the_fingerprint_tells_what_differs(cache_dir: Path, argument: str) -> None:
    base = {"seed": 0, "image_size": 40, "max_count": 30, "num_test": 12}
    changed = base | {argument: base[argument] + 8}
    assert _small(cache_dir, **changed).fingerprint != _small(cache_dir, **base).fingerprint


def _small(cache_dir: Path, **arguments: int) -> MultiLabelDataset:
    return load_digits_scenes(
        cache_dir=cache_dir, **({"max_count": 40, "num_test": 12, "num_validation": 10} | arguments)
    )


def test_scenes_too_small_for_four_digits_are_refused(cache_dir: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 pixels, got 16"):
        load_digits_scenes(cache_dir=cache_dir, image_size=16)
