"""A mock survey on a real Kubernetes, disturbed in every way: whatever happens, it ends as the same run does here.

    python -m tests.kubernetes.trial --bucket-host ADDRESS [--spectra 2000] [--only NAME] [--redshift blind]

Needs a cluster with the Dask operator, reached by KUBECONFIG, whose nodes have the image of deploy/overlays/local, and
that overlay's namespace with the Secret dask-tls. ADDRESS: of this machine, as pods reach it; a SeaweedFS serves the
bucket there. Prints a line for each trial, and ends with 1 if any of them differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

import pipeline
from pipeline.kubernetes.manifests import root_label
from pipeline.mock import release as mock_release
from pipeline.mock import spectra as mock
from pipeline.planning.redshift import METHODS
from pipeline.store import root as runs
from spender_core.instrument import SDSS
from spender_core.weights import load_model, read_extras
from tests import s3

REPOSITORY = Path(__file__).resolve().parents[2]
PORT = 8333  # which the overlay's network policy lets through
PATIENCE = 900.0  # seconds
CHUNKS = 16
MODEL = "sdss-demo"
FITTED = "sdss-galaxies"  # where redshifts are asked for


@dataclass
class Bench:
    """A cluster's namespace, how redshifts are found, and what a run of the mock survey in the bucket wrote here."""

    namespace: str
    redshift: str
    reference: dict[str, Any]

    def new_root(self, name: str) -> str:
        """Plan the survey in a ROOT of its own."""
        root = f"s3://survey/{name}"
        plan(root, self.redshift)
        return root


def command(*args: str) -> None:
    """Run a command of the package, and see that it ends with 0."""
    subprocess.run([sys.executable, "-m", "pipeline", *args], check=True)


def plan(root: str, redshift: str) -> None:
    """Plan the mock survey, whose files are in the bucket, at a ROOT."""
    pipeline.plan(
        root,
        targets="s3://survey/targets.parquet",
        source="s3://survey/sas/dr17",
        models=[MODEL if redshift == "catalog" else FITTED],
        redshift=redshift,
    )


def objects(root: str) -> dict[str, Any]:
    """Read every object below ROOT that is neither a log nor the record of a failure.

    Less the versions that made it, which stores and markers tell: the image's Python may be another than ours.
    """
    fs, path = fsspec.url_to_fs(root)
    names = [name for name in fs.find(path) if "/logs/" not in name and "/failed/" not in name]
    contents = {name.removeprefix(path): fs.cat_file(name) for name in names}
    return {
        name: without_versions(json.loads(data)) if name.endswith(".json") else data for name, data in contents.items()
    }


def without_versions(value: Any) -> Any:
    """Leave out what tells of versions."""
    if isinstance(value, dict):
        shown = ("packages", "package_versions")
        return {key: without_versions(each) for key, each in value.items() if key not in shown}
    return [without_versions(each) for each in value] if isinstance(value, list) else value


def kubectl(*args: str) -> str:
    """Ask the cluster."""
    beside = Path(sys.executable).parent / "kubectl"
    return subprocess.run([str(beside), *args], check=True, capture_output=True, text=True).stdout


def pods(bench: Bench, root: str, component: str, group: str = "") -> list[str]:
    """List the pods of a run that are not on their way out, by name."""
    selector = f"spender-pipeline/root={root_label(root)},dask.org/component={component}"
    listed = json.loads(kubectl("get", "pods", "-n", bench.namespace, "-l", selector, "-o", "json"))["items"]
    names = [pod["metadata"]["name"] for pod in listed if "deletionTimestamp" not in pod["metadata"]]
    return sorted(name for name in names if group in name)


def marked(root: str) -> int:
    """Count the chunks that are done."""
    return sum(len(ledger.done()) for ledger in runs.ledgers(root, runs.read_plan(root)))


def wait_for(what: str, true: Callable[[], bool]) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(1)


@contextmanager
def submitted(bench: Bench, root: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Submit a run and follow it in a process of its own."""
    args = ["submit", root, "--manifests", str(REPOSITORY / "deploy/overlays/local"), "--namespace", bench.namespace]
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *args, *options])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def scale(bench: Bench, root: str, *options: str) -> None:
    """Scale the workers of a run."""
    command("scale", root, "--namespace", bench.namespace, *options)


def workers_of(root: str) -> dict[str, set[str]]:
    """Read from the logs which pods did what, by stage."""
    fs, path = fsspec.url_to_fs(f"{root}/logs")
    found: dict[str, set[str]] = {"ingest": set(), "encode": set()}
    for name in fs.find(path):
        for line in fs.cat_file(name).decode().splitlines():
            entry = json.loads(line)
            if entry.get("event") == "done" and "worker" in entry:
                found[entry["stage"]].add(entry["worker"].rsplit(":", 1)[0])
    return found


# --- the trials ---


def undisturbed(bench: Bench, root: str) -> None:
    """The job ends Successful; CPU workers ingest, GPU workers encode, and nobody does the others' work."""
    with submitted(bench, root, "--keep") as process:
        assert process.wait(PATIENCE) == 0
    selector = ("-n", bench.namespace, "-l", f"spender-pipeline/root={root_label(root)}")
    ended = ("get", "daskjob", *selector, "-o", "jsonpath={.items[*].status.jobStatus}")
    wait_for("the operator to see the end", lambda: kubectl(*ended) == "Successful")
    kubectl("delete", "daskjob", *selector)
    did = workers_of(root)
    assert did["ingest"], "nothing was ingested"
    assert all("-default-worker-" in name for name in did["ingest"]), did["ingest"]
    assert all("-gpu-worker-" in name for name in did["encode"]), did["encode"]


def worker_deleted(bench: Bench, root: str) -> None:
    """A worker's pod is deleted while it works."""
    with submitted(bench, root) as process:
        wait_for("three chunks", lambda: marked(root) >= 3)
        (victim, *_) = pods(bench, root, "worker", "-default-")
        kubectl("delete", "pod", "-n", bench.namespace, victim, "--wait=false")
        assert process.wait(PATIENCE) == 0


def scaled(bench: Bench, root: str) -> None:
    """From one CPU worker to three and back to one, while they work; and a second GPU worker."""
    with submitted(bench, root) as process:
        wait_for("two chunks", lambda: marked(root) >= 2)
        scale(bench, root, "--cpu-workers", "3", "--gpu-workers", "2")
        wait_for("three workers", lambda: len(pods(bench, root, "worker", "-default-")) == 3)
        before = marked(root)
        wait_for("four more chunks", lambda: marked(root) >= before + 4)
        scale(bench, root, "--cpu-workers", "1")
        assert process.wait(PATIENCE) == 0


def scheduler_deleted(bench: Bench, root: str) -> None:
    """The scheduler's pod is deleted: the run ends, says so, and is submitted again."""
    with submitted(bench, root) as process:
        wait_for("three chunks", lambda: marked(root) >= 3)
        (scheduler,) = pods(bench, root, "scheduler")
        kubectl("delete", "pod", "-n", bench.namespace, scheduler, "--wait=false")
        assert process.wait(PATIENCE) == 1
    with submitted(bench, root) as process:
        assert process.wait(PATIENCE) == 0


def without_operator(bench: Bench, root: str) -> None:
    """The same in Kubernetes' own resources alone."""
    with submitted(bench, root, "--no-operator") as process:
        assert process.wait(PATIENCE) == 0


TRIALS = (undisturbed, worker_deleted, scaled, scheduler_deleted, without_operator)


def make_survey(folder: Path, spectra: int) -> None:
    """Write mock spectra and their catalog into the bucket."""
    release = folder / "sas" / "dr17"
    model, _ = load_model(MODEL, SDSS())
    restframes = mock.decoded(model, mock.smoothed(read_extras(MODEL)["latents"].numpy()))
    entries = mock_release.write_spectra(release, restframes, spectra)
    mock_release.write_catalog(entries, folder / "specObj.fits")
    fs, _ = fsspec.url_to_fs("s3://survey")
    fs.put(str(release), "survey/sas/dr17", recursive=True)
    pipeline.select_targets(folder / "specObj.fits", output="s3://survey/targets.parquet")


def share_bucket(namespace: str, server: s3.Server) -> None:
    """Tell the pods where the bucket is, and how it is opened."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    values = {name: server.environment[name] for name in names}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bucket", "namespace": namespace},
        "stringData": values,
    }
    beside = Path(sys.executable).parent / "kubectl"
    subprocess.run([str(beside), "apply", "-f", "-"], check=True, input=json.dumps(secret), text=True)


def main() -> int:
    """Run the trials one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bucket-host", required=True)
    parser.add_argument("--namespace", default="spender")
    parser.add_argument("--spectra", type=int, default=2000)
    parser.add_argument("--only", choices=[trial.__name__ for trial in TRIALS])
    parser.add_argument("--redshift", choices=METHODS, default="catalog")
    asked = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with s3.serve(folder / "s3", asked.bucket_host, PORT) as server:
            s3.client(server).create_bucket(Bucket="survey")
            with s3.as_default(server):
                share_bucket(asked.namespace, server)
                make_survey(folder, asked.spectra)
                bench = Bench(asked.namespace, asked.redshift, {})
                here = bench.new_root("here")
                assert len(runs.read_plan(here).shards()) >= CHUNKS
                pipeline.run(here)
                bench.reference = objects(here)
                for trial in TRIALS:
                    if asked.only in (None, trial.__name__):
                        root = bench.new_root(trial.__name__.replace("_", "-"))
                        started = time.monotonic()
                        trial(bench, root)
                        found = objects(root)
                        other = {key for key in found | bench.reference if found.get(key) != bench.reference.get(key)}
                        differing += len(other)
                        shown = f"{len(found)} objects, {len(other)} differing {sorted(other)[:4] or ''}"
                        print(f"{trial.__name__}: {shown}, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
