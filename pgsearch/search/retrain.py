"""A spec that trains configurations of a search again, with other seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pgsearch.config import SearchSpec
from pgsearch.config.merge import difference
from pgsearch.results import Ledger, read_trials

_KEPT = frozenset({"objective", "resources", "max_concurrent", "max_retries"})


def retraining(
    source: SearchSpec,
    configurations: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    purpose: str,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Return, as the data of a spec, a grid of configurations over seeds.

    Args:
        source: the search; its objective and resources stay.
        configurations: by name of their variants, each resolved as a trial has it; the first one
            is the base.
        name: of the grid.
        purpose: what it is for.
        seeds: that each is trained with.
    """
    base = next(iter(configurations.values()))
    return {
        "name": name,
        "purpose": purpose,
        "method": "grid",
        "seeds": list(seeds),
        "variants": {
            variant: difference(base, configuration)
            for variant, configuration in configurations.items()
        },
        **base,
        **source.model_dump(mode="json", include=set(_KEPT)),
    }


def retraining_as_yaml(
    ledger: Ledger, row: Mapping[Any, Any], *, name: str, purpose: str, num_seeds: int
) -> str:
    """Return the text of a spec that trains one configuration of a search with fresh seeds.

    Args:
        ledger: of the search.
        row: number, variant and params of one of its trials.
        name: of the new grid.
        purpose: what it is for.
        num_seeds: that the search has not seen.
    """
    spec = ledger.spec()
    variant = row["variant"] if isinstance(row["variant"], str) else None
    trial = spec.trial(int(row["number"]), row["params"], variant)
    content = retraining(
        spec,
        {variant or f"{spec.name} trial {row['number']}": trial.configuration},
        name=name,
        purpose=purpose,
        seeds=fresh_seeds(ledger, num_seeds),
    )
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)


def fresh_seeds(source: Ledger, num_seeds: int) -> list[int]:
    """Return seeds that no trial of a search has, nor one that it was forked with."""
    seen = {*source.spec().seeds}
    for ledger in (source, source.known()):
        seen |= set(read_trials(ledger, ["seed"])["seed"].to_pylist())
    first = max(seen) + 1
    return list(range(first, first + num_seeds))
