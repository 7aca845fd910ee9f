"""Small specs and records that several tests use."""

from pathlib import Path
from typing import Any

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec, TrialSpec, parse_spec
from pgsearch.results import FACTORS, EpochRecord

BASE: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits"},
    "model": {"backbone": "digits_resnet", "weights": "random"},
    "loss": {"name": "pg"},
    "training": {"epochs": 4},
    "trials": 6,
    "space": {
        "loss.lambda1_neg": {"type": "float", "low": 0.5, "high": 8.0, "log": True},
        "loss.focusing": {"type": "categorical", "choices": ["none", "adaptive"], "tied": True},
        "loss.lambda0": {"type": "float", "low": 0.5, "high": 4.0, "tied": True},
    },
}


def spec(**changes: Any) -> SearchSpec:
    search = {**BASE, **changes}
    training = {"precision": "fp32", **search["training"]}  # the same numbers on every machine
    return parse_spec({**search, "training": training}, "test")


def grid(**changes: Any) -> SearchSpec:
    base = {k: v for k, v in BASE.items() if k not in ("trials", "space")}
    variants = {"BCE": {"loss": {"name": "bce"}}, "PG": {}}
    return parse_spec({**base, "method": "grid", "variants": variants, **changes}, "test")


def epoch_record(epoch: int, value: float = 0.5, *, last: bool = False) -> EpochRecord:
    nan = float("nan")
    parts = dict.fromkeys(("total", *GROUPS), value)
    per_class = [value, nan, value]
    splits = ("validation", "test") if last else ("validation",)
    f1 = {"micro": value, "macro": nan}
    return EpochRecord(
        epoch=epoch,
        iterations=10 * epoch,
        train_loss=1 / epoch,
        learning_rate=0.02,
        gradient_norm=1.5,
        map=dict.fromkeys(splits, parts),
        ap=dict.fromkeys(splits, per_class),
        f1=dict.fromkeys(splits, f1),
        loss=dict.fromkeys(splits, 0.3),
        p_pos=per_class,
        p_neg=per_class,
        group_p_pos=parts,
        group_p_neg={**parts, "tail": nan},
        factors={name: [1.0, 2.0, 3.0] for name in FACTORS},
        num_train_images=320,
        train_seconds=2.0,
        evaluation_seconds=0.5,
        peak_memory_bytes=1_000_000,
        class_names=["a", "b", "c"],
        class_counts=[100, 20, 5],
        class_groups=[0, 1, 2],
        data_fingerprint="data",
        weights_fingerprint="random",
    )


def trial(number: int = 0, **changes: Any) -> TrialSpec:
    return spec(**changes).trial(number, {})


def write_spec(folder: Path, text: str, name: str = "search.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
