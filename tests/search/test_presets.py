"""The presets of VOC-LT and COCO-LT start on folders of the official layout.

Small parts of PASCAL VOC and COCO stand in for the whole, and random weights for ImageNet's.
"""

from pathlib import Path

import pytest

from pgsearch.config import load_spec
from pgsearch.results import EpochRecord
from pgsearch.search.inputs import prepare_data
from pgsearch.search.spaces import sample_trial
from pgsearch.training.fit import fit
from tests.cli.test_cli import ROOT, pgsearch
from tests.data.test_voc import TEST_DATA, needs_data

PRESETS = sorted((ROOT / "search_spaces").glob("**/*_lt*.yaml"))
LAYOUTS = {"voc": ("voc-lt", "voc_mini/VOCdevkit"), "coco": ("coco-lt", "coco_mini")}
SMALL = [
    "data.image_size=48",
    "training.epochs=1",
    "training.iterations_per_epoch=1",
    "training.batch_size=8",
    "training.warmup_iterations=0",
    "model.weights=random",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of both, as `data build` writes them for a part of the data."""
    folder = tmp_path_factory.mktemp("built")
    for kind, place in LAYOUTS.values():
        arguments = ["--root", str(TEST_DATA / place), "--output", str(folder / f"{kind}.parquet")]
        result = pgsearch("data", "build", kind, *arguments, "--allow-other-counts")
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    "preset", [p for p in PRESETS if p.parent.name != "base"], ids=lambda p: p.stem
)
def test_a_preset_starts_on_the_official_layout(
    preset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSEARCH_CACHE", str(folder / "cache"))
    (kind, place) = next(layout for name, layout in LAYOUTS.items() if f"{name}_lt" in preset.stem)
    where = [f"data.manifest={folder}/{kind}.parquet", f"data.root={TEST_DATA / place}"]
    spec = load_spec(preset, [*SMALL, *where])
    inputs = prepare_data(spec)
    wanted = {objective.split for objective in spec.objective}
    assert all(wanted <= found.splits for found in inputs.values())
    trials = [spec.trial(0, {}, v) for v in spec.variants] or [sample_trial(spec)]
    if len(trials) > 4:  # of Table 2, the methods that have a head of their own, and the last
        own = ("ML-GCN", "LDAM", "PG")
        trials = [t for t in trials if t.variant in own] or trials[:1]
    for trial in trials:
        records: list[EpochRecord] = []
        fit(trial, report=records.append)
        assert records[-1].map["test"]["total"] > 0


@pytest.mark.slow
@pytest.mark.ray
@needs_data
def test_a_search_on_the_official_layout_runs(folder: Path, tmp_path: Path) -> None:
    preset = "search_spaces/voc_lt_pg.yaml"
    where = [f"data.manifest={folder}/voc-lt.parquet", f"data.root={TEST_DATA}/voc_mini/VOCdevkit"]
    result = pgsearch(
        "run", preset, *SMALL, *where, "trials=2", "pruner={name: none}", "resources.gpus=0",
        "resources.cpus=1", "--save-scores", "--results", str(tmp_path),
        PGSEARCH_CACHE=str(folder / "cache"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "2 COMPLETE" in result.stderr
    checkpoints = list((tmp_path / "voc_lt_pg" / "checkpoints").glob("*.pt"))
    scores = list((tmp_path / "voc_lt_pg" / "scores").glob("*.parquet"))
    assert [path.stem for path in scores] == [path.stem for path in checkpoints]
    assert len(scores) == 1
