"""A whole run with known credentials, then a search for them in everything that was written, printed or served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests import s3
from tests.dask_processes import process
from tests.running import break_file, random_checkpoint

pytestmark = pytest.mark.long

BUCKET = "secrets"
HUSH = {
    "the secret key": s3.SECRET,
    "the whole access key": s3.KEY,
    "another secret key": "another-secret-5678",
    "a session token": "session-token-5678",
    "a password": "hush-password",
    "a token in a URL": "hush-token",
    "a password of .netrc": "netrc-password",
}
# What Dask's scheduler and workers serve besides the dashboard's plots.
PAGES = (
    "metrics",
    "info/main/workers.html",
    "info/logs.html",
    "info/main/logs.html",
    "json/identity.json",
    "json/counts.json",
    "json/index.html",
    "sitemap.json",
    "health",
    "individual-cluster",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as running:
        yield running


def served(addresses: list[str]) -> Iterator[tuple[str, bytes]]:
    for address in addresses:
        for page in PAGES:
            try:
                with urllib.request.urlopen(f"{address}/{page}", timeout=30) as response:
                    yield f"{address}/{page}", response.read()
            except HTTPError as error:
                yield f"{address}/{page}", error.read()


def test_no_secret_is_written_printed_or_served(tmp_path: Path, mirror: Path, server: s3.Server) -> None:
    client = s3.client(server)
    client.create_bucket(Bucket=BUCKET)
    source = tmp_path / "sas" / "dr17"
    shutil.copytree(mirror, source, ignore=shutil.ignore_patterns("eboss"))
    catalog = source / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"
    broken = sorted(source.glob("sdss/spectro/redux/26/spectra/lite/*/spec-*.fits"))[-1]
    content = broken.read_bytes()
    break_file(broken)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login reader password {HUSH['a password of .netrc']}\n")
    (tmp_path / "netrc").chmod(0o600)
    environment = {**os.environ, **server.environment, "NETRC": str(tmp_path / "netrc")}
    seen: dict[str, bytes] = {}

    def command(*arguments: str, status: int = 0, **variables: str) -> None:
        full = [sys.executable, "-m", "pipeline", *arguments, "--verbose"]
        done = subprocess.run(full, env={**environment, **variables}, capture_output=True, check=False, timeout=200)
        assert done.returncode == status, done.stderr.decode()
        assert done.stdout + done.stderr, arguments
        seen[f"{len(seen)} {arguments[0]}"] = done.stdout + done.stderr

    root, table, cache = f"s3://{BUCKET}/run", f"s3://{BUCKET}/t.parquet", tmp_path / "cache"
    command("targets", str(catalog), "--where", "RUN2D == '26' and Z > -1", "--output", table)
    what = ("--targets", table, "--model", f"random={random_checkpoint(tmp_path)}", "--shard", "16")
    command("plan", root, *what, "--source", f"https://reader:{HUSH['a password']}@127.0.0.1/dr17", status=1)
    command("plan", root, *what, "--source", f"https://127.0.0.1/dr17?token={HUSH['a token in a URL']}", status=1)
    signed = f"http://127.0.0.1:9/t.parquet?X-Amz-Signature={HUSH['a token in a URL']}"
    command("targets", signed, "--output", table, status=1)
    command("plan", root, "--targets", signed, "--source", str(source), status=1)
    with_key = f"s3://{s3.KEY}:{HUSH['another secret key']}/5678@{BUCKET}/run"
    command("targets", with_key, "--output", table, status=1)
    for name in ("plan", "run"):
        command(name, with_key, status=1)
    command("status", f"sftp://reader:{HUSH['a password']}@127.0.0.1:9/run", status=1)
    command("plot", with_key, "--row", "0", "--output", str(tmp_path / "x.png"), status=1)
    config = {"source": str(source), "targets": table, "cache": str(cache), "shard": 16, "retries": 0}
    model = f'[[model]]\nname = "random"\ncheckpoint = "{random_checkpoint(tmp_path)}"\n'
    (tmp_path / "survey.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.items()) + model)
    command("plan", root, "--config", str(tmp_path / "survey.toml"))
    with ExitStack() as stack:
        wanted = (r"Scheduler at:\s+'?(tcp://\S+:\d+)", r"dashboard at:\s+(http://127\.0\.0\.1:\d+)")
        options = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
        started = process(tmp_path, wanted, "scheduler", "--port", "0", *options, **environment)
        address, pages = stack.enter_context(started)
        wanted = (r"Start worker at:\s+'?(tcp://\S+:\d+)", r"dashboard at:\s+(127\.0\.0\.1:\d+)")
        options = (*options, "--nthreads", "1", "--memory-limit", "3 GB")
        options = (*options, "--local-directory", str(tmp_path / "scratch"))
        _, worker_pages = stack.enter_context(process(tmp_path, wanted, "worker", address, *options, **environment))
        command("run", root, "--scheduler", address, status=3)
        for url, page in served([pages, f"http://{worker_pages}"]):
            seen[url] = page
        assert b"dask_" in seen[f"{pages}/metrics"] or json.loads(seen[f"{pages}/json/counts.json"])
        for file in (tmp_path / "scratch").rglob("*"):
            if file.is_file():
                seen[str(file)] = file.read_bytes()
    command("status", root)
    broken.unlink()
    broken.write_bytes(content)
    command("run", root, "--serial")
    command("verify", root)
    wrong = {"AWS_SECRET_ACCESS_KEY": HUSH["another secret key"], "AWS_SESSION_TOKEN": HUSH["a session token"]}
    for name in ("status", "run", "verify"):
        command(name, root, status=1, **wrong)
    for found in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in found["Contents"]:
            seen[entry["Key"]] = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    for file in [*tmp_path.glob("*.log"), *(path for path in cache.rglob("*") if path.is_file())]:
        seen[str(file)] = file.read_bytes()
    assert {"run/plan.json", "run/spectra.zarr/zarr.json"} <= set(seen)
    assert any(name.startswith(str(cache)) for name in seen)
    leaks = [(what, where) for where, text in seen.items() for what, hush in HUSH.items() if hush.encode() in text]
    assert leaks == []
