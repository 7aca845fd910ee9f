"""Whose weights and scores stay while a search goes on."""

from collections.abc import Mapping

from pgsearch.config import SearchSpec
from pgsearch.results import Ledger, TrialRecord
from pgsearch.results.garbage import worth_keeping


class KeptWeights:
    """The best `keep_checkpoints` trials by the first objective keep theirs, others lose them.

    Args:
        spec: the search.
        ledger: its results.
        records: its trials by number, those to come too.
    """

    def __init__(
        self, spec: SearchSpec, ledger: Ledger, records: Mapping[int, TrialRecord]
    ) -> None:
        self._spec, self._ledger, self._records = spec, ledger, records
        ended = {number for number, record in records.items() if record.state.is_finished}
        self._with_weights = ended & ledger.with_weights_or_scores()
        self._best = worth_keeping(spec, records.values())

    def remove_others(self, ended: int | None = None) -> None:
        """Remove those of an ended trial, or of the one that it is better than.

        Without a trial: what a kill left.
        """
        if ended is not None:
            self._with_weights.add(ended)
            rivals = (self._records[number] for number in self._best | {ended})
            self._best = worth_keeping(self._spec, rivals)
        for number in self._with_weights - self._best:
            self._ledger.remove_weights_and_scores(number)
        self._with_weights &= self._best
