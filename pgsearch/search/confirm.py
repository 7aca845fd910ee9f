"""Planning a confirmation: the best of a search beside a baseline, with seeds it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pgsearch.analysis.optimism import Candidate, candidates
from pgsearch.analysis.selection import select
from pgsearch.config import Configuration, SearchSpec, flatten, load_spec, parse_spec
from pgsearch.config.loss import LOSS_NAMES
from pgsearch.errors import UsageError
from pgsearch.results import Ledger
from pgsearch.search.retrain import fresh_seeds, retraining

# Beside the data, what makes two trainings of one budget. The last four count where the sampler
# gives an epoch its length.
_BUDGET = ("training.epochs", "training.iterations_per_epoch")
_LENGTH_OF_EPOCH = (
    "training.batch_size",
    "training.sampler",
    "training.sampler_reduce",
    "training.sampler_repeat",
)


@dataclass(frozen=True)
class Confirmation:
    """What is trained again."""

    spec: SearchSpec
    """A grid: the baseline and the candidates over fresh seeds."""
    baseline: str
    """Variant of the baseline."""
    candidates: tuple[Candidate, ...]
    """The best of the search, the best first; each is the variant of its name."""
    is_tuned: bool
    """False: the baseline is a loss with its defaults, which nobody has chosen for these data."""


def plan_confirmation(
    source: Ledger,
    against: str,
    *,
    top: int,
    num_seeds: int,
    name: str,
    allow_mixed: bool = False,
) -> Confirmation:
    """Plan to train the best configurations of a search again, beside a baseline.

    The same search, in the same state, gives the same plan, so a plan can be gone on with.

    Args:
        source: the search.
        against: the baseline: a loss (bce, db_focal, …) in the place of the search's, with the
            settings that it has by default; a configuration of the results (`SEARCH`,
            `SEARCH:VARIANT`, `SEARCH:12`); or a spec file (`FILE.yaml`, `FILE.yaml:VARIANT`).
        top: how many of the best configurations.
        num_seeds: fresh seeds.
        name: of the grid.
        allow_mixed: let the baseline have other data or another budget than the candidates.

    Raises:
        UsageError: the search has no best configurations, or the baseline is unknown, does not
            compare or is one of them.
        InvalidSpec: the spec file of the baseline breaks a rule.
    """
    found = candidates(source, top)
    spec = source.spec()
    baseline_name, baseline = _baseline(against, spec, source.url.rpartition("/")[0])
    configurations = {f"baseline {baseline_name}": baseline}
    for candidate in found:
        configuration = spec.trial(candidate.number, candidate.params, candidate.variant)
        configurations[candidate.name] = configuration.configuration
        _require_other(against, baseline, candidate, configuration.configuration)
        if not allow_mixed:
            _require_comparable(against, baseline, candidate, configuration.configuration)
    data = retraining(
        spec,
        configurations,
        name=name,
        purpose=f"The best {top} of {spec.name} with fresh seeds, against {baseline_name}",
        seeds=fresh_seeds(source, num_seeds),
    )
    return Confirmation(
        parse_spec(data, name),
        next(iter(configurations)),
        tuple(found),
        is_tuned=against not in LOSS_NAMES,
    )


def _baseline(against: str, spec: SearchSpec, results: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the resolved configuration of a baseline."""
    if against in LOSS_NAMES:
        try:
            changed = Configuration.model_validate({**spec.base(), "loss": {"name": against}})
        except ValidationError as error:
            rule = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(
                f"--against {against}: does not go with the model and training of {spec.name}: "
                f"{rule}; name a configuration or a spec file that has what it needs"
            ) from None
        return against, changed.model_dump(mode="json")
    file, _, variant = against.partition(":")
    if Path(file).suffix in (".yaml", ".yml"):
        return _of_file(against, file, variant)
    try:
        selection = select(against, results or "/")
    except UsageError as error:
        raise UsageError(
            f"--against {against}: {error}\nor name a loss: {', '.join(LOSS_NAMES)}; or a spec file"
        ) from None
    first = selection.replicates.iloc[0]
    own = selection.ledger.spec()
    own_variant = first["variant"] if isinstance(first["variant"], str) else None
    trial = own.trial(int(first["number"]), first["params"], own_variant)
    return selection.label, trial.configuration


def _of_file(against: str, file: str, variant: str) -> tuple[str, Mapping[str, Any]]:
    spec = load_spec(file)
    grid = spec.grid() if spec.method == "grid" else []
    matching = [point for point in grid if variant in ("", point[0])]
    if len(matching) != 1:
        variants = ", ".join(map(repr, spec.variants)) or "none"
        raise UsageError(
            f"--against {against}: means {len(matching) or 'no'} configurations, and a baseline is "
            f"one of a grid; name a variant, {file}:VARIANT, of those it has: {variants}"
        )
    name, values = matching[0]
    return f"{spec.name}:{name}" if name else spec.name, spec.trial(0, values, name).configuration


def _require_other(
    against: str,
    baseline: Mapping[str, Any],
    candidate: Candidate,
    configuration: Mapping[str, Any],
) -> None:
    if baseline == configuration:
        raise UsageError(
            f"--against {against}: is the configuration of trial {candidate.number}, number "
            f"{candidate.rank} of the best; name another baseline, or lower --top"
        )


def _require_comparable(
    against: str,
    baseline: Mapping[str, Any],
    candidate: Candidate,
    configuration: Mapping[str, Any],
) -> None:
    old, new = flatten(dict(configuration)), flatten(dict(baseline))
    keys = [key for key in {**old, **new} if key.startswith("data.")]
    keys += _BUDGET
    if new["training.iterations_per_epoch"] is None:
        keys += _LENGTH_OF_EPOCH
    found = _differences(keys, old, new)
    if found:
        raise UsageError(
            f"--against {against}: it is not trained on the same data for as long as trial "
            f"{candidate.number}: {'; '.join(found)}. Name a baseline that is "
            "(training.iterations_per_epoch gives all samplers the same steps), or pass "
            "--allow-mixed"
        )


def _differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {new.get(key)!r}, not {old.get(key)!r}"
        for key in keys
        if old.get(key) != new.get(key)
    ]
