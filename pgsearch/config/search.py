"""A search: what is trained, what is varied, how trials are chosen, judged and placed."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from pgsearch.config.base import Config
from pgsearch.config.merge import merge, with_values
from pgsearch.config.optimiser import NoPrunerConfig, PrunerConfig, SamplerConfig, TPEConfig
from pgsearch.config.space import Dimension, Parameter, Scalar, expand, expand_point, grid
from pgsearch.config.stages import Stages, stage_problems
from pgsearch.config.training import NO_AUGMENTATION
from pgsearch.config.trial import Configuration, Stage, TrialSpec, flatten

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,99}$"

# What may change between two runs of one search without making it another search.
RESUMABLE_CHANGES = frozenset(
    {
        "purpose",
        "trials",
        "resources",
        "max_concurrent",
        "max_retries",
        "max_epoch_seconds",
        "keep_checkpoints",
        "keep_best_epoch",
        "save_scores",
    }
)

# The same of its stages: so many are trained as the spec says.
_RESUMABLE_STAGES = frozenset({"best", "check"})

Location: TypeAlias = tuple[str | int, ...]
AUTO: Final = "auto"
"""Of a resource: as much as a trial was measured to need."""


class Objective(Config):
    """One number to optimise: a metric on a split, after the last epoch."""

    metric: Literal["map_total", "map_head", "map_medium", "map_tail"] = "map_total"
    split: Literal["validation", "test"] = "validation"
    direction: Literal["maximize", "minimize"] = "maximize"

    @property
    def part(self) -> str:
        """Classes that the mAP is over: total, or a group."""
        return self.metric.removeprefix("map_")

    @property
    def column(self) -> str:
        """Name of its column in the epochs."""
        return f"map.{self.split}.{self.part}"


def _not_of_ray(name: str) -> str:
    if name.upper() in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY"):
        raise ValueError(f"{name} is Ray's own: ask for it by cpus, gpus or memory_gb")
    return name


ResourceName: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$"), AfterValidator(_not_of_ray)
]


class Resources(Config):
    """What one trial occupies."""

    cpus: float = Field(1, gt=0, le=10_000)
    gpus: Annotated[float, Field(ge=0, le=10_000)] | Literal["auto"] = Field(
        0.0,
        description="may be a fraction: 0.25 packs four trials on a GPU; auto: the first trial "
        "has a GPU for itself, and its peak memory decides how many share one",
    )
    memory_gb: Annotated[float, Field(gt=0, le=1_000_000)] | Literal["auto"] | None = Field(
        None,
        description="of the node; auto: what the first trial was measured to need; null: not "
        "looked at",
    )
    custom: dict[ResourceName, Annotated[float, Field(gt=0, le=10_000)]] = Field(
        default_factory=dict,
        max_length=20,
        description="what only some nodes of a cluster have, by the name that `ray start "
        "--resources` gave it: such as {deadline: 1}, to keep these nodes for some searches",
    )

    @field_validator("gpus")
    @classmethod
    def _of_one_gpu_or_whole_ones(cls, gpus: float | Literal["auto"]) -> float | Literal["auto"]:
        if gpus != AUTO and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"above 1 it is a whole number, such as {int(gpus)}")
        return gpus


class SearchSpec(Configuration):
    """A search as its file describes it; its `data`, `model`, `loss`, `training` are the base."""

    name: str = Field(pattern=NAME_PATTERN, description="name of the search and of its folder")
    purpose: str = Field("", description="what it is for")
    method: Literal["search", "grid"] = Field(
        "search", description="Optuna chooses, or every combination is trained (an ablation)"
    )
    trials: int | None = Field(
        None, ge=1, description="configurations that Optuna tries; a grid has its own number"
    )
    seeds: list[int] = Field(
        [0], min_length=1, description="every configuration is trained with each of them"
    )
    space: dict[str, Parameter] = Field(default_factory=dict, description="what is varied, by path")
    points: list[dict[str, Scalar]] = Field([], description="known points, tried first")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named changes of the base, for a grid"
    )
    objective: list[Objective] = Field([Objective()], min_length=1)
    stages: Stages | None = Field(
        None, description="screen the configurations cheaply, then train the best; null: one stage"
    )
    sampler: SamplerConfig = TPEConfig()
    pruner: PrunerConfig = NoPrunerConfig()
    resources: Resources = Resources()
    max_concurrent: int | None = Field(None, ge=1, description="null is what the machine holds")
    max_retries: int = Field(
        3,
        ge=0,
        description="restarts in a row of a trial that lost its worker or ran out of memory; a new "
        "epoch resets the count",
    )
    max_epoch_seconds: float | None = Field(
        None,
        gt=0,
        description="a trial without a new epoch for so long, its start with data and weights "
        "included, is ended and goes on like one that lost its worker; null: without limit",
    )
    keep_checkpoints: int = Field(1, ge=0, description="how many best trials keep a checkpoint")
    keep_best_epoch: bool = Field(
        False,
        description="of trials that keep a checkpoint, keep the weights of their best epoch by the "
        "first objective too",
    )
    save_scores: bool = Field(
        False, description="keep the scores of every image too, of trials that keep a checkpoint"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_objective_may_stand_alone(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("objective"), Mapping):
            return {**data, "objective": [data["objective"]]}
        return data

    @property
    def best_by(self) -> Objective | None:
        """What the best epoch of a trial is judged by; None where it is not kept."""
        return self.objective[0] if self.keep_best_epoch else None

    @property
    def first_stage(self) -> Stage | None:
        """The stage whose configurations Optuna chooses, and from whose values it learns."""
        return None if self.stages is None else "screen"

    @property
    def stage_names(self) -> tuple[Stage | None, ...]:
        """The stages in order; `(None,)` for a search of one."""
        return (None,) if self.stages is None else ("screen", "full")

    def seeds_of(self, stage: Stage | None) -> list[int]:
        """Return the seeds of a stage: a screen only ranks, so the first one is enough for it."""
        return self.seeds[:1] if stage == "screen" else self.seeds

    def num_trials_of(self, stage: Stage | None) -> int:
        """Return how many trials a stage has; fewer, where fewer of the screen are complete."""
        if stage == "full" and self.stages is not None:
            return (self.stages.best + self.stages.check) * len(self.seeds)
        return self.num_configurations * len(self.seeds_of(stage))

    def base(self, variant: str | None = None, stage: Stage | None = None) -> dict[str, Any]:
        """Return the nested configuration before the space sets anything.

        Args:
            variant: of a grid.
            stage: the screen has its own; others have what the spec says.

        Raises pydantic.ValidationError where a variant or the screen breaks a rule.
        """
        base = self.model_dump(mode="json", include=set(Configuration.model_fields))
        changes: Mapping[str, Any] = {} if variant is None else self.variants[variant]
        if stage == "screen" and self.stages is not None:
            changes = self.stages.changes_of(self.training)
        if not changes:
            return base
        return Configuration.model_validate(merge(base, changes)).model_dump(mode="json")

    def epochs_of(self, stage: Stage | None) -> int:
        """Return the epochs of a whole trial of a stage."""
        return int(self.base(stage=stage)["training"]["epochs"])

    def bases(self) -> list[tuple[str | None, Stage | None]]:
        """Return variant and stage of every base that trials of the search have."""
        return [(v, stage) for v in self.variant_names() for stage in self.stage_names]

    def dimensions(self, variant: str | None = None) -> tuple[Dimension, ...]:
        """Return the expanded space. Raises ValueError where it does not fit the configuration."""
        return expand(self.space, flatten(self.base(variant)))

    def grid(self) -> list[tuple[str | None, dict[str, Scalar]]]:
        """Return every configuration of a grid: its variant and the values of its dimensions."""
        return [
            (variant, values)
            for variant in self.variant_names()
            for values in grid(self.dimensions(variant), flatten(self.base(variant)))
        ]

    def variant_names(self) -> list[str | None]:
        """Return the variants in order; `[None]`, the base alone, where there are none."""
        return [*self.variants] or [None]

    def known_points(self) -> list[dict[str, Scalar]]:
        """Return the known points keyed by dimension. Raises ValueError for one outside."""
        return [expand_point(point, self.dimensions()) for point in self.points]

    @property
    def num_configurations(self) -> int:
        """Configurations that are trained in all."""
        return len(self.grid()) if self.method == "grid" else self.trials or 0

    @property
    def num_trials(self) -> int:
        """Trials in all: configurations times seeds, of every stage."""
        return sum(self.num_trials_of(stage) for stage in self.stage_names)

    def trial(
        self,
        number: int,
        values: Mapping[str, Any],
        variant: str | None = None,
        *,
        seed: int | None = None,
        stage: Stage | None = None,
    ) -> TrialSpec:
        """Resolve trial `number`: the base with `values` of its dimensions, and its seed.

        Without a `seed` it is the one of a search in which no trial was retried. Without a `stage`
        it is trained as the spec says.

        Raises pydantic.ValidationError for a value that the configuration does not allow.
        """
        given = {
            target: values[dimension.name]
            for dimension in self.dimensions(variant)
            if dimension.name in values
            for target in dimension.targets
        }
        configuration = with_values(self.base(variant, stage), given)
        seeds = self.seeds_of(stage)
        place = {
            "search": self.name,
            "number": number,
            "seed": seeds[number % len(seeds)] if seed is None else seed,
            "variant": variant,
            "stage": stage,
            "threads": max(1, int(self.resources.cpus)),
        }
        return TrialSpec.model_validate(configuration | place)

    def identity(self) -> dict[str, Any]:
        """Return what makes this search what it is, by dotted path."""
        content = self.model_dump(mode="json", exclude=set(RESUMABLE_CHANGES))
        if content["stages"] is not None:
            content["stages"] = {
                key: value
                for key, value in content["stages"].items()
                if key not in _RESUMABLE_STAGES
            }
        return flatten(content)


def problems_between_parts(spec: SearchSpec) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong between parts of a spec that are each right by themselves."""
    yield from _budget_problems(spec)
    yield from _variant_problems(spec)
    yield from _space_problems(spec)
    yield from stage_problems(spec)
    if len(spec.objective) > 1 and spec.pruner.name != "none":
        yield ("pruner", "name"), "pruning needs a single objective; use none, or one objective"
    for i, objective in enumerate(spec.objective):
        yield from _objective_problems(spec, i, objective)


def _budget_problems(spec: SearchSpec) -> Iterator[tuple[Location, str]]:
    if spec.method == "search":
        if spec.trials is None:
            yield ("trials",), "a search needs the number of configurations to try, such as 50"
        if not spec.space:
            yield (
                ("space",),
                "a search needs at least one parameter; a single run is pgsearch train",
            )
        if spec.variants:
            yield ("variants",), "variants belong to method: grid"
    else:
        if spec.trials is not None:
            yield ("trials",), "a grid trains all its combinations; remove trials"
        if spec.points:
            yield ("points",), "points belong to method: search; a grid has all of them"
        if not spec.space and not spec.variants:
            yield ("method",), "a grid needs a space or variants"
        if spec.pruner.name != "none":
            yield ("pruner", "name"), "a grid compares trials at their last epoch; use none"
    if len(set(spec.seeds)) < len(spec.seeds):
        yield ("seeds",), f"a seed appears twice: {list(spec.seeds)}"
    if min(spec.seeds) < 0:
        yield ("seeds",), f"a seed must be 0 or more: {list(spec.seeds)}"


def _variant_problems(spec: SearchSpec) -> Iterator[tuple[Location, str]]:
    for variant in spec.variants:
        try:
            spec.base(variant)
        except ValidationError as error:
            for item in error.errors():
                yield ("variants", variant, *item["loc"]), _rule(item)
            continue
        training = spec.variants[variant].get("training", {})
        if spec.training.loses_augmentation(training):
            yield (
                ("variants", variant, "training", "trunk"),
                "a trained trunk over a frozen one would train without augmentation: say "
                f"{', '.join(NO_AUGMENTATION)} too",
            )


def _space_problems(spec: SearchSpec) -> Iterator[tuple[Location, str]]:
    for variant in spec.variant_names() if spec.method == "grid" else [None]:
        try:
            base = flatten(spec.base(variant))
        except ValidationError:
            return  # named by _variant_problems
        within = f" in variant {variant!r}" if variant else ""
        misfit = False
        for path, parameter in spec.space.items():
            if path.endswith(".name") or path == "training.trunk":
                misfit = True
                yield ("space", path), "another kind of a section is a variant, not a parameter"
                continue
            try:
                expand({path: parameter}, base)
            except ValueError as error:
                misfit = True
                yield ("space", path), f"{error}{within}"
        try:
            dimensions = () if misfit else expand(spec.space, base)
        except ValueError as error:
            misfit = True
            yield ("space",), f"{error}{within}"
        if misfit:
            return
        yield from _dimension_problems(spec, dimensions, variant)
    if spec.method == "search":
        for i, point in enumerate(spec.points):
            try:
                expand_point(point, dimensions)
            except ValueError as error:
                yield ("points", i), str(error)


def _dimension_problems(
    spec: SearchSpec, dimensions: tuple[Dimension, ...], variant: str | None
) -> Iterator[tuple[Location, str]]:
    base = flatten(spec.base(variant))
    settable = {target for d in dimensions for target in d.targets}
    combinations = 1
    for dimension in dimensions:
        path = max((p for p in spec.space if f"{dimension.name}.".startswith(f"{p}.")), key=len)
        if not all(
            any(base.get(p) == v or p in settable for p in paths for v in values)
            for paths, values in dimension.conditions
        ):
            condition = " and ".join(
                f"{' or '.join(paths)} in {list(values)}" for paths, values in dimension.conditions
            )
            yield ("space", path), f"{dimension.name} is never active: it needs {condition}"
        if spec.method == "grid":
            try:
                combinations *= len(dimension.grid_values())
            except ValueError as error:
                yield ("space", path), f"{error}; give choices or a step"
        yield from _value_problems(spec, dimension, path, variant)
    if combinations > 100_000:
        yield ("space",), f"the grid has {combinations} combinations; narrow it below 100,000"


def _value_problems(
    spec: SearchSpec, dimension: Dimension, path: str, variant: str | None
) -> Iterator[tuple[Location, str]]:
    for name, value in dimension.extremes().items():
        try:
            Configuration.model_validate(
                with_values(spec.base(variant), dict.fromkeys(dimension.targets, value))
            )
        except ValidationError as error:
            yield ("space", path, *name.split(".")), f"{value!r}: {_rule(error.errors()[0])}"


def _rule(item: Any) -> str:
    """Return the message of a pydantic error without its kind."""
    return str(item["msg"]).removeprefix("Value error, ")


def _objective_problems(
    spec: SearchSpec, i: int, objective: Objective
) -> Iterator[tuple[Location, str]]:
    if spec.pruner.name == "none" or len(spec.objective) > 1:
        return
    test_every = spec.training.test_every
    if spec.stages is not None:  # the screen is what is pruned
        test_every = spec.stages.screen.training.get("test_every", test_every)
    if objective.split == "test" and test_every is None:
        yield (
            ("objective", i, "split"),
            "pruning on test needs its mAP while a trial runs: set training.test_every, or prune "
            "on validation",
        )
