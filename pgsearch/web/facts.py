"""What each page shows, as plain data: the page, its JSON twin and the report are all made of it.

mAP, AP, F1 and probabilities are in [0, 1]; what is undefined or not measured is null, never 0.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Facts(BaseModel):
    """Base of all facts: they do not change."""

    model_config = ConfigDict(frozen=True)


class SearchSummary(Facts):
    """One search among others."""

    name: str
    purpose: str = ""
    method: str | None = Field(None, description="search (Optuna chooses) or grid (an ablation)")
    states: dict[str, int] = Field({}, description="trials by state")
    num_trials: int | None = Field(None, description="trials that the spec asks for")
    objective: str | None = Field(None, description="column of the first objective")
    best: float | None = Field(None, description="mean objective of the best configuration")
    best_trial: int | None = Field(None, description="a trial of the best configuration")
    best_label: str = Field("", description="variant and parameters of the best configuration")
    best_seeds: int = Field(0, description="complete trials that the best is the mean of")
    driver: str | None = Field(None, description="who drives the search, or drove it last")
    is_running: bool = False
    last_epoch_utc: datetime | None = Field(None, description="when the newest epoch was recorded")
    stages: list[str] = Field(
        [], description="of a search with stages: whether its screen predicts, in sentences"
    )
    problem: str | None = Field(None, description="why the search cannot be read")
    damaged: list[str] = Field([], description="files that were left out, and why")


class SearchList(Facts):
    """All searches of the results."""

    results: str
    searches: list[SearchSummary]


class Parts(Facts):
    """mAP over all classes, and over those of each group."""

    total: float | None = None
    head: float | None = None
    medium: float | None = None
    tail: float | None = None


class TrialRow(Facts):
    """One trial among others, with the numbers of its newest epoch."""

    rank: int = Field(description="place by the first objective among the trials, from 1")
    number: int
    state: str
    seed: int
    label: str = Field(description="variant and parameters")
    variant: str | None
    stage: str | None = Field(None, description="screen or full, in a search with stages")
    promoted_from: int | None = Field(
        None, description="of the full stage: the trial of the screen that it trains fully"
    )
    planned_epochs: int = Field(description="of a whole trial of its stage")
    parameters: dict[str, JsonValue] = Field(description="values of the active dimensions")
    configuration_id: str = Field(description="the same for replicates: equal but for the seed")
    epoch: int | None = Field(None, description="the newest, from 1")
    value: float | None = Field(None, description="first objective; of complete trials")
    validation: Parts
    test: Parts
    error: str | None = Field(None, description="last line of why it failed")


class ParameterColumn(Facts):
    """A dimension that trials of the search have a value of."""

    name: str
    short: str = Field(description="in the paper's signs")


class Leaderboard(Facts):
    """The trials of a search, by default the best first."""

    search: SearchSummary
    version: str = Field(description="another one when the search has changed")
    has_variants: bool
    has_stages: bool
    parameters: list[ParameterColumn]
    sort: str
    descending: bool
    filter: str = Field(description="words that each row holds")
    num_matching: int = Field(description="trials that match the filter")
    rows: list[TrialRow] = Field(description="the first of them")


class Series(Facts):
    """One line of a chart."""

    name: str
    kind: str = Field(description="what decides its look: total, head, medium, tail, train, …")
    is_dashed: bool = False
    values: list[float | None] = Field(description="one per epoch of the chart")


class Curves(Facts):
    """Lines over the epochs of a trial."""

    name: str
    title: str
    unit: Literal["%", ""] = Field(description="%: shown as 100 × the value")
    epochs: list[int]
    series: list[Series]
    is_factor: bool = Field(False, description="effective factors of the loss, mean over a group")
    is_constant: bool = Field(False, description="no line changes from epoch to epoch")


class Attempt(Facts):
    """One execution of a trial."""

    attempt: int
    host: str | None = Field(None, description="machine that ran it")
    begun_utc: str | None = None
    first_epoch: int | None = Field(None, description="the first that it recorded")
    last_epoch: int | None = None
    recorded_utc: datetime | None = Field(None, description="when the last was recorded")


class ClassRow(Facts):
    """One class after the newest epoch of a trial."""

    name: str
    group: str
    count: int = Field(description="training images")
    ap_validation: float | None
    ap_test: float | None
    p_pos: float | None = Field(description="mean sigmoid(z) over positives")
    p_neg: float | None = Field(description="mean 1 - sigmoid(z) over negatives")


class Trial(Facts):
    """One trial: its curves, its classes, what it was and what happened to it."""

    search: SearchSummary
    version: str
    row: TrialRow
    uid: str
    promoted_to: list[int] = Field(description="trials that train this one of a screen fully")
    retry_of: int | None = Field(description="the failed trial that this one repeats")
    replicates: list[int] = Field(description="other trials of the same configuration")
    wall_seconds: float | None = Field(description="training and evaluation over its epochs")
    started_utc: datetime | None
    ended_utc: datetime | None
    error: str | None
    configuration: dict[str, JsonValue] = Field(description="all that shaped it, by dotted path")
    curves: list[Curves]
    classes: list[ClassRow]
    attempts: list[Attempt]
    damaged: list[str]


class CellFacts(Facts):
    """One cell of a table."""

    text: str
    value: float | str | None
    is_best: bool
    details: dict[str, float | str | None] = {}


class TableFacts(Facts):
    """A table as `pgsearch table` prints it."""

    title: str
    columns: list[str]
    text_columns: list[str] = Field(description="columns of words")
    rows: list[list[CellFacts]]
    notes: list[str]


class TablesPage(Facts):
    """Some tables of a search: its configurations over their seeds, or what mattered."""

    search: SearchSummary
    version: str
    tables: list[TableFacts]
    problem: str | None = Field(None, description="why there are none yet")


class Choice(Facts):
    """A configuration that can be compared."""

    id: str
    label: str
    seeds: int


class ContrastFacts(Facts):
    """The other configuration against the reference over some classes, paired by seed."""

    over: str = Field(description="total, head, medium, tail; or a class")
    group: str | None = Field(description="of a class")
    count: int | None = Field(description="of a class: its training images")
    reference: float | None = Field(description="mean over the pairs")
    other: float | None
    n: int = Field(description="pairs")
    difference: float | None = Field(description="other minus reference, in [-1, 1]")
    low: float | None = Field(description="lower end of its 95% interval")
    high: float | None


Split = Literal["test", "validation"]


class ComparisonPage(Facts):
    """Two configurations of a search, paired by seed, after their last epoch."""

    search: SearchSummary
    version: str
    choices: list[Choice] = Field(description="configurations with complete trials, best first")
    a: str | None = Field(description="configuration_id of the reference")
    b: str | None
    split: Split
    contrasts: list[ContrastFacts] = []
    tables: list[TableFacts] = []
    problem: str | None = Field(None, description="why there is no comparison")


class FigureFacts(Facts):
    """A figure that applies to the search, or one that does not and why."""

    name: str
    title: str
    caption: str = ""
    reason: str | None = Field(None, description="why it is not drawn")


class FiguresPage(Facts):
    """The figures of a search."""

    search: SearchSummary
    version: str
    figures: list[FigureFacts]


class ClassCount(Facts):
    """A class of the data set."""

    name: str
    group: str
    count: int = Field(description="training images")


class DataSet(Facts):
    """A data set that trials of the search had."""

    fingerprint: str
    trials: int
    classes: list[ClassCount]


class Cost(Facts):
    """What a search took: seconds of its trials × what each occupied."""

    trials: int = Field(description="trials with an epoch")
    trial_hours: float
    cpu_hours: float
    gpu_hours: float
    cpus: float = Field(description="CPUs of one trial")
    gpus: float | Literal["auto"] = Field(
        description="GPUs of one trial, as the spec asks for them; each epoch's row has what it had"
    )


class Failure(Facts):
    """A failed trial."""

    number: int
    label: str
    epoch: int | None = Field(description="the last that it recorded")
    error: str


class Origin(Facts):
    """What numbers came from; equal for `trials` trials."""

    trials: int
    weights_fingerprint: str | None
    facts: dict[str, str] = Field(description="versions, commit, machine")


class AboutPage(Facts):
    """What was searched, what it took and what it came from."""

    search: SearchSummary
    version: str
    spec: dict[str, JsonValue]
    spec_yaml: str
    created_utc: str | None
    forked_from: str | None
    first_utc: datetime | None
    last_utc: datetime | None
    data: list[DataSet]
    cost: Cost
    failures: list[Failure]
    origins: list[Origin]
