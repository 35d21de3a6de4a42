"""Buckets behind other endpoints, identities and rules: reached as the environment or `[storage]` says, or refused."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from botocore.client import BaseClient

from tests import s3
from tests.running import plan_by_command, random_checkpoint

SERVER = "http://s3.example.test"
TOKEN = "session-token-1234567890"
NO_CREDENTIALS = {name: "" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
COMMANDS = ("run", "ingest", "encode")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: s3.Server) -> BaseClient:
    return s3.client(server)


@pytest.fixture
def bucket(client: BaseClient) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return name


def fill(client: BaseClient, bucket: str, folder: Path, below: str) -> None:
    """Copy the files of a folder into a bucket."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.put_object(Bucket=bucket, Key=f"{below}/{file.relative_to(folder)}", Body=file.read_bytes())


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code with a clean AWS environment and these variables: s3fs and botocore keep sessions per process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    environment = {**clean, **nothing, "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, check=False, timeout=240
    )


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return python(
        "import sys; from pipeline.cli.main import main; sys.exit(main(sys.argv[1:]))", *arguments, **variables
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done
    (line,) = done.stderr.strip().splitlines()
    return line


# --- [storage] in the survey file, against the real server ---


def survey(tmp_path: Path, mirror: Path, source: str, storage: str, **more: object) -> str:
    """Write a survey file over a few targets of the mirror; gives its path."""
    assert plan_by_command(tmp_path / "other" / "run", mirror) > 0
    values = {"source": source, "targets": str(tmp_path / "other" / "targets.parquet"), "shard": 16, **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    model = f'[[model]]\nname = "random"\ncheckpoint = "{random_checkpoint(tmp_path / "other")}"\n'
    (tmp_path / "survey.toml").write_text("\n".join([*lines, model, storage]))
    return str(tmp_path / "survey.toml")


def ingest(root: Path, config: str, *options: str, **variables: str) -> None:
    """Plan and ingest in processes of their own; every target whose file the mirror has must be found."""
    planned = command("plan", str(root), "--config", config, **variables)
    assert planned.returncode == 0, planned.stderr
    done = command("ingest", str(root), *options, **variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(command("status", str(root), "--json").stdout)["stages"][0]
    assert found["done"] == found["chunks"] > 0
    assert "NO_FILE" not in found["quality"]


def test_a_bucket_behind_an_endpoint_of_its_own_feeds_a_run_on_a_disk(
    tmp_path: Path, mirror: Path, server: s3.Server, client: BaseClient, bucket: str
) -> None:
    fill(client, bucket, mirror, "sas/dr17")
    table = f'[storage."s3://{bucket}"]\nendpoint = "{server.endpoint}"\npath_style = true\n'
    config = survey(tmp_path, mirror, f"s3://{bucket}/sas/dr17", table, cache=f"s3://{bucket}/cache")
    credentials = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET}
    ingest(tmp_path / "run", config, "--workers", "2", **credentials)
    cached = client.list_objects_v2(Bucket=bucket, Prefix="cache/")["KeyCount"]
    assert cached > 0


def test_an_open_bucket_is_read_without_credentials(
    tmp_path: Path, mirror: Path, server: s3.Server, client: BaseClient
) -> None:
    client.create_bucket(Bucket=s3.OPEN_BUCKET)
    fill(client, s3.OPEN_BUCKET, mirror, "sas/dr17")
    source = f"s3://{s3.OPEN_BUCKET}/sas/dr17"
    table = f'[storage."s3://{s3.OPEN_BUCKET}"]\nendpoint = "{server.endpoint}"\nanonymous = true\n'
    ingest(tmp_path / "run", survey(tmp_path, mirror, source, table), "--serial")


def test_a_profile_is_used_whatever_the_variables_say(
    tmp_path: Path, mirror: Path, server: s3.Server, client: BaseClient, bucket: str
) -> None:
    fill(client, bucket, mirror, "sas/dr17")
    file = tmp_path / "credentials"
    file.write_text(f"[archive]\naws_access_key_id = {s3.READER_KEY}\naws_secret_access_key = {s3.READER_SECRET}\n")
    table = f'[storage."s3://{bucket}"]\nendpoint = "{server.endpoint}"\nprofile = "archive"\n'
    others = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}
    config = survey(tmp_path, mirror, f"s3://{bucket}/sas/dr17", table)
    ingest(tmp_path / "run", config, "--serial", **others, AWS_SHARED_CREDENTIALS_FILE=str(file))


def test_a_table_for_root_is_refused(tmp_path: Path, mirror: Path, server: s3.Server, bucket: str) -> None:
    config = survey(tmp_path, mirror, str(mirror), f'[storage."s3://{bucket}"]\nendpoint = "{server.endpoint}"\n')
    line = printed(command("plan", f"s3://{bucket}/run", "--config", config, **server.environment))
    assert f"the table storage.s3://{bucket} covers ROOT, s3://{bucket}/run" in line
    assert "set AWS_ENDPOINT_URL, AWS_PROFILE" in line


# --- what goes out: each setting by the standard variable and by the table, seen by a proxy ---


class Recorder(http.server.BaseHTTPRequestHandler):
    """Keeps what is asked and answers with one error, to any method."""

    asked: list[tuple[str, dict[str, str]]]
    answer = (404, "NoSuchKey", "none")

    def do_GET(self) -> None:  # noqa: N802
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, code, message = self.answer
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def recording(*answer: object) -> Iterator[tuple[str, type[Recorder]]]:
    recorder = type("OwnRecorder", (Recorder,), {"asked": [], **({"answer": answer} if answer else {})})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), recorder) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}", recorder
        finally:
            running.shutdown()


ASK = """
import json, sys
from pipeline import storage
from pipeline.config import StorageConfig
storage.configure([StorageConfig.from_dict("s3://bucket", json.loads(sys.argv[1]))] if sys.argv[1] else [])
try:
    storage.read_bytes("s3://bucket/folder/object")
except FileNotFoundError:
    print("asked")
"""
PATH, VIRTUAL = f"{SERVER}/bucket/folder/object", "http://bucket.s3.example.test/folder/object"


@pytest.mark.parametrize(
    ("table", "variables", "url", "header"),
    [
        (None, {"AWS_ENDPOINT_URL": SERVER}, PATH, ("authorization", "Credential=testkey/")),
        (None, {"AWS_ENDPOINT_URL_S3": SERVER}, PATH, ("authorization", "Credential=testkey/")),
        ({"endpoint": SERVER}, {}, PATH, ("authorization", "Credential=testkey/")),
        ({"endpoint": SERVER}, {"AWS_ENDPOINT_URL": "http://other.test"}, PATH, ("authorization", "testkey/")),
        (None, {"AWS_ENDPOINT_URL": SERVER, "AWS_CONFIG_FILE": "virtual"}, VIRTUAL, ("authorization", "testkey/")),
        ({"endpoint": SERVER, "path_style": False}, {}, VIRTUAL, ("authorization", "testkey/")),
        ({"path_style": True}, {"AWS_ENDPOINT_URL": SERVER, "AWS_CONFIG_FILE": "virtual"}, PATH, ("host", "s3.exa")),
        (None, {"AWS_ENDPOINT_URL": SERVER, "AWS_PROFILE": "archive"}, PATH, ("authorization", "archivekey/")),
        ({"profile": "archive"}, {"AWS_ENDPOINT_URL": SERVER}, PATH, ("authorization", "archivekey/")),
        (None, {"AWS_ENDPOINT_URL": SERVER, "FSSPEC_S3_ANON": "true"}, PATH, ("authorization", None)),
        ({"anonymous": True}, {"AWS_ENDPOINT_URL": SERVER}, PATH, ("authorization", None)),
        ({}, {"AWS_ENDPOINT_URL": SERVER, "FSSPEC_S3_ANON": "true"}, PATH, ("authorization", "testkey/")),
        (None, {"AWS_ENDPOINT_URL": SERVER}, PATH, ("x-amz-request-payer", None)),
        (
            None,
            {"AWS_ENDPOINT_URL": SERVER, "FSSPEC_S3_REQUESTER_PAYS": "true"},
            PATH,
            ("x-amz-request-payer", "requester"),
        ),
        ({"requester_pays": True}, {"AWS_ENDPOINT_URL": SERVER}, PATH, ("x-amz-request-payer", "requester")),
    ],
)
def test_each_setting_shows_in_the_request(
    tmp_path: Path, table: dict[str, object] | None, variables: dict[str, str], url: str, header: tuple[str, str | None]
) -> None:
    for style in ("path", "virtual"):
        profile = "[profile archive]\naws_access_key_id = archivekey\naws_secret_access_key = x\n"
        (tmp_path / style).write_text(f"[default]\ns3 =\n  addressing_style = {style}\n{profile}")
    keys = {} if "AWS_PROFILE" in variables else {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET}
    variables = {"AWS_CONFIG_FILE": "path", **keys, **variables}
    variables["AWS_CONFIG_FILE"] = str(tmp_path / variables["AWS_CONFIG_FILE"])
    with recording() as (proxy, recorder):
        done = python(ASK, "" if table is None else json.dumps(table), **variables, HTTP_PROXY=proxy)
    assert done.stdout == "asked\n", done.stderr
    asked, headers = recorder.asked[0]
    assert asked == url
    name, value = header
    assert (name not in headers) if value is None else (value in headers[name])


# --- credentials that are refused ---


def planned(tmp_path: Path, mirror: Path, client: BaseClient, bucket: str) -> str:
    plan_by_command(tmp_path / "run", mirror)
    for name in ("plan.json", "targets.parquet"):
        client.put_object(Bucket=bucket, Key=f"run/{name}", Body=(tmp_path / "run" / name).read_bytes())
    return f"s3://{bucket}/run"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-1234"}, "access key test...ey (env)"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODYXY"}, "access key AKIA...XY (env)"),
        ({**NO_CREDENTIALS, "FSSPEC_S3_ANON": "true"}, "an anonymous request"),
        ({**NO_CREDENTIALS, "AWS_PROFILE": "p"}, "access key AKIA...QR (shared-credentials-file)"),
    ],
)
def test_wrong_credentials_name_the_server_and_the_identity(
    tmp_path: Path,
    mirror: Path,
    server: s3.Server,
    client: BaseClient,
    bucket: str,
    change: dict[str, str],
    shown: str,
) -> None:
    root = planned(tmp_path, mirror, client, bucket)
    file = tmp_path / "credentials"
    file.write_text("[p]\naws_access_key_id = AKIAFROMFILEQR\naws_secret_access_key = secret-of-the-file\n")
    variables = {**server.environment, "AWS_SHARED_CREDENTIALS_FILE": str(file), **change}
    for name in (*COMMANDS, "status"):
        line = printed(command(name, root, **variables))
        assert f"(from {server.endpoint}, for {shown})" in line
        assert not any(secret in line for secret in (s3.SECRET, "wrong-secret-1234", "secret-of-the-file"))


def test_a_bucket_that_may_only_be_read_is_refused_before_any_worker_starts(
    tmp_path: Path, mirror: Path, server: s3.Server, client: BaseClient, bucket: str
) -> None:
    root = planned(tmp_path, mirror, client, bucket)
    scratch = tmp_path / "scratch"
    variables = {**server.environment, **s3.READER, "DASK_TEMPORARY_DIRECTORY": str(scratch)}
    assert command("status", root, **variables).returncode == 0
    for name in COMMANDS[:2]:
        line = printed(command(name, root, "--workers", "1", **variables))
        assert "a place that can be written" in line
        assert f"{server.endpoint}, for access key read...ey (env)" in line
    assert not scratch.exists()


def test_an_expired_session_is_told_as_that(tmp_path: Path) -> None:
    temporary = {
        "AWS_ACCESS_KEY_ID": "ASIATEMPORARYXY",
        "AWS_SECRET_ACCESS_KEY": "temporary-secret",
        "AWS_SESSION_TOKEN": TOKEN,
    }
    with recording(400, "ExpiredToken", "The provided token has expired.") as (endpoint, recorder):
        for name in COMMANDS:
            line = printed(command(name, "s3://bucket/run", AWS_ENDPOINT_URL=endpoint, **temporary))
            assert f"ExpiredToken: The provided token has expired (from {endpoint}" in line
            assert "access key ASIA...XY (env)" in line
            assert TOKEN not in line
            assert "temporary-secret" not in line
    assert recorder.asked[0][1]["x-amz-security-token"] == TOKEN


SKEWED = """
import datetime, sys
import botocore.auth
now = botocore.auth.get_current_datetime
botocore.auth.get_current_datetime = lambda *a, **k: now(*a, **k) - datetime.timedelta(days=1)
from pipeline.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_clock_that_is_wrong_is_told_as_that(
    tmp_path: Path, mirror: Path, server: s3.Server, client: BaseClient, bucket: str
) -> None:
    root = planned(tmp_path, mirror, client, bucket)
    line = printed(python(SKEWED, "run", root, **server.environment))
    assert "this machine's clock differs from the server's" in line
    assert f"(from {server.endpoint}, for access key test...ey (env))" in line
