"""Runs whose ROOT is a bucket of a real S3 server: the same objects as on a disk, and every mistake shown in a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
import xarray as xr
from distributed import Client

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute import cluster, executor, job
from pipeline.compute.executor import Summary
from pipeline.errors import ConfigError
from pipeline.monitor import run_log as journal
from pipeline.monitor.progress import make_progress
from pipeline.planning.plan import Plan
from pipeline.store import finalize
from pipeline.store import root as runs
from pipeline.store import verify as verification
from tests import faults, s3
from tests.running import make_root

BOTH = ("ingest", "encode")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as running:
        s3.client(running)  # it answers before its volumes can be written
        with s3.as_default(running):
            yield running


@pytest.fixture
def bucket(server: s3.Server) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def client(server: s3.Server) -> Iterator[Client]:
    with cluster.connect(workers=2) as connected:
        assert connected is not None
        yield connected


def planned(tmp_path: Path, mirror: Path, bucket: str, *, n: int = 6, source: str | None = None) -> tuple[str, Plan]:
    """Plan a run on a disk and copy the plan to the bucket."""
    local, plan = make_root(tmp_path, mirror, n=n, source=source)
    root = f"{bucket}/run"
    targets.write_targets(
        targets.read_rows(runs.targets_url(local), 0, n), runs.targets_url(root), row_group=plan.shard
    )
    storage.write_bytes(storage.join(root, "plan.json"), plan.to_json())
    return root, plan


def do(root: str, plan: Plan, client: Client | None) -> Summary:
    summary = executor.run(job.pending(root, plan, BOTH, ("random",)), client, make_progress())
    if not summary.failed:
        finalize.finalize(root, plan)
    return summary


def objects(root: str) -> dict[str, bytes]:
    """Read every object below ROOT, by its path there."""
    fs, path = fsspec.url_to_fs(root)
    return {name.removeprefix(path).strip("/"): fs.cat_file(name) for name in fs.find(path)}


def test_a_run_in_a_bucket_is_the_run_on_a_disk(tmp_path: Path, mirror: Path, bucket: str, client: Client) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    summary = do(root, plan, client)
    assert (summary.done, summary.failed) == (6, ())
    local = str(tmp_path / "run")
    do(local, plan, None)
    assert objects(root) == objects(local)
    assert verification.verify(root, plan).problems == ()


def test_the_result_opens_in_xarray_and_through_the_package(
    tmp_path: Path, mirror: Path, bucket: str, client: Client
) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    do(root, plan, client)
    opened = xr.open_zarr(f"{root}/encodings/random.zarr")
    assert np.isfinite(opened["latents"].values).all()
    encodings = pipeline.open_run(root).encodings("random")
    xr.testing.assert_identical(encodings["latents"].load(), opened["latents"].load())


def test_what_is_done_is_not_done_again_and_what_is_missing_is(
    tmp_path: Path, mirror: Path, bucket: str, client: Client
) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    do(root, plan, client)
    before = objects(root)
    assert do(root, plan, client).done == 0
    runs.ingest_ledger(root, plan).unmark(1)
    assert do(root, plan, client).done == 2  # its spectra and their encoding
    assert objects(root) == before


def test_damage_in_a_bucket_is_found_and_mended(tmp_path: Path, mirror: Path, bucket: str, client: Client) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    do(root, plan, client)
    before = objects(root)
    damaged = next(name for name in sorted(before) if name.startswith("spectra.zarr/flux/c/1"))
    fs, path = fsspec.url_to_fs(root)
    fs.pipe_file(f"{path}/{damaged}", before[damaged][:-100] + bytes(100))
    assert verification.verify(root, plan, repair=True).unmarked == 1
    do(root, plan, client)
    assert verification.verify(root, plan).problems == ()
    assert objects(root) == before


@pytest.mark.long
@pytest.mark.parametrize("cut", [0, 20])
def test_objects_cut_short_in_a_bucket_are_damage(
    tmp_path: Path, mirror: Path, bucket: str, client: Client, cut: int
) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    do(root, plan, client)
    before = objects(root)
    for name in ("spectra.zarr/flux/c/1/0", "encodings/random.zarr/chi2/c/0", "encodings/random.zarr/z/c/0"):
        storage.write_bytes(f"{root}/{name}", before[name][:cut])
    found = verification.verify(root, plan, repair=True)
    assert (found.restored, found.unmarked) == (("encode random",), 2)
    do(root, plan, client)
    assert verification.verify(root, plan).problems == ()
    assert objects(root) == before


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, mirror: Path, server: s3.Server) -> tuple[str, Plan]:
    """Give a finished run in a bucket of which one object is lost."""
    bucket = f"damaged-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    root, plan = planned(tmp_path_factory.mktemp("damaged"), mirror, f"s3://{bucket}")
    do(root, plan, None)
    storage.remove(f"{root}/spectra.zarr/flux/c/1/0")
    return root, plan


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "after"),
    [("denied", 0), ("expired", 60), ("error", 60), ("reset-before", 0), ("truncated", 0), ("truncated", 60)],
)
def test_a_server_that_fails_is_not_taken_for_damage(
    damaged: tuple[str, Plan], server: s3.Server, fault: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far `verify --repair` has come when the server begins to fail, for good."""
    root, plan = damaged
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # they only take time here
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    before = objects(root)
    with faults.between(server.endpoint) as proxy, s3.as_default(server, endpoint=proxy.endpoint):
        with proxy.spoiling(fault, 1.0, after=after), pytest.raises((OSError, ConfigError)):
            verification.verify(root, plan, repair=True)
        assert proxy.injected[fault] > 0
    assert objects(root) == before


def test_spectra_and_catalog_come_from_a_bucket_and_fill_another(
    tmp_path: Path, mirror: Path, catalog: Path, bucket: str, client: Client
) -> None:
    fs = s3fs.S3FileSystem()
    for file in [catalog, *mirror.glob("sdss/spectro/redux/26/spectra/**/spec-*.fits")]:
        fs.put_file(str(file), f"{bucket}/sas/dr17/{file.relative_to(mirror)}")
    url = f"{bucket}/sas/dr17/{catalog.relative_to(mirror)}"
    assert targets.read_targets(url).equals(targets.read_targets(str(catalog)))
    config = f'source = "{bucket}/sas/dr17"\ntargets = "{bucket}/t.parquet"\ncache = "{bucket}/cache"\nshard = 4\n'
    (tmp_path / "survey.toml").write_text(config)
    root = f"{bucket}/run"
    commands = (
        ["targets", url, "--where", "PLATE == 266 and FIBERID < 300", "--output", f"{bucket}/t.parquet"],
        ["plan", root, "--config", str(tmp_path / "survey.toml")],
        ["ingest", root, "--serial"],
        ["status", root],
    )
    for command in commands:
        assert cli.main(command) == 0, command
    cached = {name.split("/cache/")[1] for name in fs.find(f"{bucket}/cache")}
    assert len(cached) == targets.count(f"{bucket}/t.parquet")
    assert all((mirror / path).is_file() for path in cached)


# --- mistakes ---


def in_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", [["status"], ["run", "--serial"]])
@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "PermissionError"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "PermissionError"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
    ],
)
def test_wrong_credentials_are_told_in_one_line_and_kept_secret(
    tmp_path: Path, mirror: Path, bucket: str, command: list[str], change: dict[str, str], shown: str
) -> None:
    root, _ = planned(tmp_path, mirror, bucket)
    ours = [sys.executable, "-m", "pipeline", command[0], root, *command[1:]]
    done = subprocess.run(ours, env={**os.environ, **change}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert shown in line
    assert s3.SECRET not in line
    assert "Traceback" not in done.stdout


def test_a_bucket_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, mirror: Path, server: s3.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.parquet"
    targets.write_targets(targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits")), str(table))
    capsys.readouterr()
    options = ["--targets", str(table), "--source", str(mirror), "--model", "sdss-demo"]
    assert cli.main(["plan", "s3://nowhere/run", *options]) == 1
    line = in_one_line(capsys)
    assert "s3://nowhere/run" in line
    assert "can be written" in line


def test_nothing_that_is_written_holds_a_secret(tmp_path: Path, mirror: Path, bucket: str, client: Client) -> None:
    source = tmp_path / "sas"
    shutil.copytree(mirror, source, ignore=shutil.ignore_patterns("eboss", "*dr17.fits"))
    root, plan = planned(tmp_path, mirror, bucket, source=str(source))
    do(root, plan, client)
    for name, content in objects(root).items():
        assert s3.SECRET.encode() not in content, name
        assert s3.KEY.encode() not in content, name


def test_the_log_and_the_report_of_a_run_are_kept_in_the_bucket(tmp_path: Path, mirror: Path, bucket: str) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    assert cli.main(["run", root, "--serial"]) == 0
    assert cli.main(["report", root, "--output", f"{bucket}/report.html"]) == 0
    (log,) = journal.read_logs(root)
    assert (len(log.done), log.ended) == (6, True)
    page = storage.read_bytes(f"{bucket}/report.html").decode()
    assert plan.ingest_fingerprint in page
    assert "polygon" in page
    (kept,) = (content for name, content in objects(root).items() if name.startswith("logs/"))
    for text in (kept.decode(), page):
        assert s3.SECRET not in text
        assert s3.KEY not in text


def test_a_damaged_plan_in_a_bucket_is_refused(tmp_path: Path, mirror: Path, bucket: str) -> None:
    root, plan = planned(tmp_path, mirror, bucket)
    values = json.loads(plan.to_json())
    values["generations"][0]["n_spectra"] += 1
    storage.write_bytes(storage.join(root, "plan.json"), json.dumps(values).encode())
    with pytest.raises(ConfigError, match=r"plan\.json"):
        runs.read_plan(root)
