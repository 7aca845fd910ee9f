"""The command `confirm`: train the best of a search again, with seeds it has not seen."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgsearch.cli.compare import Confidence, require_confidence
from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Search
from pgsearch.cli.run import DEFAULT_GRACE, Address, Grace, Quiet, run_and_show
from pgsearch.cli.write import Output, Style, chosen_format, write_all

if TYPE_CHECKING:
    from pgsearch.analysis.formats import Table
    from pgsearch.config import SearchSpec
    from pgsearch.results import Ledger
    from pgsearch.search.confirm import Confirmation

MAX_DIFFERENCES = 10


def confirm(
    search: Search,
    against: Annotated[
        str,
        typer.Option(
            metavar="BASELINE",
            help="A loss (bce, db_focal, …), SEARCH:VARIANT, SEARCH:TRIAL or FILE.yaml:VARIANT.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many of the best.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds for each.")] = 5,
    results: Results = DEFAULT_RESULTS,
    name: Annotated[
        str | None, typer.Option(help="Of the new search; else SEARCH_confirm.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the spec and its cost; train nothing.")
    ] = False,
    address: Address = None,
    grace: Grace = DEFAULT_GRACE,
    quiet: Quiet = False,
    confidence: Confidence = 0.95,
    style: Style = None,
    output: Output = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="A baseline of other data or budget.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the best of a search again, with seeds it has not seen.

    Reports the optimism of the selection, which is what the best lose with
    seeds that did not select them, and the paired comparison on test.

    A loss as BASELINE takes the place of the search's, with its defaults; data,
    model and training stay. Repeat the command to go on after an interruption,
    or to see the report again; exit codes are those of run.
    """
    from pgsearch.results import Ledger, find_search
    from pgsearch.search.confirm import plan_confirmation

    how = chosen_format(style, output, as_json=as_json)
    require_confidence(confidence)
    source = find_search(search, results)
    plan = plan_confirmation(
        source,
        against,
        top=top,
        num_seeds=seeds,
        name=name or f"{source.name}_confirm",
        allow_mixed=allow_mixed,
    )
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    root = source.url.rpartition("/")[0] or "/"
    fresh = Ledger(f"{root}/{plan.spec.name}")
    _require_same_plan(fresh, plan)
    exit_code = _exit_code_of_ended(fresh, plan)
    if exit_code is None:
        from pgsearch.search.run import RunOptions

        options = RunOptions(address=address, grace_seconds=grace)
        outcome = run_and_show(plan.spec, root, options, quiet=quiet)
        exit_code = outcome.exit_code
        if outcome.interrupted:
            raise typer.Exit(exit_code)
    tables, facts = _report(fresh, plan, confidence)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        write_all(tables, how, output)
    raise typer.Exit(exit_code)


def _show_plan(plan: "Confirmation", *, as_json: bool) -> None:
    """Print the spec, and what it costs by the times that the search itself took."""
    import yaml

    spec = plan.spec
    per_trial = sum(c.wall_seconds for c in plan.candidates) / len(plan.candidates)
    hours = spec.num_trials * per_trial / 3600
    data = spec.model_dump(mode="json", exclude_defaults=True)
    if as_json:
        facts = {"trials": spec.num_trials, "trial_hours": round(hours, 3), "spec": data}
        typer.echo(json.dumps(facts))
        return
    typer.echo(
        f"# {spec.num_trials} trials: {len(spec.variants)} configurations with {len(spec.seeds)} "
        f"seeds;\n# about {hours:.2f} hours of trials, {per_trial:.0f} s each as these "
        "configurations took in the search"
    )
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True)
    typer.echo(text.rstrip())


def _require_same_plan(fresh: "Ledger", plan: "Confirmation") -> None:
    """Refuse to go on with another plan. Raises IncompatibleResume, with what differs."""
    from pgsearch.errors import IncompatibleResume
    from pgsearch.results.ledger import changed_keys

    if not fresh.exists:
        return
    begun = fresh.spec()
    changes = changed_keys(begun, plan.spec)
    if not changes:
        return
    differs = [f"{_asked(begun)} were begun, {_asked(plan.spec)} are asked for"]
    if _asked(begun) == _asked(plan.spec):
        differs = changes
    raise IncompatibleResume(
        f"{fresh.url} is another confirmation: the search has other best configurations by now, or "
        "--top, --seeds or --against is another.\n"
        + "\n".join(f"  {line}" for line in differs[:MAX_DIFFERENCES])
        + "\nrepeat the command with what it was begun with, or begin another with --name"
    )


def _asked(spec: "SearchSpec") -> str:
    return f"{'; '.join(spec.variants)}; with seeds {', '.join(map(str, spec.seeds))}"


def _exit_code_of_ended(fresh: "Ledger", plan: "Confirmation") -> int | None:
    """Return how a confirmation ended of which every trial has ended, else None."""
    from pgsearch.errors import EXIT_DONE, EXIT_NOTHING_COMPLETED, EXIT_SOME_FAILED
    from pgsearch.results import TrialState, read_trials

    trials = read_trials(fresh, ["number", "state", "retry_of"]).to_pylist()
    num_regular = sum(trial["retry_of"] is None for trial in trials)
    if num_regular < plan.spec.num_trials or not all(
        TrialState(trial["state"]).is_finished for trial in trials
    ):
        return None
    retried = {trial["retry_of"] for trial in trials}
    counts = Counter(trial["state"] for trial in trials if trial["number"] not in retried)
    if not counts[TrialState.COMPLETE]:
        return EXIT_NOTHING_COMPLETED
    return EXIT_SOME_FAILED if counts[TrialState.FAIL] else EXIT_DONE


def _report(
    fresh: "Ledger", plan: "Confirmation", confidence: float
) -> tuple[list["Table"], dict[str, Any]]:
    """Return the tables of the report, and its facts for programs."""
    from pgsearch.analysis import compare, optimism

    measured = optimism.optimism_of(plan.candidates, fresh, confidence=confidence)
    comparison = optimism.against_baseline(plan.baseline, plan.candidates, fresh, confidence)
    sentences = list(optimism.conclusion(measured, comparison))
    if not plan.is_tuned:
        sentences.append(
            f"the {plan.baseline} has its default settings, which no search has chosen, unlike "
            "those it is compared with; --against SEARCH:TRIAL names one that was searched"
        )
    objective = plan.spec.objective[0]
    tables = [optimism.as_table(measured, objective, confidence, conclusion=sentences)]
    tables += [] if comparison is None else compare.as_tables(comparison)
    facts = {
        "conclusion": sentences,
        "optimism": optimism.facts(measured),
        "comparison": None if comparison is None else compare.facts(comparison),
    }
    return tables, facts
