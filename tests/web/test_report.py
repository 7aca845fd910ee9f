"""The report: one file that holds all it needs, and runs nothing but its own script."""

import base64
import hashlib
import html
import re
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from pgsearch.cli.main import app
from pgsearch.config import parse_spec
from tests.web.conftest import SCORES, Results
from tests.web.test_app import Elements


@pytest.fixture(scope="module")
def text(results: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of both searches, one part of which is damaged, as the command writes it."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(results.folder, folder / "results")
    (folder / "results" / "small" / "epochs" / "00001.parquet").write_bytes(b"PAR1")
    output = folder / "new" / "report.html"
    made = CliRunner().invoke(
        app, ["report", "small", "ablation", "--results", f"{folder}/results", "-o", str(output)]
    )
    assert made.exit_code == 0, made.output
    assert str(output) in made.output
    return output.read_text()


def test_it_asks_nobody_for_anything(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert tag not in ("link", "iframe", "object", "embed", "base") or (
            attributes.get("href") == "data:,"
        )
        for key in ("src", "href", "action", "srcset", "hx-get", "poster"):
            target = attributes.get(key)
            assert target is None or target.startswith(("data:image/", "data:,", "#")), target
        assert not [a for a in attributes if a.startswith("on") or a == "style"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_only_its_own_script_may_run(text: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text or f"'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_it_says_what_a_reader_needs(text: str) -> None:
    for words in (
        "What was searched", "Best configurations", "GPU-hours", "Provenance", "What mattered",
        "ValueError: &lt;b&gt;boom&lt;/b&gt;", "Training images", "against ablation:",
    ):  # fmt: skip
        assert words in text, words
    best = max(sum(seeds) / 3 for seeds in SCORES.values())
    assert f"{100 * best:.2f}" in text
    assert len(text) < 5_000_000


def test_its_specs_can_be_run(text: str) -> None:
    specs = re.findall(r'<pre id="best-[0-9-]+"[^>]*>(.*?)</pre>', text, re.DOTALL)
    assert len(specs) == 6
    for spec in specs:
        parsed = parse_spec(yaml.safe_load(html.unescape(spec)), "report")
        assert parsed.num_trials == 3
        assert min(parsed.seeds) > 0


def test_a_damaged_part_is_named(text: str) -> None:
    assert "Left out: 1 damaged file." in text
    assert "small/epochs/00001.parquet" in text
