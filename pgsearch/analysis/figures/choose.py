"""Which configurations a figure shows: all of an ablation, the best few of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from pgsearch.analysis.records import Records

MAX_OF_AN_ABLATION: Final = 12
BEST_OF_A_SEARCH: Final = 4


@dataclass(frozen=True)
class Shown:
    """A configuration in a figure."""

    records: Records
    configuration_id: str
    number: int
    """Its first trial."""
    label: str

    def epochs(self) -> pd.DataFrame:
        """Return the epochs of its complete trials."""
        numbers = self.records.replicates_of(self.configuration_id)
        return self.records.epochs[self.records.epochs["number"].isin(numbers)]

    def last_epochs(self) -> pd.DataFrame:
        """Return the last epoch of each of its complete trials."""
        return self.records.last_epochs.loc[self.records.replicates_of(self.configuration_id)]


def configurations_to_show(searches: Sequence[Records]) -> tuple[list[Shown], str]:
    """Return the configurations and a sentence that says which they are of how many.

    Of several searches the label has the search too.
    """
    shown, sentences = [], []
    for records in searches:
        is_search = records.spec.method == "search"
        limit = BEST_OF_A_SEARCH if is_search else MAX_OF_AN_ABLATION
        few = limit if len(searches) == 1 else max(1, limit // len(searches))
        frame = records.configurations
        if len(frame) > few:
            frame = records.best_first.head(few)
            sentences.append(
                f"The best {few} of {len(records.configurations)} configurations of "
                f"{records.name} by {records.spec.objective[0].column}."
            )
        prefix = f"{records.name}: " if len(searches) > 1 else ""
        shown += [
            Shown(records, row["configuration_id"], row["number"], prefix + row["label"])
            for row in frame.to_dict("records")
        ]
    return shown, " ".join(sentences)


def why_none(searches: Sequence[Records]) -> str:
    """Return why there is no configuration to show."""
    if all(records.epochs.empty for records in searches):
        return "no epochs yet"
    return "no complete trial yet"
