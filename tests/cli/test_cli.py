"""The command line as a user meets it: a process, its output and its exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pgsearch.results import Ledger
from tests.analysis.test_tables import SCORES, finished
from tests.records import grid, spec

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "search_spaces").glob("**/*.yaml"))


def pgsearch(
    *arguments: str, cwd: Path = ROOT, replace_env: dict[str, str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    base = os.environ if replace_env is None else replace_env
    return subprocess.run(
        [sys.executable, "-m", "pgsearch.cli", *arguments],
        cwd=cwd, env={**base, **env}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    finished(tmp_path / "small", grid(seeds=[1, 2, 3]), SCORES)
    return tmp_path


def test_help_explains_and_fits_a_screen() -> None:
    result = pgsearch("--help", COLUMNS="80")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) <= 52  # four panels
    for command in ("run", "train", "check", "plan", "status", "table", "schema", "best"):
        assert f" {command} " in result.stdout
        lines = pgsearch(command, "--help", COLUMNS="80").stdout.splitlines()
        assert len(lines) <= 45, command


@pytest.mark.parametrize(
    "command",
    [["--help"], ["table", "small"], ["status", "small"], ["best", "small"],
     ["check", "search_spaces/digits_pg.yaml"]],
    ids=lambda c: c[0],
)  # fmt: skip
def test_what_reads_imports_neither_torch_nor_ray(results: Path, command: list[str]) -> None:
    """By what is imported, not by the clock."""
    code = (
        "import sys\n"
        "from pgsearch.cli.main import main\n"
        f"sys.argv = ['pgsearch', *{command!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'torchvision', 'sklearn', 'scipy', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PGSEARCH_RESULTS": str(results)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_every_preset_is_accepted() -> None:
    """Without any data: files that are not there are warnings."""
    presets = [str(p.relative_to(ROOT)) for p in PRESETS if p.parent.name != "base"]
    assert len(presets) > 25
    unset = dict.fromkeys(("PGSEARCH_DATA", "VOC_ROOT", "COCO_ROOT", "RESNET50_WEIGHTS"))
    env = {k: v for k, v in os.environ.items() if k not in unset}
    result = pgsearch("check", *presets, replace_env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == [f"{preset}: ok" for preset in presets]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_preset_says_what_it_is_for(preset: Path) -> None:
    """Purpose, command, cost and published numbers, in the comment that opens the file."""
    text = preset.read_text(encoding="utf-8")
    opening = text[: re.search(r"^[a-z]", text, re.MULTILINE).start()]  # type: ignore[union-attr]
    assert max(map(len, text.splitlines())) <= 100
    if preset.parent.name == "base":
        assert opening.startswith("# ")
        return
    name = preset.relative_to(ROOT)
    assert f"pgsearch run {name}" in opening
    assert re.search(r"^# Cost: \d+ trials", opening, re.MULTILINE)
    if "_lt" in preset.stem or preset.parent.name == "ablations":
        assert "Published" in opening


def test_the_specs_of_the_readme_are_accepted(tmp_path: Path) -> None:
    """Those that are whole: they extend a preset."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    whole = [block for block in blocks if "extends: search_spaces/" in block]
    assert whole
    for number, block in enumerate(whole):
        spec_file = tmp_path / f"readme{number}.yaml"
        spec_file.write_text(block.replace("search_spaces/", f"{ROOT}/search_spaces/"))
        result = pgsearch("check", str(spec_file))
        assert result.returncode == 0, result.stdout


def test_check_names_everything_and_exits_3(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: {name: digit}\ntraining: {epochs: 0}\n")
    result = pgsearch("check", str(tmp_path / "bad.yaml"), "--json")
    assert result.returncode == 3
    (report,) = json.loads(result.stdout).values()
    text = "\n".join(report["problems"])
    assert "did you mean digits?" in text
    assert "training.epochs: 0" in text
    assert "model: missing" in text
    assert "loss: missing" in text


def test_check_names_files_that_are_not_there(tmp_path: Path) -> None:
    preset, absent = "search_spaces/voc_mini_lite0.yaml", str(tmp_path / "absent")
    for options, code in (([], 0), (["--strict"], 4)):
        result = pgsearch("check", preset, *options, PGSEARCH_DATA=absent)
        assert result.returncode == code
        assert result.stdout == f"{preset}: ok\n"
        for key in ("data.manifest", "model.weights"):
            assert f"{key}: {absent}/" in result.stderr
        assert "does not exist" in result.stderr


def test_a_bad_spec_is_one_message_and_nothing_written(tmp_path: Path) -> None:
    result = pgsearch(
        "run", "search_spaces/digits_pg.yaml", "training.epochs=0", "--results", str(tmp_path / "r")
    )
    assert result.returncode == 3
    assert result.stderr == (
        "error: command line: training.epochs: 0: Input should be greater than or equal to 1\n"
    )
    assert not (tmp_path / "r").exists()


def test_a_bad_manifest_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,split,cat\na.jpg,train,2\n")
    (tmp_path / "s.yaml").write_text(
        "trials: 1\ndata: {name: manifest, manifest: m.csv}\n"
        "model: {backbone: resnet18, weights: random}\nloss: {name: pg}\n"
        "space: {loss.kappa: {type: float, low: 0.01, high: 0.1}}\n"
    )
    result = pgsearch("run", "s.yaml", cwd=tmp_path)
    assert result.returncode == 4
    assert "m.csv" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results").exists()


def test_absent_weights_are_an_error_of_the_data(tmp_path: Path) -> None:
    result = pgsearch(
        "run", "search_spaces/digits_pg.yaml", "model.backbone=resnet18",
        f"model.weights={tmp_path}/absent.pth", "--results", str(tmp_path / "r"),
    )  # fmt: skip
    assert result.returncode == 4
    assert "absent.pth" in result.stderr
    assert not (tmp_path / "r").exists()


def test_another_spec_on_the_same_results_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "digits_pg").begin(spec(name="digits_pg"))
    result = pgsearch("run", "search_spaces/digits_pg.yaml", "--results", str(tmp_path))
    assert result.returncode == 3
    assert "holds another search of this name; it differs in" in result.stderr
    assert "training.epochs: was 4, is 12" in result.stderr


def test_table(results: Path) -> None:
    text = pgsearch("table", "small", "--results", str(results)).stdout
    assert "63.00 ± 3.00" in text
    assert "52.00 ± 2.00" in text
    rows = json.loads(pgsearch("table", "small", "--json", PGSEARCH_RESULTS=str(results)).stdout)
    assert [row["label"] for row in rows] == ["BCE", "PG"]
    assert rows[1]["tail.mean"] == pytest.approx(0.63)
    markdown = pgsearch("table", "small", "--format", "markdown", "--results", str(results)).stdout
    assert "| small | PG | 3 | **63.00 ± 3.00** |" in markdown
    csv = pgsearch("table", "small", "--format", "csv", "--results", str(results)).stdout
    assert csv.splitlines()[0].startswith('"search","configuration","n","mAP total"')


def test_status_and_leaderboard(results: Path) -> None:
    text = pgsearch("status", "small", "--results", str(results)).stdout
    assert "6 of 6 trials begun: 6 COMPLETE" in text
    assert "best: trial 4, map.validation.total 0.6300, the mean of 3 seeds" in text
    facts = json.loads(pgsearch("status", "small", "--json", "--results", str(results)).stdout)
    assert facts["states"] == {"COMPLETE": 6}
    board = pgsearch("table", "small", "--leaderboard", "--json", "--results", str(results)).stdout
    assert [row["number"] for row in json.loads(board)][:2] == [4, 5]


def test_an_unknown_search_names_the_nearest(results: Path) -> None:
    result = pgsearch("table", "smal", "--results", str(results))
    assert result.returncode == 2
    assert "did you mean small?" in result.stderr


def test_best_emits_a_spec_that_runs_with_fresh_seeds(results: Path, tmp_path: Path) -> None:
    output = tmp_path / "best.yaml"
    pgsearch("best", "small", "--output", str(output), "--results", str(results))
    assert pgsearch("check", str(output)).returncode == 0
    emitted = yaml.safe_load(output.read_text())
    assert emitted["seeds"] == [4, 5, 6]
    assert emitted["loss"]["name"] == "pg"
    plain = pgsearch("best", "small", "--results", str(results)).stdout
    assert plain.startswith("trial 4, seed 2")
    assert "checkpoint" not in plain
    checkpoint = Ledger(results / "small").checkpoint_file(4)
    checkpoint.write(b"")
    plain = pgsearch("best", "small", "--results", str(results)).stdout
    assert plain.endswith(f"checkpoint: {checkpoint}\n")
    best_epoch = Ledger(results / "small").best_file(4)
    best_epoch.write(b"")
    plain = pgsearch("best", "small", "--results", str(results)).stdout
    assert plain.endswith(f"checkpoint: {checkpoint}\nbest epoch: {best_epoch}\n")


def test_plan(tmp_path: Path) -> None:
    result = pgsearch("plan", "search_spaces/digits_pg.yaml", "--json")
    facts = json.loads(result.stdout)
    assert facts["trials"] == 16
    assert facts["epochs_at_most"] == 16 * 12
    assert facts["sampled_configuration"]["loss"]["name"] == "pg"
    plain = pgsearch("plan", "search_spaces/digits_pg.yaml")
    assert "add --measure" in plain.stdout
    assert plain.stderr == ""


def test_plan_measures_the_cost() -> None:
    result = pgsearch(
        "plan", "search_spaces/digits_pg.yaml", "training.iterations_per_epoch=2",
        "--measure", "--json",
    )  # fmt: skip
    facts = json.loads(result.stdout)
    assert facts["seconds_per_trial"] > 0
    assert facts["trial_hours_at_most"] == pytest.approx(
        16 * facts["seconds_per_trial"] / 3600, abs=1e-3
    )


def test_schema_is_a_json_schema() -> None:
    schema = json.loads(pgsearch("schema").stdout)
    assert schema["properties"]["trials"]["description"]
    assert "extends" in schema["properties"]


def test_train_saves_and_goes_on(tmp_path: Path) -> None:
    command = [
        "train", "search_spaces/digits_baselines.yaml", "--variant", "BCE (RS)",
        "data.max_count=60", "data.image_size=32", "data.head_min=30", "training.epochs=2",
        "training.decay_epochs=[1]", "training.iterations_per_epoch=4",
        "--save", str(tmp_path / "t"),
    ]  # fmt: skip
    result = pgsearch(*command)
    assert result.returncode == 0, result.stderr
    assert "epoch 2/2" in result.stderr
    assert [row["epoch"] for row in Ledger(tmp_path / "t").epochs(0)] == [1, 2]
    again = pgsearch(*command)
    assert "epoch 1/2" not in again.stderr  # what is recorded is not told again
    assert [row["attempt"] for row in Ledger(tmp_path / "t").epochs(0)] == [1, 1]


def test_an_unknown_variant_is_named() -> None:
    result = pgsearch("train", "search_spaces/digits_baselines.yaml", "--variant", "XX")
    assert result.returncode == 2
    assert "it has: BCE (ERM)" in result.stderr
