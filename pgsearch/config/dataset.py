"""The data sets that a spec can name."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from pgsearch.class_groups import HEAD_MIN_COUNT, TAIL_BELOW_COUNT
from pgsearch.config.base import Config


class _DataConfig(Config):
    head_min: int = Field(
        HEAD_MIN_COUNT, ge=1, description="training images that make a head class"
    )
    tail_below: int = Field(TAIL_BELOW_COUNT, ge=1, description="fewer make a tail class")

    @model_validator(mode="after")
    def _ordered(self) -> "_DataConfig":
        if self.tail_below > self.head_min:
            raise ValueError(
                f"tail_below ({self.tail_below}) must not be above head_min ({self.head_min})"
            )
        return self


class DigitsConfig(_DataConfig):
    """The embedded data set: long-tailed scenes of handwritten digits."""

    name: Literal["digits"]
    seed: int = Field(0, ge=0, description="seed of the scenes and of the split")
    image_size: int = Field(48, ge=32, le=256, description="side in pixels")
    max_count: int = Field(800, ge=1, le=5000, description="training images of the largest class")
    min_count: int = Field(4, ge=1, description="lower end of the sampled Pareto profile")

    @model_validator(mode="after")
    def _counts_ordered(self) -> "DigitsConfig":
        if self.min_count > self.max_count:
            raise ValueError(
                f"min_count ({self.min_count}) must not be above max_count ({self.max_count})"
            )
        return self


class ManifestConfig(_DataConfig):
    """A user's own images: a folder and a CSV or Parquet manifest."""

    name: Literal["manifest"]
    manifest: str = Field(min_length=1, description="path of the CSV or Parquet manifest")
    root: str | None = Field(None, description="folder of the images; null is the manifest's own")
    image_size: int = Field(224, ge=16, le=1024, description="side in pixels after resizing")
    validation_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="part of train held out where the manifest has no validation; 0 is none",
    )
    split_seed: int = Field(0, ge=0, description="seed of that split")


DataConfig: TypeAlias = Annotated[DigitsConfig | ManifestConfig, Field(discriminator="name")]
