"""How soon a trial sees what its driver says; races for the lease are in tests/faults."""

import itertools
from pathlib import Path

import pytest

from pgsearch.results import DriverLease, DriverWatch, lease
from pgsearch.results.storage import open_storage


@pytest.mark.promise(8)
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2, 3.0])
def test_a_trial_looks_often_enough_however_slow_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    now, looks = 0.0, []

    def look(watch: DriverWatch) -> bool:
        nonlocal now
        looks.append(now)
        now += seconds
        return False

    monkeypatch.setattr(lease.time, "monotonic", lambda: now)
    monkeypatch.setattr(DriverWatch, "_look", look)
    watch = DriverWatch(open_storage(tmp_path), 1)
    while now < 100:
        assert not watch.should_stop()
        now += 0.1
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert max(pauses) < 5 + seconds + 0.2
    assert min(pauses) > 0.4


@pytest.mark.promise(8)
def test_a_stop_is_seen(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with DriverLease(storage) as driver:
        watch = DriverWatch(storage, driver.number)
        assert not watch._look()
        driver.announce_stop()
    assert watch._look()
