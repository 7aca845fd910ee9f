"""What a reader of a table must know: which epoch, what chose the rows, what was left out."""

from collections.abc import Iterable, Sequence

from pgsearch.analysis.metric import Metric
from pgsearch.analysis.replicates import Replicates


def epoch_words(found: Replicates) -> str:
    """Return which epoch the numbers are of, such as `after the last epoch`."""
    if found.which_epoch == "last":
        return "after the last epoch"
    judges = dict.fromkeys(spec.objective[0].column for spec in found.specs.values())
    return f"after the best epoch of each trial by {' or '.join(judges)}"


def caveats(found: Replicates, metrics: Iterable[Metric]) -> tuple[str, ...]:
    """Return a sentence for each thing that a reader must know.

    Args:
        found: the trials.
        metrics: that are shown.
    """
    shown = list(metrics)
    splits = {metric.split for metric in shown if metric.split is not None}
    notes = []
    for search, spec in found.specs.items():
        if spec.method == "grid":
            continue
        optimised = dict.fromkeys(objective.split for objective in spec.objective)
        columns = ", ".join(objective.column for objective in spec.objective)
        note = f"the configurations of {search} were chosen by {columns}"
        if seen := sorted(splits & set(optimised)):
            note += f", so its numbers on {' and '.join(seen)} are better than fresh seeds will be"
        notes.append(note)
    if grids := [search for search, spec in found.specs.items() if spec.method == "grid"]:
        notes.append(f"{', '.join(grids)}: a grid, so nothing chose its configurations")
    if found.which_epoch == "best":
        notes += _on_best_epochs(found, shown)
    return (*notes, *found.notes)


def _on_best_epochs(found: Replicates, shown: Sequence[Metric]) -> list[str]:
    notes = []
    judges = {spec.objective[0].split for spec in found.specs.values()}
    if seen := sorted(judges & {metric.split for metric in shown if metric.split is not None}):
        notes.append(
            f"each trial's epoch was chosen on {' and '.join(seen)}, which is shown: these numbers "
            "are too good"
        )
    on_test = [metric.column for metric in shown if metric.split == "test"]
    if on_test and (unseen := int(found.frame[on_test].isna().all(axis="columns").sum())):
        notes.append(
            f"{unseen} of {len(found.frame)} trials were not evaluated on test at their best epoch "
            "and count nowhere; training.test_every evaluates test more often"
        )
    return notes
