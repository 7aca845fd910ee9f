"""How one trial is trained."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pgsearch.config.base import Config

NO_AUGMENTATION: Mapping[str, float] = {"photometric": 0.0, "crop_min": 1.0, "flip": 0.0}
FROZEN_THROUGH_STAGES: Mapping[str, int] = {
    "frozen_through_layer1": 1,
    "frozen_through_layer2": 2,
    "frozen_through_layer3": 3,
}
"""Stages of the backbone that are frozen after its stem, by trunk."""


class TrainingConfig(Config):
    """Optimiser, schedule, sampling, augmentation and precision of a trial."""

    epochs: int = Field(8, ge=1, description="passes of the sampler")
    batch_size: int = Field(32, ge=2, description="images per step; an incomplete batch is dropped")
    learning_rate: float = Field(0.02, gt=0, description="peak learning rate of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on every parameter")
    warmup_iterations: int = Field(500, ge=0, description="iterations of linear warm-up")
    warmup_ratio: float = Field(
        1 / 3, gt=0, le=1, description="learning rate at its start, times peak"
    )
    decay_epochs: list[int] = Field([5, 7], description="epochs after which the rate drops")
    decay_factor: float = Field(0.1, gt=0, le=1, description="factor of each drop")
    clip_norm: float | None = Field(
        35.0, gt=0, description="L2 limit of the gradient; null is none"
    )
    sampler: Literal["class_aware", "uniform"] = Field("class_aware", description="order of images")
    sampler_reduce: int = Field(
        4, ge=1, description="a class-aware epoch is max count x classes / this many draws"
    )
    sampler_repeat: int = Field(
        3, ge=1, description="images that a class gives when it is its turn (class-aware)"
    )
    iterations_per_epoch: int | None = Field(
        None, ge=1, description="steps of an epoch for every sampler alike; null is the sampler's"
    )
    trunk: Literal[
        "trained",
        "frozen",
        "frozen_through_layer1",
        "frozen_through_layer2",
        "frozen_through_layer3",
    ] = Field(
        "trained",
        description="frozen: the backbone computes features once, neck and head are trained; "
        "frozen_through_layerK: so do stem and first K stages, and the rest is trained",
    )
    views: int = Field(
        1,
        ge=1,
        le=1000,
        description="views of each training image that a frozen trunk computes: the image, and "
        "augmented ones",
    )
    photometric: float = Field(
        0.5, ge=0, le=1, description="probability of each distortion of colours; 0 is none"
    )
    crop_min: float = Field(0.8, gt=0, le=1, description="smallest side of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the network; auto is bf16 where a probe shows it faster"
    )
    channels_last: bool = Field(True, description="memory layout of the network")
    compile: bool = Field(
        False,
        description="whether torch.compile makes the code of training steps; needs a compiler",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto is a GPU if there is one"
    )
    workers: int = Field(
        0, ge=0, le=64, description="threads that prepare batches ahead; results are the same"
    )
    eval_batch_size: int = Field(128, ge=1, description="images per step of an evaluation")
    validate_every: int = Field(1, ge=1, description="epochs between evaluations on validation")
    test_every: int | None = Field(
        None, ge=1, description="epochs between evaluations on test; null is the last epoch only"
    )
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")

    def loses_augmentation(self, changes: Mapping[str, Any]) -> bool:
        """Whether changes train the trunk again on what a frozen one made a single view of."""
        return (
            self.trunk != "trained"
            and not self.is_augmented
            and changes.get("trunk") == "trained"
            and not NO_AUGMENTATION.keys() <= changes.keys()
        )

    @property
    def cached_stages(self) -> int | None:
        """Stages after the stem whose last maps are cached; None: the whole backbone, or none."""
        return FROZEN_THROUGH_STAGES.get(self.trunk)

    @property
    def is_augmented(self) -> bool:
        """Whether a training image is seen in more than one way."""
        return any(getattr(self, key) != value for key, value in NO_AUGMENTATION.items())

    @model_validator(mode="before")
    @classmethod
    def _one_view_is_not_augmented(cls, data: Any) -> Any:
        # What would have no effect must not stand in the results.
        if not isinstance(data, Mapping) or data.get("views", 1) != 1:
            return data
        trunk = data.get("trunk", "trained")
        if trunk not in ("frozen", *FROZEN_THROUGH_STAGES):
            return data
        given = {key: data[key] for key in NO_AUGMENTATION if key in data}
        if given != {key: NO_AUGMENTATION[key] for key in given}:
            raise ValueError(
                f"trunk: {trunk} trains on one view of each image, so "
                f"{', '.join(f'{key}={value}' for key, value in given.items())} have no effect: "
                "leave them out, set photometric: 0, crop_min: 1 and flip: 0, or set views to "
                "how many views of each image to compute"
            )
        return {**data, **NO_AUGMENTATION}

    @model_validator(mode="after")
    def _views_differ(self) -> "TrainingConfig":
        if self.views > 1 and self.trunk == "trained":
            raise ValueError(
                f"views: {self.views} are computed by a frozen trunk, and trunk: trained draws a "
                "new view for every step: leave views out, or set trunk: frozen"
            )
        if self.views > 1 and not self.is_augmented:
            raise ValueError(
                f"views: {self.views} without augmentation are the same image {self.views} times: "
                "set photometric above 0, crop_min below 1 or flip above 0, or leave views out"
            )
        return self

    @model_validator(mode="after")
    def _decay_is_ordered(self) -> "TrainingConfig":
        if any(epoch < 1 for epoch in self.decay_epochs) or self.decay_epochs != sorted(
            set(self.decay_epochs)
        ):
            raise ValueError(f"decay_epochs must be positive and rise, got {self.decay_epochs}")
        return self
