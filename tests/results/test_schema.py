from pgsearch.config import configuration_leaves
from pgsearch.results.schema import epoch_schema, is_configuration, trial_schema


def test_settings_are_told_from_what_is_measured() -> None:
    """Also losses: `loss.gamma.tail` is a setting, `loss.train` is measured."""
    settings = {leaf.path for leaf in configuration_leaves()}
    for schema in (trial_schema(), epoch_schema()):
        assert {name for name in schema.names if is_configuration(name)} == settings
