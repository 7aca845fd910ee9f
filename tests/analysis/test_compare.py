"""On ledgers with made-up numbers; the reference reads the raw Parquet with plain loops."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pgsearch.analysis.compare import Comparison, as_tables, compare, facts
from pgsearch.analysis.pairs import Contrast
from pgsearch.analysis.selection import select, selection_of
from pgsearch.config import TrialSpec
from pgsearch.errors import UsageError
from pgsearch.results import EpochRecord, EpochWriter, Ledger, TrialState
from pgsearch.search.study import SearchStudy
from tests.ledgers import write_ledger
from tests.records import epoch_record, grid, spec

NAN = float("nan")
PARTS = ("total", "head", "medium", "tail")


def record_of(trial: TrialSpec) -> EpochRecord:
    """Numbers that differ by loss, seed and class; class b has no positive with seed 3."""
    base = epoch_record(trial.training.epochs, 0.5, last=True)
    pg = trial.loss.name == "pg"
    ap = [0.5 + 0.03 * trial.seed + 0.01 * c * trial.seed**2 + 0.02 * c * pg for c in range(3)]
    ap[1] = NAN if trial.seed == 3 else ap[1]
    ap[0] += 0.04 * pg
    defined = [value for value in ap if value == value]
    parts = dict(zip(PARTS, (sum(defined) / len(defined), *ap), strict=True))
    return replace(
        base,
        map={"validation": parts, "test": {k: v + 0.1 for k, v in parts.items()}},
        ap={"validation": ap, "test": [v + 0.1 for v in ap]},
    )


def of(comparison: Comparison, other: str, over: str) -> Contrast:
    (found,) = [c for c in comparison.contrasts if (c.other, c.over) == (other, over)]
    return found


def raw(folder: Path, variant: str, column: str, place: int | None = None) -> dict[int, float]:
    """Values by seed, read without the package."""
    frame = pd.read_parquet(folder / "epochs")
    values = {}
    for row in frame.to_dict("records"):
        value = row[column] if place is None else row[column][place]
        if row["variant"] == variant and value is not None and value == value:
            values[row["seed"]] = value
    return values


VARIANTS = {"BCE": {"loss": {"name": "bce"}}, "PG": {}, "PR": {"loss": {"focusing": "none"}}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ablations that no test changes."""
    folder = tmp_path_factory.mktemp("results")
    write_ledger(folder, grid(seeds=[1, 2, 3, 4]), record_of)
    write_ledger(folder, grid(name="other", seeds=[2, 4, 5, 6]), record_of)
    write_ledger(folder, grid(name="single", seeds=[7]), record_of)
    write_ledger(folder, grid(name="noisy", seeds=[1, 2, 4, 5], variants=VARIANTS), noisy)
    points = [(None, {"loss.lambda0": value}) for value in (1.0, 2.0)]
    write_ledger(folder, spec(name="search", trials=2, seeds=[1, 2]), record_of, points)
    return folder


@pytest.mark.parametrize("split", ["test", "validation"])
def test_differences_by_seed(results: Path, split: str) -> None:
    a, b = (select(f"small:{name}", results) for name in ("BCE", "PG"))
    comparison = compare(a, b, split=split, by_class=True)
    assert comparison.reference == "small:BCE"
    columns = [(part, f"map.{split}.{part}", None) for part in PARTS]
    columns += [(name, f"class.ap.{split}", place) for place, name in enumerate("abc")]
    for over, column, place in columns:
        first, second = (raw(results / "small", v, column, place) for v in ("BCE", "PG"))
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
        found = of(comparison, "small:PG", over)
        assert found.difference.n == len(pairs) == (3 if over in ("medium", "b") else 4)
        assert found.reference_mean == pytest.approx(sum(x for x, _ in pairs) / len(pairs))
        assert found.other_mean == pytest.approx(sum(y for _, y in pairs) / len(pairs))
        mean = sum(y - x for x, y in pairs) / len(pairs)
        assert found.difference.mean == pytest.approx(mean)
    assert [(c.over, c.group, c.count) for c in comparison.contrasts[4:]] == [
        ("a", "head", 100), ("b", "medium", 20), ("c", "tail", 5),
    ]  # fmt: skip


def test_seeds_without_partner_are_named_and_left_out(results: Path) -> None:
    comparison = compare(select("small:BCE", results), select("other:PG", results))
    assert of(comparison, "other:PG", "total").difference.n == 2
    notes = "\n".join(comparison.notes)
    assert "pairs of seeds 2, 4" in notes
    assert "without a partner: seeds 1, 3 of small:BCE" in notes
    assert "without a partner: seeds 5, 6 of other:PG" in notes
    with pytest.raises(UsageError, match=r"\(seeds 1, 2, 3, 4\) and single:PG \(seeds 7\) have no"):
        compare(select("small:BCE", results), select("single:PG", results))


def test_one_pair_is_a_difference_without_a_test(results: Path) -> None:
    comparison = compare(select("single:BCE", results), select("single:PG", results))
    difference = of(comparison, "single:PG", "head").difference
    assert difference.mean == pytest.approx(0.04)
    assert (difference.low, difference.t_p, difference.wilcoxon_p) == (None, None, None)
    assert "an interval and a test need two or more" in "\n".join(comparison.notes)
    (table,) = as_tables(comparison)
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["difference"].text == "+4.00"
    assert {row[c].text for c in ("95% interval", "p (t)", "p (W)", "dz")} == {"–"}


def test_families_of_holm(results: Path) -> None:
    """Total over the others; the groups over the others; the classes over the others."""
    comparison = compare(*(select(f"noisy:{v}", results) for v in VARIANTS), by_class=True)
    for overs, size in ((("total",), 2), (PARTS[1:], 6), (("a", "b", "c"), 6)):
        family = [c for c in comparison.contrasts if c.over in overs]
        assert len(family) == size
        least = min(family, key=lambda c: c.difference.t_p or 2)
        assert least.difference.t_p is not None
        assert least.t_holm == pytest.approx(min(1, size * least.difference.t_p))
    notes = "\n".join(comparison.notes)
    assert "total: Wilcoxon's p of 4 pairs is 0.125 or more, 0.25 after Holm over 2" in notes
    assert "head, medium and tail: Wilcoxon's p of 4 pairs is 0.125 or more, 0.75" in notes
    assert "no data can bring it to 0.05; 8 pairs could" in notes


def noisy(trial: TrialSpec) -> EpochRecord:
    record = record_of(trial)
    shift = zlib.crc32(f"{trial.seed} {trial.loss}".encode()) % 97 / 1000
    ap = [value + shift * (c + 1) for c, value in enumerate(record.ap["test"])]
    parts = dict(zip(PARTS, (sum(ap) / 3, *ap), strict=True))
    return replace(record, ap={"test": ap}, map={**record.map, "test": parts})


def test_enough_pairs_are_not_called_too_few(tmp_path: Path) -> None:
    write_ledger(tmp_path, grid(seeds=[1, 2, 4, 5, 6, 7]), record_of)
    comparison = compare(select("small:BCE", tmp_path), select("small:PG", tmp_path))
    (note,) = [note for note in comparison.notes if note.startswith("total: ")]
    assert note == "total: Wilcoxon's p of 6 pairs is 0.0312 or more"


def test_equal_differences_are_said(results: Path) -> None:
    comparison = compare(select("small:BCE", results), select("small:PG", results))
    head = of(comparison, "small:PG", "head")  # 0.04 with each seed
    assert (head.difference.t_p, head.t_holm) == (None, None)
    assert head.difference.wilcoxon_p == 0.125
    assert "no variance: " in "\n".join(comparison.notes)
    assert "head of small:PG" in "\n".join(comparison.notes)


def test_what_does_not_compare_is_refused(results: Path, tmp_path: Path) -> None:
    longer = {"epochs": 5, "decay_epochs": [3]}
    write_ledger(tmp_path, grid(name="b", seeds=[1, 2], training=longer), record_of)
    pair = select("small:BCE", results), select("b:PG", tmp_path)
    with pytest.raises(UsageError, match=r"different numbers of epochs \(4.*l:BCE; 5.*b:PG\)") as e:
        compare(*pair)
    assert "--allow-mixed" in str(e.value)
    mixed = compare(*pair, allow_mixed=True)
    assert any(note.startswith("mixed: different numbers of epochs") for note in mixed.notes)


def test_selection_on_the_same_split_is_said(results: Path) -> None:
    pair = select("small:BCE", results), select("search", results, best=True)
    text = "was chosen by its mAP on validation"
    assert text in "\n".join(compare(*pair, split="validation").notes)
    assert text not in "\n".join(compare(*pair, split="test").notes)


def test_one_and_the_same_is_refused(results: Path) -> None:
    one = select("small:PG", results)
    with pytest.raises(UsageError, match="needs two or more configurations, got small:PG, small:P"):
        compare(one, select("small:4", results))


def test_a_damaged_trial_is_left_out(tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path, grid(seeds=[1, 2, 4]), record_of)
    ledger.file("epochs", 4).write(b"PAR1 not any more")
    with pytest.warns(UserWarning, match="left out: .*00004"):
        comparison = compare(select("small:BCE", tmp_path), select("small:PG", tmp_path))
    assert of(comparison, "small:PG", "total").difference.n == 2
    assert "small:PG: the epochs of seeds 2 cannot be read" in comparison.notes


def test_facts_are_json(results: Path) -> None:
    comparison = compare(select("small:BCE", results), select("small:PG", results), by_class=True)
    again = json.loads(json.dumps(facts(comparison), allow_nan=False))
    assert again["contrasts"][0]["difference"]["n"] == 4
    assert again["contrasts"][0]["other_mean"] < 1


# ---------------------------------------------------------------- names


def test_names_of_configurations(results: Path, tmp_path: Path) -> None:
    ledger = Ledger(results / "small")
    assert select("small:PG", results).label == "small:PG"
    assert select("small:5", results).label == "small:PG"
    assert select("small:5", results).replicates["seed"].tolist() == [1, 2, 3, 4]
    assert select("search:3", results).label == "search:2"
    assert select(f"{ledger.url}:BCE", tmp_path).label == f"{ledger.url}:BCE"
    by_id = selection_of(ledger, select("small:PG", results).configuration_id)
    assert by_id.label == "small:PG"
    write_ledger(tmp_path, spec(name="one", trials=1), record_of, [(None, {})])
    assert select("one", tmp_path).label == "one"


@pytest.mark.parametrize(
    ("name", "message"),
    [("smal:PG", "did you mean small"), ("single:QG", "no variant 'QG'"),
     ("single:9", "trial '9'"), ("single", "means several configurations"),
     ("single:", "no variant ''")],
)  # fmt: skip
def test_other_names_list_what_there_is(results: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        select(name, results)
    if "smal:" not in name:
        assert "single:0  BCE  (seeds 7)\n  single:1  PG  (seeds 7)" in str(error.value)


def test_a_variant_with_a_space_needs_a_trial(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"type": "categorical", "choices": [0.1, 0.2]}}
    write_ledger(tmp_path, grid(space=space, variants={"PG": {}}, seeds=[1, 2]), record_of)
    with pytest.raises(UsageError, match=r"small: 'PG' means several .*\n  small:0  PG training"):
        select("small:PG", tmp_path)
    assert select("small:3", tmp_path).label == "small:2"


def test_a_variant_named_like_a_trial(tmp_path: Path) -> None:
    variants = {"3": {}, "PG": {"loss": {"kappa": 0.0}}}
    write_ledger(tmp_path, grid(seeds=[1, 2], variants=variants), record_of)
    with pytest.raises(UsageError, match="'3' is a variant, and a trial of another configuration"):
        select("small:3", tmp_path)
    write_ledger(tmp_path, grid(name="same", seeds=[1, 2], variants={"1": {}}), record_of)
    assert select("same:1", tmp_path).label == "same:1"


def test_the_best_of_a_search(results: Path, tmp_path: Path) -> None:
    assert select("small", results, best=True).label == "small:PG"
    assert select("small", results, best=True).chosen_on == "validation"
    several = [{"metric": "map_total"}, {"metric": "map_tail"}]
    write_ledger(tmp_path, grid(name="two", objective=several), record_of)
    with pytest.raises(UsageError, match="several objectives"):
        select("two", tmp_path, best=True)
    Ledger(tmp_path / "empty").begin(grid(name="empty"))
    with pytest.raises(UsageError, match="no complete trial yet"):
        select("empty", tmp_path)


def test_retries_and_duplicates_count_once(tmp_path: Path) -> None:
    search = grid(seeds=[1, 2], variants={"PG": {}})
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    for _ in search.seeds:
        trial = study.next_trial()
        assert trial is not None
        if trial.seed == 2:
            study.fail(trial.number, "broken")
            continue
        EpochWriter(ledger, trial, 1).append(record_of(trial))
        study.complete(trial.number)
    study.retry(1)
    trial = study.next_trial()
    assert trial is not None
    EpochWriter(ledger, trial, 1).append(record_of(trial))
    assert study.complete(trial.number).state is TrialState.COMPLETE
    assert select("small", tmp_path).replicates["number"].tolist() == [0, 2]
    space = {"training.learning_rate": {"type": "categorical", "choices": [0.1]}}
    same = [(None, {"training.learning_rate": 0.1})] * 2
    write_ledger(tmp_path, spec(name="twice", trials=2, space=space, seeds=[1, 2]), record_of, same)
    assert select("twice", tmp_path).replicates["seed"].tolist() == [1, 2]
