"""One trial as plain data: a fully resolved configuration and a seed."""

import types
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from pgsearch.class_groups import GROUPS
from pgsearch.config.base import Config, PerGroup
from pgsearch.config.dataset import DataConfig
from pgsearch.config.loss import LossConfig
from pgsearch.config.model import ModelConfig
from pgsearch.config.training import TrainingConfig
from pgsearch.provenance import fingerprint

Stage: TypeAlias = Literal["screen", "full"]
"""Of a search with `stages`: its cheap trials, and those that are trained as the spec says."""


class Configuration(Config):
    """All that shapes a trained classifier except its seed."""

    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _parts_go_together(self) -> "Configuration":
        if self.loss.name == "ldam" and self.model.head != "cosine":
            raise ValueError(
                f"loss ldam reads cosines, and model.head is {self.model.head}: set "
                "model.head: cosine"
            )
        if self.loss.name == "ldam" and self.loss.scale != self.model.cosine_scale:
            raise ValueError(
                f"loss.scale ({self.loss.scale:g}) of ldam must be that of the cosine head, "
                f"model.cosine_scale ({self.model.cosine_scale:g}): set both to one value"
            )
        if self.training.trunk != "trained" and self.model.weights == "random":
            raise ValueError(
                f"training.trunk: {self.training.trunk} computes features with model.weights, "
                "which are random: give a file or torchvision:NAME, or set training.trunk: trained"
            )
        return self


LATER_SETTINGS: Final = {"training.views": 1, "training.compile": False}
"""Settings that earlier versions did not have, and what these did: what was begun then goes on."""


class TrialSpec(Configuration):
    """A configuration and a seed, with the place of the trial in its search."""

    search: str = Field(description="name of the search")
    number: int = Field(ge=0, description="number of the trial in the search, from 0")
    seed: int = Field(ge=0, description="seed of every random stream of the training")
    variant: str | None = Field(None, description="name of the variant in an ablation")
    stage: Stage | None = Field(None, description="in a search with stages, which one it is of")
    threads: int = Field(1, ge=1, description="threads of one operation on a CPU")

    @property
    def uid(self) -> str:
        """Name of the trial that stays the same through resumes."""
        return trial_uid(self.search, self.number)

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration alone, nested, as JSON holds it."""
        return self.model_dump(mode="json", include=set(Configuration.model_fields))

    @property
    def configuration_id(self) -> str:
        """Fingerprint that replicates (other seeds of the same configuration) share."""
        configuration = self.configuration
        for path, default in LATER_SETTINGS.items():
            part, name = path.split(".")
            if configuration[part][name] == default:
                del configuration[part][name]
        return fingerprint(configuration)


def trial_uid(search: str, number: int) -> str:
    """Return the name of trial `number` of a search."""
    return f"{search}-{number:05d}"


class Leaf(NamedTuple):
    """A configuration value that has a column of its own in the results."""

    path: str
    type: type
    description: str


def configuration_leaves() -> list[Leaf]:
    """All leaf values of a configuration, over every loss and data set, by dotted path."""
    leaves: dict[str, Leaf] = {}
    for leaf in _leaves(Configuration, ""):
        known = leaves.setdefault(leaf.path, leaf)
        if leaf.description not in known.description.split("; or: "):  # of another loss
            both = f"{known.description}; or: {leaf.description}"
            leaves[leaf.path] = known._replace(description=both)
    return list(leaves.values())


def flatten(configuration: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted paths; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in configuration.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _leaves(model: type[Config], prefix: str) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        yield from _field_leaves(f"{prefix}{name}", field)


def _field_leaves(path: str, field: FieldInfo) -> Iterator[Leaf]:
    description = field.description or f"which {path.partition('.')[0]}: its {path.split('.')[-1]}"
    for option in _options(field.annotation):
        if isinstance(option, type) and issubclass(option, PerGroup):
            inner = _plain_type(option.model_fields["head"].annotation)
            for group in GROUPS:
                yield Leaf(f"{path}.{group}", inner, f"{description} ({group} classes)")
        elif isinstance(option, type) and issubclass(option, Config):
            yield from _leaves(option, f"{path}.")
        else:
            yield Leaf(path, _plain_type(option), description)


def _options(annotation: Any) -> list[Any]:
    if hasattr(annotation, "__metadata__"):
        return _options(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [o for a in get_args(annotation) if a is not type(None) for o in _options(a)]
    return [annotation]


def _plain_type(annotation: Any) -> type:
    (option,) = _options(annotation)
    plain: type
    if get_origin(option) is Literal:
        plain = type(get_args(option)[0])
    elif get_origin(option) is list:
        plain = list
    else:
        plain = option
    if plain not in (bool, int, float, str, list):
        raise TypeError(f"a configuration value of type {option} has no column type")
    return plain
