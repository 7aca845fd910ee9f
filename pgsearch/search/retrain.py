"""A spec that trains configurations of a search again, with other seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def fresh_seeds(source: Ledger, num_seeds: int) -> list[int]:
    """Return seeds that no trial of a search has, nor one that it was forked with."""
    seen = {*source.spec().seeds}
    for ledger in (source, source.known()):
        seen |= set(read_trials(ledger, ["seed"])["seed"].to_pylist())
    first = max(seen) + 1
    return list(range(first, first + num_seeds))
