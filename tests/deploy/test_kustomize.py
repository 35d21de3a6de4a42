"""What deploy/ says to Kubernetes: rendered by kustomize, expanded by the Dask operator's own code, checked offline."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.compute import cluster
from pipeline.config import SurveyConfig
from pipeline.kubernetes import manifests
from pipeline.planning.memory import MEMORY_FRACTION, memory_at_once, memory_needed
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import choose_shard
from pipeline.planning.plan import Generation, Plan

from .expanding import (
    DEPLOY,
    RUNNABLE,
    Document,
    container,
    expand,
    faults,
    pods,
    render,
    resources,
    the,
    tool,
    variables,
)

KUBERNETES = "1.37"
CHECKOV = DEPLOY.parent / ".venv.checkov" / "bin" / "checkov"
IMAGES = {key: f"registry.example/{key.replace('_', '-')}@sha256:{'1' * 64}" for key in ("image", "gpu_image")}
SECRET = "dask-tls"  # made by certificates/, not by any kustomization

every_run = pytest.mark.parametrize("folder", RUNNABLE)


def survey_memory() -> int:
    """Project the memory of a worker for all of DR17, as `submit` does."""
    n = 5_000_000
    shard, chunk = choose_shard(n)
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="targets.parquet")
    model = ModelConfig(name="sdss_II", checkpoint="sdss_II", sha256="0" * 64, n_latent=6, n_rest=7000)
    plan = Plan(config=config, generations=(Generation(n, "0" * 64),), shard=shard, chunk=chunk).with_model(model)
    needed = memory_needed(plan, [("ingest", None), ("encode", "sdss_II")])
    return int(memory_at_once(needed, cluster.THREADS) / MEMORY_FRACTION)


def filled(folder: str, **asked: Any) -> list[Document]:
    """Fill in what `submit` fills in, with images named by their digests, and what else is asked for."""
    usual = {"name": "spender-dr17", "root": "s3://bucket/dr17", "memory": survey_memory(), **IMAGES}
    return manifests.fill(render(DEPLOY / folder), manifests.Request(**{**usual, **asked}))


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("kustomization.yaml")), ids=lambda file: file.parent.name)
def test_every_kustomization_renders_without_a_warning(file: Path) -> None:
    assert render(file.parent)


@every_run
def test_the_operator_knows_every_field(folder: str) -> None:
    found = [each for document in filled(folder) for each in resources(document) if each["kind"].startswith("Dask")]
    assert {each["kind"] for each in found} == {"DaskJob", "DaskCluster", "DaskWorkerGroup"}
    assert [fault for each in found for fault in faults(each)] == []


def test_a_field_that_the_operator_does_not_know_would_be_found() -> None:
    group = copy.deepcopy(the(render(DEPLOY / "base"), "DaskWorkerGroup"))
    group["spec"]["worker"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 1
    group["spec"]["worker"]["spec"]["securityContext"]["runAsNobody"] = True
    del group["spec"]["worker"]["spec"]["containers"][0]["name"]
    assert sorted(fault.removeprefix("/spec/worker/spec/") for fault in faults(group)) == [
        "containers/0/name: missing",
        "containers/0/resources/limits/nvidia.com/gpu: 1 is not of type string",
        "securityContext/runAsNobody: unknown",
    ]


@every_run
def test_kubernetes_knows_every_field(folder: str) -> None:
    documents = filled(folder)
    for document in [*expand(documents), *manifests.without_operator(documents)]:
        assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES


@every_run
def test_pods_can_do_nothing_but_their_work(folder: str) -> None:
    for name, pod in pods(expand(render(DEPLOY / folder))).items():
        spec, user = pod["spec"], pod["spec"]["securityContext"]
        assert user["runAsNonRoot"] is True
        assert user["runAsUser"] == user["runAsGroup"] == user["fsGroup"] > 9999
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        given = container(pod)["resources"]
        assert given["requests"]["memory"] == given["limits"]["memory"]
        assert {"cpu", "memory"} <= set(given["requests"]) == set(given["limits"])
        probes = {"readinessProbe", "livenessProbe"}
        assert probes & set(container(pod)) == (set() if name == "driver" else probes)


@every_run
def test_a_token_is_for_the_cloud_and_never_for_the_api_server(folder: str) -> None:
    documents = expand(render(DEPLOY / folder))
    assert the(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    for pod in pods(documents).values():
        projected = [volume["projected"]["sources"] for volume in pod["spec"]["volumes"] if "projected" in volume]
        audiences = [source["serviceAccountToken"]["audience"] for sources in projected for source in sources]
        assert audiences in ([], ["sts.amazonaws.com"])
        assert all({"configMap", "secret", "emptyDir", "projected"} & set(volume) for volume in pod["spec"]["volumes"])


@pytest.fixture
def prefixed(tmp_path: Path) -> list[Document]:
    """Render an overlay that gives every name a prefix."""
    base = os.path.relpath(DEPLOY / "base", tmp_path.resolve())
    kustomization = {"resources": [base], "namePrefix": "night-", "namespace": "astro"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return render(tmp_path.resolve())


def assert_names_meet(documents: list[Document]) -> None:
    """Check that whatever an expanded document names by name or label is there."""
    of_kind: dict[str, set[str]] = {}
    for document in documents:
        of_kind.setdefault(document["kind"], set()).add(document["metadata"]["name"])
    every = pods(documents)
    service = the(documents, "Service")
    for name, pod in every.items():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container(pod)["volumeMounts"]} == set(volumes)
        assert volumes["dask"]["configMap"]["name"] in of_kind["ConfigMap"]
        assert volumes["tls"]["secret"]["secretName"] == SECRET
        assert pod["spec"]["serviceAccountName"] in of_kind["ServiceAccount"]
        if name != "scheduler":
            address = [arg for arg in container(pod)["args"] if arg.startswith("tls://")]
            (host,) = [arg.removeprefix("tls://").replace("$(CLUSTER)", variables(pod)["CLUSTER"]) for arg in address]
            assert host == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        for policy in (document for document in documents if document["kind"] == "NetworkPolicy"):
            assert matches(policy["spec"]["podSelector"], pod)
    assert [name for name, pod in every.items() if matches({"matchLabels": service["spec"]["selector"]}, pod)] == [
        "scheduler"
    ]
    ports = {each["name"] for each in container(every["scheduler"])["ports"]}
    assert {each["targetPort"] for each in service["spec"]["ports"]} == ports
    for budget in (document for document in documents if document["kind"] == "PodDisruptionBudget"):
        assert [name for name, pod in every.items() if matches(budget["spec"]["selector"], pod)] == ["scheduler"]


def matches(selector: Document, pod: Document) -> bool:
    return selector.get("matchLabels", {}).items() <= pod["metadata"]["labels"].items()


@every_run
def test_whatever_is_named_is_there(folder: str) -> None:
    assert_names_meet(expand(render(DEPLOY / folder)))
    assert_names_meet(expand(filled(folder)))


def test_a_prefix_reaches_every_name(prefixed: list[Document]) -> None:
    expanded = expand(prefixed)
    assert_names_meet(expanded)
    named = {document["metadata"]["name"] for document in expanded if document["kind"] != "Namespace"}
    assert {name for name in named if not name.startswith("night-")} == set()
    assert {variables(pods(expanded)[name])["CLUSTER"] for name in ("driver", "cpu", "gpu")} == {"night-spender"}
    assert the(prefixed, "DaskWorkerGroup")["spec"]["cluster"] == "night-spender"
    assert re.fullmatch(r"night-dask-[a-z0-9]{10}", the(expanded, "ConfigMap")["metadata"]["name"])


def worker_pods() -> tuple[Document, Document]:
    every = pods(expand(render(DEPLOY / "base")))
    return every["cpu"], every["gpu"]


def option(pod: Document, name: str) -> str:
    args = container(pod)["args"]
    return args[args.index(name) + 1]


def test_workers_say_what_they_are_for() -> None:
    cpu, gpu = worker_pods()
    threads = option(cpu, "--nthreads")
    assert (option(cpu, "--resources"), option(gpu, "--resources")) == (f"CPU={threads}", f"GPU={threads}")
    assert int(threads) == cluster.THREADS
    assert variables(gpu)["SPENDER_DEVICE"] == "cuda"
    for kind in ("requests", "limits"):
        assert container(gpu)["resources"][kind]["nvidia.com/gpu"] == "1"  # a number is refused
        assert "nvidia.com/gpu" not in container(cpu)["resources"][kind]


def test_gpu_workers_are_cpu_workers_in_all_else() -> None:
    cpu, gpu = (copy.deepcopy(pod["spec"]) for pod in worker_pods())
    assert gpu.pop("tolerations") == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    for spec in (cpu, gpu):
        (only,) = spec["containers"]
        del only["image"]
        only["args"][only["args"].index("--resources") + 1] = ""
        only["env"] = [each for each in only["env"] if each["name"] not in ("SPENDER_DEVICE", "DASK_WORKER_NAME")]
        only["env"] = [
            each for each in only["env"] if each["name"] != "MEMORY_LIMIT"
        ]  # CUDA's share is the GPU's alone
        for kind in ("requests", "limits"):
            only["resources"][kind].pop("nvidia.com/gpu", None)
            del only["resources"][kind]["memory"]
    assert gpu == cpu


def test_base_has_the_memory_of_the_whole_survey() -> None:
    rendered, by_submit = pods(expand(render(DEPLOY / "base"))), pods(expand(filled("base")))
    for name in ("cpu", "gpu"):
        assert variables(rendered[name])["MEMORY_LIMIT"] == variables(by_submit[name])["MEMORY_LIMIT"]
        assert container(rendered[name])["resources"] == container(by_submit[name])["resources"]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, f"{path}/{key}")
    elif isinstance(value, list) and value and not all(isinstance(each, str) for each in value):
        for number, each in enumerate(value):
            yield from leaves(each, f"{path}/{each['name'] if 'name' in each else number}")
    else:
        yield path, value


def changed(before: list[Document], after: list[Document]) -> set[str]:
    """List what differs between two renderings of the same documents, by kind and path."""
    found = set()
    for was, becomes in zip(before, after, strict=True):
        old, new = dict(leaves(was)), dict(leaves(becomes))
        found |= {was["kind"] + path for path in old | new if path not in old or old[path] != new.get(path)}
    return found


def places(kind: str, *paths: str) -> set[str]:
    return {f"{kind}/{path}" for path in paths}


@every_run
def test_submit_changes_what_it_fills_in_and_nothing_else(folder: str) -> None:
    before = render(DEPLOY / folder)
    cpu, gpu = "spec/cluster/spec/worker", "spec/worker"
    scheduler, driver = "spec/cluster/spec/scheduler", "spec/job/spec/containers/driver"
    names = places("DaskWorkerGroup", "spec/cluster") | places(
        "DaskJob", f"{driver}/image", f"{driver}/env/CLUSTER/value"
    )
    names |= places("DaskJob", f"{scheduler}/service/selector/dask.org/cluster-name")
    names |= places("DaskJob", f"{scheduler}/spec/containers/scheduler/image")
    more = places("DaskJob", f"{driver}/env/ROOT/value", f"{driver}/args")
    for kind, group in (("DaskJob", cpu), ("DaskWorkerGroup", gpu)):
        worker = f"{group}/spec/containers/worker"
        labels = [f"metadata/labels/{label}" for label in (manifests.RUN_LABEL, manifests.ROOT_LABEL)]
        names |= places(kind, "metadata/name", *labels, f"metadata/annotations/{manifests.ROOT_LABEL}")
        names |= places(kind, f"{worker}/image", f"{worker}/env/CLUSTER/value")
        more |= places(kind, f"{group}/replicas", f"{worker}/env/MEMORY_LIMIT/value")
        more |= places(kind, f"{worker}/resources/requests/memory", f"{worker}/resources/limits/memory")
    more |= {"Namespace/metadata/name"}
    more |= {f"{document['kind']}/metadata/namespace" for document in before if document["kind"] != "Namespace"}
    asked = {"root": "s3://other", "memory": 2**32, "cpu_workers": 30, "gpu_workers": 0, "namespace": "astro"}
    assert changed(before, filled(folder)) == names
    assert changed(before, filled(folder, **asked)) == names | more


def test_manifests_that_documents_quote_are_those_of_the_files() -> None:
    files = [textwrap.dedent(file.read_text(encoding="utf-8")) for file in DEPLOY.rglob("*.yaml")]
    for document in DEPLOY.glob("*.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S):
            assert any(block in file for file in files), f"{document.name}: {block}"


@pytest.mark.parametrize("file", sorted((DEPLOY / "images").glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_hadolint_finds_nothing_in_the_dockerfiles(file: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def checkov(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Have checkov look at all runs, with no check left out."""
    if not CHECKOV.is_file() and os.environ.get("CI") != "true":
        pytest.skip("no checkov: make .venv.checkov/.installed")
    folder = tmp_path_factory.mktemp("checkov")
    files = [folder / f"{each.replace('/', '-')}.yaml" for each in RUNNABLE]
    for each, file in zip(RUNNABLE, files, strict=True):
        file.write_text(manifests.to_yaml(expand(filled(each))), encoding="utf-8")
    options = ("--framework", "kubernetes", "--skip-download", "--compact", "--quiet", "--output", "json")
    done = subprocess.run([str(CHECKOV), *options, "--file", *files], capture_output=True, text=True, cwd=folder)
    return json.loads(done.stdout)


def test_checkov_finds_what_is_justified_and_nothing_else(checkov: Document) -> None:
    assert checkov["summary"]["passed"] > 1000
    assert checkov["summary"]["parsing_errors"] == 0
    found = [
        (check["check_id"], check["check_name"], check["resource"]) for check in checkov["results"]["failed_checks"]
    ]
    justified = set(yaml.safe_load((DEPLOY / "checkov.yaml").read_text(encoding="utf-8"))["skip-check"])
    assert [each for each in found if each[0] not in justified] == []
    assert justified - {check for check, _, _ in found} == set(), "no longer found: nothing to justify"


def test_what_checkov_is_told_to_ignore_is_where_it_is_justified(checkov: Document) -> None:
    where: dict[str, set[str]] = {}
    for check in checkov["results"]["failed_checks"]:
        where.setdefault(check["check_id"], set()).add(f"{check['file_path']} {check['resource']}")
    assert all(place.endswith("-runner") for check in ("CKV_K8S_8", "CKV_K8S_9") for place in where[check])
    assert all(place.startswith("/overlays-local.yaml ") for place in where["CKV_K8S_35"])
