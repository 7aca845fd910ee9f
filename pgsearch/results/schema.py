"""The two tables of the ledger, each column declared once: one row per epoch, one row per trial."""

import functools
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from pgsearch import __version__
from pgsearch.class_groups import GROUPS
from pgsearch.config.trial import Stage, configuration_leaves

SCHEMA_VERSION = 3
"""1: pgsearch 0.1 before `retry_of`; 2: before `stage`, which an older reader would take for trials
that compare. Every version stays readable."""


class TrialState(StrEnum):
    """Life of a trial, in Optuna's words.

    RUNNING ──> COMPLETE   the last epoch is recorded
       │  ├───> PRUNED     the pruner ended it early
       │  └───> FAIL       an error, or a number that is not finite; never retried
       └──> RUNNING        its worker or the driver was lost; it goes on from its
                           newest checkpoint as another attempt
    """

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"

    @property
    def is_finished(self) -> bool:
        """Whether the trial has ended for good."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class EpochRecord:
    """What training knows after one epoch of one trial. Undefined numbers are NaN.

    Groups are keyed by head, medium, tail (and total where it is a mean over all classes); lists
    are per class, in the order of `class_names`.
    """

    epoch: int
    """From 1."""
    iterations: int
    """Optimiser steps since the start of the trial."""
    train_loss: float
    learning_rate: float
    """At the last step of the epoch."""
    gradient_norm: float
    """Mean L2 norm before clipping."""
    map: dict[str, dict[str, float]]
    """By split (validation, test), then total, head, medium, tail; only what was evaluated."""
    ap: dict[str, list[float]]
    """By split, per class."""
    f1: dict[str, dict[str, float]]
    """By split, then micro, macro; of probabilities above 1/2."""
    loss: dict[str, float]
    """Mean loss by split, where it was evaluated."""
    p_pos: list[float]
    p_neg: list[float]
    group_p_pos: dict[str, float]
    group_p_neg: dict[str, float]
    factors: dict[str, list[float]]
    """Mean effective factors of the epoch's batches, by name, per class."""
    num_train_images: int
    """Images drawn in this epoch."""
    train_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    class_names: list[str]
    class_counts: list[int]
    class_groups: list[int]
    data_fingerprint: str
    weights_fingerprint: str
    precision: str | None = None
    """That the network was trained with: fp32 or bf16; None of before it was recorded."""


@dataclass(frozen=True)
class TrialRecord:
    """What the driver knows of one trial."""

    number: int
    uid: str
    state: TrialState
    seed: int
    variant: str | None
    configuration_id: str
    params: dict[str, Any]
    """Values of the active dimensions, by name."""
    retry_of: int | None = None
    """The failed trial that this one repeats."""
    stage: Stage | None = None
    """None in a search of one stage."""
    promoted_from: int | None = None
    """Of the full stage: the trial of the screen whose configuration it trains."""
    values: list[float] | None = None
    """The objectives of a COMPLETE trial."""
    attempts: int = 0
    epochs: int = 0
    error: str | None = None
    wall_seconds: float | None = None
    """Training and evaluation over all recorded epochs."""
    started_utc: datetime | None = None
    ended_utc: datetime | None = None
    optuna_state: dict[str, Any] = field(default_factory=dict)
    """What Optuna's sampler and pruner remember of the trial (generation, rungs)."""
    configuration: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration, flat; empty where it was not read (`Ledger.trials`)."""


_ARROW_TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    list: pa.list_(pa.int64()),
}
EVALUATED_SPLITS = ("validation", "test")
_STAGE = "screen (cheap, compares with no other), or full; null in a search of one stage"
FACTORS = (
    "lambda1_neg",
    "lambda2_neg",
    "lambda1_pos",
    "lambda2_pos",
    "focusing_neg",
    "focusing_pos",
)


@functools.cache
def epoch_schema() -> pa.Schema:
    """Return the schema of `epochs/`, with a description on each column."""
    columns = [
        ("search", pa.string(), "name of the search"),
        ("trial", pa.string(), "uid of the trial, the same through resumes"),
        ("number", pa.int64(), "number of the trial in the search, from 0"),
        ("attempt", pa.int64(), "execution of the trial that wrote this row, from 1"),
        ("variant", pa.string(), "name of the variant in an ablation"),
        ("stage", pa.string(), _STAGE),
        ("seed", pa.int64(), "seed of the training"),
        ("configuration_id", pa.string(), "the same for replicates: equal but for the seed"),
        ("epoch", pa.int64(), "epoch, from 1"),
        ("iterations", pa.int64(), "optimiser steps since the start of the trial"),
        ("recorded_utc", pa.timestamp("us", tz="UTC"), "when the row was written"),
        ("loss.train", pa.float64(), "mean training loss of the epoch"),
        ("learning_rate", pa.float64(), "learning rate at the last step of the epoch"),
        ("gradient_norm", pa.float64(), "mean L2 norm of the gradient before clipping"),
        ("num_train_images", pa.int64(), "images drawn in the epoch"),
        ("train_seconds", pa.float64(), "time of the training steps"),
        ("evaluation_seconds", pa.float64(), "time of the evaluations"),
        ("images_per_second", pa.float64(), "num_train_images / train_seconds"),
        ("peak_memory_bytes", pa.int64(), "peak memory so far: of the process, or of the GPU"),
        ("gpus", pa.float64(), "GPUs that the trial occupied, a part of one where it shared it"),
    ]
    for split in EVALUATED_SPLITS:
        columns.append(
            (f"loss.{split}", pa.float64(), f"mean loss on {split}; null: not evaluated")
        )
        columns += [
            (f"map.{split}.{part}", pa.float64(), f"mean AP on {split}, {part} classes, in [0, 1]")
            for part in ("total", *GROUPS)
        ]
        columns += [
            (f"f1.{split}.{mean}", pa.float64(), f"F1 on {split} at probability 1/2, {over}")
            for mean, over in (
                ("micro", "of all labels together"),
                ("macro", "mean over the classes with a positive"),
            )
        ]
    for sign, meaning in (("pos", "positives: sigmoid(z)"), ("neg", "negatives: 1 - sigmoid(z)")):
        columns += [
            (f"p_{sign}.{group}", pa.float64(), f"mean probability of {meaning}, {group} classes")
            for group in GROUPS
        ]
    columns += [
        ("classes", pa.list_(pa.string()), "class names; the order of the lists below"),
        ("class.count", pa.list_(pa.int64()), "training images of each class"),
        ("class.group", pa.list_(pa.string()), "group of each class"),
        ("class.p_pos", pa.list_(pa.float64()), "mean sigmoid(z) over positives, per class"),
        ("class.p_neg", pa.list_(pa.float64()), "mean 1 - sigmoid(z) over negatives, per class"),
    ]
    columns += [
        (f"class.ap.{split}", pa.list_(pa.float64()), f"AP on {split}; null: no positive there")
        for split in EVALUATED_SPLITS
    ]
    columns += [
        (f"class.{factor}", pa.list_(pa.float64()), "mean effective factor over the batches")
        for factor in FACTORS
    ]
    columns += [
        ("data_fingerprint", pa.string(), "identifies images, labels and split"),
        ("weights_fingerprint", pa.string(), "identifies the initial weights; random if none"),
        ("precision", pa.string(), "arithmetic that the network was trained with: fp32 or bf16"),
        ("provenance", pa.string(), "versions, commit and machine, as JSON"),
    ]
    return _schema(columns + _configuration_columns(), "epochs")


@functools.cache
def trial_schema() -> pa.Schema:
    """Return the schema of `trials/`, with a description on each column."""
    utc = pa.timestamp("us", tz="UTC")
    columns = [
        ("search", pa.string(), "name of the search"),
        ("trial", pa.string(), "uid of the trial, the same through resumes"),
        ("number", pa.int64(), "number of the trial in the search, from 0"),
        ("state", pa.string(), "RUNNING, COMPLETE, PRUNED or FAIL"),
        ("retry_of", pa.int64(), "number of the failed trial that this one repeats"),
        ("variant", pa.string(), "name of the variant in an ablation"),
        ("stage", pa.string(), _STAGE),
        (
            "promoted_from",
            pa.int64(),
            "of the full stage: number of the trial of the screen whose configuration it trains",
        ),
        ("seed", pa.int64(), "seed of the training"),
        ("configuration_id", pa.string(), "the same for replicates: equal but for the seed"),
        ("params", pa.string(), "values of the active dimensions, as JSON"),
        ("values", pa.list_(pa.float64()), "the objectives, in the order of the spec"),
        ("attempts", pa.int64(), "executions begun"),
        ("epochs", pa.int64(), "epochs recorded when the row was written"),
        ("error", pa.string(), "why it failed"),
        ("wall_seconds", pa.float64(), "training and evaluation over all its epochs"),
        ("started_utc", utc, "when the trial was created"),
        ("ended_utc", utc, "when it ended"),
        ("optuna_state", pa.string(), "what sampler and pruner remember of the trial, as JSON"),
    ]
    return _schema(columns + _configuration_columns(), "trials")


def columns_as_markdown() -> str:
    """Return the description of all columns, which `results/README.md` holds."""
    lines = [
        "# Results",
        "",
        "One folder per search. Everything in it can be read without pgsearch:",
        "",
        "```python",
        "import pandas as pd",
        "",
        'epochs = pd.read_parquet("results/NAME/epochs")  # one row per trial and epoch',
        'trials = pd.read_parquet("results/NAME/trials")  # one row per trial',
        "```",
        "",
        "`snapshot/`, of a large search that has ended, holds the same rows in one file per table, "
        "with the version of the file that each came from: pgsearch reads it where the files are "
        "still those, and it may be removed.",
        "",
        f"Schema version {SCHEMA_VERSION}. Undefined and not measured numbers are null, never 0. "
        "A column of a setting that a trial's loss or data set does not have is null. This file "
        "is what `pgsearch schema --columns` prints.",
    ]
    for title, schema in (("epochs", epoch_schema()), ("trials", trial_schema())):
        lines += ["", f"## {title}", "", "| column | type | meaning |", "|---|---|---|"]
        for column in schema:
            meaning = column.metadata[b"description"].decode().replace("|", "\\|")
            lines.append(f"| `{column.name}` | {_short_type(column.type)} | {meaning} |")
    return "\n".join(lines)


def _short_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_short_type(kind.value_type)}"
    return "UTC time" if pa.types.is_timestamp(kind) else str(kind)


def _configuration_columns() -> list[tuple[str, pa.DataType, str]]:
    return [
        (leaf.path, _ARROW_TYPES[leaf.type], leaf.description) for leaf in configuration_leaves()
    ]


def _schema(columns: list[tuple[str, pa.DataType, str]], table: str) -> pa.Schema:
    fields = [
        pa.field(name, kind, metadata={"description": description})
        for name, kind, description in columns
    ]
    metadata = {
        "pgsearch.schema_version": str(SCHEMA_VERSION),
        "pgsearch.table": table,
        "pgsearch.version": __version__,
    }
    return pa.schema(fields, metadata=metadata)


def is_configuration(column: str) -> bool:
    """Whether a column is a value of the configuration, not one that was measured."""
    measured = ("loss.train", "loss.validation", "loss.test")
    return column.startswith(("data.", "model.", "loss.", "training.")) and column not in measured


_COMPARED = ("training.epochs", "data.image_size", "data.head_min", "data.tail_below")
"""Settings in which trials must not differ, of every table."""

USUAL_COLUMNS: Final = {
    "trials": [c for c in trial_schema().names if not is_configuration(c) or c in _COMPARED],
    "epochs": [
        column.name
        for column in epoch_schema()
        if not is_configuration(column.name) and column.type != pa.list_(pa.float64())
    ],
}
"""By table, what tables and pages of a whole search are made of: neither configurations nor lists
per class, which are three columns of four."""
