from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.kubernetes import manifests
from pipeline.kubernetes.manifests import Document, Request

OVERLAYS = Path(__file__).resolve().parents[3] / "deploy" / "overlays"
ROOT = "s3://bucket/dr17"


@pytest.fixture(scope="module")
def rendered() -> list[Document]:
    return manifests.render(manifests.base())


def request_of(**changes: object) -> Request:
    values = {"name": "spender-dr17-abc123", "root": ROOT, "memory": 2**31, "image": "registry/spender:1", **changes}
    return Request(**values)  # type: ignore[arg-type]


def kind(documents: list[Document], name: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == name]
    return found


def containers(documents: list[Document]) -> dict[str, Document]:
    job, group = kind(documents, "DaskJob"), kind(documents, "DaskWorkerGroup")
    cluster = job["spec"]["cluster"]["spec"]
    pods = {
        "driver": job["spec"]["job"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "cpu": cluster["worker"]["spec"],
        "gpu": group["spec"]["worker"]["spec"],
    }
    return {name: pod["containers"][0] for name, pod in pods.items()}


def variables(container: Document) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_a_run_is_named_wherever_its_name_stands(rendered: list[Document]) -> None:
    filled = manifests.fill(rendered, request_of())
    job, group = kind(filled, "DaskJob"), kind(filled, "DaskWorkerGroup")
    name = "spender-dr17-abc123"
    assert (job["metadata"]["name"], group["metadata"]["name"], group["spec"]["cluster"]) == (name, f"{name}-gpu", name)
    assert job["spec"]["cluster"]["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == name
    named = {key: variables(each).get("CLUSTER") for key, each in containers(filled).items() if "env" in each}
    assert named == {"driver": name, "cpu": name, "gpu": name}


def test_the_driver_runs_the_root_with_the_options_asked_for(rendered: list[Document]) -> None:
    driver = containers(manifests.fill(rendered, request_of(options=("--max-requests-per-second", "5"))))["driver"]
    assert variables(driver)["ROOT"] == ROOT
    assert driver["args"][:5] == [
        "spender-pipeline",
        "run",
        "$(ROOT)",
        "--scheduler",
        "tls://$(CLUSTER)-scheduler:8786",
    ]
    assert driver["args"][-5:] == ["--gpu", "--kinds", "CPU,GPU", "--max-requests-per-second", "5"]


def test_without_gpu_workers_nobody_waits_for_any(rendered: list[Document]) -> None:
    filled = manifests.fill(rendered, request_of(gpu_workers=0))
    assert not {"--gpu", "--kinds", "CPU,GPU"} & set(containers(filled)["driver"]["args"])
    assert kind(filled, "DaskWorkerGroup")["spec"]["worker"]["replicas"] == 0  # may be scaled up later


def test_one_image_stands_for_both_unless_two_are_named(rendered: list[Document]) -> None:
    one = containers(manifests.fill(rendered, request_of()))
    assert {each["image"] for each in one.values()} == {"registry/spender:1"}
    two = containers(manifests.fill(rendered, request_of(gpu_image="registry/spender-gpu:1")))
    assert {key: each["image"].rsplit("/")[-1] for key, each in two.items()} == {
        "driver": "spender:1",
        "scheduler": "spender:1",
        "cpu": "spender:1",
        "gpu": "spender-gpu:1",
    }


def test_an_image_that_nobody_named_is_refused(rendered: list[Document]) -> None:
    with pytest.raises(ConfigError, match="--image"):
        manifests.fill(rendered, request_of(image=None))


def test_an_image_that_is_not_filled_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="sha256:0000"):
        manifests.fill(manifests.render(OVERLAYS / "eks"), request_of(image=None))


def test_an_overlay_names_images_and_numbers_itself() -> None:
    text = manifests.to_yaml(manifests.render(OVERLAYS / "eks")).replace("sha256:000", "sha256:abc")
    documents = list(yaml.safe_load_all(text))
    filled = manifests.fill(documents, request_of(image=None))
    assert all("@sha256:abc" in each["image"] for each in containers(filled).values())
    one = containers(manifests.fill(documents, request_of(image="registry/other:1")))
    assert {key for key, each in one.items() if each["image"] == "registry/other:1"} == {"driver", "scheduler", "cpu"}
    assert kind(filled, "DaskJob")["spec"]["cluster"]["spec"]["worker"]["replicas"] == 8


def test_memory_is_the_workers_and_a_little_for_who_watches_it(rendered: list[Document]) -> None:
    filled = containers(manifests.fill(rendered, request_of(memory=1000 * 2**20)))
    for name, limit in (("cpu", 1024), ("gpu", 1024 + manifests.CUDA)):
        assert variables(filled[name])["MEMORY_LIMIT"] == f"{limit}MiB"
        assert filled[name]["resources"]["limits"]["memory"] == f"{limit + manifests.WATCHER}Mi"
        assert filled[name]["resources"]["requests"]["memory"] == f"{limit + manifests.WATCHER}Mi"


def test_another_namespace_is_every_objects(rendered: list[Document]) -> None:
    filled = manifests.fill(rendered, request_of(namespace="astro"))
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in filled} == {"astro"}


def test_manifests_are_filled_in_a_copy(rendered: list[Document]) -> None:
    before = copy.deepcopy(rendered)
    manifests.fill(rendered, request_of(namespace="astro"))
    assert rendered == before


def test_manifests_without_a_place_to_fill_in_are_refused(rendered: list[Document]) -> None:
    broken = copy.deepcopy(rendered)
    containers(broken)["cpu"]["env"].clear()
    with pytest.raises(ConfigError, match="CLUSTER"):
        manifests.fill(broken, request_of())
    with pytest.raises(ConfigError, match="0 objects of kind DaskJob"):
        manifests.fill([], request_of())


@pytest.mark.parametrize(
    "changes", [{"name": "Spender"}, {"name": "a" * 41}, {"namespace": "-x"}, {"cpu_workers": 0}, {"gpu_workers": -1}]
)
def test_what_kubernetes_would_refuse_is_refused_before(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        request_of(**changes)


@pytest.mark.parametrize(
    "root", ["s3://bucket/dr17", "s3://b/A_long.Name-with/Everything_in_it_that_one_can_think_of/", "s3://b"]
)
def test_every_run_has_a_name_of_its_own_that_kubernetes_takes(root: str) -> None:
    names = {manifests.name_of(root) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        request_of(name=name)


def test_the_label_of_a_root_is_the_same_however_it_is_written() -> None:
    assert manifests.root_label(ROOT) == manifests.root_label(ROOT + "/")
    assert manifests.root_label(ROOT) != manifests.root_label(ROOT + "2")


def test_what_stands_for_all_runs_is_told_apart_from_one_run(rendered: list[Document]) -> None:
    standing, of_run = manifests.split(manifests.fill(rendered, request_of()))
    assert {each["kind"] for each in of_run} == {"DaskJob", "DaskWorkerGroup"}
    assert {"Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"} == {
        each["kind"] for each in standing
    }


def test_without_the_operator_the_same_pods_stand_in_kubernetes_own_resources(rendered: list[Document]) -> None:
    filled = manifests.fill(rendered, request_of(cpu_workers=3))
    plain = manifests.without_operator(filled)
    assert not [each for each in plain if each["kind"].startswith("Dask")]
    made = {each["metadata"]["name"].removeprefix("spender-dr17-abc123-"): each for each in plain}
    wanted = containers(filled)
    for name, of in (("runner", "driver"), ("scheduler", "scheduler"), ("default", "cpu"), ("gpu", "gpu")):
        documents = [
            each
            for each in plain
            if each["kind"] in ("Job", "Deployment") and each["metadata"]["name"].endswith(f"-{name}")
        ]
        (document,) = documents
        pod = document["spec"]["template"]
        container = copy.deepcopy(pod["spec"]["containers"][0])
        container["env"] = [each for each in container.get("env", []) if each["name"] != "DASK_WORKER_NAME"]
        expected = {**wanted[of], "env": wanted[of].get("env", [])}
        assert container == expected
        if document["kind"] == "Deployment":
            assert document["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert made["default"]["spec"]["replicas"] == 3
    service = next(each for each in plain if each["kind"] == "Service")
    scheduler = next(each for each in plain if each["kind"] == "Deployment" and "scheduler" in each["metadata"]["name"])
    labels = scheduler["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_a_notebooks_cluster_is_the_runs_without_encryption(rendered: list[Document]) -> None:
    made = manifests.cluster_of(manifests.fill(rendered, request_of(cpu_workers=3)))
    assert (made["kind"], made["spec"]["worker"]["replicas"]) == ("DaskCluster", 3)
    for part in ("scheduler", "worker"):
        container = made["spec"][part]["spec"]["containers"][0]
        assert not [each for each in container["args"] if "tls://" in each]
        assert variables(container)["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "false"


def test_what_is_printed_is_what_is_created(rendered: list[Document]) -> None:
    filled = manifests.fill(rendered, request_of())
    printed = manifests.to_yaml(filled)
    assert list(yaml.safe_load_all(printed)) == filled
    assert "&id" not in printed


def test_a_folder_without_a_kustomization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--manifests"):
        manifests.render(tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(ConfigError, match="missing.yaml"):
        manifests.render(tmp_path)


def test_without_kubectl_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(manifests.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"spender-pipeline\[kubernetes\]"):
        manifests.render(manifests.base())
