import pandas as pd
import pytest

from pgsearch.analysis.ranking import ranked_configurations
from tests.records import spec


def frame(*rows: tuple[str, int, float]) -> pd.DataFrame:
    """Complete trials: configuration, seed, value."""
    return pd.DataFrame(
        [
            {"number": n, "seed": seed, "variant": None, "configuration_id": c, "params": {},
             "value": value, "wall_seconds": 10.0 + n}
            for n, (c, seed, value) in enumerate(rows)
        ]
    )  # fmt: skip


def test_by_the_mean_over_seeds() -> None:
    trials = frame(("a", 1, 0.5), ("a", 2, 0.9), ("b", 1, 0.8), ("b", 2, 0.8), ("c", 1, 0.1), ("c", 2, 0.2))  # fmt: skip  # noqa: E501
    ranked = ranked_configurations(trials, spec(seeds=[1, 2]))
    assert ranked["configuration_id"].tolist() == ["b", "a", "c"]
    assert ranked["value"].tolist() == pytest.approx([0.8, 0.7, 0.15])
    assert ranked["number"].tolist() == [2, 0, 4]
    assert ranked["wall_seconds"].tolist() == [12.5, 10.5, 14.5]
    least_first = spec(seeds=[1, 2], objective={"direction": "minimize"})
    assert ranked_configurations(trials, least_first)["configuration_id"].tolist() == ["c", "a", "b"]  # fmt: skip  # noqa: E501


def test_whole_ones_before_lucky_ones() -> None:
    trials = frame(("a", 1, 0.5), ("a", 2, 0.6), ("b", 1, 0.9))
    assert ranked_configurations(trials, spec(seeds=[1, 2]))["configuration_id"].tolist() == ["a"]
    partly = ranked_configurations(trials, spec(seeds=[1, 2, 3]))
    assert partly["configuration_id"].tolist() == ["b", "a"]
    assert partly["n"].tolist() == [1, 2]


def test_of_equal_ones_the_first_trained() -> None:
    trials = frame(("b", 1, 0.5), ("a", 1, 0.5))
    assert ranked_configurations(trials, spec(seeds=[1]))["configuration_id"].tolist() == ["b", "a"]
    assert ranked_configurations(trials.iloc[:0], spec()).empty
