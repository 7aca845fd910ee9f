"""What mattered in a search, as tables: importance, effects, fixed against adaptive, the front."""

import math
from typing import Any, Final

import pandas as pd

from pgsearch.analysis.columns import short_name
from pgsearch.analysis.effects import marginal_effects, mode_contrasts
from pgsearch.analysis.factors import is_maximised, read_outcomes
from pgsearch.analysis.formats import Cell, Table, missing, number, percent
from pgsearch.analysis.front import head_against_tail
from pgsearch.analysis.importance import MIN_BEST, best_fraction, parameter_importance
from pgsearch.analysis.metric import Metric, MetricColumn
from pgsearch.analysis.records import Records
from pgsearch.config.trial import Stage
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, TrialState

MAX_FRONT: Final = 30


def what_mattered(ledger: Ledger, metric: str | None = None, stage: Stage = "full") -> list[Table]:
    """Return the importance of parameters, their effects, contrasts of modes, and the front.

    Only complete trials count. A table that does not apply has no rows and a note that says why.

    Args:
        ledger: of the search.
        metric: measured column to judge by, or its end, such as test.tail; None is the first
            objective.
        stage: whose trials count, in a search with stages.

    Raises:
        UsageError: there is no such metric, or no complete trial with it.
    """
    records, column = read_outcomes(ledger, metric, stage)
    left_out = _left_out(records)
    tables = [
        _importance_table(records, column),
        _effects_table(records, column),
        _contrasts_table(records, column),
        _front_table(records, Metric(column).split or records.spec.objective[0].split),
    ]
    first = tables[0]
    return [
        Table(
            first.title, first.columns, first.rows, (*first.notes, *left_out), first.text_columns
        ),
        *tables[1:],
    ]


def _left_out(records: Records) -> list[str]:
    counts = records.trials["state"].value_counts()
    others = [
        f"{counts[state]} {state}"
        for state in TrialState
        if state in counts and state is not TrialState.COMPLETE
    ]
    if not others:
        return []
    return [f"Only complete trials count, in all tables; left out: {', '.join(others)}."]


def _importance_table(records: Records, metric: str) -> Table:
    try:
        frame = parameter_importance(records, metric)
    except UsageError as error:
        frame, notes = pd.DataFrame(), [f"{error}."]
    else:
        notes = _on_importance(records, metric, frame)
    rows = tuple(
        (
            _name(row["parameter"]),
            number(row["importance"]),
            Cell(str(row["n"]), value=row["n"]),
            Cell(row["condition"]) if row["condition"] else missing(),
        )
        for row in frame.to_dict("records")
    )
    return Table(
        f"Importance of the parameters of {records.name} for {metric} (PED-ANOVA)",
        ("parameter", "importance", "n", "only where"),
        rows,
        tuple(notes),
        frozenset({"parameter", "only where"}),
    )


def _on_importance(records: Records, metric: str, frame: pd.DataFrame) -> list[str]:
    count = len(records.configurations)
    best = max(MIN_BEST, math.ceil(best_fraction(count) * count))
    notes = [
        f"How far the distribution of a parameter among the best {best} of {count} configurations "
        f"({'highest' if is_maximised(records, metric) else 'lowest'} {metric}) differs from that "
        "among all; the sum is 1. It says nothing of the direction: see the effects."
    ]
    if any(frame["condition"]):
        notes.append(
            "Misleading where parameters are conditional: such a one is judged over the n "
            "configurations that have it, and counts for more the more of the best have it, while "
            "its condition takes the credit for being chosen. Compare only parameters of equal n."
        )
    return notes


def _effects_table(records: Records, metric: str) -> Table:
    frame = marginal_effects(records, metric)
    values = MetricColumn(Metric(metric), frame["mean"], marks_best=False)
    rows = tuple(
        (
            _name(row["factor"]),
            Cell(row["mode"], value=row["mode"]) if isinstance(row["mode"], str) else missing(),
            Cell(row["level"], value=row["level"]),
            Cell(str(row["n"]), value=row["n"]),
            values.cell(row["mean"], row["std"], row["n"], of=row["n"]),
            number(row["rho"]),
            _p(row["p"]),
        )
        for row in frame.to_dict("records")
    )
    notes = [
        "n configurations, each with the mean of its seeds; ± is the sample standard deviation "
        "over them. Spearman's ρ is of all values of a number with the metric, p two-sided and not "
        "corrected. Each effect is an average over whatever else was varied with it."
    ]
    return Table(
        f"Effect of each factor on {metric} in {records.name}",
        ("factor", "mode", "value", "n", Metric(metric).title, "ρ", "p"),
        rows,
        tuple(notes if rows else ["No factor took two values in the complete trials."]),
        frozenset({"factor", "mode", "value"}),
    )


def _contrasts_table(records: Records, metric: str) -> Table:
    frame = mode_contrasts(records, metric)
    # A difference of fractions is shown in percentage points.
    is_fraction = Metric(metric).title.endswith("%")
    unit = f"difference of {metric}" + (" in points" if is_fraction else "")
    shown = percent if is_fraction else number
    rows = tuple(
        (
            _name(row["factor"]),
            Cell(row["contrast"], value=row["contrast"]),
            shown(row["difference"]),
            shown(row["low"]),
            shown(row["high"]),
            Cell(str(row["n_adaptive"]), value=row["n_adaptive"]),
            Cell(str(row["n_other"]), value=row["n_other"]),
            Cell(row["how"], value=row["how"]),
        )
        for row in frame.to_dict("records")
    )
    notes = [
        "95 % intervals. Paired: trials of equal seed that differ in nothing but this mode, with "
        "Student's interval. Welch: means over configurations that differ in other factors too."
    ]
    return Table(
        f"Fixed against adaptive in {records.name}",
        ("factor", "contrast", unit, "low", "high", "n adaptive", "n other", "how"),
        rows,
        tuple(notes if rows else ["No factor was both adaptive and something else."]),
        frozenset({"factor", "contrast", "how"}),
    )


def _front_table(records: Records, split: str) -> Table:
    frame = head_against_tail(records, split)
    front = frame[frame["on_front"]].sort_values("head", ascending=False)
    rows = tuple(
        (
            Cell(str(row["label"])),
            Cell(str(row["number"]), value=row["number"]),
            Cell(str(row["n"]), value=row["n"]),
            percent(row["head"], std=row["head_std"]),
            percent(row["tail"], std=row["tail_std"]),
        )
        for row in front.head(MAX_FRONT).to_dict("records")
    )
    notes = [f"Of {len(frame)} configurations; no other has more in both. Means over n seeds."]
    if len(front) > MAX_FRONT:
        notes.append(f"The first {MAX_FRONT} of {len(front)}.")
    if not rows:
        notes = [f"No complete configuration has mAP head and tail on {split}."]
    return Table(
        f"Front of mAP head against tail on {split} in {records.name}",
        ("configuration", "first trial", "n", "mAP head in %", "mAP tail in %"),
        rows,
        tuple(notes),
        frozenset({"configuration"}),
    )


def _name(path: str) -> Cell:
    return Cell(short_name(path), value=path)


def _p(value: Any) -> Cell:
    if pd.isna(value):
        return missing()
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value=value)
