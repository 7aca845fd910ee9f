"""What a trial occupies where the spec says auto: measured, shared, doubled where too little."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgsearch.errors import InvalidSpec
from pgsearch.search.packing import MOST_ON_A_GPU, Packing, share_of
from pgsearch.search.placement import Node, Share, num_places
from pgsearch.training.memory import needed_memory, restart_peaks
from tests.records import spec
from tests.search.searches import SPEC, Search, assert_whole

NODE = Node("0", "10.0.0.1", "host", cpus=16, gpus=2, memory_bytes=64e9)
AUTO = {"gpus": "auto", "memory_gb": "auto"}


def need(gpu_gb: float = 0, memory_gb: float = 1, total_gb: float = 80) -> dict[str, float]:
    return {
        "gpu_bytes": gpu_gb * 1e9,
        "gpu_total_bytes": total_gb * 1e9 if gpu_gb else 0,
        "memory_bytes": memory_gb * 1e9,
    }


def test_the_first_has_a_gpu_and_the_memory_of_a_node_for_itself() -> None:
    search = spec(resources=AUTO)
    packing = Packing(search, [NODE])
    assert packing.share(search.trial(0, {})) == packing.at_first()
    assert packing.at_first() == Share(gpus=1, memory_gb=64)
    assert num_places([NODE], packing.at_first()) == 1


def test_what_one_needs_is_what_all_of_its_kind_occupy() -> None:
    search = spec(resources=AUTO)
    packing = Packing(search, [NODE])
    first, second = search.trial(0, {"loss.lambda1_neg.head": 2.0}), search.trial(1, {})
    assert packing.learn(first, need(gpu_gb=15, memory_gb=2))
    share = packing.share(second)
    assert share.gpus == 0.25  # 80 GB hold four times 15 GB and a margin
    assert share.memory_gb == pytest.approx(2 * 1.15, rel=0.25)
    assert share.memory_gb is not None
    assert share.memory_gb >= 2 * 1.15
    assert num_places([NODE], share) == 8
    assert packing.in_words(second, [NODE]).startswith("needs 15.0 of the 80 GB of a GPU (gpus: 0.")
    other = search.model_copy(
        update={"training": search.training.model_copy(update={"batch_size": 64})}
    )
    assert packing.share(other.trial(2, {})) == packing.at_first()
    same = search.model_copy(
        update={"training": search.training.model_copy(update={"learning_rate": 0.1})}
    )
    assert packing.share(same.trial(2, {})) == share


def test_a_little_more_changes_nothing_and_much_more_does() -> None:
    search = spec(resources=AUTO)
    packing = Packing(search, [NODE])
    trial = search.trial(0, {})
    packing.learn(trial, need(gpu_gb=15, memory_gb=2))
    assert not packing.learn(trial, need(gpu_gb=15.1, memory_gb=2.01))
    assert not packing.learn(trial, need(gpu_gb=3, memory_gb=1))
    assert packing.learn(trial, need(gpu_gb=30, memory_gb=2))
    assert packing.share(trial).gpus == 0.5
    assert packing.learn(trial, need(gpu_gb=15, memory_gb=2, total_gb=24))  # a smaller GPU
    assert packing.share(trial).gpus == 1


def test_who_ran_out_of_memory_gets_twice_as_much_and_never_more_than_there_is() -> None:
    search = spec(resources=AUTO)
    packing = Packing(search, [NODE])
    trial = search.trial(0, {})
    packing.ran_out(trial)  # with all there is: nothing to double
    assert packing.share(trial) == packing.at_first()
    packing.learn(trial, need(gpu_gb=15, memory_gb=20))
    packing.ran_out(trial)
    assert packing.share(trial).gpus == 0.5
    for _ in range(9):
        packing.ran_out(trial)
    assert packing.share(trial) == packing.at_first()


@given(st.floats(0.1, 200), st.floats(0.01, 200))
def test_a_share_always_has_a_place(gpu_gb: float, memory_gb: float) -> None:
    search = spec(resources=AUTO)
    packing = Packing(search, [NODE])
    trial = search.trial(0, {})
    packing.learn(trial, need(gpu_gb, memory_gb))
    places = num_places([NODE], packing.share(trial))
    assert 1 <= places <= NODE.gpus * MOST_ON_A_GPU
    assert places <= num_places([NODE], packing.at_most_packed())


@pytest.mark.parametrize("number", range(1, 11))
def test_so_many_shares_fit(number: int) -> None:
    assert number * share_of(number) <= 1
    assert num_places([NODE._replace(cpus=100)], Share(gpus=share_of(number))) == 2 * number


@pytest.mark.parametrize(
    ("device", "gpus", "asked"), [("auto", 0, 0), ("cpu", 2, 0), ("cuda", 2, 1), ("auto", 2, 1)]
)
def test_a_gpu_is_asked_for_where_one_is_wanted_and_there(
    device: str, gpus: int, asked: float
) -> None:
    search = spec(resources={"gpus": "auto"}, training={"device": device})
    assert Packing(search, [NODE._replace(gpus=gpus)]).at_first() == Share(gpus=asked)


def test_nodes_that_are_gone_or_still_to_come_are_no_error() -> None:
    search = spec(resources=AUTO, max_concurrent=4)
    head = NODE._replace(cpus=0, gpus=0, grows=True)
    packing = Packing(search, [head])
    trial = search.trial(0, {})
    assert packing.share(trial) == Share(gpus=1, memory_gb=None)
    packing.learn(trial, need(gpu_gb=15, memory_gb=2))
    assert packing.share(trial).memory_gb is not None
    assert packing.in_words(trial, [head]).endswith(": 0 run at a time")
    assert packing.in_words(trial, [NODE]).endswith(": 8 run at a time")


def test_numbers_stay_as_they_are() -> None:
    search = spec(resources={"cpus": 2, "gpus": 0.5, "memory_gb": 3, "custom": {"deadline": 1}})
    packing = Packing(search, [NODE])
    assert not packing.is_auto
    asked = Share(2, 0.5, 3, {"deadline": 1})
    assert packing.share(search.trial(0, {})) == packing.at_first() == asked
    assert asked.for_ray() == {"cpu": 2, "gpu": 0.5, "memory": 3e9, "deadline": 1}


@pytest.mark.parametrize("key", ["gpus", "memory_gb"])
def test_another_word_than_auto_is_refused(key: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        spec(resources={key: "lots"})
    assert f"resources.{key}" in str(caught.value)
    assert "auto" in str(caught.value)


def test_need_counts_what_the_trial_holds_and_not_what_came_before() -> None:
    big = torch.ones(64_000_000)  # 256 MB
    with_big = needed_memory("cpu")["memory_bytes"]
    del big
    restart_peaks(torch.device("cpu"))
    without = needed_memory("cpu")
    assert with_big - without["memory_bytes"] > 200e6
    assert without["gpu_bytes"] == without["gpu_total_bytes"] == 0


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_search_measures_one_trial_and_then_packs(tmp_path: Path) -> None:
    search = Search(tmp_path, SPEC.replace("max_concurrent: 2", "resources: {memory_gb: auto}"))
    code, said = search.run()
    assert code == 0, said
    assert_whole(search, trials=5)
    assert "small-00000 needs 0." in said
    assert ": 2 run at a time" in said
    epochs: pd.DataFrame = search.epochs()
    first: Any = epochs[epochs["number"] == 0].sort_values("epoch")
    assert first["attempt"].tolist() == [1, 2, 2, 2]
    assert (epochs[epochs["number"] > 0]["attempt"] == 1).all()
