"""What a submission tells of an API server's answers. The real server and operator: tests/kubernetes/trial.py."""

from __future__ import annotations

import gc
import shutil
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import kr8s
import pytest
from kr8s._async_utils import as_sync_func

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.kubernetes import manifests
from pipeline.kubernetes import submit as submission
from pipeline.kubernetes.manifests import Document
from pipeline.store import root as runs
from tests.kubernetes import api as kubernetes
from tests.running import make_root

RUN = "spender-run-abc123"
SUCCEEDED = {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}


def failed(code: int, reason: str = "Error") -> Document:
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": reason}}}]}


Serve = Callable[[kubernetes.Api], kubernetes.Api]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve an API with certificates in its namespace, where kubectl's configuration says."""
    monkeypatch.setattr(submission, "LOOK", 0.05)
    monkeypatch.setattr(submission, "CLUSTER_PATIENCE", 0.2)  # nobody makes clusters here
    connect, held = submission.connect, []
    monkeypatch.setattr(submission, "connect", lambda namespace: held.append(connect(namespace)) or held[-1])
    with ExitStack() as stack:

        def start(api: kubernetes.Api) -> kubernetes.Api:
            api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dask-tls"}})
            monkeypatch.setenv("KUBECONFIG", str(stack.enter_context(kubernetes.serve(api, tmp_path))))
            return api

        yield start
        # kr8s leaves its connections to the garbage collector, whose complaint another test would be blamed for.
        for each in [each for those in kr8s.Api._instances.values() for each in list(those.values())]:
            if each._session is not None:
                as_sync_func(each._session.aclose)()
        held.clear()
        kr8s.Api._instances.clear()  # as its own tests do: the next server has another port
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture
def api(serve: Serve) -> kubernetes.Api:
    return serve(kubernetes.Api())


@pytest.fixture
def root(tmp_path: Path, mirror: Path) -> Iterator[str]:
    """Plan a run whose ROOT, source and checkpoint have URLs, as pods would need."""
    place = f"memory://{uuid.uuid4().hex}"
    local, plan = make_root(tmp_path, mirror)
    for name in ("targets.parquet", "plan.json"):
        storage.write_bytes(f"{place}/{name}", storage.read_bytes(storage.join(local, name)))
    yield place
    storage.remove(place, recursive=True)
    shutil.rmtree(local)


@pytest.fixture
def submitted(api: kubernetes.Api, root: str) -> submission.Submitted:
    return submission.Submitted(root, runs.read_plan(root), RUN, submission.connect("spender"))


def documents(root: str) -> list[Document]:
    request = manifests.Request(name=RUN, root=root, memory=2**31, image="registry/spender:1")
    return manifests.fill(manifests.render(manifests.base()), request)


def shown(run: submission.Submitted) -> tuple[int, list[str]]:
    lines: list[str] = []
    return submission.follow(run, lines.append), lines


def test_what_is_missing_is_created_and_what_stands_is_left(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    mine = api.add(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "spender", "labels": {"my": "own"}}}
    )
    submission.create(submitted, documents(root))
    assert api.names("DaskJob") == [RUN]
    assert api.names("DaskWorkerGroup") == [f"{RUN}-gpu"]
    assert api.names("Namespace") == ["spender"]
    assert len(api.names("NetworkPolicy")) == 4
    assert mine["metadata"]["labels"] == {"my": "own"}


def test_without_certificates_nothing_of_the_run_is_created(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    api.objects.clear()
    with pytest.raises(submission.ConfigError, match=r"Secret dask-tls.*deploy/kubernetes.md"):
        submission.create(submitted, documents(root))
    assert api.names("DaskJob") == []


def test_without_the_operator_the_way_without_it_is_told(serve: Serve, root: str) -> None:
    bare = serve(kubernetes.Api(operator=False))
    run = submission.Submitted(root, runs.read_plan(root), RUN, submission.connect("spender"))
    with pytest.raises(submission.ConfigError, match="--no-operator"):
        submission.create(run, documents(root))
    submission.create(run, manifests.without_operator(documents(root)))
    assert bare.names("Job") == [f"{RUN}-runner"]
    assert bare.names("Deployment") == [f"{RUN}-{name}" for name in ("default", "gpu", "scheduler")]
    submission.remove(run)
    assert bare.names("Job") + bare.names("Deployment") + bare.names("Service") == []


def test_what_one_may_not_do_is_told_with_the_object(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    api.refusals["POST", "/daskjobs"] = 403
    with pytest.raises(submission.ConfigError, match=rf"DaskJob {RUN}.*kubectl auth can-i"):
        submission.create(submitted, documents(root))


def test_a_namespace_that_is_mistyped_is_not_made(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    api.objects.clear()
    with pytest.raises(submission.ConfigError, match="Secret dask-tls"):
        submission.create(submitted, documents(root))
    assert api.objects == {}


def test_what_may_not_be_looked_at_is_not_taken_for_missing(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    api.refusals["GET", "/secrets"] = 403
    with pytest.raises(submission.ConfigError, match="kubectl auth can-i"):
        submission.create(submitted, documents(root))


def test_half_of_a_run_is_not_left_behind(api: kubernetes.Api, submitted: submission.Submitted, root: str) -> None:
    api.refusals["POST", "/daskworkergroups"] = 500
    with pytest.raises(submission.ConfigError):
        submission.create(submitted, documents(root))
    assert api.names("DaskJob") == []


def test_a_run_ends_with_its_driver_whatever_the_job_says(api: kubernetes.Api, submitted: submission.Submitted) -> None:
    running = {"jobStatus": "Running"}
    api.add({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob", "metadata": {"name": RUN}, "status": running})
    api.pod(RUN, "job-runner", SUCCEEDED)
    assert shown(submitted)[0] == 0


@pytest.mark.parametrize(("code", "status", "is_old"), [(3, 3, False), (1, 1, True), (137, 1, False)])
def test_a_failed_driver_is_told_with_the_end_of_its_log(
    api: kubernetes.Api, submitted: submission.Submitted, code: int, status: int, is_old: bool
) -> None:
    api.has_singular_names = not is_old  # of kinds; old servers leave them out
    api.pod(RUN, "job-runner", failed(code, "OOMKilled"))
    api.logs[f"{RUN}-job-runner"] = "one\nerror: 2 of 6 chunks failed\n"
    ended, lines = shown(submitted)
    assert ended == status
    assert f"the driver ended with {code} (OOMKilled); the end of its log:" in lines
    assert "  error: 2 of 6 chunks failed" in lines


def test_a_driver_that_is_gone_ends_the_wait(api: kubernetes.Api, submitted: submission.Submitted) -> None:
    api.pod(RUN, "job-runner", {"phase": "Running"})
    lines: list[str] = []

    def remove_when_seen(line: str) -> None:
        lines.append(line)
        for path in [path for path in api.objects if "/pods/" in path]:
            api.objects.pop(path)

    assert submission.follow(submitted, remove_when_seen) == 1
    assert "submit again to resume" in lines[-1]


def test_an_api_server_that_is_away_for_a_while_ends_nothing(
    api: kubernetes.Api, submitted: submission.Submitted
) -> None:
    api.pod(RUN, "job-runner", SUCCEEDED)
    api.down = True

    def back() -> None:
        api.down = False

    later = threading.Timer(0.5, back)
    later.start()
    ended, lines = shown(submitted)
    later.join()
    assert ended == 0
    assert [line for line in lines if "the run continues, but cannot be observed" in line]


def test_an_answer_that_is_none_ends_nothing(api: kubernetes.Api, submitted: submission.Submitted) -> None:
    api.pod(RUN, "job-runner", {"phase": "Running"})
    api.garbled = 2
    later = threading.Timer(1.0, lambda: api.pod(RUN, "job-runner", SUCCEEDED))
    later.start()
    ended, lines = shown(submitted)
    later.join()
    assert ended == 0
    assert [line for line in lines if "the run continues, but cannot be observed" in line]


def test_a_bucket_that_is_busy_ends_nothing(
    api: kubernetes.Api, submitted: submission.Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LINE_SECONDS", 0.0)
    api.pod(RUN, "job-runner", SUCCEEDED)
    looks = iter([OSError("SlowDown"), 3, 3])

    def done(_: object) -> int:
        answer = next(looks)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(submission._Watch, "_done", done)
    ended, lines = shown(submitted)
    assert ended == 0
    assert [line for line in lines if "SlowDown" in line]


def test_workers_without_the_operator_go_with_their_job(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    submission.create(submitted, manifests.without_operator(documents(root)))
    owned = [each for each in api.objects.values() if each["kind"] in ("Deployment", "Service")]
    assert len(owned) == 4
    assert {each["metadata"]["ownerReferences"][0]["name"] for each in owned} == {f"{RUN}-runner"}


def test_what_keeps_pods_from_running_is_told_once(api: kubernetes.Api, submitted: submission.Submitted) -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unplaced = {"type": "PodScheduled", "status": "False", "message": message}
    api.pod(RUN, "worker", {"phase": "Pending", "conditions": [unplaced]})
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    api.pod(RUN, "scheduler", {"phase": "Pending", "containerStatuses": [pulling]})
    api.pod(RUN, "job-runner", {"phase": "Running"})
    later = threading.Timer(0.5, lambda: api.pod(RUN, "job-runner", SUCCEEDED))
    later.start()
    _, lines = shown(submitted)
    later.join()
    assert "pods running: driver 1 of 1, scheduler 0 of 1, workers 0 of 1" in lines
    (waiting,) = [line for line in lines if line.startswith("waiting")]
    assert message in waiting
    assert "ImagePullBackOff: no such image" in waiting


def test_without_a_driver_the_operator_is_asked_for(
    api: kubernetes.Api, submitted: submission.Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "OPERATOR_PATIENCE", 0.2)
    later = threading.Timer(0.8, lambda: api.pod(RUN, "job-runner", SUCCEEDED))
    later.start()
    _, lines = shown(submitted)
    later.join()
    assert [line for line in lines if "is the Dask operator running" in line]


def test_progress_is_that_of_the_ledger(
    api: kubernetes.Api, submitted: submission.Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LINE_SECONDS", 0.0)
    runs.ingest_ledger(submitted.root, submitted.plan).mark(0, {"spectra": 2})
    api.pod(RUN, "job-runner", SUCCEEDED)
    assert "1 of 6 chunks" in shown(submitted)[1]


def test_the_two_kinds_of_workers_are_scaled_apart(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    submission.create(submitted, documents(root))
    group = {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "spec": {"worker": {"replicas": 2}}}
    labels = {manifests.RUN_LABEL: RUN, manifests.ROOT_LABEL: manifests.root_label(root)}
    api.add({**group, "metadata": {"name": f"{RUN}-default", "labels": labels}})  # which the operator makes
    assert submission.scale(root, submitted.api, None, 4) == {f"{RUN}-gpu": (1, 4)}
    assert submission.scale(root, submitted.api, 1, None) == {f"{RUN}-default": (2, 1)}


def test_deployments_are_scaled_where_there_is_no_operator(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    submission.create(submitted, manifests.without_operator(documents(root)))
    assert submission.scale(root, submitted.api, 5, None) == {f"{RUN}-default": (2, 5)}


def test_workers_that_are_not_there_yet_are_not_scaled_in_silence(
    api: kubernetes.Api, submitted: submission.Submitted, root: str
) -> None:
    submission.create(submitted, documents(root))
    with pytest.raises(submission.ConfigError, match=f"{RUN}-default"):
        submission.scale(root, submitted.api, 3, None)


def test_scaling_what_does_not_run_is_refused(api: kubernetes.Api, submitted: submission.Submitted, root: str) -> None:
    with pytest.raises(submission.ConfigError, match="submit one"):
        submission.scale(root, submitted.api, 1, None)


def test_a_root_that_pods_do_not_reach_is_refused(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, _ = make_root(tmp_path, mirror)
    assert cli.main(["submit", local, "--image", "registry/spender:1"]) == 1
    shown = capsys.readouterr().err
    assert "ROOT" in shown
    assert "s3://bucket/dr17" in shown


def test_scale_without_a_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scale", "s3://bucket/dr17"]) == 1
    assert "--gpu-workers" in capsys.readouterr().err


def test_without_a_cluster_the_way_to_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(submission.ConfigError, match="KUBECONFIG"):
        submission.connect("spender")
