"""The classifier that a spec can name."""

import difflib
import re
from typing import Literal, TypeAlias

from pydantic import Field, field_validator

from pgsearch.config.base import Config

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "digits_resnet")

Head: TypeAlias = Literal["linear", "cosine", "ml_gcn"]
Pool: TypeAlias = Literal["avg", "max"]


class ModelConfig(Config):
    """Backbone, its weights, and the neck and head on top."""

    backbone: str = Field(
        description="resnet18, resnet34, resnet50, resnet101, digits_resnet or timm:NAME",
    )
    weights: str = Field(
        min_length=1,
        description="'random', a .pth or .safetensors file, or torchvision:IMAGENET1K_V1",
    )
    neck: bool = Field(True, description="Linear, BatchNorm and Dropout between pool and head")
    neck_dim: int = Field(256, ge=1, description="width of the neck")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the neck")
    frozen_stages: int = Field(
        0, ge=0, description="stem and this many stages keep their weights; 0 freezes nothing"
    )
    bn_eval: bool = Field(True, description="batch norms of the backbone use their running moments")
    pool: Pool = Field(
        "avg", description="global pooling of the backbone; avg of a timm network is its own"
    )
    head: Head = Field(
        "linear",
        description="linear, cosine (as LDAM needs) or ml_gcn (usual: neck: false, pool: max)",
    )
    cosine_scale: float = Field(
        30.0, gt=0, description="logits of the cosine head are this times the cosine"
    )
    word_vectors: str = Field(
        "random",
        min_length=1,
        description="of ml_gcn: a GloVe text file, or 'random' for a fixed Gaussian matrix",
    )
    gcn_threshold: float = Field(
        0.4, ge=0, le=1, description="ml_gcn joins two classes from this P(one | other) on"
    )
    gcn_weight: float = Field(
        0.25, ge=0, description="weight in ml_gcn of a class's neighbours together; its own is 1"
    )

    @field_validator("backbone")
    @classmethod
    def _backbone_is_known(cls, name: str) -> str:
        if name not in BACKBONES and not re.fullmatch(r"timm:[A-Za-z0-9_.\-]+", name):
            close = difflib.get_close_matches(name, BACKBONES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name!r} is not one of {', '.join(BACKBONES)} or timm:NAME{hint}")
        return name
