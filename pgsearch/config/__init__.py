"""Specs as validated plain data: what the files in `search_spaces/` may say."""

from pgsearch.config.load import load_spec, parse_spec
from pgsearch.config.search import Objective, SearchSpec
from pgsearch.config.space import Dimension
from pgsearch.config.trial import Configuration, TrialSpec, configuration_leaves, flatten

__all__ = [
    "Configuration",
    "Dimension",
    "Objective",
    "SearchSpec",
    "TrialSpec",
    "configuration_leaves",
    "flatten",
    "load_spec",
    "parse_spec",
]
