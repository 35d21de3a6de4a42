"""What the Dask operator makes of its own resources, by its own code, and what its API would not take of them."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dask_kubernetes
import yaml
from dask_kubernetes.operator.controller import controller

Document = dict[str, Any]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RUNNABLE = ("base", "overlays/eks", "overlays/gke", "overlays/local")
"""The folders of deploy/ that hold a whole run."""

_CRDS = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
_TYPES = {"array": list, "boolean": bool, "integer": int, "object": dict, "string": str}
_KEYWORDS = {"type", "properties", "additionalProperties", "required", "items"}
_NO_RULES = {"default", "description", "format", "nullable"}  # and what begins with x-kubernetes-


def tool(name: str) -> str:
    """Find a command of this environment, else of the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    assert found is not None, name
    return found


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning"
    return done.stdout


def render(folder: Path) -> list[Document]:
    """Render a kustomization, which is to cause no warning."""
    return [document for document in yaml.safe_load_all(_rendered(folder)) if document]


def the(documents: Iterable[Document], kind: str) -> Document:
    """Give the one document of a kind."""
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


@cache
def _schemas() -> dict[str, Document]:
    definitions = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in _CRDS.glob("*.yaml")]
    found = {}
    for definition in definitions:
        (version,) = definition["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        beside = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {}}
        found[definition["spec"]["names"]["kind"]] = {**schema, "properties": {**schema["properties"], **beside}}
    return found


def faults(document: Document) -> list[str]:
    """List what the schema of a Dask resource refuses, and the fields that it does not know.

    An API server refuses the former and drops the latter, which is how a security context is lost without a word.
    """
    return list(_faults(document, _schemas()[document["kind"]], ""))


def _faults(value: Any, schema: Document, path: str) -> Iterator[str]:
    unheard = {key for key in schema if not key.startswith("x-kubernetes-")} - _KEYWORDS - _NO_RULES
    assert not unheard, f"rules that are not checked here: {unheard}"
    if "type" not in schema:
        return
    if not isinstance(value, _TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        yield f"{path}: {value!r} is not of type {schema['type']}"
    elif schema["type"] == "object":
        yield from (f"{path}/{key}: missing" for key in set(schema.get("required", ())) - set(value))
        for key, each in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if inner is not None:
                yield from _faults(each, inner, f"{path}/{key}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}/{key}: unknown"
    elif schema["type"] == "array":
        for number, each in enumerate(value):
            yield from _faults(each, schema["items"], f"{path}/{number}")


def resources(document: Document) -> list[Document]:
    """List a Dask resource and those that the operator makes of it; of other documents, themselves."""
    spec, name = document.get("spec", {}), document["metadata"]["name"]
    if document["kind"] == "DaskJob":
        of_cluster = spec["cluster"]["spec"]
        arguments = (name, of_cluster["worker"], of_cluster["scheduler"], *_metadata(document, spec["cluster"]))
        return [document, *resources(_beside(document, controller.build_cluster_spec(*arguments)))]
    if document["kind"] == "DaskCluster":
        arguments = (name, spec["worker"], *_metadata(document, spec["worker"]))
        return [document, _beside(document, controller.build_default_worker_group_spec(*arguments))]
    return [document]


def expand(documents: Iterable[Document]) -> list[Document]:
    """Replace Dask's resources by what the operator makes of them, with one worker of each group."""
    every = [each for document in documents for each in resources(document)]
    return [_beside(each, copy.deepcopy(made)) for each in every for made in _made(each)]


def _made(document: Document) -> list[Document]:
    spec, metadata = document.get("spec", {}), document["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace", "default")
    if document["kind"] == "DaskJob":
        about = _metadata(document, spec["job"])
        return [controller.build_job_pod_spec(name, name, namespace, spec["job"]["spec"], *about)]
    if document["kind"] == "DaskCluster":
        scheduler, about = spec["scheduler"], _metadata(document, spec["scheduler"])
        return [
            controller.build_scheduler_deployment_spec(name, scheduler["spec"], *about),
            controller.build_scheduler_service_spec(name, scheduler["service"], *about),
        ]
    if document["kind"] == "DaskWorkerGroup":
        worker, about = spec["worker"], _metadata(document, spec["worker"])
        arguments = (name, namespace, spec["cluster"], "0", worker["spec"])
        return [controller.build_worker_deployment_spec(*arguments, *about)]
    return [document]


def _metadata(document: Document, part: Document) -> list[dict[str, str]]:
    """Give the annotations and labels that the operator hands on: a resource's, and over them those of its part."""
    each = [document["metadata"], part.get("metadata", {})]
    return [each[0].get(key, {}) | each[1].get(key, {}) for key in ("annotations", "labels")]


def _beside(document: Document, made: Document) -> Document:
    """Put what is made of a document into the namespace of that."""
    if made["kind"] != "Namespace" and "namespace" in document["metadata"]:
        made["metadata"]["namespace"] = document["metadata"]["namespace"]
    return made


def pods(documents: Iterable[Document]) -> dict[str, Document]:
    """Find the pods of expanded manifests, as metadata and spec: driver, scheduler, cpu and gpu."""
    found = {}
    for document in documents:
        pod = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
        if pod is not None:
            labels = pod["metadata"]["labels"]
            group = "gpu" if labels.get("dask.org/workergroup-name", "").endswith("-gpu") else "cpu"
            of = {"job-runner": "driver", "scheduler": "scheduler", "worker": group}[labels["dask.org/component"]]
            assert of not in found
            found[of] = pod
    assert set(found) == {"driver", "scheduler", "cpu", "gpu"}
    return found


def container(pod: Document) -> Document:
    """Give the one container of a pod."""
    (found,) = pod["spec"]["containers"]
    return found


def variables(pod: Document) -> dict[str, str]:
    """Give the environment of a pod's container."""
    return {each["name"]: each["value"] for each in container(pod).get("env", []) if "value" in each}
