"""Whether bf16 trains as good a classifier as fp32: test mAP of both, paired by seed.

python benchmarks/precision.py

BCE with class-aware sampling on digits, the whole network trained; and where `PGSEARCH_DATA` names
the folder of voc_mini, on the features of a frozen EfficientNet-lite0. Five seeds each, four
minutes on two cores. The two differ by more than chance where the 95 % interval of the mean paired
difference leaves out zero; its size counts beside the standard deviation over seeds.
"""

import os
import statistics
from pathlib import Path
from typing import Any

from measure import keep
from scipy import stats

from pgsearch.config import SearchSpec, TrialSpec, load_spec
from pgsearch.results import EpochRecord
from pgsearch.training.fit import fit
from pgsearch.training.precision import PRECISIONS, Precision, with_precision

SEEDS = range(1, 6)
ROOT = Path(__file__).parent
BASES = {"digits": "digits.yaml", "voc_mini": "voc_mini_frozen.yaml"}


def main() -> None:
    rows = []
    for data, base in BASES.items():
        if data == "voc_mini" and not os.environ.get("PGSEARCH_DATA"):
            print("voc_mini is left out: PGSEARCH_DATA does not name the folder that holds it")
            continue
        rows.append(compare(data, search_of(base)))
        print(
            "{data:9} test mAP: fp32 {fp32_mean:.2f} ± {fp32_sd:.2f}, bf16 {bf16_mean:.2f} ± "
            "{bf16_sd:.2f}; bf16 - fp32 {difference:+.2f}, 95 % {low:+.2f} to {high:+.2f}".format(
                **rows[-1]
            ),
            flush=True,
        )
    keep(__file__, rows)


def search_of(base: str) -> SearchSpec:
    """Return the spec of a file of `search_spaces/base` with BCE as its one variant."""
    path = ROOT.parent / "search_spaces" / "base" / base
    own = ["name=precision", "method=grid", "variants={BCE: {}}", "loss={name: bce}"]
    return load_spec(path, own)


def compare(data: str, search: SearchSpec) -> dict[str, Any]:
    """Train every seed with both precisions; mean and spread in percent."""
    trial = search.trial(0, {}, "BCE")
    test_map: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for seed in SEEDS:
        for precision in PRECISIONS:
            test_map[precision].append(score(trial.model_copy(update={"seed": seed}), precision))
    differences = [b - a for a, b in zip(test_map["fp32"], test_map["bf16"], strict=True)]
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    row: dict[str, Any] = {"data": data, "seeds": list(SEEDS), "test_map": test_map}
    for precision, values in test_map.items():
        row[f"{precision}_mean"] = statistics.mean(values)
        row[f"{precision}_sd"] = statistics.stdev(values)
    return {**row, "difference": statistics.mean(differences), "low": float(low),
            "high": float(high), "differences_sd": statistics.stdev(differences)}  # fmt: skip


def score(trial: TrialSpec, precision: Precision) -> float:
    """Return test mAP after the last epoch, in percent."""
    records: list[EpochRecord] = []
    fit(with_precision(trial, precision), report=records.append)
    return 100 * records[-1].map["test"]["total"]


if __name__ == "__main__":
    main()
