"""Pages of a search of two stages: what is of which, and whether the screen predicts."""

from pathlib import Path

from fastapi.testclient import TestClient

from pgsearch.results import Ledger
from pgsearch.web.app import create_app
from tests.records import spec
from tests.studies import run_to_end


def test_pages_tell_the_stages_apart(tmp_path: Path) -> None:
    stages = {"screen": {"training": {"epochs": 2}}, "best": 3, "check": 3}
    search = spec(trials=9, stages=stages, pruner={"name": "median", "n_startup_trials": 7})
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    run_to_end(search, ledger)
    promoted = next(t for t in ledger.trials() if t.number == 9).promoted_from
    client = TestClient(create_app(str(tmp_path)), base_url="http://127.0.0.1")

    board = client.get("/api/searches/small").json()
    assert [row["stage"] for row in board["rows"]] == ["full"] * 6 + ["screen"] * 9
    assert {(row["stage"], row["planned_epochs"]) for row in board["rows"]} == {
        ("full", 4), ("screen", 2),
    }  # fmt: skip
    assert board["search"]["best_trial"] >= 9
    assert "the screen predicts" in board["search"]["stages"][0]
    by_stage = client.get("/api/searches/small", params={"words": "screen"}).json()
    assert by_stage["num_matching"] == 9

    assert "the screen predicts the full training" in client.get("/searches/small").text
    screened = client.get(f"/searches/small/trials/{promoted}").text
    assert 'trained fully: <a href="/searches/small/trials/9">trial 9</a>' in screened
    full = client.get("/api/searches/small/trials/9").json()
    assert full["row"]["promoted_from"] == promoted
    assert full["configuration"]["training.epochs"] == 4
    for page in ("", "/tables", "/factors", "/compare", "/about", "/trials/9"):
        assert client.get(f"/searches/small{page}").status_code == 200
