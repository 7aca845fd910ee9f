"""What all configuration models share: frozen, strict, no unknown keys, values per class group."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from pgsearch.class_groups import GROUPS

T = TypeVar("T")


class Config(BaseModel):
    """Base of every configuration model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_groups_from_default(cls, data: Any) -> Any:
        # `lambda1_neg: {tail: 3}` raises the tail alone: the groups left out keep the default.
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        for name, field in cls.model_fields.items():
            given = filled.get(name)
            if isinstance(field.default, PerGroup) and isinstance(given, Mapping):
                filled[name] = {**field.default.model_dump(), **given}
        return filled


class PerGroup(Config, Generic[T]):
    """One value per class group; a single value in the file stands for all three."""

    head: T
    medium: T
    tail: T

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, data: Any) -> Any:
        return data if isinstance(data, Mapping | PerGroup) else dict.fromkeys(GROUPS, data)

    @classmethod
    def of(cls, value: T) -> "PerGroup[T]":
        """Return `value` for all three groups."""
        return cls(head=value, medium=value, tail=value)

    @property
    def values_G(self) -> tuple[T, T, T]:
        """The values in the order of `GROUPS`."""
        return (self.head, self.medium, self.tail)
