"""`submit` and `scale`: the same run as a job on Kubernetes."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from types import ModuleType

from pipeline.cli.arguments import Verb, add_accept_missing, add_rate, describe, root_of
from pipeline.errors import ConfigError, RefusedError


def _add_submit(parser: ArgumentParser) -> None:
    image = "container image of all pods; with --gpu-image, of those without a GPU (default: as in the manifests)"
    parser.add_argument("--image", metavar="IMAGE", help=image)
    parser.add_argument(
        "--gpu-image",
        metavar="IMAGE",
        help="container image of the GPU workers (default: as in the manifests, or --image)",
    )
    _add_counts(parser)
    parser.add_argument("--namespace", metavar="NAME", help="Kubernetes namespace (default: as in the manifests)")
    manifests = "kustomization to start from: a folder like deploy/overlays/eks (default: deploy/base)"
    parser.add_argument("--manifests", metavar="DIR", help=manifests)
    operator = "create only Kubernetes' own resources, for a cluster without the Dask operator"
    parser.add_argument("--no-operator", action="store_true", help=operator)
    parser.add_argument("--dry-run", action="store_true", help="print the manifests and change nothing")
    parser.add_argument(
        "--detach", action="store_true", help="return once everything is created, without following the run"
    )
    parser.add_argument("--keep", action="store_true", help="keep the run's Kubernetes objects after it has ended")
    add_rate(parser)
    add_accept_missing(parser)


def _add_scale(parser: ArgumentParser) -> None:
    _add_counts(parser)
    parser.add_argument(
        "--namespace", metavar="NAME", default="spender", help="Kubernetes namespace (default: spender)"
    )


def _add_counts(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--cpu-workers",
        metavar="N",
        type=int,
        help="workers without a GPU: they ingest, and encode if there are no GPU workers",
    )
    parser.add_argument(
        "--gpu-workers", metavar="N", type=int, help="workers with one GPU each: they encode (0 for none)"
    )


def _execute_submit(args: Namespace) -> int:
    from pipeline.kubernetes import manifests
    from pipeline.kubernetes.prepare import prepare

    root = root_of(args)
    prepared = prepare(
        root,
        image=args.image,
        gpu_image=args.gpu_image,
        cpu_workers=args.cpu_workers,
        gpu_workers=args.gpu_workers,
        namespace=args.namespace,
        folder=args.manifests,
        operator=not args.no_operator,
        max_requests_per_second=args.max_requests_per_second,
        accept_missing=args.accept_missing,
    )
    if prepared is None:
        print(f"all chunks of {root} are done: nothing to submit; to write its metadata: spender-pipeline run {root}")
        return 0
    documents = prepared.documents
    if args.dry_run:
        print(manifests.to_yaml(documents), end="")
        return 0
    submission = _submission()
    api = submission.connect(manifests.namespace_of(documents))
    submitted = submission.Submitted(root, prepared.plan, prepared.name, api)
    submission.create(submitted, documents)
    print(f"submitted as {prepared.name} in the namespace {api.namespace}")
    print(f"to see its progress: spender-pipeline status {root}", flush=True)
    if args.detach:
        return 0
    try:
        ended: int = submission.follow(submitted)
    except BaseException:
        print(f"\nthe run continues; to stop it: {submitted.ending(not args.no_operator)}", file=sys.stderr)
        raise
    if not args.keep:
        try:
            submission.remove(submitted)
        except ConfigError as error:
            print(
                f"error: {describe(error)}\nto remove what was created: {submitted.ending(not args.no_operator)}",
                file=sys.stderr,
            )
    if ended != 0:
        print(f"error: the run has ended with {ended}; submit it again to resume", file=sys.stderr)
    return ended


def _submission() -> ModuleType:
    try:
        from pipeline.kubernetes import submit as submission
    except ModuleNotFoundError as error:
        remedy = "pip install 'spender-pipeline[kubernetes]'"
        raise RefusedError("kubernetes", f"the module {error.name} is not installed", remedy) from error
    return submission


def _execute_scale(args: Namespace) -> int:
    if args.cpu_workers is None and args.gpu_workers is None:
        raise RefusedError("--cpu-workers", "nothing to change", "give --cpu-workers, --gpu-workers or both")
    submission = _submission()
    api = submission.connect(args.namespace)
    for group, (before, after) in submission.scale(args.root, api, args.cpu_workers, args.gpu_workers).items():
        print(f"{group}: {before} -> {after} workers")
    return 0


SUBMIT = Verb("submit", "run as a job on Kubernetes, and show its progress", _execute_submit, _add_submit)
SCALE = Verb("scale", "change the number of workers of a submitted run", _execute_scale, _add_scale)
