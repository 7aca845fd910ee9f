"""The slopes that figures draw, against autograd of the losses that are trained with."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pgsearch.analysis.figures import Figure, figures_of
from pgsearch.analysis.figures.losses import LOGITS, slopes_of
from pgsearch.class_groups import GROUPS
from pgsearch.config.loss import LossConfig
from pgsearch.losses import LossOutput
from pgsearch.losses.build import build_loss
from pgsearch.results import FACTORS, Ledger
from tests.analysis.made_up import MadeUp, ledger_of
from tests.records import grid

PLAIN = {"kappa": 0, "rebalance_weight": False}
factor = st.floats(0.25, 8)
per_group = st.fixed_dictionaries(dict.fromkeys(GROUPS, factor))
adapts = st.fixed_dictionaries({g: st.sampled_from(["fixed", "adaptive"]) for g in GROUPS})


def config(**loss: Any) -> LossConfig:
    return TypeAdapter(LossConfig).validate_python(loss)


def by_autograd(
    loss: LossConfig, logits: np.ndarray, positive: bool
) -> tuple[np.ndarray, dict[tuple[str, str], float]]:
    """|dL/dz| of each logit in a class of each group, `[B, 3]`, and the effective factors."""
    module = build_loss(loss, [100, 50, 5], [0, 1, 2], num_images=200, class_names=GROUPS)
    logits_BC = torch.tensor(np.stack([logits] * 3, axis=1), requires_grad=True)
    output: LossOutput = module(logits_BC, torch.full(logits_BC.shape, positive))
    output.loss.backward()
    factors = {
        (name, group): float(values[c])
        for name, values in output.factors.items()
        for c, group in enumerate(GROUPS)
    }
    return (logits_BC.grad.abs() * logits_BC.numel()).numpy(), factors


def check(loss: LossConfig, logits: np.ndarray = LOGITS) -> None:
    for sign, positive in (("pos", True), ("neg", False)):
        expected_BC, factors = by_autograd(loss, logits, positive)
        slopes = slopes_of(loss, factors)
        assert set(slopes) == set(GROUPS)
        for c, group in enumerate(GROUPS):
            np.testing.assert_allclose(
                slopes[group](logits, sign), expected_BC[:, c], rtol=2e-6, atol=1e-12
            )


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "bce"},
        {"name": "focal", "gamma": {"head": 0, "medium": 2, "tail": 0.7}, "balance": 2},
        {"name": "db", "scale": 5, **PLAIN},
        {"name": "db_focal", "scale": 3, "gamma": 1.5, **PLAIN},
        {"name": "asl"},
        {"name": "asl", "gamma_pos": 0, "gamma_neg": 2, "clip": 0.3, "clamp": 0.01},
        {"name": "asl", "clip": 0},
    ],
    ids=lambda loss: loss["name"],
)
def test_the_baselines(loss: dict[str, Any]) -> None:
    check(config(**loss))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_family_with_fixed_and_adaptive_factors(data: st.DataObject) -> None:
    names = ("lambda1_neg", "lambda2_neg", "lambda1_pos", "lambda2_pos")
    loss: dict[str, Any] = {"name": "pg", "max_ratio": 4, **PLAIN}
    loss |= {name: data.draw(per_group, name) for name in names}
    loss |= {f"{name}_mode": data.draw(adapts) for name in names}
    modes = st.sampled_from(["none", "fixed", "adaptive"])
    loss["focusing"] = data.draw(st.fixed_dictionaries(dict.fromkeys(GROUPS, modes)))
    loss |= {"gamma": data.draw(per_group), "lambda0": data.draw(per_group)}
    # At bias 0, shifted is raw.
    loss["focal_logit"] = data.draw(st.sampled_from(["raw", "shifted", "scaled"]))
    check(config(**loss))


def test_a_group_whose_adaptive_factor_is_unknown_is_left_out() -> None:
    loss = config(name="pg", focusing="none", lambda1_neg_mode={"tail": "adaptive"})
    known = {(name, "head"): 1.0 for name in FACTORS}
    assert slopes_of(loss, known).keys() == {"head", "medium"}


def test_finite_at_extreme_logits() -> None:
    loss = config(name="pg", focusing="fixed", gamma=0.5, lambda1_neg=9, lambda1_pos=9)
    for slope in slopes_of(loss).values():
        for sign in ("pos", "neg"):
            assert np.isfinite(slope(np.array([-500.0, 500.0]), sign)).all()


def gradients(ledger: Ledger) -> Figure:
    (found,) = figures_of([ledger], names=["gradient_curves"])
    assert isinstance(found, Figure)
    return found


def test_the_figure_has_each_curve_once_and_says_what_it_lacks(tmp_path: Path) -> None:
    variants = {
        "ERM": {"loss": {"name": "bce"}},
        "RS": {"loss": {"name": "bce"}, "training": {"sampler": "uniform"}},
        "PR": {"loss": {"focusing": "none", "lambda1_neg": {"tail": 3}}},
        "RW": {"loss": {"name": "rw"}},
    }
    trials = [MadeUp(variant=variant) for variant in variants]
    ledger = ledger_of(tmp_path / "small", grid(name="small", variants=variants), trials)
    found = gradients(ledger)
    # The head and the medium classes of PR have the slope of BCE.
    assert found.numbers["loss"].unique().tolist() == ["ERM; RS; PR head, medium", "PR tail"]
    assert "Not drawn: RW (BCE's curve times a weight per class)" in found.caption
    tail = found.numbers[(found.numbers["loss"] == "PR tail") & (found.numbers["sign"] == "neg")]
    np.testing.assert_allclose(tail["gradient"], 3 / (1 + np.exp(-3 * tail["logit"])), rtol=1e-9)


def test_adaptive_factors_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    loss = {"focusing": "none", "lambda2_neg_mode": {"tail": "adaptive"}}
    search = grid(name="small", seeds=[1, 2], variants={"APR": {"loss": loss}})
    ledger = ledger_of(
        tmp_path / "small", search, [MadeUp(variant="APR", seed=seed) for seed in (1, 2)]
    )
    means = []
    for number in (0, 1):
        last = pd.read_parquet(tmp_path / "small" / "epochs" / f"{number:05d}.parquet").iloc[-1]
        of_tail = [v for v, g in zip(last["class.lambda2_neg"], last["class.group"], strict=True)
                   if g == "tail"]  # fmt: skip
        means.append(sum(of_tail) / len(of_tail))
    numbers = gradients(ledger).numbers
    tail = numbers[(numbers["loss"] == "APR tail") & (numbers["sign"] == "neg")]
    expected = 1 / (1 + np.exp(-tail["logit"])) / (sum(means) / 2)
    np.testing.assert_allclose(tail["gradient"], expected, rtol=1e-5)
