"""Each configuration of a loss against the reference: no setting lands in another's place."""

from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pgsearch.config.base import Config
from pgsearch.config.loss import LossConfig, PGLossConfig
from pgsearch.errors import InvalidData
from pgsearch.losses.build import build_loss
from tests import reference
from tests.losses.cases import CB_MODES, COUNTS_C, GROUPS_C, NUM_IMAGES, batch
from tests.records import spec

ONES, FIXED = (1.0, 1.0, 1.0), (False, False, False)
PLAIN: dict[str, Any] = {
    "settings": dict.fromkeys(
        ("lambda1_neg", "lambda2_neg", "lambda1_pos", "lambda2_pos"), (ONES, FIXED)
    )
    | dict.fromkeys(("focusing_neg", "focusing_pos"), ((0.0, 0.0, 0.0), FIXED)),
    "focal_logit": "scaled",
    "kappa": 0.0,
    "over_scale": False,
    "max_ratio": None,
    "rebalance": None,
    "balance": 1.0,
}


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": PLAIN["settings"] | changes}


CASES = {
    "bce": ({"name": "bce"}, PLAIN),
    "focal": (
        {"name": "focal", "gamma": {"head": 1.0, "tail": 0.5}, "balance": 2.0},
        PLAIN
        | settings(
            focusing_neg=((1.0, 2.0, 0.5), FIXED), focusing_pos=((1.0, 2.0, 0.5), FIXED)
        )
        | {"balance": 2.0},
    ),
    "pg": (
        {"name": "pg", "rebalance_weight": False, "focal_logit": "shifted", "max_ratio": 8.0,
         "lambda1_neg": {"head": 2.0, "tail": 3.0}, "lambda2_neg": {"medium": 1.5},
         "lambda1_pos": {"tail": 0.7}, "lambda2_pos": {"head": 4.0},
         "lambda1_neg_mode": {"tail": "adaptive"}, "lambda2_neg_mode": {"head": "adaptive"},
         "lambda1_pos_mode": {"medium": "adaptive"}, "lambda2_pos_mode": "adaptive",
         "focusing": {"head": "none", "medium": "fixed", "tail": "adaptive"},
         "gamma": 1.3, "lambda0": {"tail": 0.6}},
        PLAIN
        | {"settings": {
            "lambda1_neg": ((2.0, 1.0, 3.0), (False, False, True)),
            "lambda2_neg": ((1.0, 1.5, 1.0), (True, False, False)),
            "lambda1_pos": ((1.0, 1.0, 0.7), (False, True, False)),
            "lambda2_pos": ((4.0, 1.0, 1.0), (True, True, True)),
            "focusing_neg": ((0.0, 1.3, 0.6), (False, False, True)),
            "focusing_pos": ((0.0, 1.3, 0.6), (False, False, True)),
        }}
        | {"focal_logit": "shifted", "kappa": 0.05, "max_ratio": 8.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_builds_the_loss_that_it_says(case: str) -> None:
    config, expected = CASES[case]
    loss = build_loss(
        spec(loss=config, space={}).loss,
        COUNTS_C,
        GROUPS_C,
        num_images=NUM_IMAGES,
        class_names=tuple("abcdef"),
    )
    logits_BC, targets_BC = batch(seed=3)
    value, factors = loss(logits_BC.float(), targets_BC.float())
    wanted, wanted_factors = reference.pg_module(
        logits_BC.float().double().numpy(),
        targets_BC.numpy().astype(int),
        counts=COUNTS_C,
        num_images=NUM_IMAGES,
        groups=GROUPS_C,
        **expected,
    )
    assert float(value) == pytest.approx(wanted, rel=2e-5)
    for name, factor_C in factors.items():
        torch.testing.assert_close(
            factor_C.double(), torch.tensor(wanted_factors[name]).double(), rtol=1e-4, atol=1e-6
        )


def test_the_defaults_of_pg_are_the_papers() -> None:
    config = PGLossConfig(name="pg")
    assert (config.kappa, config.focal_logit, config.bias_over_scale) == (0.05, "scaled", False)
    assert (config.rebalance_alpha, config.rebalance_beta, config.rebalance_mu) == (0.1, 10.0, 0.3)
    assert config.rebalance_weight
    assert config.lambda0.values_G == (2.0, 2.0, 2.0)
    assert config.max_ratio is None


DB_DEFAULTS: dict[str, Any] = {
    "scale": 5.0, "kappa": 0.05, "over_scale": True, "rebalance": (0.1, 10.0, 0.3),
    "gamma": 0.0, "balance": 1.0,
}  # fmt: skip
DB_OTHERS = {
    "scale": 4.0, "kappa": 0.07, "bias_over_scale": False,
    "rebalance_alpha": 0.2, "rebalance_beta": 7.0, "rebalance_mu": 0.4,
}  # fmt: skip
DB_OTHERS_REFERENCE = DB_DEFAULTS | {
    "scale": 4.0, "kappa": 0.07, "over_scale": False, "rebalance": (0.2, 7.0, 0.4),
}  # fmt: skip


def db(z, y, **changes: Any):
    return reference.db(z, y, counts=COUNTS_C, num_images=NUM_IMAGES, **DB_DEFAULTS | changes)


def cb(z, y, *arguments: Any):
    return reference.cb_focal(z, y, COUNTS_C, *arguments)


def ldam(z, y, *arguments: Any):
    return reference.ldam(z, y, COUNTS_C, *arguments)


def rw(z, y, weighting: str):
    return reference.rw(z, y, reference.class_weights(COUNTS_C, NUM_IMAGES, weighting))


# name: (configuration, epoch, factor, reference); the defaults are those of Table 2
BASELINES: dict[str, tuple[dict[str, Any], int, float, Any]] = {
    "rw": ({"name": "rw"}, 1, 1.0, lambda z, y: rw(z, y, "sqrt")),
    "rw-inv": ({"name": "rw", "weighting": "inv"}, 1, 1.0, lambda z, y: rw(z, y, "inv")),
    "cb": ({"name": "cb_focal"}, 1, 2.0, lambda z, y: cb(z, y, 0.9, "average_w", 2.0)),
    **{
        f"cb-{mode}": (
            {"name": "cb_focal", "mode": mode, "beta": 0.99, "gamma": 1.5, "balance": 3.0},
            1,
            3.0,
            lambda z, y, mode=mode: cb(z, y, 0.99, mode, 1.5),
        )
        for mode in CB_MODES
    },
    "ldam": ({"name": "ldam"}, 90, 1.0, lambda z, y: ldam(z, y, 30.0, 0.5, None)),
    "ldam-others": (
        {"name": "ldam", "scale": 8.0, "margin": 0.3}, 1, 1.0,
        lambda z, y: ldam(z, y, 8.0, 0.3, None),
    ),
    "drw-before": (
        {"name": "ldam", "reweight_after": 5}, 5, 1.0,
        lambda z, y: ldam(z, y, 30.0, 0.5, None),
    ),
    "drw-after": (
        {"name": "ldam", "reweight_after": 5}, 6, 1.0,
        lambda z, y: ldam(z, y, 30.0, 0.5, 0.9999),
    ),
    "drw-at-once": (
        {"name": "ldam", "reweight_after": 0, "reweight_beta": 0.9}, 1, 1.0,
        lambda z, y: ldam(z, y, 30.0, 0.5, 0.9),
    ),
    "asl": ({"name": "asl"}, 1, 1.0, lambda z, y: reference.asl(z, y, 1.0, 4.0, 0.05, 1e-8)),
    "asl-others": (
        {"name": "asl", "gamma_pos": 0.5, "gamma_neg": 2.0, "clip": 0.2, "clamp": 0.01}, 1, 1.0,
        lambda z, y: reference.asl(z, y, 0.5, 2.0, 0.2, 0.01),
    ),
    "db": ({"name": "db"}, 1, 1.0, db),
    "db-others": (
        {"name": "db", **DB_OTHERS}, 1, 1.0, lambda z, y: db(z, y, **DB_OTHERS_REFERENCE),
    ),
    "db_focal": ({"name": "db_focal"}, 1, 1.0, lambda z, y: db(z, y, gamma=2.0, balance=2.0)),
    "db_focal-others": (
        {"name": "db_focal", "gamma": 1.5, "balance": 3.0, **DB_OTHERS}, 1, 1.0,
        lambda z, y: db(z, y, **DB_OTHERS_REFERENCE | {"gamma": 1.5, "balance": 3.0}),
    ),
    "ntr": (
        {"name": "db", "rebalance_weight": False, "bias_over_scale": False}, 1, 1.0,
        lambda z, y: (
            reference.ntr(z, y, [5.0] * 6, reference.class_bias(COUNTS_C, NUM_IMAGES, 0.05)),
            None,
        ),
    ),
}  # fmt: skip


def built(config: dict[str, Any], counts_C: Any = COUNTS_C, **arguments: Any):
    # Not from a whole spec, which has rules of its own: LDAM asks for a cosine head.
    return build_loss(
        TypeAdapter(LossConfig).validate_python(config),
        counts_C,
        GROUPS_C,
        num_images=NUM_IMAGES,
        class_names=tuple("abcdef"),
        **arguments,
    )


@pytest.mark.parametrize("case", BASELINES)
def test_a_baseline_is_the_loss_that_it_says(case: str) -> None:
    config, epoch, factor, expected = BASELINES[case]
    logits_BC, targets_BC = batch(seed=3)
    logits_BC = logits_BC.float()
    value, _ = built(config, epoch=epoch)(logits_BC, targets_BC.float())
    wanted_BC, _ = expected(logits_BC.double().numpy(), targets_BC.numpy().astype(int))
    assert float(value) == pytest.approx(factor * wanted_BC.mean(), rel=2e-5)


@pytest.mark.parametrize("name", get_args(get_args(LossConfig)[0]))
def test_every_loss_is_built_and_every_field_is_described(name: type[Config]) -> None:
    literal = get_args(name.model_fields["name"].annotation)[0]
    assert built({"name": literal})(*batch()).loss > 0
    for field, info in name.model_fields.items():
        assert field == "name" or info.description


@pytest.mark.parametrize("name", ["rw", "cb_focal", "ldam", "db", "db_focal", "pg"])
def test_an_empty_class_is_named(name: str) -> None:
    with pytest.raises(InvalidData, match="class 'c': contained in 0"):
        built({"name": name}, (400, 150, 0, 30, 12, 5))


@pytest.mark.parametrize("name", ["bce", "focal", "asl"])
def test_a_loss_without_counts_takes_an_empty_class(name: str) -> None:
    assert built({"name": name}, (400, 150, 0, 30, 12, 5))(*batch()).loss.isfinite()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("rw", "weighting", "none"),
        ("cb_focal", "beta", 1.0),
        ("cb_focal", "mode", "max_n"),
        ("cb_focal", "gamma", -1.0),
        ("ldam", "scale", 0.0),
        ("ldam", "margin", -0.1),
        ("ldam", "reweight_after", -1),
        ("ldam", "reweight_beta", 1.0),
        ("asl", "clip", 1.0),
        ("asl", "clamp", 0.0),
        ("db", "gamma", 2.0),
        ("db_focal", "balance", 0.0),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        built({"name": name, field: value})
