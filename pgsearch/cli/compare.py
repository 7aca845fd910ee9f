"""The command `compare`: configurations against a reference, paired by seed."""

import json
from typing import Annotated, TypeAlias

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results
from pgsearch.cli.write import Output, Split, Style, chosen_format, write_all

Confidence: TypeAlias = Annotated[
    float, typer.Option(help="Of the intervals; the level of the tests is 1 minus it.")
]


def compare(
    configurations: Annotated[
        list[str],
        typer.Argument(
            metavar="REFERENCE OTHER...",
            help="SEARCH, SEARCH:VARIANT or SEARCH:TRIAL.",
            show_default=False,
        ),
    ],
    results: Results = DEFAULT_RESULTS,
    best: Annotated[
        bool, typer.Option("--best", help="Of several configurations, take the best.")
    ] = False,
    split: Annotated[Split, typer.Option(help="Split of the mAP.")] = Split.test,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The AP of each class too.")
    ] = False,
    confidence: Confidence = 0.95,
    style: Style = None,
    output: Output = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Mix data sets, budgets, image sizes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare configurations with the first one, paired by seed.

    SEARCH is a search with one configuration; with --best its best by the mean
    of its objective over its seeds. SEARCH:VARIANT is a variant of an ablation,
    SEARCH:12 the configuration of trial 12.

    Shows the mean difference with its t interval, the paired t test, Wilcoxon's
    exact test with the smallest p that so few pairs can reach, and dz. Holm's
    families: total, the groups and the classes, each of all others.
    """
    from pgsearch.analysis.compare import as_tables, facts
    from pgsearch.analysis.compare import compare as compare_selections
    from pgsearch.analysis.selection import select
    from pgsearch.errors import UsageError

    how = chosen_format(style, output, as_json=as_json)
    require_confidence(confidence)
    if len(configurations) < 2:
        raise UsageError(f"{configurations[0]}: name at least one more to compare it with")
    comparison = compare_selections(
        *(select(name, results, best=best) for name in configurations),
        split=split.value,
        confidence=confidence,
        allow_mixed=allow_mixed,
        by_class=per_class,
    )
    if as_json:
        typer.echo(json.dumps(facts(comparison)))
    else:
        write_all(as_tables(comparison), how, output)


def require_confidence(confidence: float) -> None:
    """Refuse what is no confidence of an interval. Raises UsageError."""
    from pgsearch.errors import UsageError

    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: it lies between 0 and 1, such as 0.95")
