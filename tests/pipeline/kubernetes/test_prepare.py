from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.catalog import targets
from pipeline.compute.cluster import THREADS
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.kubernetes import manifests
from pipeline.kubernetes.manifests import CUDA, Document
from pipeline.kubernetes.prepare import Prepared, prepare
from pipeline.planning.memory import worker_memory
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.store.root import ledgers, targets_url

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

ROOT = "bucket://spender/dr17"
IMAGE = "registry/spender:1"


class Bucket(MemoryFileSystem):
    """Objects in this process's memory under a scheme of their own, as a bucket's that every pod reaches."""

    protocol = "bucket"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("bucket://", "memory://", 1))


@pytest.fixture(autouse=True)
def _bucket() -> Iterator[None]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    yield
    Bucket.store.clear()


@pytest.fixture
def plan(make_targets: MakeTargets) -> Plan:
    """Plan a run in the bucket, with a published model: nothing of it is on this machine's disk."""
    frame = make_targets(6)
    targets.write_targets(frame, targets_url(ROOT), row_group=2)
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="/home/jane/targets.parquet", shard=2)
    model = ModelConfig(name="sdss-demo", checkpoint="sdss-demo", sha256="ab" * 32, n_latent=3, n_rest=50)
    return write(Plan.create(config, frame).with_model(model))


def write(plan: Plan, root: str = ROOT) -> Plan:
    storage.write_bytes(storage.join(root, "plan.json"), plan.to_json())
    return plan


def prepared(**options: Any) -> Prepared:
    found = prepare(ROOT, **{"image": IMAGE, **options})
    assert found is not None
    return found


def refused(root: str = ROOT, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        prepare(root, **{"image": IMAGE, **options})
    return caught.value


def one(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def container(part: Document) -> Document:
    found: Document = part["spec"]["containers"][0]
    return found


def variables(part: Document) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(part)["env"]}


def test_a_run_is_prepared_under_a_name_of_its_own(plan: Plan) -> None:
    found = prepared()
    assert found.plan == plan
    assert found.name.startswith("spender-dr17-")
    job, group = one(found.documents, "DaskJob"), one(found.documents, "DaskWorkerGroup")
    assert (job["metadata"]["name"], group["metadata"]["name"]) == (found.name, f"{found.name}-gpu")
    assert job["metadata"]["annotations"][manifests.ROOT_LABEL] == ROOT
    assert variables(job["spec"]["job"])["ROOT"] == ROOT
    assert "--max-requests-per-second" not in container(job["spec"]["job"])["args"]


def test_workers_have_the_memory_that_the_plan_needs(plan: Plan) -> None:
    documents = prepared().documents
    needed = worker_memory(plan, THREADS) / 2**20
    cpu = one(documents, "DaskJob")["spec"]["cluster"]["spec"]["worker"]
    gpu = one(documents, "DaskWorkerGroup")["spec"]["worker"]
    for part, least in ((cpu, needed), (gpu, needed + CUDA)):
        limit = int(variables(part)["MEMORY_LIMIT"].removesuffix("MiB"))
        assert least <= limit < least + 64


def test_what_is_asked_of_the_cluster_is_in_the_manifests(plan: Plan) -> None:
    asked = {"gpu_image": "registry/gpu:1", "cpu_workers": 7, "gpu_workers": 3, "namespace": "jane"}
    documents = prepared(**asked).documents
    job, group = one(documents, "DaskJob"), one(documents, "DaskWorkerGroup")
    cpu, gpu = job["spec"]["cluster"]["spec"]["worker"], group["spec"]["worker"]
    assert (cpu["replicas"], gpu["replicas"]) == (7, 3)
    assert (container(cpu)["image"], container(gpu)["image"]) == (IMAGE, "registry/gpu:1")
    assert manifests.namespace_of(documents) == one(documents, "Namespace")["metadata"]["name"] == "jane"


def test_a_rate_is_an_option_of_the_run(plan: Plan) -> None:
    job = one(prepared(max_requests_per_second=2.5).documents, "DaskJob")
    assert container(job["spec"]["job"])["args"][-2:] == ["--max-requests-per-second", "2.5"]


def test_that_missing_files_are_accepted_is_an_option_of_the_run(plan: Plan) -> None:
    job = one(prepared(accept_missing=True).documents, "DaskJob")
    assert container(job["spec"]["job"])["args"][-1] == "--accept-missing"


def test_without_the_operator_only_kubernetes_own_resources_are_used(plan: Plan) -> None:
    found = prepared(operator=False)
    kinds = {document["kind"] for document in found.documents}
    assert {"Job", "Deployment", "Service"} <= kinds
    assert not any(kind.startswith("Dask") for kind in kinds)
    assert one(found.documents, "Job")["metadata"]["name"] == f"{found.name}-runner"


def test_where_nothing_is_pending_there_is_nothing_to_submit(plan: Plan) -> None:
    ingest, encode = ledgers(ROOT, plan)
    for ledger, indices in ((ingest, (0, 1, 2)), (encode, (0, 1))):
        for index in indices:
            ledger.mark(index, {})
    assert prepare(ROOT, image=IMAGE) is not None
    encode.mark(2, {})
    assert prepare(ROOT, image=IMAGE) is None


@pytest.mark.parametrize("root", ["local", "file", "memory"])
def test_a_root_on_this_machine_is_refused(plan: Plan, tmp_path: Path, root: str) -> None:
    url = {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[root]
    write(plan, url)
    error = refused(url)
    assert (error.key, error.value) == ("ROOT", url)
    assert error.expected == "a URL that every pod reaches, such as s3://bucket/dr17"
    assert error.remedy == "pods cannot read this machine's disk: use a bucket, and plan with it"


@pytest.mark.parametrize(
    ("key", "value"), [("source", "/mirrors/dr17"), ("source", "file:///mirrors/dr17"), ("cache", "/scratch/cache")]
)
def test_a_source_or_a_cache_on_this_machine_is_refused(plan: Plan, key: str, value: str) -> None:
    write(replace(plan, config=replace(plan.config, **{key: value})))
    error = refused()
    assert (error.key, error.value) == (key, value)


def test_a_cache_in_a_bucket_and_targets_copied_from_this_machine_are_taken(plan: Plan) -> None:
    write(replace(plan, config=replace(plan.config, cache="s3://bucket/cache")))
    config = prepared().plan.config
    assert (config.cache, config.targets) == ("s3://bucket/cache", "/home/jane/targets.parquet")


@pytest.mark.parametrize("checkpoint", ["/models/own.pt", "memory://models/own.pt"])
def test_a_checkpoint_on_this_machine_is_refused_by_the_name_of_its_model(plan: Plan, checkpoint: str) -> None:
    write(plan.with_model(replace(plan.models[0], name="own", checkpoint=checkpoint)))
    error = refused()
    assert (error.key, error.value) == ("the checkpoint of own", checkpoint)


def test_targets_that_are_not_the_plans_are_refused(plan: Plan) -> None:
    frame = targets.read_rows(targets_url(ROOT), 0, 6)
    targets.write_targets(frame.assign(z=frame["z"] + np.float32(0.1)), targets_url(ROOT))
    assert refused().key == "targets.parquet"


def test_a_root_without_a_plan_is_refused(plan: Plan) -> None:
    error = refused("bucket://spender/nothing")
    assert (error.key, error.value) == ("ROOT", "bucket://spender/nothing")
    assert error.expected == "a folder that holds a plan.json"


@pytest.mark.parametrize("rate", [0, -1.0, float("inf")])
def test_a_rate_that_is_none_is_refused(plan: Plan, rate: float) -> None:
    error = refused(max_requests_per_second=rate)
    assert (error.key, error.value) == ("max_requests_per_second", rate)


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("cpu_workers", "--cpu-workers", 0),
        ("gpu_workers", "--gpu-workers", -1),
        ("namespace", "--namespace", "Jane's"),
        ("folder", "--manifests", "/nowhere"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_now(plan: Plan, option: str, key: str, value: object) -> None:
    error = refused(**{option: value})
    assert (error.key, error.value) == (key, value)


def test_an_image_that_nobody_has_named_is_refused(plan: Plan) -> None:
    assert refused(image=None).key == "--image"
