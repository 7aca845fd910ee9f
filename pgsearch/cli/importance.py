"""`pgsearch importance`: which parameters of a search mattered, and what they did."""

from typing import Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Search, StageName, Stages
from pgsearch.cli.write import Output, Style, chosen_format, write_all


def importance(
    search: Search,
    results: Results = DEFAULT_RESULTS,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Judge by this, such as map.validation.tail or test.tail.",
            show_default="the first objective",
        ),
    ] = None,
    stage: Stages = StageName.full,
    style: Style = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Show which parameters of a search mattered, and what each did.

    Four tables, of complete trials alone: the importance of each parameter for being among the best
    (PED-ANOVA); the mean of the metric at each value of each factor, group and mode; adaptive
    against fixed modes, paired where an ablation allows it; and the configurations that no other
    beats in both head and tail mAP. Effects of a search are what went together, no experiment:
    confirm them with an ablation.
    """
    from pgsearch.analysis.formats import as_json as json_of
    from pgsearch.analysis.mattered import what_mattered
    from pgsearch.results import find_search

    how = chosen_format(style, output, as_json=as_json)
    tables = what_mattered(find_search(search, results), metric, stage=stage.value)
    if as_json:
        typer.echo(f"[{', '.join(json_of(table).strip() for table in tables)}]")
    else:
        write_all(tables, how, output)
