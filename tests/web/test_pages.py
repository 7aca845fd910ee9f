"""Numbers on the pages, against plain loops over the raw Parquet."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from tests.web.conftest import SCORES, Results, client_of

PARTS = ("total", "head", "medium", "tail")


def rows(results: Results, table: str, name: str = "small") -> list[dict[str, Any]]:
    return pd.read_parquet(results.folder / name / table).to_dict("records")


def newest(results: Results, name: str = "small") -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in rows(results, "epochs", name):
        if row["number"] not in found or row["epoch"] > found[row["number"]]["epoch"]:
            found[row["number"]] = row
    return found


def same(shown: float | None, stored: Any) -> bool:
    if stored is None or (isinstance(stored, float) and math.isnan(stored)):
        return shown is None
    return shown == pytest.approx(stored)


def test_the_list_of_searches(client: TestClient, results: Results) -> None:
    answer = client.get("/api/searches").json()
    by_name = {s["name"]: s for s in answer["searches"]}
    assert by_name.keys() == {"small", "ablation"}
    trials = rows(results, "trials")
    assert by_name["small"]["states"] == dict(Counter(t["state"] for t in trials))
    complete = [t for t in trials if t["state"] == "COMPLETE"]
    best = max(complete, key=lambda t: t["values"][0])
    assert by_name["small"]["best"] == pytest.approx(best["values"][0])
    assert by_name["small"]["best_trial"] == best["number"]
    assert by_name["ablation"]["best"] == pytest.approx(max(sum(v) / 3 for v in SCORES.values()))
    assert by_name["ablation"]["best_seeds"] == 3
    recorded = max(r["recorded_utc"] for r in rows(results, "epochs"))
    assert pd.Timestamp(by_name["small"]["last_epoch_utc"]) == recorded


def test_the_leaderboard(client: TestClient, results: Results) -> None:
    shown = client.get("/api/searches/small").json()["rows"]
    trials = {t["number"]: t for t in rows(results, "trials")}
    epochs = newest(results)
    assert {r["number"] for r in shown} == trials.keys()
    for row in shown:
        trial, epoch = trials[row["number"]], epochs[row["number"]]
        assert (row["state"], row["seed"], row["epoch"]) == (
            trial["state"], trial["seed"], epoch["epoch"],
        )  # fmt: skip
        assert row["parameters"] == json.loads(trial["params"])
        for split in ("validation", "test"):
            for part in PARTS:
                assert same(row[split][part], epoch[f"map.{split}.{part}"])
    states = [r["state"] for r in shown]
    assert states == sorted(states, key=["COMPLETE", "PRUNED", "RUNNING", "FAIL"].index)
    values = [r["value"] for r in shown if r["state"] == "COMPLETE"]
    assert values == sorted(values, reverse=True)
    assert [r["rank"] for r in shown] == list(range(1, 9))


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "sort", ["rank", "number", "state", "epoch", "test.tail", "loss.lambda1_neg.tail", "error"]
)
def test_sorting_keeps_what_is_missing_last(
    client: TestClient, sort: str, descending: bool
) -> None:
    answer = client.get(
        "/api/searches/small", params={"sort": sort, "descending": descending}
    ).json()

    def value(row: dict[str, Any]) -> Any:
        if sort.startswith("loss."):
            return row["parameters"].get(sort)
        split, _, part = sort.partition(".")
        return row[split][part] if part else row[split]

    values = [value(row) for row in answer["rows"]]
    there = [v for v in values if v is not None]
    assert there == sorted(there, reverse=descending)
    assert values[: len(there)] == there
    assert len(values) == 8


def test_filter_and_limit(client: TestClient) -> None:
    answer = client.get("/api/searches/small", params={"words": "PRUNED focusing", "limit": 2})
    found = answer.json()
    assert found["num_matching"] == 3
    assert len(found["rows"]) == 2
    assert {r["state"] for r in found["rows"]} == {"PRUNED"}
    assert client.get("/api/searches/small", params={"words": "boom"}).json()["num_matching"] == 1


def test_a_trial(client: TestClient, results: Results) -> None:
    shown = client.get("/api/searches/ablation/trials/0").json()
    epochs = [r for r in rows(results, "epochs", "ablation") if r["number"] == 0]
    curves = {c["name"]: c for c in shown["curves"]}
    assert curves["map"]["epochs"] == [e["epoch"] for e in epochs]
    lines = {s["name"]: s["values"] for s in curves["map"]["series"]}
    for i, epoch in enumerate(epochs):
        for part in PARTS:
            assert same(lines[part][i], epoch[f"map.validation.{part}"])
            assert same(lines[f"{part} (test)"][i], epoch[f"map.test.{part}"])
        for sign in ("pos", "neg"):
            for line in curves[f"p_{sign}"]["series"]:
                assert same(line["values"][i], epoch[f"p_{sign}.{line['name']}"])
    assert "tail" not in {s["name"] for s in curves["p_neg"]["series"]}  # never defined
    factor = {s["name"]: s["values"] for s in curves["lambda2_pos"]["series"]}
    assert factor == {"head": [1.0] * 4, "medium": [2.0] * 4, "tail": [3.0] * 4}
    last = epochs[-1]
    assert [c["count"] for c in shown["classes"]] == [100, 20, 5]
    for place, row in enumerate(shown["classes"]):
        assert same(row["ap_test"], last["class.ap.test"][place])
        assert same(row["p_pos"], last["class.p_pos"][place])
    assert shown["replicates"] == [1, 2]
    assert [(a["attempt"], a["first_epoch"], a["last_epoch"]) for a in shown["attempts"]] == [
        (1, 1, 4)
    ]


def test_configurations_over_their_seeds(client: TestClient) -> None:
    tables = client.get("/api/searches/ablation/tables").json()["tables"]
    table = tables[0]
    total = table["columns"].index("mAP total")
    for row in table["rows"]:
        seeds = SCORES[row[1]["text"]]
        mean = sum(seeds) / 3
        std = math.sqrt(sum((s - mean) ** 2 for s in seeds) / 2)
        assert row[total]["value"] == pytest.approx(100 * mean)
        assert row[total]["details"]["std"] == pytest.approx(100 * std)


def test_a_comparison_is_paired_by_seed(client: TestClient) -> None:
    page = client.get("/api/searches/ablation/compare").json()
    by_id = {c["id"]: c["label"] for c in page["choices"]}
    a, b = SCORES[by_id[page["a"]]], SCORES[by_id[page["b"]]]
    total = page["contrasts"][0]
    assert total["over"] == "total"
    assert total["difference"] == pytest.approx(sum(y - x for x, y in zip(a, b, strict=True)) / 3)
    other = client.get(
        "/api/searches/ablation/compare", params={"a": page["b"], "b": page["a"]}
    ).json()
    assert other["contrasts"][0]["difference"] == pytest.approx(-total["difference"])


def test_cost_is_of_all_recorded_epochs(client: TestClient, results: Results) -> None:
    cost = client.get("/api/searches/small/about").json()["cost"]
    seconds = sum(r["train_seconds"] + r["evaluation_seconds"] for r in rows(results, "epochs"))
    assert cost["cpu_hours"] == pytest.approx(seconds / 3600)
    assert cost["gpu_hours"] == 0.0


def test_page_and_twin_show_the_same(client: TestClient) -> None:
    twin = client.get("/api/searches/small").json()
    page = client.get("/searches/small").text
    for row in twin["rows"]:
        for part in PARTS:
            shown = row["validation"][part]
            assert (f"{100 * shown:.2f}" if shown is not None else "–") in page


def test_a_damaged_part_is_named_and_left_out(copied: Path) -> None:
    part = copied / "ablation" / "epochs" / "00004.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    client = client_of(copied)
    for path in (
        "/",
        "/searches/ablation",
        "/searches/ablation/tables",
        "/searches/ablation/trials/4",
    ):
        page = client.get(path)
        assert page.status_code == 200
        assert "00004.parquet" in page.text, path
    rows = {r["number"]: r for r in client.get("/api/searches/ablation").json()["rows"]}
    assert rows[4]["test"]["total"] is None
    assert rows[3]["test"]["total"] is not None
