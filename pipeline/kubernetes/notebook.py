"""A Dask cluster on Kubernetes for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from pipeline.compute.cluster import CONNECT_TIMEOUT, THREADS
from pipeline.kubernetes import manifests
from pipeline.planning.memory import worker_memory
from pipeline.store.root import read_plan


@contextmanager
def on_kubernetes(
    root: str,
    image: str | None = None,
    workers: int | None = None,
    folder: str | Path | None = None,
    namespace: str | None = None,
) -> Iterator[Client]:
    """Yield a client of a private cluster on Kubernetes, for a notebook that does a run itself.

    root: of the run, whose plan says how much memory its workers need. image, workers, folder (of a kustomization such
    as deploy/overlays/eks) and namespace: as of `spender-pipeline submit`, which suits anything beyond a quick look:
    here cluster and run stop with the notebook, and Dask's traffic is not encrypted (see `manifests.cluster_of`). Needs
    the extra "kubernetes" and the Dask operator. Raises ConfigError.
    """
    from dask_kubernetes.operator import KubeCluster

    plan = read_plan(root)
    request = manifests.Request(
        name=manifests.name_of(root),
        root=root,
        memory=worker_memory(plan, THREADS),
        image=image,
        cpu_workers=workers,
        namespace=namespace,
    )
    documents = manifests.fill(manifests.render(Path(folder) if folder else manifests.base()), request)
    within = manifests.namespace_of(documents)
    with KubeCluster(custom_cluster_spec=manifests.cluster_of(documents), namespace=within, quiet=True) as made:
        with Client(made, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            yield client
