"""What a search is trained on: found, checked and cached before its first trial."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Literal, NamedTuple, TypeAlias

from pgsearch.config import SearchSpec
from pgsearch.config.trial import Stage
from pgsearch.data.build import build_dataset
from pgsearch.data.dataset import SPLITS, MultiLabelDataset
from pgsearch.errors import IncompatibleResume, InvalidSpec
from pgsearch.models.build import check_model, model_files, weights_fingerprint
from pgsearch.training.device import choose_device
from pgsearch.training.features import cached_features

Progress: TypeAlias = Callable[[int, int], None]
Base: TypeAlias = tuple[str | None, Stage | None]
"""Variant and stage."""


class Inputs(NamedTuple):
    """What a variant, in a stage, is trained on."""

    data_fingerprint: str
    weights_fingerprint: str
    splits: frozenset[str]
    """Those that have images."""


def input_paths(spec: SearchSpec) -> list[str]:
    """Return the files and folders that trials are trained on."""
    paths: dict[str, None] = {}
    for variant, stage in spec.bases():
        trial = spec.trial(0, {}, variant, stage=stage)
        if trial.data.name == "manifest":
            paths |= dict.fromkeys(filter(None, [trial.data.manifest, trial.data.root]))
        paths |= dict.fromkeys(model_files(trial.model))
    return list(paths)


def prepare_data(
    spec: SearchSpec,
    data_progress: Progress | None = None,
    feature_progress: Progress | None = None,
    *,
    bases: Sequence[Base] | None = None,
    features_on: Literal["auto", "cpu"] | None = "auto",
) -> dict[Base, Inputs]:
    """Build every data set of a search in this machine's cache and check its weights.

    So that trials find them there, and a user learns of bad data before any trial starts. Features
    of a frozen trunk are computed here too where trials will look for them; on other nodes of a
    cluster the first trial does it.

    Args:
        spec: the search.
        data_progress: called with the number of images that are decoded and that there are.
        feature_progress: the same for features.
        bases: of which variants and stages; None is all that the spec has.
        features_on: device that features are computed on, since they are kept by its kind: "auto"
            is what `training.device` says; None computes none.

    Returns:
        What was found, by variant and stage.

    Raises:
        InvalidData: images, labels or weights break a rule.
    """
    known: dict[str, MultiLabelDataset] = {}
    inputs: dict[Base, Inputs] = {}
    for variant, stage in spec.bases() if bases is None else bases:
        configuration = spec.trial(0, {}, variant, stage=stage)
        settings = configuration.data.model_dump_json()
        if settings not in known:
            known[settings] = build_dataset(configuration.data, progress=data_progress)
            known[settings].check()
        data = known[settings]
        training = configuration.training
        check_model(configuration.model, data.class_names, cached_stages=training.cached_stages)
        if training.trunk != "trained" and features_on is not None:
            device = choose_device(training.device if features_on == "auto" else features_on)
            cached_features(configuration, data, device, progress=feature_progress)
        splits = frozenset(name for name in SPLITS if data.split(name).num_images)
        weights = weights_fingerprint(configuration.model)
        inputs[variant, stage] = Inputs(data.fingerprint, weights, splits)
    return inputs


def needs_features(spec: SearchSpec) -> bool:
    """Whether some base of a search caches what a frozen trunk makes of the images."""
    return any(
        spec.trial(0, {}, variant, stage=stage).training.trunk != "trained"
        for variant, stage in spec.bases()
    )


def require_splits(spec: SearchSpec, inputs: Mapping[Base, Inputs]) -> None:
    """Refuse a search whose objective is on a split that has no images."""
    problems = [
        f"{spec.name}: the objective is on {objective.split}, and the data has no images of it: "
        "set data.validation_fraction above 0, or objective: {split: test}"
        for objective in spec.objective
        if any(objective.split not in found.splits for found in inputs.values())
    ]
    if problems:
        raise InvalidSpec(problems)


def require_same_inputs(
    spec: SearchSpec,
    all_recorded: Mapping[Base, Set[tuple[str, str]]],
    inputs: Mapping[Base, Inputs],
) -> None:
    """Refuse to go on with other images, labels or weights than the recorded epochs had."""
    if any(path.startswith(("data.", "model.")) for path in spec.space):
        return  # each trial has its own
    for base, recorded in all_recorded.items():
        for i, what in enumerate(("images or labels", "initial weights")):
            if {fingerprints[i] for fingerprints in recorded} != {inputs[base][i]}:
                raise IncompatibleResume(
                    f"{spec.name}: the {what} are not those that its recorded epochs were trained "
                    "with; restore them to continue it, or start another search with name=…"
                )
