"""A search as figures and effects read it: its trials, some columns of its epochs, replicates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import pandas as pd

from pgsearch.analysis.ranking import of_stage, ranked_configurations
from pgsearch.analysis.tables import label, short_params
from pgsearch.config import SearchSpec
from pgsearch.config.loss import LossConfig
from pgsearch.config.trial import Stage
from pgsearch.results import Ledger, read_epochs, read_trials

TRIAL_COLUMNS: Final = (
    "number", "state", "variant", "stage", "seed", "configuration_id", "params", "values", "error",
    "wall_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Records:
    """One search, or one stage of it, read once.

    `trials` has one row per trial: number, state, variant, seed, configuration_id, params (a dict),
    value (the first objective of a COMPLETE trial) and error. `epochs` has number, epoch. Both have
    the columns that were asked for too.
    """

    ledger: Ledger
    spec: SearchSpec
    trials: pd.DataFrame
    epochs: pd.DataFrame

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.ledger.name

    @property
    def maximises(self) -> bool:
        """Whether more of the first objective is better."""
        return self.spec.objective[0].direction == "maximize"

    @cached_property
    def last_epochs(self) -> pd.DataFrame:
        """The newest epoch of each trial that has one, indexed by the trial's number."""
        return self.epochs.groupby("number").tail(1).set_index("number")

    @cached_property
    def complete(self) -> pd.DataFrame:
        """COMPLETE trials, in order; the same configuration and seed twice is one replicate."""
        is_complete = (self.trials["state"] == "COMPLETE") & self.trials["number"].isin(
            self.last_epochs.index
        )
        return self.trials[is_complete].drop_duplicates(["configuration_id", "seed"])

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """Complete configurations in the order of their first trial.

        Columns configuration_id, number and variant and params (of the first trial), label,
        n (replicates), value (mean of the first objective over them).
        """
        firsts = self.complete.drop_duplicates("configuration_id").set_index("configuration_id")
        replicates = self.complete.groupby("configuration_id", sort=False)
        frame = firsts[["number", "variant", "params"]].assign(
            label=[self.labels[configuration_id] for configuration_id in firsts.index],
            n=replicates.size(),
            value=replicates["value"].mean(),
        )
        return frame.reset_index()

    @cached_property
    def labels(self) -> dict[str, str]:
        """Name of each configuration by its id, in the order of its first trial.

        Those of an ablation are known by their variant, those of a search by their first trial.
        """
        firsts = self.trials.drop_duplicates("configuration_id")
        return {
            configuration_id: f"trial {number}"
            if self.spec.method == "search"
            else label(variant, short_params(params)) or self.name
            for configuration_id, number, variant, params in zip(
                firsts["configuration_id"],
                firsts["number"],
                firsts["variant"],
                firsts["params"],
                strict=True,
            )
        }

    @cached_property
    def best_first(self) -> pd.DataFrame:
        """`configurations`, the best first, as `ranked_configurations` has it."""
        ranked = ranked_configurations(self.complete, self.spec)["configuration_id"]
        by_id = self.configurations.set_index("configuration_id", drop=False)
        return by_id.loc[ranked].reset_index(drop=True)

    def replicates_of(self, configuration_id: str) -> list[int]:
        """Return the numbers of the complete trials of a configuration."""
        is_it = self.complete["configuration_id"] == configuration_id
        return [int(number) for number in self.complete.loc[is_it, "number"]]

    def loss_of(self, number: int) -> LossConfig:
        """Return the resolved loss of a trial."""
        (trial,) = self.trials[self.trials["number"] == number].to_dict("records")
        variant = trial["variant"] if isinstance(trial["variant"], str) else None
        return self.spec.trial(number, trial["params"], variant, seed=trial["seed"]).loss


def read_records(
    ledger: Ledger,
    columns: Sequence[str],
    *,
    trial_columns: Sequence[str] = (),
    stage: Stage = "full",
) -> Records:
    """Read a search, with some columns of its epochs and of its trials.

    A damaged file is left out with a DamagedFileWarning. Of a search with stages only one is read:
    trials of several do not compare.
    """
    trials: pd.DataFrame = read_trials(ledger, [*TRIAL_COLUMNS, *trial_columns]).to_pandas()
    trials = trials[of_stage(trials, stage)].reset_index(drop=True)
    trials["params"] = [json.loads(params) for params in trials["params"]]
    trials["value"] = [
        float("nan") if values is None or len(values) == 0 else float(values[0])
        for values in trials.pop("values")
    ]
    epochs = read_epochs(ledger, ["number", "epoch", *columns]).to_pandas()
    if ledger.spec().stages is not None:
        epochs = epochs[epochs["number"].isin(trials["number"])].reset_index(drop=True)
    return Records(ledger, ledger.spec(), trials, epochs)
