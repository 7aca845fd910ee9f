"""Two stages: many configurations are screened cheaply, the best are trained as the spec says."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from pgsearch.config.base import Config
from pgsearch.config.merge import with_values
from pgsearch.config.space import Dimension, expand
from pgsearch.config.training import NO_AUGMENTATION, TrainingConfig
from pgsearch.config.trial import Configuration, flatten

if TYPE_CHECKING:
    from pgsearch.config.search import Location, SearchSpec


class ScreenChanges(Config):
    """How a trial of the screen is trained: changes of the base that make it cheaper."""

    data: dict[str, Any] = Field({}, description="such as smaller images, or fewer of them")
    model: dict[str, Any] = Field({}, description="such as a smaller backbone")
    training: dict[str, Any] = Field({}, description="such as a frozen trunk, or fewer epochs")


class Stages(Config):
    """Which trials are screened, and how many of them are trained as the spec says."""

    screen: ScreenChanges = Field(
        description="changes of the base with which all configurations are trained, each with the "
        "first seed alone"
    )
    best: int = Field(
        ge=1, description="so many, the best of the screen, are then trained as the spec says"
    )
    check: int = Field(
        4,
        ge=0,
        description="and so many more, spread over the ranks of the others: whether the screen "
        "predicts cannot be told from its best alone",
    )

    def changes_of(self, base: TrainingConfig) -> dict[str, Any]:
        """Return the changes of a base, nested; one view of a frozen trunk is not augmented."""
        changes = self.screen.model_dump(mode="json")
        training = changes["training"]
        freezes = training.get("trunk", "trained") != "trained"
        if freezes and training.get("views", base.views) == 1:
            changes["training"] = {**NO_AUGMENTATION, **training}
        return changes


def stage_problems(spec: "SearchSpec") -> "Iterator[tuple[Location, str]]":
    """Yield what is wrong between the stages of a spec and its other parts."""
    stages = spec.stages
    if stages is None:
        return
    if spec.method == "grid":
        yield ("stages",), "stages belong to method: search; a grid trains all its combinations"
        return
    if len(spec.objective) > 1:
        yield (
            ("stages",),
            "the best of a screen are the best by one number: give one objective, or no stages",
        )
    num_promoted = stages.best + stages.check
    if spec.trials is not None and num_promoted > spec.trials:
        yield (
            ("stages", "best"),
            f"best + check is {num_promoted}, more than the {spec.trials} trials that are "
            "screened: raise trials, or lower them",
        )
    try:
        base = spec.base(stage="screen")
    except ValidationError as error:
        for item in error.errors():
            rule = str(item["msg"]).removeprefix("Value error, ")
            yield ("stages", "screen", *item["loc"]), rule
        return
    if spec.training.loses_augmentation(stages.screen.training):
        yield (
            ("stages", "screen", "training", "trunk"),
            "a trained trunk over a frozen one would train without augmentation: say "
            f"{', '.join(NO_AUGMENTATION)} too",
        )
    if base == spec.base():
        yield ("stages", "screen"), "changes nothing: let it train fewer epochs, or a frozen trunk"
        return
    try:
        dimensions = expand(spec.space, flatten(spec.base()))
    except ValueError:
        return  # named with the space
    written = flatten(stages.screen.model_dump(mode="json"))
    yield from _conflicts_with_space(written, base, dimensions)


def _conflicts_with_space(
    written: Mapping[str, Any], base: Mapping[str, Any], dimensions: tuple[Dimension, ...]
) -> "Iterator[tuple[Location, str]]":
    """Yield where a configuration of the space would be another one in the screen."""
    screened = flatten(dict(base))
    for dimension in dimensions:
        for path in dimension.targets:
            if path in written:
                yield (
                    ("stages", "screen", *path.split(".")),
                    f"the space varies {dimension.name}, which the screen would set to "
                    f"{written[path]!r} for all: remove one of them",
                )
                return
            if path not in screened:
                yield (
                    ("stages", "screen", path.split(".")[0]),
                    f"the space varies {dimension.name}, which the screen's configuration does "
                    "not have: remove one of them",
                )
                return
        for path in (path for paths, _ in dimension.conditions for path in paths):
            if path in written:
                yield (
                    ("stages", "screen", *path.split(".")),
                    f"the space's {dimension.name} is there only for some values of {path}, which "
                    "the screen would set: remove one of them",
                )
                return
        yield from _values_that_do_not_fit(dimension, base)


def _values_that_do_not_fit(
    dimension: Dimension, base: Mapping[str, Any]
) -> "Iterator[tuple[Location, str]]":
    for value in dimension.extremes().values():
        try:
            Configuration.model_validate(with_values(base, dict.fromkeys(dimension.targets, value)))
        except ValidationError as error:
            rule = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            yield (
                ("stages", "screen"),
                f"the space gives {dimension.name} {value!r}, which does not go with the screen: "
                f"{rule}",
            )
            return
