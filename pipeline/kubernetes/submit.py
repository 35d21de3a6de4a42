"""A run on Kubernetes: its objects created, followed by the ledger to its end, scaled, and removed."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import kr8s
from kr8s.objects import APIObject, Pod, object_from_spec

from pipeline.errors import ConfigError, ExitStatus, RefusedError
from pipeline.kubernetes.manifests import ROOT_LABEL, RUN_LABEL, Document, root_label, split
from pipeline.monitor.units import duration
from pipeline.planning.plan import Plan
from pipeline.signals import check
from pipeline.store.root import ledgers

LOOK = 5.0
"""Seconds between two looks at the ledger and at the pods."""

LINE_SECONDS = 30.0
"""Least time between two lines that tell how far a run is."""

OPERATOR_PATIENCE = 60.0
"""Seconds without a driver after which the operator is asked for; it needs a few."""

CLUSTER_PATIENCE = 30.0
"""Seconds to wait for the operator to make the cluster that a worker group belongs to: a group that comes before it is
taken up a minute later only."""

TAIL = 30
"""Lines of a failed driver's log that are shown."""


_FAULTS = (kr8s.APITimeoutError, kr8s.ConnectionClosedError, kr8s.ServerError, httpx.HTTPError)
# A busy bucket, credentials that a plug-in renews, an answer that is empty: what may be better at the next look.
_PASSING = (*_FAULTS, OSError, RuntimeError, ValueError)
_TLS_SECRET = "dask-tls"
_EVENTS = "kubectl get events --namespace {} shows what was refused"
_CLUSTERS = "daskclusters.kubernetes.dask.org"
_GROUPS = "daskworkergroups.kubernetes.dask.org"
_NAMES = {"job-runner": "driver", "scheduler": "scheduler", "worker": "workers"}


def _say(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True)
class Submitted:
    """A run in a cluster: its ROOT and plan, its name there, and the API of its namespace."""

    root: str
    plan: Plan
    name: str
    api: kr8s.Api

    def ending(self, operator: bool) -> str:
        """Return the command that removes the run from the cluster; its other objects go with those that it names."""
        kind = "daskjob" if operator else "job"
        return f"kubectl delete {kind} --namespace {self.api.namespace} --selector {self.selector}"

    @property
    def selector(self) -> str:
        """What selects its objects."""
        return f"{RUN_LABEL}={self.name}"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what the API server refuses, and a server that is not there, into errors that a user can correct."""
    try:
        yield
    except kr8s.ServerError as error:
        remedy = "kubectl auth can-i --list shows what you may do" if _code(error) in (401, 403) else None
        raise RefusedError("kubernetes", f"the API server refused {what}", _reason(error, remedy)) from error
    except (httpx.HTTPError, kr8s.APITimeoutError, kr8s.ConnectionClosedError) as error:
        problem = f"the API server did not answer to {what}"
        raise RefusedError("kubernetes", problem, _reason(error, "see kubectl cluster-info")) from error


def _code(error: kr8s.ServerError) -> int:
    return error.response.status_code if error.response is not None else 0


def _reason(error: BaseException, remedy: str | None) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text}; {remedy}" if remedy else text


def connect(namespace: str) -> kr8s.Api:
    """Return the API server that the environment names (KUBECONFIG, ~/.kube/config). Raises ConfigError."""
    try:
        with _translated("the cluster"):
            return kr8s.api(namespace=namespace)
    except ConfigError:
        raise
    except Exception as error:  # no configuration, one that cannot be read, a plug-in that fails: of any type
        where = os.environ.get("KUBECONFIG", "~/.kube/config")
        remedy = "kubectl cluster-info says whether it works"
        raise ConfigError("KUBECONFIG", where, "the configuration of a cluster", _reason(error, remedy)) from error


def create(run: Submitted, documents: Iterable[Document]) -> None:
    """Create a run's objects, and those that stand in its namespace where they are missing.

    What exists already is left as it is. Raises ConfigError for what the API server refuses, and where certificates or
    the operator are missing.
    """
    standing, of_run = split(documents)
    # Looked for first: a namespace that is mistyped has none, and is not made.
    _require_certificates(run)
    for document in standing:
        _stand(run, document)
    owner: Document | None = None
    for document in of_run:
        if document["kind"] == "DaskWorkerGroup":
            _await_cluster(run, document["spec"]["cluster"])
        made = _object(run, _owned(document, owner))
        try:
            with _translated(_name(document)):
                made.create()
        except ConfigError as error:
            with suppress(ConfigError):
                remove(run)
            refusal = error.__cause__
            unknown = isinstance(refusal, kr8s.ServerError) and _code(refusal) == 404
            if unknown and document["kind"].startswith("Dask"):
                problem = f"the cluster has no resource {document['kind']}: the Dask operator is not installed there"
                remedy = "install it (deploy/kubernetes.md says how), or pass --no-operator"
                raise RefusedError("kubernetes", problem, remedy) from error
            raise
        if document["kind"] == "Job":
            owner = made.to_dict()


def _name(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def _stand(run: Submitted, document: Document) -> None:
    """Create what all runs share, unless it is there."""
    wanted = _object(run, document)
    with _translated(_name(document)):
        try:
            wanted.refresh()
        except kr8s.NotFoundError:
            try:
                wanted.create()
            except kr8s.ServerError as error:
                if _code(error) != 409:  # another submission was first
                    raise


def _owned(document: Document, owner: Document | None) -> Document:
    """Make the Job of its run own an object, so that both are removed together; the operator does so by itself."""
    if owner is None:
        return document
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [reference]}}


def _await_cluster(run: Submitted, name: str) -> None:
    """Wait for a worker group's cluster, for a while."""
    deadline = time.monotonic() + CLUSTER_PATIENCE
    while time.monotonic() < deadline:
        with suppress(*_FAULTS):
            if any(found.name == name for found in _find(run.api, _CLUSTERS, run.selector)):
                return
        check()
        time.sleep(min(1.0, CLUSTER_PATIENCE))


def _object(run: Submitted, document: Document) -> APIObject:
    return object_from_spec(document, api=run.api, allow_unknown_type=True)


def _require_certificates(run: Submitted) -> None:
    metadata = {"name": _TLS_SECRET, "namespace": run.api.namespace}
    secret = _object(run, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    try:
        with _translated(f"Secret {_TLS_SECRET}"):
            secret.refresh()
    except kr8s.NotFoundError as error:
        remedy = "create the namespace and the certificates: deploy/kubernetes.md says how"
        problem = f"there is no Secret {_TLS_SECRET} in the namespace {run.api.namespace}"
        raise RefusedError(f"Secret {_TLS_SECRET}", problem, remedy) from error


def remove(run: Submitted) -> None:
    """Remove a run's objects from the cluster; Kubernetes removes their dependent objects, too."""
    for kind in ("daskjobs.kubernetes.dask.org", _GROUPS, "jobs", "deployments", "services"):
        with _translated(f"removing {kind} of {run.name}"):
            for found in _find(run.api, kind, run.selector):
                try:
                    found.delete(propagation_policy="Background")
                except kr8s.NotFoundError:
                    pass  # with what it hung on


def _find(api: kr8s.Api, kind: str, selector: str) -> list[APIObject]:
    try:
        return list(kr8s.get(kind, namespace=api.namespace, label_selector=selector, api=api))
    except kr8s.NotFoundError:
        return []
    except ValueError as error:  # a kind that this cluster does not know; an answer that is none is another fault
        if re.fullmatch(r"Kind \S+ not found\.", str(error)):
            return []
        raise


def follow(run: Submitted, say: Callable[[str], None] = _say, clock: Callable[[], float] = time.monotonic) -> int:
    """Tell how far a run is until its driver has ended; returns the exit status of `spender-pipeline run`.

    The ledger has its progress, the driver's pod how it ended: a DaskJob may say Running for ever
    (dask-kubernetes issue 975). The API server may be away for a while.
    """
    watch = _Watch(run, say, clock)
    while True:
        check()
        try:
            ended = watch.look()
        except _PASSING as error:
            watch.note("faults", f"the run continues, but cannot be observed: {_reason(error, None)}")
            ended = None
        if ended is not None:
            return ended
        time.sleep(LOOK)


class _Watch:
    """What has been seen of a run, and shown."""

    def __init__(self, run: Submitted, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._run = run
        self._say = say
        self._clock = clock
        self._started = self._told_at = clock()
        self._first: tuple[float, int] | None = None
        self._notes: dict[str, str] = {}
        self._seen = False
        self._missed = 0

    def look(self) -> int | None:
        """Tell what is new; give the exit status when the run has ended."""
        pods = _find(self._run.api, "pods", self._run.selector)
        drivers = [pod for pod in pods if _component(pod) == "job-runner"]
        self._tell_pods(pods)
        self._tell_progress()
        if not drivers:
            return self._without_driver()
        self._seen, self._missed = True, 0
        status = _status(drivers[0])
        return self._ended(drivers[0], status) if status.get("phase") in ("Succeeded", "Failed") else None

    def note(self, about: str, text: str) -> None:
        """Show a line, unless it is the last one shown of that kind."""
        if self._notes.get(about) != text:
            self._notes[about] = text
            if text:
                self._say(text)

    def _done(self) -> int:
        return sum(len(ledger.done()) for ledger in ledgers(self._run.root, self._run.plan))

    def _tell_progress(self) -> None:
        now = self._clock()
        if now - self._told_at < LINE_SECONDS:
            return
        self._told_at = now
        total = len(self._run.plan.shards()) * len(ledgers(self._run.root, self._run.plan))
        done = self._done()
        if self._first is None or self._first[1] == done:  # until then nodes start, and images are pulled
            self._first = (now, done)
        since, before = self._first
        new = done - before
        left = f", about {duration((total - done) * (now - since) / new)} left" if new and done < total else ""
        self.note("chunks", f"{done} of {total} chunks{left}")

    def _tell_pods(self, pods: list[APIObject]) -> None:
        running: Counter[str] = Counter()
        wanted: Counter[str] = Counter()
        troubles: set[str] = set()
        for pod in pods:
            name, status = _NAMES.get(_component(pod), "others"), _status(pod)
            wanted[name] += 1
            running[name] += status.get("phase") in ("Running", "Succeeded")
            troubles |= _troubles(name, status)
        counts = ", ".join(f"{name} {running[name]} of {wanted[name]}" for name in _NAMES.values() if wanted[name])
        self.note("pods", counts and f"pods running: {counts}")
        self.note("troubles", "; ".join(f"waiting: {trouble}" for trouble in sorted(troubles)))

    def _without_driver(self) -> int | None:
        self._missed += 1
        if self._seen and self._missed > 1:
            self._say("the driver's pod is gone; finished chunks are kept: submit again to resume")
            return ExitStatus.REFUSED
        if self._clock() - self._started > OPERATOR_PATIENCE:
            hint = _EVENTS.format(self._run.api.namespace)
            self.note("driver", f"waiting: there is no driver yet; is the Dask operator running? {hint}")
        return None

    def _ended(self, driver: APIObject, status: Document) -> int:
        ends = [each.get("state", {}).get("terminated") or {} for each in status.get("containerStatuses", [])]
        usual = ExitStatus.DONE if status["phase"] == "Succeeded" else ExitStatus.REFUSED
        code = next((int(end["exitCode"]) for end in ends if "exitCode" in end), usual)
        if code == ExitStatus.DONE:
            self._say(f"done: {self._done()} chunks")
            return ExitStatus.DONE
        why = next((end["reason"] for end in ends if end.get("reason")), status.get("reason", status["phase"]))
        self._say(f"the driver ended with {code} ({why}); the end of its log:")
        for line in _log_of(driver):
            self._say(f"  {line}")
        return ExitStatus.SOME_FAILED if code == ExitStatus.SOME_FAILED else ExitStatus.REFUSED


def _component(found: APIObject) -> str:
    return str(found.to_dict()["metadata"].get("labels", {}).get("dask.org/component", ""))


def _status(pod: APIObject) -> Document:
    status: Document = pod.to_dict().get("status", {})
    return status


def _troubles(component: str, status: Document) -> set[str]:
    """Say what keeps a pod from running: no node for it, or no image."""
    found = {
        f"{component}: {condition['message']}"
        for condition in status.get("conditions", [])
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("message")
    }
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            found.add(f"{component}: {waiting['reason']}: {waiting.get('message', 'no message')}")
    return found


def _log_of(found: APIObject) -> list[str]:
    """Return the last lines of a pod's log. kr8s does not know pods of servers that leave out their singular name."""
    pod = found if isinstance(found, Pod) else Pod(found.to_dict(), api=found.api)
    try:
        return list(pod.logs(tail_lines=TAIL)) or ["(it is empty)"]
    except (*_FAULTS, kr8s.NotFoundError) as error:
        return [f"no log: {_reason(error, None)}"]


def scale(root: str, api: kr8s.Api, cpu_workers: int | None, gpu_workers: int | None) -> dict[str, tuple[int, int]]:
    """Change how many workers the run of a ROOT has; gives the numbers before and after by group.

    Workers that go hand their chunks back: nothing is lost, and what they had begun, another starts again. Raises
    ConfigError when no run of that ROOT, or more than one, is there.
    """
    selector = f"{ROOT_LABEL}={root_label(root)}"
    with _translated("the workers of the run"):
        # The operator makes one Deployment of each worker; where it does not, a Deployment is a group.
        groups = _find(api, _GROUPS, selector) or _find(api, "deployments", f"{selector},dask.org/component=worker")
    names = {str(group.to_dict()["metadata"]["labels"][RUN_LABEL]) for group in groups}
    if len(names) != 1:
        if names:
            remedy = "choose one of them, and scale it with kubectl scale"
            raise RefusedError("ROOT", f"several jobs work on {root}: {', '.join(sorted(names))}", remedy)
        remedy = "submit one, or pass --namespace"
        raise RefusedError("ROOT", f"no run of {root} is in the namespace {api.namespace}", remedy)
    (name,) = names
    wishes = {f"{name}-default": cpu_workers, f"{name}-gpu": gpu_workers}
    for missing in {each for each, count in wishes.items() if count is not None} - {group.name for group in groups}:
        problem = f"the run of {root} has no group of workers {missing}"
        raise RefusedError("ROOT", problem, "it may still be starting: try again")
    changed: dict[str, tuple[int, int]] = {}
    for group in groups:
        wanted = wishes.get(group.name)
        if wanted is None:
            continue
        spec, patch = group.to_dict()["spec"], {"replicas": wanted}
        before = int((spec["worker"] if "worker" in spec else spec)["replicas"])
        with _translated(f"{group.kind} {group.name}"):
            group.patch({"spec": {"worker": patch} if "worker" in spec else patch})
        changed[group.name] = (before, wanted)
    return changed
