"""Commands for clusters: `cluster render` writes the file that starts one; needs no Ray."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pgsearch.cluster_files.settings import Kind

app = typer.Typer(
    help="Files that start a Ray cluster for searches.",
    no_args_is_help=True,
)


@app.callback()
def _group() -> None:
    """Files that start a Ray cluster for searches."""


@app.command("render", short_help="Write the file that starts a cluster, with your values.")
def render(
    kind: Annotated[Kind, typer.Argument(show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, help="File to write; without, it is printed."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the cluster or job.", show_default=False)
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Container image with pgsearch, where nodes pull it.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Nodes that train; at most, where the cluster grows by need.", show_default=False
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Of each worker.", show_default=False)] = None,
    cpus: Annotated[int | None, typer.Option(help="Of each worker.", show_default=False)] = None,
    memory_gb: Annotated[
        int | None, typer.Option(help="Of each worker, in GB.", show_default=False)
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(help="The cloud's type of worker, such as g6.2xlarge.", show_default=False),
    ] = None,
    region: Annotated[str | None, typer.Option(help="Of AWS.", show_default=False)] = None,
    zone: Annotated[str | None, typer.Option(help="Of Google Cloud.", show_default=False)] = None,
    project: Annotated[
        str | None, typer.Option(help="Of Google Cloud: its id.", show_default=False)
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where results go: s3://BUCKET/FOLDER, gs://…, az://…, or a folder that every "
            "node sees (in containers: where its volume is mounted).",
            show_default=False,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The search. A script of SLURM names the file; kuberay-rayjob carries it.",
            show_default=False,
        ),
    ] = None,
    hours: Annotated[
        int | None, typer.Option(help="Time limit of one SLURM job.", show_default=False)
    ] = None,
) -> None:
    """Write the file that starts a cluster, with your values, quoted for what reads them.

    ray-aws, ray-gcp: for `ray up`. A head that stays, spot GPU workers that come and go by need,
    results in a bucket.

    kuberay-rayjob: one search as a job of Kubernetes, which starts and ends its own Ray cluster.

    kuberay-cluster: a Ray cluster in Kubernetes that stays, for `pgsearch submit`.

    slurm: one search as a batch job over several nodes, which requeues itself at its time limit.

    compose: a head and workers as containers on one machine.

    dockerfile: the image that all containers run.

    Each takes the options that it has a place for, and refuses the others. The files explain
    themselves; docs/cluster.md leads through each, from nothing to the table.
    """
    from pgsearch.cluster_files.render import render as render_file
    from pgsearch.results.local_storage import replace_file

    options: dict[str, Any] = {
        "name": name,
        "image": image,
        "workers": workers,
        "gpus": gpus,
        "cpus": cpus,
        "memory_gb": memory_gb,
        "machine": machine,
        "region": region,
        "zone": zone,
        "project": project,
        "storage": storage,
        "spec": None if spec is None else str(spec),
        "hours": hours,
    }
    given = {option: value for option, value in options.items() if value is not None}
    if kind is Kind.KUBERAY_RAYJOB and spec is not None:
        from pgsearch.config import load_spec
        from pgsearch.jobs import as_yaml

        del given["spec"]
        given["spec_text"] = as_yaml(load_spec(spec))
    data = render_file(kind, given).encode()
    if output is None:
        typer.echo(data.decode(), nl=False)
        return
    replace_file(output, lambda file: file.write(data), len(data))
    typer.echo(f"{output}: {kind}", err=True)
