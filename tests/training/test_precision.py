"""What `precision: auto` comes to: decided once per machine, and kept by a trial."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pgsearch.data.build import build_dataset
from pgsearch.models.digits_resnet import DigitsResNet
from pgsearch.results import EpochRecord
from pgsearch.training import precision
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.features import cached_features
from pgsearch.training.fit import fit
from pgsearch.training.precision import measure_gain, resolve_precision
from pgsearch.training.trained import load_trained
from tests.training.test_fit import comparable, small, train

CPU = torch.device("cpu")


class Machine:
    """What this machine shows in a probe, and how often it was asked."""

    gain, num_probes, has_bf16 = 2.0, 0, True

    def measure(self, *_: Any) -> float:
        self.num_probes += 1
        return self.gain


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "has_bf16", lambda device: machine.has_bf16)
    monkeypatch.setattr(precision, "measure_gain", machine.measure)
    return machine


@pytest.mark.parametrize(("gain", "expected"), [(0.5, "fp32"), (1.09, "fp32"), (1.11, "bf16")])
def test_a_kind_of_network_is_probed_once(machine: Machine, gain: float, expected: str) -> None:
    machine.gain = gain
    trial = small(precision="auto").trial(0, {})
    assert resolve_precision(trial, CPU) == expected
    machine.gain = 1 / gain  # what another moment would show
    assert resolve_precision(small(precision="auto", epochs=9).trial(3, {}), CPU) == expected
    assert machine.num_probes == 1
    resolve_precision(small(precision="auto", batch_size=16).trial(0, {}), CPU)
    assert machine.num_probes == 2


def test_what_is_asked_for_and_what_is_not_there_needs_no_probe(machine: Machine) -> None:
    assert resolve_precision(small(precision="bf16").trial(0, {}), CPU) == "bf16"
    machine.has_bf16 = False
    assert resolve_precision(small(precision="auto").trial(0, {}), CPU) == "fp32"
    assert machine.num_probes == 0


@pytest.mark.parametrize("trunk", ["trained", "frozen"])
def test_a_probe_leaves_the_random_streams(trunk: str) -> None:
    trial = small(precision="auto").trial(0, {})
    training = trial.training.model_copy(update={"trunk": trunk})
    before = torch.get_rng_state()
    assert 0 < measure_gain(trial.model_copy(update={"training": training}), CPU) < 100
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_keeps_its_precision_wherever_it_goes_on(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = small(precision="auto", epochs=2).trial(0, {})
    expected = train(trial)
    assert [record.precision for record in expected] == ["bf16", "bf16"]
    asked = train(small(precision="bf16", epochs=2).trial(0, {}))
    assert [comparable(r) for r in expected] == [comparable(r) for r in asked]

    def stop(record: EpochRecord) -> None:
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path / "c.pt")
    with pytest.raises(KeyboardInterrupt):
        fit(trial, report=stop, checkpoints=checkpoints)
    machine.has_bf16 = False
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "another machine"))
    rest = train(trial, checkpoints=checkpoints)
    assert [comparable(r) for r in rest] == [comparable(r) for r in expected]
    assert load_trained(tmp_path / "c.pt").precision == "bf16"
    assert [r.precision for r in train(trial)] == ["fp32", "fp32"]


def test_features_are_those_of_the_precision_that_it_comes_to(
    machine: Machine, tmp_path: Path
) -> None:
    torch.save(DigitsResNet().state_dict(), tmp_path / "trunk.pth")
    trial = small(precision="auto").trial(0, {})
    model = trial.model.model_copy(update={"weights": str(tmp_path / "trunk.pth")})

    def entries(asked: str) -> set[str]:
        training = trial.training.model_copy(update={"trunk": "frozen", "precision": asked})
        configuration = trial.model_copy(update={"model": model, "training": training})
        cached_features(configuration, build_dataset(trial.data), CPU)
        return {path.name for path in (tmp_path / "cache").glob("features-*")}

    as_bf16 = entries("bf16")
    assert entries("auto") == as_bf16
    assert len(entries("fp32")) == 2
