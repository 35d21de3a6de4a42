"""The manifests of one run: its plan and what is asked of the cluster -> documents, nothing created yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.compute import job, preflight
from pipeline.compute.cluster import THREADS
from pipeline.errors import ConfigError
from pipeline.kubernetes import manifests
from pipeline.kubernetes.manifests import Document
from pipeline.planning.memory import worker_memory
from pipeline.planning.plan import Plan
from pipeline.planning.stages import STAGES
from pipeline.store.root import read_plan
from spender_core.weights import PUBLISHED


@dataclass(frozen=True)
class Prepared:
    """A run as it is to be submitted: its name, its plan and its manifests."""

    name: str
    plan: Plan
    documents: list[Document]


def prepare(
    root: str,
    *,
    image: str | None = None,
    gpu_image: str | None = None,
    cpu_workers: int | None = None,
    gpu_workers: int | None = None,
    namespace: str | None = None,
    folder: str | Path | None = None,
    operator: bool = True,
    max_requests_per_second: float | None = None,
    accept_missing: bool = False,
) -> Prepared | None:
    """Fill the manifests of a kustomization for a run; None when nothing is pending.

    image, gpu_image: of the pods on CPUs and GPUs; cpu_workers, gpu_workers: how many of them; None leaves each as the
    manifests have it. folder: of a kustomization such as deploy/overlays/eks, default deploy/base. operator: whether
    Dask's resources may be used. accept_missing: as of `pipeline.run`. Raises ConfigError for places that pods do not
    reach, for targets that are not the plan's, and for manifests that cannot be rendered.
    """
    made = read_plan(root)
    made.require_current()
    _refuse_places_on_this_machine(root, made)
    preflight.check_targets(root, made)
    rate = max_requests_per_second
    if rate is not None:
        replace(made.config, max_requests_per_second=rate)  # refuses what is no rate
    if not job.pending(root, made, STAGES, [model.name for model in made.models]).tasks:
        return None
    request = manifests.Request(
        name=manifests.name_of(root),
        root=root,
        memory=worker_memory(made, THREADS),
        image=image,
        gpu_image=gpu_image,
        cpu_workers=cpu_workers,
        gpu_workers=gpu_workers,
        namespace=namespace,
        options=(
            *(() if rate is None else ("--max-requests-per-second", str(rate))),
            *(("--accept-missing",) if accept_missing else ()),
        ),
    )
    documents = manifests.fill(manifests.render(manifests.base() if folder is None else Path(folder)), request)
    return Prepared(request.name, made, documents if operator else manifests.without_operator(documents))


def _refuse_places_on_this_machine(root: str, made: Plan) -> None:
    """Refuse what pods do not reach."""
    config = made.config
    places = {"ROOT": root, "source": config.source, "cache": config.cache}
    places |= {
        f"the checkpoint of {model.name}": model.checkpoint
        for model in made.models
        if model.checkpoint not in PUBLISHED
    }
    for key, url in places.items():
        if url is not None and ("://" not in url or storage.local_path(url) is not None or url.startswith("memory:")):
            remedy = "pods cannot read this machine's disk: use a bucket, and plan with it"
            raise ConfigError(key, url, "a URL that every pod reaches, such as s3://bucket/dr17", remedy)
