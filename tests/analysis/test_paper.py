from pathlib import Path

import pandas as pd
import pytest
import yaml

from pgsearch.analysis import paper
from pgsearch.analysis.formats import as_csv
from pgsearch.analysis.replicates import replicates
from pgsearch.analysis.tables import PARTS, by_configuration
from pgsearch.data.published import PUBLISHED
from pgsearch.errors import UsageError
from pgsearch.provenance import fingerprint
from pgsearch.results import Ledger
from tests.analysis.ledgers import trained
from tests.records import grid

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"


@pytest.mark.parametrize("dataset", ["voc-lt", "coco-lt"])
@pytest.mark.parametrize("table", [2, 3, 4, 5])
def test_published_rows_are_those_that_the_specs_print(table: int, dataset: str) -> None:
    """Each spec of an ablation opens with the published numbers, typed by hand."""
    name = f"table{table}_{dataset.replace('-', '_')}.yaml"
    comments = (SPACES / "ablations" / name).read_text(encoding="utf-8").splitlines()
    rows = paper.published(table, dataset)  # type: ignore[arg-type]
    for row in rows.to_dict("records"):
        numbers = " ".join("–" if pd.isna(row[p]) else f"{row[p]:.2f}" for p in PARTS)
        (line,) = (c for c in comments if c.startswith(f"#   {row['method']} "))
        assert numbers in " ".join(line.split())
    assert len(rows) == {2: 10, 3: 4, 4: 4 if dataset == "voc-lt" else 3, 5: 4}[table]


@pytest.mark.parametrize("table", [2, 3, 4, 5])
def test_every_published_method_has_its_variant_in_the_specs(table: int) -> None:
    spec = yaml.safe_load((SPACES / "base" / f"table{table}.yaml").read_text(encoding="utf-8"))
    methods = paper.published(table, "voc-lt")["method"].tolist()
    assert set(methods) <= set(spec["variants"])


def test_published_sets_are_known_by_classes_and_counts() -> None:
    known = {
        fingerprint([list(split.class_names), list(split.train_counts_C)]): kind
        for kind, split in PUBLISHED.items()
    }
    assert known == paper._FINGERPRINTS


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    variants = {
        "BCE (ERM)": {"loss": {"name": "bce"}},
        "pg": {},
        "mine": {"loss": {"name": "db"}},
    }
    search = grid(name="a", variants=variants, seeds=[1, 2], training={"epochs": 1})
    return trained(tmp_path_factory.mktemp("results") / "a", search, seed=4)


def beside(ledger: Ledger) -> pd.DataFrame:
    found = replicates([ledger], paper.MAPS.values())
    return paper.beside_the_paper(by_configuration(found, paper.MAPS), paper.published(2, "voc-lt"))


def test_ours_stand_beside_theirs_with_the_difference(ledger: Ledger) -> None:
    rows = beside(ledger).set_index("method")
    published = paper.published(2, "voc-lt").set_index("method")
    assert rows.index.tolist()[:10] == published.index.tolist()  # in the paper's order
    for method, label in (("ERM", "BCE (ERM)"), ("PG", "pg")):
        assert rows.loc[method, "label"] == label
        for part in PARTS:
            ours, theirs = rows.loc[method, f"{part}.mean"], published.loc[method, part] / 100
            assert rows.loc[method, f"{part}.difference"] == pytest.approx(
                ours - theirs, nan_ok=True
            )
    focal = rows.loc["Focal"]
    assert focal[["label", "n", "total.mean", "total.difference"]].isna().all()
    assert focal["total.paper"] == pytest.approx(0.7388)


def test_what_has_no_partner_is_shown_all_the_same(ledger: Ledger) -> None:
    own = beside(ledger).iloc[-1]
    assert own["label"] == "mine"
    assert own[["method", "total.paper", "total.difference"]].isna().all()
    assert own["n"] > 0


def test_the_table_says_that_it_is_no_reproduction(ledger: Ledger) -> None:
    found = replicates([ledger], [*paper.MAPS.values(), *paper.SETTINGS])
    table = paper.paper_table(beside(ledger), found, 2, "voc-lt", is_same=False)
    assert table.notes[0] == (
        "the data set is not VOC-LT; model.backbone is digits_resnet and not resnet50; "
        "data.image_size is 48 and not 224: so the differences say nothing of a reproduction"
    )
    assert "RW in the paper: printed as RM; from Wu et al. 2020" in table.notes
    assert "ERM, Focal, RS, ML-GCN, CB Focal in the paper: from Wu et al. 2020" in table.notes
    assert "PR" not in "".join(table.columns)
    text = as_csv(table)
    assert '"RW","","","",74.7,"",' in text
    erm = next(row for row in table.rows if row[0].text == "BCE (ERM)")
    assert erm[4].text.startswith(("+", "-"))
    assert float(erm[4].text) == pytest.approx(erm[2].value - 70.86, abs=0.006)


def test_signs_and_notes_are_those_of_the_specs() -> None:
    rows = paper.published(4, "coco-lt")
    assert rows["method"].tolist()[0] == "PR(λ1F-,λ1F+)"
    assert "may belong to PR(λ1F-,λ1A+)" in rows["note"].tolist()[-1]
    assert paper.published(3, "coco-lt")["method"].tolist() == [
        "DB", "PR(λ1-)", "PR(λ1+)", "PR(λ1-,λ1+)",
    ]  # fmt: skip


def test_the_data_set_is_found_or_must_be_named(ledger: Ledger) -> None:
    assert paper.paper_dataset([ledger]) is None
    with pytest.raises(UsageError, match="say whose published rows to show with --paper-dataset"):
        paper.require_paper_dataset(None, None)
    assert paper.require_paper_dataset(None, "coco-lt") == "coco-lt"
    assert paper.require_paper_dataset("voc-lt", None) == "voc-lt"
