"""Commands about specs, before anything is trained: `check`, `plan`, `schema`."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgsearch.cli.options import Json, Overrides, SpecFile

if TYPE_CHECKING:
    from pgsearch.config import SearchSpec, TrialSpec
    from pgsearch.config.trial import Stage


def check(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC... [KEY=VALUE...]", help="YAML files, and changes to them."),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Files that are not there are errors (exit code 4).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say all that is wrong with specs, before Ray or training starts.

    A data or weights file that is not there is a warning: a spec may be written before its data.
    """
    from pgsearch.config import load_spec
    from pgsearch.errors import InvalidData, InvalidSpec, UsageError

    files = [word for word in specs if "=" not in word]
    overrides = [word for word in specs if "=" in word]
    if not files:
        raise UsageError("name at least one spec, such as search_spaces/digits_pg.yaml")
    found: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for file in files:
        try:
            missing[file] = missing_files(load_spec(file, overrides))
            found[file] = []
        except InvalidSpec as error:
            found[file], missing[file] = error.problems, []
    if as_json:
        facts = {
            file: {"problems": problems, "missing_files": missing[file], "ok": not problems}
            for file, problems in found.items()
        }
        typer.echo(json.dumps(facts))
    else:
        for file, problems in found.items():
            typer.echo("\n".join(problems) if problems else f"{file}: ok")
            for line in missing[file]:
                typer.echo(f"{file}: {'error' if strict else 'warning'}: {line}", err=True)
    if any(found.values()):
        raise typer.Exit(InvalidSpec.exit_code)
    if strict and any(missing.values()):
        raise typer.Exit(InvalidData.exit_code)


def missing_files(spec: Any) -> list[str]:
    """Return a line for each file that a spec names and that is not there."""
    problems = []
    for variant, stage in spec.bases():
        base = spec.base(variant, stage)
        named = {
            "data.manifest": base["data"].get("manifest"),
            "data.root": base["data"].get("root"),
        }
        weights = base["model"]["weights"]
        if weights != "random" and not weights.startswith("torchvision:"):
            named["model.weights"] = weights
        if base["model"]["word_vectors"] != "random":
            named["model.word_vectors"] = base["model"]["word_vectors"]
        problems += [
            f"{key}: {path} does not exist; correct it, or override {key}=…"
            for key, path in named.items()
            # Unlike Path.exists, false of a path that is too long.
            if path is not None and not os.path.exists(path)  # noqa: PTH110
        ]
    return list(dict.fromkeys(problems))


def plan(
    spec: SpecFile,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train two epochs here to estimate the cost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a search would do: trials, epochs, one sampled configuration, rough cost."""
    import yaml

    from pgsearch.config import load_spec

    search = load_spec(spec, overrides or [])

    from pgsearch.search.spaces import sample_trial

    trials = {stage: sample_trial(search, stage) for stage in search.stage_names}
    trial = trials[search.stage_names[-1]]
    facts: dict[str, Any] = {
        "search": search.name,
        "method": search.method,
        "configurations": search.num_configurations,
        "seeds": len(search.seeds),
        "trials": search.num_trials,
        **_epochs(search, trials),
        "pruner": search.pruner.name,
        "dimensions": [dimension.name for dimension in search.dimensions(trial.variant)],
    }
    if measure:
        facts |= _measured(search, trials)
    facts["sampled_configuration"] = trial.configuration
    if as_json:
        typer.echo(json.dumps(facts))
        return
    sampled = facts.pop("sampled_configuration")
    width = max(22, *map(len, facts))
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{key.replace('_', ' '):{width}} {shown}")
    if not measure:
        typer.echo(f"{'cost':{width}} add --measure to train two epochs here and estimate it")
    typer.echo("\none configuration that it may train:")
    typer.echo(yaml.safe_dump(sampled, sort_keys=False, default_flow_style=None).rstrip())


def _epochs(search: "SearchSpec", trials: "Mapping[Stage | None, TrialSpec]") -> dict[str, Any]:
    """Return the epochs of a trial, and of all; of a search with stages also their trials."""
    facts: dict[str, Any] = {}
    for stage, trial in trials.items():
        if stage is not None:
            facts[f"{stage}_trials"] = search.num_trials_of(stage)
        facts[_of(stage, "epochs_per_trial")] = trial.training.epochs
    at_most = [search.num_trials_of(stage) * t.training.epochs for stage, t in trials.items()]
    return {**facts, "epochs_at_most": sum(at_most)}


def _measured(search: "SearchSpec", trials: "Mapping[Stage | None, TrialSpec]") -> dict[str, Any]:
    """Train two epochs of a trial of each stage and return what all would cost."""
    from pgsearch.results import EpochRecord
    from pgsearch.training.fit import fit

    facts: dict[str, Any] = {}
    seconds_in_all, most_memory = 0.0, 0
    for stage, trial in trials.items():
        records: list[EpochRecord] = []
        short = trial.training.model_copy(update={"epochs": 2})
        fit(trial.model_copy(update={"training": short}), report=records.append)
        last = records[-1]  # the first epoch also pays for imports
        seconds = (last.train_seconds + last.evaluation_seconds) * trial.training.epochs
        facts[_of(stage, "seconds_per_trial")] = round(seconds, 1)
        seconds_in_all += seconds * search.num_trials_of(stage)
        most_memory = max(most_memory, last.peak_memory_bytes)
    return {
        **facts,
        "trial_hours_at_most": round(seconds_in_all / 3600, 3),
        "peak_memory_gb": round(most_memory / 1e9, 2),
        "device": next(iter(trials.values())).training.device,
    }


def _of(stage: "Stage | None", fact: str) -> str:
    return fact if stage is None else f"{stage}_{fact}"


def schema(
    columns: Annotated[
        bool, typer.Option("--columns", help="Describe the columns of the results instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of specs, for editors, or describe the results."""
    if columns:
        from pgsearch.results.schema import columns_as_markdown

        typer.echo(columns_as_markdown())
        return
    from pgsearch.config import SearchSpec

    definition = SearchSpec.model_json_schema()
    definition["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "another spec, relative to this file, to lay this one over; or several, "
        "each laid over those before it",
    }
    definition["required"] = ["data", "model", "loss"]  # a name defaults to the file's
    typer.echo(json.dumps(definition, indent=2))
