"""The files that are committed, against what reads them: Ray, Kubernetes, compose, the image."""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from pgsearch.cluster_files.render import file_name, render
from pgsearch.cluster_files.settings import RAY_VERSION, Kind

REPOSITORY = Path(__file__).parents[2]
SCHEMAS = os.environ.get("PGSEARCH_TEST_SCHEMAS")
EXCERPT = Path(__file__).parent / "kuberay.yaml"
KUBERNETES = ("1.28", "1.37")  # the oldest and the newest that we ask
KUBERAY = (Kind.KUBERAY_RAYJOB, Kind.KUBERAY_CLUSTER)
RAY_UP = (Kind.RAY_AWS, Kind.RAY_GCP)


@pytest.mark.parametrize("kind", list(Kind))
def test_committed_files_are_what_render_gives(kind: Kind) -> None:
    committed = (REPOSITORY / "cluster" / file_name(kind)).read_text()
    assert committed == render(kind), f"pgsearch cluster render {kind} -o cluster/{file_name(kind)}"


def test_the_image_has_the_pinned_ray() -> None:
    assert f"ray=={RAY_VERSION}" in (REPOSITORY / "constraints.txt").read_text().splitlines()


# ------------------------------------------------------------------ ray up


@pytest.mark.parametrize("kind", RAY_UP)
def test_ray_accepts_its_clusters(kind: Kind) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(render(kind)))
    validate_config(config)
    assert config["head_setup_commands"] == config["worker_setup_commands"] == []


@pytest.mark.parametrize("kind", RAY_UP)
def test_drivers_stay_on_the_head_and_trials_go_to_spot_workers(kind: Kind) -> None:
    config = yaml.safe_load(render(kind, {"workers": 7}))
    head, worker = (config["available_node_types"][name] for name in ("head", "gpu-worker"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "pgsearch-driver": 1, "pgsearch-grows": 1}
    assert "SPOT" not in json.dumps(head).upper()
    assert "SPOT" in json.dumps(worker["node_config"]).upper()
    assert (worker["min_workers"], worker["max_workers"], config["max_workers"]) == (0, 7, 7)
    assert not any(re.search("(?i)port", str(key)) for key in config["provider"])
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]


@pytest.mark.slow
def test_on_aws_only_ssh_is_open_and_instances_are_as_boto_knows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto")
    from botocore.validate import ParamValidator
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    config = prepare_config(yaml.safe_load(render(Kind.RAY_AWS)))
    config["auth"]["ssh_private_key"] = "key.pem"  # else Ray makes one in the home folder
    for node in config["available_node_types"].values():
        node["node_config"]["KeyName"] = "key"
    with moto.mock_aws():
        nodes = bootstrap_aws(config)["available_node_types"].values()
        launched = [dict(node["node_config"]) for node in nodes]
        [group] = {group for node in launched for group in node["SecurityGroupIds"]}
        rules = boto3.resource("ec2", "us-west-2").SecurityGroup(group).ip_permissions
    to_all = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in to_all] == [(22, 22)]
    service = boto3.client("ec2", "us-west-2").meta.service_model
    for node in launched:
        del node["SubnetIds"]  # of which Ray takes one at a time
        report = ParamValidator().validate(
            {**node, "MinCount": 1, "MaxCount": 1},
            service.operation_model("RunInstances").input_shape,
        )
        assert not report.has_errors(), report.generate_report()


# ------------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("kind", KUBERAY)
@pytest.mark.parametrize("storage", ["/results", "s3://bucket/results"])
@pytest.mark.parametrize("gpus", [0, 2])
def test_kuberay_manifests_follow_the_schemas(kind: Kind, storage: str, gpus: int) -> None:
    """Which refuse unknown fields."""
    carried = {"spec_text": "name: mine\n"} if kind is Kind.KUBERAY_RAYJOB and gpus else {}
    _require_valid(_documents(kind, storage=storage, gpus=gpus, **carried))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "authOptions", "mode"), "tokens"),
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 2),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "toleration"), []),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else "",
)
def test_the_schemas_refuse_mistakes(path: tuple[str | int, ...], value: object) -> None:
    cluster = _ray(Kind.KUBERAY_CLUSTER)
    part: Any = cluster
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        _require_valid([cluster])


@pytest.mark.parametrize("kind", KUBERAY)
def test_kuberay_says_what_our_excerpt_says(kind: Kind) -> None:
    """And takes the manifests, all fields known."""
    if SCHEMAS is None:
        pytest.skip("PGSEARCH_TEST_SCHEMAS names no folder of KubeRay's ray.io_*.yaml")
    document = _ray(kind)
    file = Path(SCHEMAS, f"ray.io_{document['kind'].lower()}s.yaml")
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    excerpt = yaml.safe_load(EXCERPT.read_text())
    _require_same(excerpt[document["kind"]], schema, excerpt["$defs"])
    jsonschema.validate(document, _closed(schema))


def _require_valid(documents: list[dict[str, Any]]) -> None:
    excerpt = yaml.safe_load(EXCERPT.read_text())
    for document in documents:
        parts = [document]
        if document["apiVersion"] == "ray.io/v1":
            schema = {"$ref": f"#/{document['kind']}", **excerpt}
            jsonschema.Draft202012Validator(schema).validate(document)
            parts = [
                {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
                for template in _templates(document)
            ]
        for part in parts:
            for version in KUBERNETES:
                kubernetes_validate.validate(part, version, strict=True)


def _require_same(ours: dict[str, Any], theirs: dict[str, Any], parts: dict[str, Any]) -> None:
    """See that each field of the excerpt is as KubeRay defines it."""
    if "$ref" in ours:
        ours = parts[ours["$ref"].removeprefix("#/$defs/")]
    for rule in ("type", "enum"):
        if rule in ours:
            assert ours[rule] == theirs.get(rule)
    optional_there = {"apiVersion", "kind", "metadata", "spec"}  # which Kubernetes itself demands
    assert set(ours.get("required", [])) - optional_there == set(theirs.get("required", []))
    for name, field in ours.get("properties", {}).items():
        if "const" not in field:
            _require_same(field, theirs["properties"][name], parts)
    for inner in ("items", "additionalProperties"):
        if ours.get(inner):
            _require_same(ours[inner], theirs[inner], parts)


@pytest.mark.parametrize("kind", KUBERAY)
def test_the_head_trains_nothing_and_holds_the_driver(kind: Kind) -> None:
    cluster = _cluster(kind)
    parameters = cluster["headGroupSpec"]["rayStartParams"]
    assert parameters["num-cpus"] == "0"
    # KubeRay writes it into a shell's command as it is.
    [resources] = shlex.split(parameters["resources"])
    assert json.loads(resources)["pgsearch-driver"] == 1
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY_VERSION


def test_ray_takes_the_workers_that_may_come_from_the_manifest() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    manifest = _ray(Kind.KUBERAY_CLUSTER, workers=5, gpus=2, cpus=12, memory_gb=40)
    manifest["metadata"]["namespace"] = "default"
    types = _derive_autoscaling_config_from_ray_cr(manifest)["available_node_types"]
    head, worker = types["headgroup"], types["gpu"]
    assert (
        head["resources"].items() >= {"CPU": 0, "pgsearch-driver": 1, "pgsearch-grows": 1}.items()
    )
    assert (worker["min_workers"], worker["max_workers"]) == (0, 5)
    assert worker["resources"].items() >= {"CPU": 12, "GPU": 2, "memory": 40 * 2**30}.items()


@pytest.mark.parametrize("kind", KUBERAY)
def test_pods_mount_what_they_name_and_are_not_root(kind: Kind) -> None:
    documents = _documents(kind)
    claims = [d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"]
    for pod in _pods(kind):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        [container] = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["results"]["persistentVolumeClaim"]["claimName"] in claims
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment == {"PGSEARCH_RESULTS": "/results"}


def test_a_job_is_tried_again_and_clears_its_cluster_away() -> None:
    job = _ray(Kind.KUBERAY_RAYJOB)["spec"]
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"] is True
    assert job["entrypoint"].startswith(
        "exec python -m pgsearch.cli run /home/pgsearch/search_spaces/"
    )
    assert json.loads(job["entrypointResources"]) == {"pgsearch-driver": 0.01}
    assert "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]


def test_a_carried_spec_is_where_the_job_looks() -> None:
    documents = _documents(Kind.KUBERAY_RAYJOB, spec_text="name: mine\n")
    [job] = [d for d in documents if d["kind"] == "RayJob"]
    [config] = [d for d in documents if d["kind"] == "ConfigMap"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [mount] = [m for m in head["containers"][0]["volumeMounts"] if m["name"] == "spec"]
    [volume] = [v for v in head["volumes"] if v["name"] == "spec"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert (
        job["spec"]["entrypoint"].split()[-1]
        == f"{mount['mountPath']}/{next(iter(config['data']))}"
    )


@pytest.mark.parametrize("gpus", [0, 3])
def test_workers_ask_for_their_gpus(gpus: int) -> None:
    worker = _pods(Kind.KUBERAY_CLUSTER, gpus=gpus)[1]["containers"][0]
    assert worker["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus


# ------------------------------------------------------------------ compose


@pytest.mark.parametrize("given", [{}, {"gpus": 2, "workers": 3}, {"storage": "s3://bucket/x"}])
def test_compose_files_follow_the_schema(given: dict[str, Any]) -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    jsonschema.validate(yaml.safe_load(render(Kind.COMPOSE, given)), schema)


def test_compose_opens_the_dashboard_to_this_machine_alone() -> None:
    services = yaml.safe_load(render(Kind.COMPOSE))["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8265:8265"]
    assert sorted(services) == ["head", "worker-1", "worker-2"]
    for service in services.values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert "results:/results" in service["volumes"]


def test_the_head_of_compose_trains_nothing_and_holds_the_driver() -> None:
    command = yaml.safe_load(render(Kind.COMPOSE))["services"]["head"]["command"]
    [resources] = [word for word in command if word.startswith("--resources=")]
    assert json.loads(resources.removeprefix("--resources=")) == {"pgsearch-driver": 1}
    assert "--num-cpus=0" in command


def test_workers_on_one_machine_share_no_gpu() -> None:
    services = yaml.safe_load(render(Kind.COMPOSE, {"gpus": 2, "workers": 3}))["services"]
    devices = [
        number
        for name, service in services.items()
        if name != "head"
        for device in service["deploy"]["resources"]["reservations"]["devices"]
        for number in device["device_ids"]
    ]
    assert devices == ["0", "1", "2", "3", "4", "5"]


# ------------------------------------------------------------------ the image


def test_the_image_copies_what_is_there_and_names_extras_that_are() -> None:
    text = (REPOSITORY / "cluster" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY --chown=\w+ (.*)$", text, re.M):
        *sources, _ = line.split()
        assert all((REPOSITORY / source).exists() for source in sources), line
    [extras] = re.findall(r"'\./src\[([a-z,]+)\]'", text)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_image_is_not_root() -> None:
    text = (REPOSITORY / "cluster" / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["pgsearch"]
    assert text.index("USER pgsearch") < text.index("pip install")
    assert "useradd --create-home --uid 1000" in text


def _documents(kind: Kind, **given: Any) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(kind, given)))


def _ray(kind: Kind, **given: Any) -> dict[str, Any]:
    [document] = [d for d in _documents(kind, **given) if d["apiVersion"] == "ray.io/v1"]
    return document


def _cluster(kind: Kind, **given: Any) -> dict[str, Any]:
    spec: dict[str, Any] = _ray(kind, **given)["spec"]
    return spec["rayClusterSpec"] if kind is Kind.KUBERAY_RAYJOB else spec


def _pods(kind: Kind, **given: Any) -> list[dict[str, Any]]:
    return [template["spec"] for template in _templates(_ray(kind, **given))]


def _templates(ray: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of a RayJob or a RayCluster: the head's, then the workers'."""
    cluster = ray["spec"].get("rayClusterSpec", ray["spec"])
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def _closed(schema: Any) -> Any:
    """Return a schema that refuses what it does not name, as Kubernetes does in strict mode."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    open_to_all = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_to_all:
        closed.setdefault("additionalProperties", False)
    return closed
