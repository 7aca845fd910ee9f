"""Whether a screen predicts: its ranks against those of the same configurations trained fully."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from pgsearch.analysis.ranking import complete_trials, ranked_configurations
from pgsearch.config import SearchSpec
from pgsearch.results import Ledger

CONFIDENCE: Final = 0.95
MIN_PAIRS: Final = 5
"""Fewer give resamples of so few ranks that their interval means nothing."""
RESAMPLES: Final = 10_000


@dataclass(frozen=True)
class StageAgreement:
    """How far the ranks of a screen are those of the full training."""

    n: int
    """Configurations that are complete in both stages."""
    rho: float | None
    """Spearman's rank correlation; None where it is not defined."""
    low: float | None
    """Lower end of its 95% interval, by resampling the configurations."""
    high: float | None
    num_screened: int
    """Complete configurations of the screen."""
    num_best: int
    """Pairs among the best that the spec promotes; the others were promoted to check."""
    rho_of_best: float | None
    """Of those alone, whose range is restricted."""
    best_trial: int | None
    """Of the full stage: the first of the best configuration."""
    rank_of_best: int | None
    """Its configuration's rank in the screen, from 1."""
    screen_seconds: float | None
    """Training and evaluation of a complete trial, median."""
    full_seconds: float | None

    @property
    def predicts(self) -> bool | None:
        """Whether the interval lies above 0; None where there are too few pairs to say."""
        if self.n < MIN_PAIRS:
            return None
        return self.low is not None and self.low > 0


def agreement(ledger: Ledger) -> StageAgreement | None:
    """Return how far a screen predicts; None for a search without stages.

    A configuration of the full stage has the mean of the first objective over its complete seeds;
    of the screen it has the one value that it was promoted by.
    """
    spec = ledger.spec()
    if spec.stages is None:
        return None
    screen = complete_trials(ledger, stage="screen").drop_duplicates("configuration_id")
    full = complete_trials(ledger)
    pairs = _pairs(spec, screen, full)
    best = ranked_configurations(full, spec).head(1)
    rank = pairs.loc[pairs["configuration_id"].isin(best["configuration_id"]), "rank"]
    is_best = pairs["rank"] <= spec.stages.best
    low, high = _interval(pairs["screened"].to_numpy(), pairs["value"].to_numpy())
    return StageAgreement(
        n=len(pairs),
        rho=_rho(pairs),
        low=low,
        high=high,
        num_screened=len(screen),
        num_best=int(is_best.sum()),
        rho_of_best=_rho(pairs[is_best]),
        best_trial=None if best.empty else int(best["number"].iloc[0]),
        rank_of_best=None if rank.empty else int(rank.iloc[0]),
        screen_seconds=_median(screen["wall_seconds"]),
        full_seconds=_median(full["wall_seconds"]),
    )


def _pairs(spec: SearchSpec, screen: pd.DataFrame, full: pd.DataFrame) -> pd.DataFrame:
    """Return configurations of both stages: configuration_id (full), screened, rank, value."""
    ascending = spec.objective[0].direction == "minimize"
    ranked = screen.sort_values("value", ascending=ascending, kind="stable")
    ranked = ranked.assign(rank=np.arange(1, len(ranked) + 1), screened=ranked["value"])
    means = full.groupby(["promoted_from", "configuration_id"], as_index=False)["value"].mean()
    screened = ranked[["number", "rank", "screened"]].rename(columns={"number": "promoted_from"})
    pairs: pd.DataFrame = means.merge(screened, on="promoted_from")
    return pairs


def _rho(pairs: pd.DataFrame) -> float | None:
    if len(pairs) < 2:
        return None
    (rho,) = _spearman(pairs["screened"].to_numpy()[None], pairs["value"].to_numpy()[None])
    return float(rho) if np.isfinite(rho) else None


def _interval(screened_N: np.ndarray, value_N: np.ndarray) -> tuple[float | None, float | None]:
    """Return the percentile interval of Spearman's correlation over resampled pairs."""
    n = len(value_N)
    if n < MIN_PAIRS:
        return None, None
    drawn_RN = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    rho_R = _spearman(screened_N[drawn_RN], value_N[drawn_RN])
    if not np.isfinite(rho_R).any():
        return None, None
    low, high = np.nanquantile(rho_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _spearman(x_RN: np.ndarray, y_RN: np.ndarray) -> np.ndarray:
    """Return the rank correlation in each row; NaN where all of one of them are equal.

    Not SciPy's: `pgsearch status` would import it.
    """
    ranks = (pd.DataFrame(values).rank(axis=1).to_numpy() for values in (x_RN, y_RN))
    x_RN, y_RN = (rank_RN - rank_RN.mean(axis=1, keepdims=True) for rank_RN in ranks)
    scale_R = np.sqrt((x_RN**2).sum(axis=1) * (y_RN**2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        rho_R: np.ndarray = (x_RN * y_RN).sum(axis=1) / scale_R
    return rho_R


def _median(seconds: "pd.Series[float]") -> float | None:
    return None if seconds.dropna().empty else float(seconds.median())


def sentences(spec: SearchSpec, found: StageAgreement) -> list[str]:
    """Return in plain words whether the screen predicts, and what to do where it does not."""
    return list(_sentences(spec, found))


def _sentences(spec: SearchSpec, found: StageAgreement) -> Iterator[str]:
    stages = spec.stages
    if stages is None:
        return
    remedy = ["train the screen for more epochs or on more of the data"]
    if stages.screen.training.get("trunk", "trained") != spec.training.trunk:
        remedy.insert(0, "train its trunk too")
    remedy.append("raise stages.check")
    measured = f"over {found.n} configurations"
    if found.rho is not None:
        measured = f"Spearman's ρ {found.rho:.2f} {measured}"
    if found.low is not None and found.high is not None:
        measured += f", {100 * CONFIDENCE:g}% interval {found.low:.2f} to {found.high:.2f}"
    if found.predicts is None:
        yield (
            f"whether the screen predicts the full training cannot be told from {found.n} "
            f"configurations, {MIN_PAIRS} are the fewest: raise stages.check or stages.best"
        )
    elif found.predicts:
        yield f"the screen predicts the full training ({measured})"
    else:
        yield (
            f"the screen does not predict the full training ({measured}), so it may have left out "
            f"the best: {', '.join(remedy[:-1])}, or {remedy[-1]}"
        )
    if found.num_best == found.n > 0:
        yield (
            "these are the best of the screen alone; their range is restricted, which hides a "
            "correlation that is there: let stages.check add others"
        )
    elif found.rho_of_best is not None and found.predicts is not None:
        yield (
            f"among its best {found.num_best} alone ρ is {found.rho_of_best:.2f}, where the range "
            f"is restricted; from the ranks below it: {found.n - found.num_best}"
        )
    if found.rank_of_best is not None:
        yield (
            f"the best fully trained configuration (trial {found.best_trial}) was number "
            f"{found.rank_of_best} of {found.num_screened} in the screen"
        )
    if found.screen_seconds is not None and found.full_seconds is not None:
        yield (
            f"a trial of the screen took {found.screen_seconds:.1f} s, a full one "
            f"{found.full_seconds:.1f} s (medians)"
        )


def lines(ledger: Ledger) -> Sequence[str]:
    """Return `sentences` of a search; none of one without stages, or before its full stage."""
    found = agreement(ledger)
    if found is None or found.best_trial is None:
        return ()
    return sentences(ledger.spec(), found)


def facts(found: StageAgreement) -> dict[str, Any]:
    """Return an agreement as plain data, as JSON holds it."""
    return {**asdict(found), "predicts": found.predicts}
